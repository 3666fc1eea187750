"""Options of a Gaussian a position, and the sums that it is fitted from."""

import math
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import integer, number, one_of
from lit_od.detectors.map_options import MapOptions
from lit_od.detectors.moments import ledoit_wolf_shrinkage
from lit_od.detectors.state import SMALLEST, check_names, take
from lit_od.errors import DataError
from lit_od.runtime.threads import limited
from lit_od.types import Arrays, Outputs, Stats

Reduction: TypeAlias = Literal["pca", "random"]

MOST_POSITIONS = 4096
"""Largest number of positions: each has a covariance."""

POSITIONS_AT_ONCE = 64
"""Positions whose covariances are inverted at once: 5 MB each for 100 components."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaDiMOptions(MapOptions):
    """Options, checked: those of maps, and the following.

    Attributes:
        components: Values to which the standardised channels of a patch are reduced; all, where it has fewer.
        reduction: Leading principal components ("pca"), or a seeded choice of channels ("random"), as in the paper.
        ridge: Added to the variances of the components at each position.
        shrinkage: "ledoit-wolf" shrinks each covariance towards a multiple of the identity instead of the ridge.
        precision: Of the inverse covariance factors, on disk.
        seed: Of the choice of channels.
        positions: Cells that have a Gaussian each: those of an "image", or of a "tile" (of an image without tiles). One
            for a cell of every tile knows no place in the image.
    """

    components: int = 100
    reduction: Reduction = "pca"
    ridge: float = 0.01
    shrinkage: Literal["ledoit-wolf"] | None = None
    precision: Literal["fp32", "fp16"] = "fp32"
    seed: int = 0
    positions: Literal["image", "tile"] = "image"

    def __post_init__(self) -> None:
        MapOptions.__post_init__(self)
        one_of("positions", self.positions, ("image", "tile"))
        integer("components", self.components, least=1)
        one_of("reduction", self.reduction, ("pca", "random"))
        number("ridge", self.ridge, above=0, most=1e6)
        if self.shrinkage is not None:
            one_of("shrinkage", self.shrinkage, ("ledoit-wolf",))
        one_of("precision", self.precision, ("fp32", "fp16"))
        integer("seed", self.seed, least=0, most=2**32 - 1)

    @property
    def knows_place(self) -> bool:
        """True for a Gaussian a position of the image."""
        return self.positions == "image"


class PositionSums:
    """Sums of the components at each position.

    They are float64, about the mean of all positions, which is near enough for digits not to cancel.

    Args:
        positions: Number of positions, p.
        kept: Components, k.

    Attributes:
        count: Images so far.
    """

    __slots__ = ("_first", "_fourth", "_second", "_third", "count")

    def __init__(self, positions: int, kept: int) -> None:
        self.count = 0
        self._first = np.zeros((positions, kept))  # sum y
        self._second = np.zeros((positions, kept, kept))  # sum y y^T
        self._third = np.zeros((positions, kept))  # sum |y|^2 y
        self._fourth = np.zeros(positions)  # sum |y|^4

    @property
    def means(self) -> Stats:
        """Mean at each position, shape (p, k)."""
        return self._first / self.count

    def update(self, components: NDArray[np.float32]) -> None:
        """Take the components of a batch, shape (n, p, k)."""
        rows = components.transpose(1, 0, 2).astype(np.float64)  # (p, n, k)
        squares = np.vecdot(rows, rows)
        self.count += len(components)
        self._first += rows.sum(axis=1)
        self._second += rows.transpose(0, 2, 1) @ rows
        self._third += (squares[:, None] @ rows)[:, 0]
        self._fourth += (squares**2).sum(axis=1)

    def merge(self, other: Self) -> None:
        """Add the sums of other images."""
        self.count += other.count
        self._first += other._first
        self._second += other._second
        self._third += other._third
        self._fourth += other._fourth

    def state(self) -> Arrays:
        """Return the sums."""
        return {
            "count": np.array([self.count], np.int64),
            "first": self._first,
            "second": self._second,
            "third": self._third,
            "fourth": self._fourth,
        }

    def restore(self, state: Arrays) -> None:
        """Replace the sums by those of a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        names = ("first", "second", "third", "fourth")
        check_names("a share", state, ("count", *names))
        self.count = int(take(state, "count", (1,), np.int64)[0])
        for name in names:
            wanted = getattr(self, f"_{name}").shape
            setattr(self, f"_{name}", take(state, name, wanted, most=math.inf).copy())

    def whiteners(self, settings: PaDiMOptions) -> NDArray[np.float32]:
        """Return the inverse of the covariances' Cholesky factors, shape (p, k, k).

        Raises:
            DataError: If half precision cannot hold them.
        """
        whiteners = np.empty(self._second.shape, np.float32)
        with limited(1):  # threads of BLAS wait for each other longer than such small matrices take
            for start in range(0, len(whiteners), POSITIONS_AT_ONCE):
                part = slice(start, start + POSITIONS_AT_ONCE)
                whiteners[part] = np.tril(np.linalg.inv(np.linalg.cholesky(self._covariances(part, settings))))
        if settings.precision == "fp16":
            with np.errstate(over="ignore"):
                whiteners = whiteners.astype(np.float16).astype(np.float32)
            if not np.isfinite(whiteners).all():
                raise DataError("padim: fp16 holds no such small variances. Raise ridge, or leave precision out.")
        return whiteners

    def _covariances(self, part: slice, settings: PaDiMOptions) -> Stats:
        """Return the covariances of some positions, (p, k, k)."""
        means = self._first[part] / self.count
        sums, count = self._second[part], self.count
        scatters: Stats = sums - count * means[:, :, None] * means[:, None]
        kept = means.shape[1]
        if settings.shrinkage is None:
            covariances = scatters / (count - 1)
            covariances[:, range(kept), range(kept)] += settings.ridge
            return covariances
        squares, trace = np.vecdot(means, means), np.trace(sums, axis1=1, axis2=2)
        fourth = (
            self._fourth[part]
            - 4 * np.vecdot(means, self._third[part])
            + 2 * squares * trace
            + 4 * np.einsum("pi,pij,pj->p", means, sums, means)
            - 3 * count * squares**2
        )
        weights = np.array([ledoit_wolf_shrinkage(count, *each) for each in zip(scatters, fourth, strict=True)])
        covariances = scatters * ((1 - weights) / count)[:, None, None]
        variances = np.trace(scatters, axis1=1, axis2=2) / count / kept
        covariances[:, range(kept), range(kept)] += (weights * variances + SMALLEST)[:, None]
        return covariances


def project(patches: Outputs, centre: NDArray[np.float32], projection: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reduce patches to components.

    Args:
        patches: Shape (n, gh, gw, d).
        centre: Mean of the channels, shape (d,).
        projection: Shape (d, k).

    Returns:
        Shape (n, gh * gw, k), float32.
    """
    rows = patches.reshape(-1, patches.shape[3]).astype(np.float32, copy=False) - centre
    return np.asarray(rows @ projection, np.float32).reshape(len(patches), -1, projection.shape[1])
