"""Synthetic defects: a small part of each normal image is changed.

A defect lies where the image has structure. Its outline is an ellipse bent by noise, and its kind is drawn:

- paste: another part of the image, or of another one of the batch, turned and shifted, in other colours;
- colour: one colour is added;
- texture: noise is laid on or in place of the image;
- blur: the part is blurred;
- warp: the part is pushed to one side.

References:
    Zavrtanik, Kristan and Skocaj 2021, DRAEM: masks of noise, textures in them.
    Li, Sohn, Yoon and Pfister 2021, CutPaste: parts of the same image.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CHANGE = 8.0
"""Levels of 255 by which a pixel must differ to count as defective."""

GAP = 5
"""Side of the square over which gaps in a mask are closed, in pixels."""

RADIUS = (0.012, 0.08)
"""Least and largest radius of a defect, as a share of the longer side."""

STRUCTURE = 16
"""Side of the squares, in pixels, by whose structure a defect's place is drawn."""

Draw = Callable[..., Tensor]
"""Uniform numbers in [low, high) of a shape, (low, high, *shape)."""


def synthetic_defects(images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Give each image a defect.

    Args:
        images: Normal images, (n, h, w, c) uint8, on any device.
        generator: Random generator on the CPU, from which everything is drawn; None takes torch's own.

    Returns:
        The images, changed, and True for the pixels that differ, (n, h, w).
    """

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(shape, generator=generator)).to(images.device)

    pixels = images.permute(0, 3, 1, 2).float()  # (n, c, h, w)
    count = len(pixels)
    alpha = _shapes(pixels, draw, generator)
    kinds = torch.randint(len(_KINDS), (count,), generator=generator).tolist()
    changed = torch.empty_like(pixels)
    for number, make in enumerate(_KINDS):
        rows = [row for row, kind in enumerate(kinds) if kind == number]
        if rows:
            changed[rows] = make(pixels[rows], alpha[rows], draw)
    result = changed.round_().clamp_(0, 255)
    different = ((result - pixels).abs().amax(1, keepdim=True) > CHANGE).float()
    masks = -F.max_pool2d(-F.max_pool2d(different, GAP, 1, GAP // 2), GAP, 1, GAP // 2)
    return result.to(torch.uint8).permute(0, 2, 3, 1).contiguous(), masks[:, 0] > 0


def _shapes(pixels: Tensor, draw: Draw, generator: torch.Generator | None) -> Tensor:
    """Return the weight of the defect at each pixel, (n, 1, h, w), in [0, 1]."""
    count, _, height, width = pixels.shape
    centres = _centres(pixels, draw, generator)
    side = max(height, width)
    radius = torch.exp(draw(math.log(RADIUS[0] * side), math.log(RADIUS[1] * side), count))
    stretch, angle = torch.exp(draw(0, 0.8, count)), draw(0, math.pi, count)
    rows = torch.arange(height, device=pixels.device).view(1, -1, 1) - centres[:, 0].view(-1, 1, 1)
    columns = torch.arange(width, device=pixels.device).view(1, 1, -1) - centres[:, 1].view(-1, 1, 1)
    cos, sin, across, along = (
        each.view(-1, 1, 1) for each in (angle.cos(), angle.sin(), radius / stretch, radius * stretch)
    )
    distance = ((columns * cos + rows * sin) / along) ** 2 + ((rows * cos - columns * sin) / across) ** 2
    bent = distance[:, None] + 0.8 * _noise(pixels, draw)
    edge = torch.where(draw(0, 1, count) < 0.5, 0.1, 0.4).view(-1, 1, 1, 1)
    return ((1.1 - bent) / edge).clamp_(0, 1)


def _centres(pixels: Tensor, draw: Draw, generator: torch.Generator | None) -> Tensor:
    """Draw a row and a column of each image, (n, 2), more often in structure."""
    count, _, height, width = pixels.shape
    grey = pixels.mean(1, keepdim=True)
    steps = F.pad((grey[..., 1:, :] - grey[..., :-1, :]).abs(), (0, 0, 0, 1))
    steps = steps + F.pad((grey[..., 1:] - grey[..., :-1]).abs(), (0, 1, 0, 0))
    grid = (max(1, height // STRUCTURE), max(1, width // STRUCTURE))
    structure = F.adaptive_avg_pool2d(steps, grid).flatten(1)
    weights = structure / structure.amax(1, keepdim=True).clamp(min=1e-6) + 0.05
    cell = torch.multinomial(weights.cpu(), 1, generator=generator)[:, 0].to(pixels.device)
    within = draw(0, 1, count, 2)
    rows = (cell // grid[1] + within[:, 0]) * height / grid[0]
    columns = (cell % grid[1] + within[:, 1]) * width / grid[1]
    return torch.stack([rows, columns], 1)


def _noise(pixels: Tensor, draw: Draw) -> Tensor:
    """Return smooth noise of a random scale an image, (n, 1, h, w), about in [-1, 1]."""
    count, _, height, width = pixels.shape
    fields = []
    for scale in (8, 16, 32, 64):
        field = draw(-1, 1, count, 1, scale + 1, scale + 1)
        fields.append(F.interpolate(field, (height, width), mode="bicubic", align_corners=True))
    chosen = draw(0, len(fields), count).long()
    return torch.stack(fields, 1)[torch.arange(count, device=pixels.device), chosen]


def _blended(pixels: Tensor, source: Tensor, alpha: Tensor) -> Tensor:
    return pixels + alpha * (source - pixels)


def _paste(pixels: Tensor, alpha: Tensor, draw: Draw) -> Tensor:
    count, channels = pixels.shape[:2]
    angle, ratio = draw(-math.pi, math.pi, count), pixels.shape[2] / pixels.shape[3]
    cos, sin, shift = angle.cos(), angle.sin(), draw(-1, 1, 2, count)
    matrices = torch.stack([cos, -sin * ratio, shift[0], sin / ratio, cos, shift[1]], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    other = torch.where(draw(0, 1, count, 1, 1, 1) < 0.5, pixels, pixels.roll(1, 0))
    part = F.grid_sample(other, grid, padding_mode="reflection", align_corners=False)
    part = part * draw(0.85, 1.15, count, 1, 1, 1) + draw(-12, 12, count, channels, 1, 1)
    return _blended(pixels, part, alpha)


def _colour(pixels: Tensor, alpha: Tensor, draw: Draw) -> Tensor:
    count, channels = pixels.shape[:2]
    tint = draw(-1, 1, count, channels, 1, 1) * draw(0, 1, count, 1, 1, 1) + draw(-1, 1, count, 1, 1, 1).sign()
    return pixels + alpha * tint / tint.abs().amax(1, keepdim=True) * draw(15, 90, count, 1, 1, 1)


def _texture(pixels: Tensor, alpha: Tensor, draw: Draw) -> Tensor:
    count, channels = pixels.shape[:2]
    flat = draw(0, 255, count, channels, 1, 1)
    ground = torch.where(draw(0, 1, count, 1, 1, 1) < 0.5, flat, pixels)
    grain = _noise(pixels, draw) * draw(20, 90, count, 1, 1, 1) * draw(0.5, 1, count, channels, 1, 1)
    return _blended(pixels, ground + grain, alpha * draw(0.4, 1, count, 1, 1, 1))


def _blur(pixels: Tensor, alpha: Tensor, draw: Draw) -> Tensor:
    radius = max(1, round(float(draw(1.5, 6, 1)) * max(pixels.shape[2:]) / 256))
    blurred = pixels
    for _ in range(2):
        blurred = F.avg_pool2d(blurred, 2 * radius + 1, 1, radius, count_include_pad=False)
    return _blended(pixels, blurred, alpha)


def _warp(pixels: Tensor, alpha: Tensor, draw: Draw) -> Tensor:
    count, _, height, width = pixels.shape
    near = F.avg_pool2d(alpha, 5, 1, 2, count_include_pad=False)
    angle, push = draw(0, 2 * math.pi, count, 1, 1), draw(2.5, 8, count, 1, 1) * max(height, width) / 256
    identity = torch.eye(2, 3, device=pixels.device).expand(count, 2, 3)
    grid = F.affine_grid(identity, list(pixels.shape), align_corners=False)
    offset = torch.stack([angle.cos() * 2 / width, angle.sin() * 2 / height], -1) * (push * near[:, 0])[..., None]
    return F.grid_sample(pixels, grid + offset, padding_mode="border", align_corners=False)


_KINDS = (_paste, _colour, _texture, _blur, _warp)
