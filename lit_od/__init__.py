"""Detect outlier images: train with Lightning, score with ONNX Runtime.

The way of an image:

    images ─► LightningModule ─► backbone.onnx ─► features ─► detector ─► calibration ─► bundle ─► Scorer
              lit_od.training      from here on ONNX Runtime, numpy and FAISS                      ─► verdicts

Paths, PIL images and arrays are scored alike, and higher scores are more outlying:

    >>> import numpy as np
    >>> scorer = Scorer.load("exported/mnist-digits")
    >>> result = scorer.score(np.zeros((2, 28, 28, 1), dtype=np.uint8))
    >>> result.is_outlier.tolist(), result.p_value.round(4).tolist()
    ([True, True], [0.0002, 0.0002])

`lit_od.training` trains and exports, `lit_od.evaluation` measures, `lit_od.experiments` runs published experiments
again. Only `training` and `experiments` import torch.
"""

from lit_od.bundle.folder import Bundle
from lit_od.errors import LitODError
from lit_od.images.preparation import Preparation
from lit_od.scoring.result import Result
from lit_od.scoring.scorer import Scorer
from lit_od.versions import __version__

__all__ = ["Bundle", "LitODError", "Preparation", "Result", "Scorer", "__version__"]
