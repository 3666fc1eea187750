"""Compare an exported graph with its torch module on real images."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lit_od.backbone.independence import require_independent
from lit_od.backbone.model import Backbone
from lit_od.errors import BackboneError, DataError, ExportError
from lit_od.training.networks.trial import evaluating
from lit_od.types import Features, Images

BATCH_SIZES = (1, 2, 3, 64)
"""Batch sizes of the proof: a graph that has taken in the example's size fails at another one."""


TOLERANCE = 1e-4
"""Largest max|a - b| / max|a| between torch, a, and ONNX Runtime, b."""


ERROR_TOLERANCE = 1e-5
"""Largest |a - b| of squared errors, the scores of pixels; relative to the largest where that is above 1."""


_HINT = (
    "Look for randomness, or for Python code in the module's forward that depends on values or on the "
    "batch size: len(x) is a constant to the exporter, x.shape[0] is not."
)


def check_parity(
    module: nn.Module,
    model: Path | bytes,
    images: Images,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = TOLERANCE,
) -> dict[int, float]:
    """Compare a module in evaluation mode with an ONNX graph on real images.

    Args:
        module: Takes uint8 (n, h, w, c), returns one tensor.
        model: The ONNX file, or its bytes.
        images: (n, h, w, c) uint8, n at least 1; repeated where a batch needs more.
        batch_sizes: Batch sizes to compare at.
        tolerance: Largest relative difference, max|a - b| / max|a| with torch's values a; squared errors must
            agree to `ERROR_TOLERANCE` besides.

    Returns:
        The relative difference by batch size.

    Raises:
        DataError: If the images are not uint8 (n, h, w, c) with n at least 1.
        ExportError: If the graph is no backbone, fails at a batch size, or differs by more; or if its output for an
            image depends on the other images of its batch.
        MissingExtra: If no ONNX Runtime is installed.
    """
    check_images(images)
    try:
        backbone = Backbone.load(model, providers=["cpu"])
    except BackboneError as error:
        raise ExportError(f"the exported graph is no backbone: {error}. {_HINT}") from error
    differences = {}
    with evaluating(module):
        for size in batch_sizes:
            batch = images[np.arange(size) % len(images)]
            wanted = run_module(module, batch).numpy()
            try:
                got = backbone(batch)
            except BackboneError as error:
                raise ExportError(f"the exported graph fails at batch size {size}: {error}") from error
            differences[size] = _difference(wanted, got, backbone.output, size, tolerance)
    try:
        require_independent(backbone, images)
    except BackboneError as error:
        raise ExportError(f"{error}. {_mixing(module)}") from error
    return differences


def _mixing(module: nn.Module) -> str:
    """Name the layer that normalises by the batch, or say where to look."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            return f"{name or 'The module'} normalises by the batch: give it track_running_stats=True"
    return "Look for sums, means or ranges over the batch in the module's forward"


def _difference(wanted: Features, got: Features, output: str, size: int, tolerance: float) -> float:
    if got.shape != wanted.shape:
        raise ExportError(
            f"the exported graph differs from torch at batch size {size}: output {output!r} has shape "
            f"{got.shape}, torch gives {wanted.shape}"
        )
    for values, owner in ((wanted, "torch's"), (got, "the exported graph's")):
        if not np.isfinite(values).all():
            raise ExportError(f"{owner} output {output!r} holds NaN or infinity at batch size {size}")
    gap, scale = np.abs(wanted - got), float(np.abs(wanted).max())
    difference = float(gap.max()) / scale if scale > 0 else float(gap.max() > 0)
    if difference > tolerance:
        image = int(np.argmax(gap.reshape(size, -1).max(axis=1)))
        raise ExportError(
            f"the exported graph differs from torch at batch size {size}: output {output!r}, image {image}, "
            f"relative difference {difference:.2g}, at most {tolerance:g} is allowed. {_HINT}"
        )
    most = ERROR_TOLERANCE * max(1.0, scale)
    if output == "errors" and gap.max() > most:
        raise ExportError(
            f"the exported graph differs from torch at batch size {size}: an error by {gap.max():.2g}, at most "
            f"{most:g} is allowed. {_HINT}"
        )
    return difference


def check_images(images: Images) -> None:
    """Raise DataError unless images are uint8 of shape (n, h, w, c), n at least 1."""
    if images.ndim != 4 or len(images) == 0 or images.dtype != np.uint8:
        raise DataError(f"the proof needs uint8 images (n, h, w, c), n at least 1, got {images.dtype} {images.shape}")


def run_module(module: nn.Module, batch: Images) -> torch.Tensor:
    """Run a module on prepared images (n, h, w, c) without gradients, to the CPU.

    Raises:
        ExportError: If the module does not return one tensor.
    """
    with torch.no_grad():
        result = module(on_device(module, batch))
    if not isinstance(result, torch.Tensor):
        raise ExportError(f"the module must return one tensor, got {type(result).__name__}")
    return result.cpu()


def on_device(module: nn.Module, batch: Images) -> torch.Tensor:
    """Move images to the device of a module's weights."""
    weight = next(chain(module.parameters(), module.buffers()), torch.empty(0))
    return torch.from_numpy(np.ascontiguousarray(batch)).to(weight.device)
