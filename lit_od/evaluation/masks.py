"""Deprecated name of lit_od.evaluation.perturbation, kept for one release."""

import warnings

from lit_od.evaluation.perturbation import Masked, Sensitivity, apply_mask, draw_centres, sensitivity
from lit_od.evaluation.perturbation import NoiseBlock as Patch

__all__ = ["Masked", "Patch", "Sensitivity", "apply_mask", "draw_centres", "sensitivity"]
warnings.warn("lit_od.evaluation.masks is lit_od.evaluation.perturbation now", DeprecationWarning, stacklevel=2)
