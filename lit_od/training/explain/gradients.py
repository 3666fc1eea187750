"""Heat maps by gradients of a detector's score through the network.

    s(x) = detector.score(g(x)),   map(p) = sum_c a_c(p) ds / da_c(p)

with a the output of a spatial layer of g: gradient times activation (Shrikumar et al. 2016; HiResCAM,
Draelos and Carin 2020), computed by Captum. To first order the map is what each position adds to the
score. Deep layers are coarse, and gradients at the pixels noisy; a layer between serves best.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lit_od.detectors import Detector
from lit_od.detectors.reconstruction import pixel_threshold
from lit_od.errors import ConfigError, DataError, missing_extra
from lit_od.scoring.colour_scale import ColourScale
from lit_od.scoring.drawing import overlay
from lit_od.training.explain.torch_scores import torch_score
from lit_od.training.export.parity import on_device
from lit_od.training.networks.trial import evaluating
from lit_od.types import Images

LEAST_SIDE = 6
"""Least number of positions along the shorter side of a layer that is chosen by default."""

BATCH_SIZE = 8

TOLERANCE = 1e-5
"""Largest max|a - b| / max|a| between features that count as equal, such as of an image as uint8 and as float."""


def gradient_maps(
    module: nn.Module, detector: Detector, images: Images, *, layer: str | None = None, batch_size: int = BATCH_SIZE
) -> NDArray[np.float32]:
    """Compute each place's contribution to the outlier score by gradients.

    Args:
        module: With a method `backbone()`, such as LitClassifier, LitDOC or FrozenBackbone; or the backbone
            itself, uint8 images (n, h, w, c) to features (n, d). Its mode and gradients are restored.
        detector: Fitted on those features.
        images: Prepared images, (n, h, w, c) uint8.
        layer: One of the backbone's `named_modules()` with an output (n, c, h', w'). None takes the last
            with at least `LEAST_SIDE` positions along each side, or the finest, among those that everything
            passes through.
        batch_size: Images a run.

    Returns:
        Shape (n, h, w), bilinearly enlarged from the layer's; in the unit of the score, higher where it is raised.

    Raises:
        ConfigError: If the detector reads errors, or the module cannot be explained so.
        DataError: If there is no image.
        MissingExtra: If Captum is not installed.
    """
    try:
        from captum.attr import LayerGradientXActivation
    except ImportError:
        missing_extra("captum", "train,cpu")
    network, score = _backbone_scores(module, detector, images)
    with evaluating(network):
        name = layer or spatial_layer(network, images[:1])
        try:
            chosen = network.get_submodule(name)
        except AttributeError:
            raise ConfigError(f"no layer {name!r}: wanted one of the backbone's named_modules()") from None
        attribution = LayerGradientXActivation(score, chosen)
        maps = np.empty(images.shape[:3], dtype=np.float32)
        for rows, pixels in _batches(network, images, batch_size):
            product = attribution.attribute(pixels)
            if not isinstance(product, Tensor) or product.ndim != 4:
                raise ConfigError(f"layer {name} gives no maps (n, c, h, w): choose another")
            shares = product.detach().sum(dim=1, keepdim=True)
            enlarged = F.interpolate(shares, size=images.shape[1:3], mode="bilinear", align_corners=False)
            maps[rows] = enlarged[:, 0].float().cpu().numpy()
    return maps


def pixel_gradients(
    module: nn.Module, detector: Detector, images: Images, *, batch_size: int = BATCH_SIZE
) -> NDArray[np.float32]:
    """Compute the derivative of each outlier score by each pixel, per grey level.

    Args:
        module: As for `gradient_maps`.
        detector: Fitted on the module's features.
        images: Prepared images, (n, h, w, c) uint8.
        batch_size: Images a run.

    Returns:
        Shape (n, h, w, c), in the unit of the score.

    Raises:
        ConfigError: If the detector reads errors, or the module cannot be explained so.
        DataError: If there is no image.
    """
    network, score = _backbone_scores(module, detector, images)
    gradients = np.empty(images.shape, dtype=np.float32)
    with evaluating(network):
        for rows, pixels in _batches(network, images, batch_size):
            (gradient,) = torch.autograd.grad(score(pixels).sum(), pixels)
            gradients[rows] = gradient.cpu().numpy()
    return gradients


def overlays(images: Images, maps: NDArray[np.floating], inlier_maps: NDArray[np.floating]) -> Images:
    """Draw images in colour under their maps, (n, h, w, 3) uint8.

    Args:
        images: Prepared images, (n, h, w, c) uint8.
        maps: Maps of the images, (n, h, w).
        inlier_maps: Maps of held-out inliers, (m, h, w): heat begins at their median, or at 0, and 99 % of their
            values stay below half of it.
    """
    threshold = max(pixel_threshold(inlier_maps.astype(np.float64), q=99), 0.0)
    return overlay(images, ColourScale.of_maps(inlier_maps, threshold, least=0.0).heat(maps))


def spatial_layer(network: nn.Module, images: Images) -> str:
    """Return the last layer with `LEAST_SIDE` positions a side, else the finest.

    Only layers count that everything passes through: inside a residual branch a map would show a part of
    the score, or nothing.

    Args:
        network: Uint8 images (n, h, w, c) to features (n, d).
        images: Images to run it on, (n, h, w, c) uint8, n at least 1.

    Raises:
        ConfigError: If no such layer gives maps in the images' proportions.
    """
    height, width = images.shape[1:3]
    found: dict[str, int] = {}

    def note(name: str, part: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            rows, columns = output.shape[2:]
            if abs(rows * width - columns * height) <= max(height, width) and min(rows, columns) > 1:
                found.pop(name, None)
                found[name] = min(rows, columns)

    with ExitStack() as hooks, torch.no_grad():
        for name, part in network.named_modules():
            if name:
                hooks.enter_context(part.register_forward_hook(partial(note, name)))
        network(on_device(network, images))
    if not found:
        raise ConfigError("no layer of the backbone gives maps (n, c, h, w) in the images' proportions: name a layer")
    fine = [name for name, side in found.items() if side >= LEAST_SIDE]
    coarse = sorted((name for name in found if name not in fine), key=lambda name: found[name])
    for name in reversed([*coarse, *fine]):
        if _all_passes_through(network, name, images[:1]):
            return name
    raise ConfigError("the backbone has no layer with maps (n, c, h, w) that everything passes through: name a layer")


def _all_passes_through(network: nn.Module, layer: str, image: Images) -> bool:
    """Return True if the features depend on the image through a layer alone.

    With the layer's output held, another image then gives the same features.
    """
    noise = np.random.default_rng(0).integers(1, 256, image.shape, dtype=np.uint8)

    def hold(part: nn.Module, inputs: Any, output: Any) -> Any:
        return output[:1].expand_as(output).clone() if isinstance(output, Tensor) else output

    with network.get_submodule(layer).register_forward_hook(hold), torch.no_grad():
        # uint8 wraps around: the other image differs in every pixel
        one, other = network(on_device(network, np.concatenate([image, image + noise])))
    return bool((one - other).abs().max() <= TOLERANCE * one.abs().max())


def _backbone_scores(
    module: nn.Module, detector: Detector, images: Images
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return the backbone, and the scores of float images (n, h, w, c), 0 to 255."""
    if not len(images):
        raise DataError("wanted at least 1 image, got none")
    backbone: Any = getattr(module, "backbone", None)
    network: nn.Module = backbone() if callable(backbone) else module
    image = on_device(network, images[:1])
    score = torch_score(detector, device=image.device)
    with evaluating(network), torch.no_grad():
        try:
            gap = (network(image) - network(image.float())).abs().max() / network(image).abs().max()
        except (RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"the backbone must take images as float too, to be differentiated: {error}") from error
    if not float(gap) <= TOLERANCE:
        raise ConfigError("the backbone gives other features for images as float (0 to 255) than as uint8")
    return network, lambda pixels: score(network(pixels))


def _batches(network: nn.Module, images: Images, size: int) -> Iterator[tuple[slice, Tensor]]:
    if size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {size}")
    with torch.inference_mode(False), torch.enable_grad():  # also where the caller has switched them off
        for start in range(0, len(images), size):
            rows = slice(start, start + size)
            yield rows, on_device(network, images[rows]).float().requires_grad_(True)
