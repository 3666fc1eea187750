"""Pooling of a layer's output to a fixed number of values an image."""

from dataclasses import dataclass
from typing import Literal, Self, cast

import torch
from torch import Tensor

from lit_od.errors import ConfigError

GEM_POWER = 3.0
GEM_FLOOR = 1e-6
"""Values are raised to it before the power, as the power mean is of positive values."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """Pooling of a layer's output.

    Feature maps (n, c, h, w) are pooled over their positions:
        - avg: the mean, (n, c);
        - max: the maximum, (n, c);
        - gem: the power mean of max(x, 1e-6) with power 3, (n, c) (Radenovic, Tolias and Chum 2018);
        - grid: the means over a grid of `side` x `side` cells, (n, c * side^2), channel by channel, each
          row by row; cell i of side covers the rows floor(i h / side) to ceil((i + 1) h / side), as
          torch's adaptive average pooling cuts them.
    Token sequences (n, t, d) are pooled over all tokens, a class token among them, by avg or max.
    Vectors (n, d) stay unchanged.

    Attributes:
        kind: "avg", "max", "gem" or "grid".
        side: Cells of the grid's side; 1 for the others.
    """

    kind: Literal["avg", "max", "gem", "grid"]
    side: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse "avg", "max", "gem" or "grid:4". Raises ConfigError on other text."""
        kind, colon, side = str(text).partition(":")
        if kind in ("avg", "max", "gem") and not colon:
            return cls(cast(Literal["avg", "max", "gem"], kind))
        if kind == "grid" and side.isdecimal() and int(side) >= 1:
            return cls("grid", int(side))
        raise ConfigError(f"pool must be avg, max, gem or grid:N with N at least 1, such as grid:4, got {text!r}")

    def __str__(self) -> str:
        return f"grid:{self.side}" if self.kind == "grid" else self.kind

    def __call__(self, output: Tensor, layer: str) -> Tensor:
        """Return pooled values (n, d) of a layer's output.

        Raises:
            ConfigError: If an output of this shape cannot be pooled so.
        """
        if output.ndim == 2:
            return output.clone()  # a later layer may write into it
        if output.ndim == 3 and self.kind in ("avg", "max"):
            return output.mean(1) if self.kind == "avg" else output.amax(1)
        if output.ndim != 4:
            hint = "token sequences (n, t, d) are pooled by avg or max" if output.ndim == 3 else "wanted (n, c, h, w)"
            raise ConfigError(f"layer {layer} gives shape {tuple(output.shape)}, which {self} cannot pool: {hint}")
        match self.kind:
            case "avg":
                return output.mean((2, 3))
            case "max":
                return output.amax((2, 3))
            case "gem":
                return output.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean((2, 3)).pow(1 / GEM_POWER)
            case _:
                return grid_average(output, self.side)


def grid_average(maps: Tensor, side: int) -> Tensor:
    """Return means of maps (n, c, h, w) over a grid of cells, (n, c * side^2).

    Two products with matrices of weights: adaptive pooling has no ONNX operator, and is unrolled into
    slices, or refused, where the sides do not divide; this serves any size, also one that is left free.
    """
    columns = maps @ _cells(maps, side, 3).T  # (n, c, h, side)
    cells = columns.transpose(2, 3) @ _cells(maps, side, 2).T  # (n, c, side of columns, side of rows)
    return cells.transpose(2, 3).flatten(1)


def _cells(maps: Tensor, side: int, axis: int) -> Tensor:
    """Return weights (side, length) of the positions along an axis in each cell."""
    length = maps.shape[axis]
    position = torch.arange(length, device=maps.device)[None, :]
    cell = torch.arange(side, device=maps.device)[:, None]
    # i length / side < position + 1 and position < (i + 1) length / side, in whole numbers
    inside = ((position + 1) * side > cell * length) & (position * side < (cell + 1) * length)
    weights = inside.to(maps.dtype)
    return weights / weights.sum(1, keepdim=True)
