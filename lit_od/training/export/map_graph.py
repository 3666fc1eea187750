"""The graph of heat maps: an autoencoder's squared errors and reconstruction."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lit_od.backbone.map_graph import OUTPUTS, MapGraph
from lit_od.errors import BackboneError, ExportError
from lit_od.training.export.backbone_graph import exported, save
from lit_od.training.export.parity import ERROR_TOLERANCE, on_device
from lit_od.training.networks.trial import evaluating
from lit_od.types import Images

BATCH_SIZES = (1, 2, 3)
"""Batch sizes of the proof; the backbone's, with the same weights, has tried larger ones."""


def export_maps(module: nn.Module, images: Images, *, opset: int) -> bytes:
    """Export a module as the ONNX file `maps.onnx`, proven on real images.

    Args:
        module: Takes uint8 (n, h, w, c), returns squared errors and reconstructions, both float32 (n, h, w, c).
        images: Real prepared images, (n, h, w, c) uint8, n at least 1.
        opset: ONNX operator set.

    Returns:
        The bytes of the file.

    Raises:
        ExportError: If the graph does not compute what the module computes.
        MissingExtra: If onnxscript or ONNX Runtime is not installed.
    """
    with evaluating(module), tempfile.TemporaryDirectory(prefix="lit_od-maps-") as folder:
        program = exported(module, images[np.arange(2) % len(images)], opset, OUTPUTS)
        file = Path(folder) / "maps.onnx"
        save(program, file)
        model = file.read_bytes()
        _prove(module, model, images)
    return model


def _prove(module: nn.Module, model: bytes, images: Images) -> None:
    try:
        graph = MapGraph.load(model, providers=["cpu"])
        for size in BATCH_SIZES:
            batch = images[np.arange(size) % len(images)]
            with torch.no_grad():
                wanted = module(on_device(module, batch))
            for name, want, got in zip(OUTPUTS, wanted, graph(batch), strict=True):
                gap = float(np.abs(want.cpu().numpy() - got).max()) if got.shape == tuple(want.shape) else float("inf")
                if not gap <= ERROR_TOLERANCE:
                    raise ExportError(
                        f"the exported heat maps differ from torch at batch size {size}: output {name!r}, "
                        f"difference {gap:.2g}, at most {ERROR_TOLERANCE:g} is allowed"
                    )
    except ExportError:
        raise
    except BackboneError as error:
        raise ExportError(f"the exported heat maps cannot be used: {error}") from error
