"""Features of the shipped backbone by the CUDA provider and by the CPU."""

import time
from importlib.util import find_spec
from typing import Any

import numpy as np

from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import backbone_file
from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation
from lit_od.recipes.roots import data_root

TOLERANCE = 1e-2
"""Largest difference over the largest feature; the CUDA provider multiplies with 10 bits (TF32) by default."""
BATCH = 32


def compare_features() -> dict[str, Any]:
    """Return the difference of both sides and their images a second.

    Without ONNX Runtime it is a note that says so.
    """
    if find_spec("onnxruntime") is None:
        return {"note": "not compared, as onnxruntime is not installed"}
    import onnxruntime

    found: dict[str, Any] = {"onnxruntime": onnxruntime.__version__}
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if not has_cuda:
        found["note"] = "no CUDA provider, compared with one thread"
    file = backbone_file("lit_od:tf_efficientnet_lite0")
    sources = find(["garments.npz:images"], root=data_root("lit_od:assets"))[: 8 * BATCH if has_cuda else 8]
    pixels = load(sources, Preparation(size=(224, 224), mode="rgb"))
    sides = []
    try:
        for name, options in (("cpu", {}), ("other", {} if has_cuda else {"threads": 1})):
            backbone = Backbone.load(file, providers=["cuda" if has_cuda and name == "other" else "cpu"], **options)
            backbone(pixels[:BATCH])  # what the first run prepares is not counted
            started = time.perf_counter()
            batches = [pixels[first : first + BATCH] for first in range(0, len(pixels), BATCH)]
            sides.append(np.concatenate([backbone(batch) for batch in batches]))
            found[f"{name}_images_per_second"] = round(len(pixels) / (time.perf_counter() - started))
    except Exception as error:
        return found | {"error": " ".join(str(error).split()), "agrees": False}
    difference = float(np.abs(sides[0] - sides[1]).max() / np.abs(sides[0]).max())
    return found | {"difference": difference, "agrees": difference <= TOLERANCE}
