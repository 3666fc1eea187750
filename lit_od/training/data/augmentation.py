"""Random changes of a whole batch of images, as of Keras' ImageDataGenerator.

A pixel p of the result, relative to the centre of the image in (x, y), comes from

    R(angle) (S(shear) Z(zoom) p + shift),  R = (cos a, -sin a; sin a, cos a),  S = (1, -sin s; 0, cos s)

by bilinear interpolation; places outside take the nearest pixel of the border. Quarter turns add to the angle. The
mirror and the brightness follow. Values are rounded to uint8, the type that an exported backbone takes.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_od.images.augment import Augment


@dataclass(frozen=True, slots=True)
class Draws:
    """Random changes drawn for each image.

    Attributes:
        angle: Degrees, shape (n,).
        shift: Share of width and of height, shape (n, 2).
        shear: Degrees, shape (n,).
        zoom: Factors along x and y, shape (n, 2); below 1 magnifies.
        brightness: Factor of the pixels, shape (n,).
        mirrored: Left to right, shape (n,), bool.
    """

    angle: Tensor
    shift: Tensor
    shear: Tensor
    zoom: Tensor
    brightness: Tensor
    mirrored: Tensor


def step_generator(seed: int, epoch: int, step: int, rank: int = 0) -> torch.Generator:
    """Return the random generator of one training step of one process.

    It is a function of the four numbers alone.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        step: Number of the step in its epoch.
        rank: Number of the process, from 0.
    """
    state = np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)
    generator = torch.Generator()
    generator.manual_seed(int(state[0]) & (2**63 - 1))
    return generator


def draw(count: int, config: Augment, generator: torch.Generator) -> Draws:
    """Draw the changes of `count` images.

    They are drawn on the CPU, so that all devices give the same.

    Args:
        count: Number of images.
        config: Ranges of the changes.
        generator: Random generator on the CPU; 8 numbers an image are drawn from it, 9 with turns.
    """
    unit = torch.rand(count, 8, generator=generator)
    either_way = 2 * unit - 1  # uniform in [-1, 1)
    low, high = config.brightness
    turned = 90 * torch.randint(4, (count,), generator=generator) if config.turns else 0
    return Draws(
        angle=config.rotation * either_way[:, 0] + turned,
        shift=config.shift * either_way[:, 1:3],
        shear=config.shear * either_way[:, 3],
        zoom=1 + config.zoom * either_way[:, 4:6],
        brightness=low + (high - low) * unit[:, 6],
        mirrored=(unit[:, 7] < 0.5) & config.flip,
    )


def augment(images: Tensor, config: Augment, generator: torch.Generator) -> Tensor:
    """Change each image at random.

    Args:
        images: Shape (n, h, w, c), uint8, on any device.
        config: Ranges of the changes.
        generator: Random generator on the CPU; 8 numbers an image are drawn from it, 9 with turns.

    Returns:
        New images of the same shape, type and device.
    """
    return apply(images, draw(len(images), config, generator))


def apply(images: Tensor, draws: Draws) -> Tensor:
    """Apply drawn changes to images of shape (n, h, w, c), uint8."""
    pixels = images.permute(0, 3, 1, 2).to(torch.float32)  # (n, c, h, w)
    matrices = _matrices(draws, height=images.shape[1], width=images.shape[2]).to(images.device)
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    moved *= draws.brightness.to(images.device)[:, None, None, None]
    return moved.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _matrices(draws: Draws, *, height: int, width: int) -> Tensor:
    """Return matrices (n, 2, 3) from coordinates of the result to those of the image.

    Both run from -1 to 1 between the outer edges.
    """
    angle, shear = torch.deg2rad(draws.angle), torch.deg2rad(draws.shear)
    cos, sin = torch.cos(angle), torch.sin(angle)
    # R S = (cos a, -sin(a + s); sin a, cos(a + s)); a mirrored result reads x from the other side.
    x_scale = draws.zoom[:, 0] * torch.where(draws.mirrored, -1.0, 1.0)
    y_scale = draws.zoom[:, 1]
    x_shift, y_shift = draws.shift[:, 0] * width, draws.shift[:, 1] * height  # pixels
    ratio = height / width
    return torch.stack(
        [
            cos * x_scale,
            -torch.sin(angle + shear) * y_scale * ratio,
            (cos * x_shift - sin * y_shift) * (2 / width),
            sin * x_scale / ratio,
            torch.cos(angle + shear) * y_scale,
            (sin * x_shift + cos * y_shift) * (2 / height),
        ],
        dim=1,
    ).reshape(-1, 2, 3)
