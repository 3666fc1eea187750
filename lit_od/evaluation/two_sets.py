"""Deprecated name of lit_od.evaluation.effect_size, kept for one release."""

import warnings

from lit_od.evaluation.effect_size import Difference, difference, effect_interval, normal_ratio
from lit_od.evaluation.effect_size import SampleMoments as Moments

__all__ = ["Difference", "Moments", "difference", "effect_interval", "normal_ratio"]
warnings.warn("lit_od.evaluation.two_sets is lit_od.evaluation.effect_size now", DeprecationWarning, stacklevel=2)
