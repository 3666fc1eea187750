"""Outlier detectors on numpy and FAISS, without torch.

Higher scores are more outlying.

Every detector is a frozen object with `fit`, `score`, `state` and `from_state`, and an accumulator
that gathers a stream. The registry names them for recipes, manifests and the command line; a detector
elsewhere derives from `Detector` and goes by its import path.
"""

from lit_od.detectors.base import Accumulator, Detector, PixelDetector
from lit_od.detectors.ensemble import Ensemble
from lit_od.detectors.feature_ensemble import FeatureEnsemble
from lit_od.detectors.gmm import GMM
from lit_od.detectors.knn import KNN
from lit_od.detectors.local_residual import LocalResidual
from lit_od.detectors.lof import LOF
from lit_od.detectors.mahalanobis import Mahalanobis
from lit_od.detectors.patch_bank import PatchCore
from lit_od.detectors.patch_channel import PatchChannel
from lit_od.detectors.patch_gaussian import PaDiM
from lit_od.detectors.pca import PCAResidual
from lit_od.detectors.reconstruction import Reconstruction
from lit_od.detectors.registry import DETECTORS, accumulator, detector_from_state

__all__ = [
    "DETECTORS",
    "GMM",
    "KNN",
    "LOF",
    "Accumulator",
    "Detector",
    "Ensemble",
    "FeatureEnsemble",
    "LocalResidual",
    "Mahalanobis",
    "PCAResidual",
    "PaDiM",
    "PatchChannel",
    "PatchCore",
    "PixelDetector",
    "Reconstruction",
    "accumulator",
    "detector_from_state",
]
