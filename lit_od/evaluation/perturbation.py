"""Patches of noise on images, and the rise of scores with their size.

Pixels count from 0 to 1 here, as in the published experiments; images stay uint8, as a graph takes
them, so noise is added, clipped and rounded to the nearest of 256 steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from lit_od.backbone.model import Backbone
from lit_od.detectors import Reconstruction
from lit_od.detectors.reconstruction import ReconstructionOptions
from lit_od.errors import ConfigError, DataError
from lit_od.types import Features, Images, Stats

Noise: TypeAlias = Literal["uniform", "normal", "zero"]


class NoiseBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Change of the pixels inside a patch.

    Attributes:
        noise: "uniform" and "normal" noise is added to the pixels, drawn for each separately; "zero"
            replaces them with black.
        low_high: Ends of the uniform noise.
        mean_sd: Mean and standard deviation of the normal noise.
        channels: Channels that are changed; None changes all.
        clip: Least and greatest value of a changed pixel.
    """

    noise: Noise = "uniform"
    low_high: tuple[float, float] = (0.0, 1.0)
    mean_sd: tuple[float, float] = (0.0, 1.0)
    channels: tuple[int, ...] | None = None
    clip: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not np.isfinite([*self.low_high, *self.mean_sd, *self.clip]).all():
            raise ConfigError(f"low_high, mean_sd and clip must be finite, got {self}")
        if self.noise not in ("uniform", "normal", "zero"):
            raise ConfigError(f"noise must be uniform, normal or zero, got {self.noise!r}")
        if not self.low_high[0] <= self.low_high[1] or not self.mean_sd[1] >= 0:
            raise ConfigError(
                "wanted low_high in order and a standard deviation of at least 0, "
                f"got {self.low_high} and {self.mean_sd}"
            )
        if not 0 <= self.clip[0] < self.clip[1] <= 1:
            raise ConfigError(f"clip must be two values in order in [0, 1], got {self.clip}")


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """Images with a patch each.

    Attributes:
        images: (n * count, h, w, c), uint8: all of the first image, then all of the second.
        where: True for changed elements, the same shape.
    """

    images: Images
    where: NDArray[np.bool_]


def apply_mask(
    images: Images,
    *,
    size: tuple[int, int],
    rng: np.random.Generator,
    count: int = 1,
    centres: NDArray[np.integer] | None = None,
    patch: NoiseBlock | None = None,
) -> Masked:
    """Copy each image `count` times and change a rectangle of each copy.

    The draws do not depend on the size: with the generator in the same state and the same centres, a
    larger patch holds the smaller one's noise and adds to it.

    Args:
        images: (n, h, w, c), uint8.
        size: Height and width of a patch; (0, 0) changes nothing.
        rng: Draws the centres, where they are not given, and then the noise.
        count: Patches, and copies, of an image.
        centres: Row and column of each patch's centre, (n, count, 2). A patch of even height reaches from
            half its height above the centre to the row before half its height below it, and so its width.
        patch: The change; None adds uniform noise from 0 to 1 to all channels.

    Raises:
        ConfigError: If the patch does not fit the images, or has channels that they lack.
        DataError: If the images are not uint8 (n, h, w, c), or there is not a centre for each.
    """
    patch = patch or NoiseBlock()
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(f"wanted uint8 images (n, h, w, c), got {images.dtype} {images.shape}")
    if count < 1:
        raise ConfigError(f"count must be at least 1, got {count}")
    total, height, width, depth = images.shape
    chosen = tuple(range(depth)) if patch.channels is None else patch.channels
    if any(not 0 <= each < depth for each in chosen):
        raise ConfigError(f"channels must lie in 0..{depth - 1}, got {list(chosen)}")
    if centres is None:
        centres = draw_centres(images, count=count, largest=size, rng=rng)
    if centres.shape != (total, count, 2):
        raise DataError(f"centres must have shape {(total, count, 2)}, got {centres.shape}")
    where = np.zeros((total * count, height, width, depth), dtype=bool)
    starts = centres.reshape(-1, 2) - np.array(size) // 2
    if min(size) < 0 or (starts < 0).any() or (starts + np.array(size) > (height, width)).any():
        raise ConfigError(f"a patch of {size[0]}x{size[1]} (h x w) does not fit around its centre in {height}x{width}")
    for row, (top, left) in enumerate(starts.tolist()):
        where[row, top : top + size[0], left : left + size[1], list(chosen)] = True
    repeated = np.repeat(images, count, axis=0)
    pixels = repeated / np.float32(255)
    match patch.noise:
        case "uniform":
            pixels += rng.uniform(*patch.low_high, size=pixels.shape)
        case "normal":
            pixels += rng.normal(*patch.mean_sd, size=pixels.shape)
        case "zero":
            pixels[:] = 0
    changed = np.rint(np.clip(pixels, *patch.clip) * 255).astype(np.uint8)
    return Masked(np.where(where, changed, repeated), where)


def draw_centres(
    images: Images, *, count: int, largest: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.integer]:
    """Draw centres uniformly among those with room for the largest patch.

    Args:
        images: (n, h, w, c), uint8.
        count: Centres of an image.
        largest: Height and width of the largest patch.
        rng: Draws the centres.

    Returns:
        Rows and columns, shape (n, count, 2).

    Raises:
        ConfigError: If the largest patch does not fit the images.
    """
    total, height, width, _ = images.shape
    if not 0 <= largest[0] <= height or not 0 <= largest[1] <= width:
        raise ConfigError(f"a patch of {largest[0]}x{largest[1]} (h x w) does not fit into {height}x{width}")
    first = np.array(largest) // 2
    # a patch of size 0 has its centre on a pixel too
    last = np.minimum(first + np.array((height, width)) - np.array(largest), (height - 1, width - 1))
    return rng.integers(first, last + 1, size=(total, count, 2))


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """Scores of images under patches of several sizes.

    Attributes:
        sizes: Side of the square patches, ascending; 0 is the unchanged image, shape (s,).
        percentages: `outlier_perc` of the detector, shape (p,).
        scores: Mean over the patches of an image, shape (p, s, n).
    """

    sizes: tuple[int, ...]
    percentages: tuple[float, ...]
    scores: Stats

    def means(self) -> Stats:
        """Return the means of the scores over the images, shape (p, s)."""
        means: Stats = self.scores.mean(axis=2)
        return means

    def rises(self) -> bool:
        """Return True if the mean rises with every step of the size, for all percentages."""
        return bool((np.diff(self.means(), axis=1) > 0).all())

    def table(self) -> str:
        """Format mean scores: a row a size, a column a percentage."""
        lines = [f"{'patch':>8}" + "".join(f"{f'{each:g} %':>12}" for each in self.percentages)]
        for size, row in zip(self.sizes, self.means().T, strict=True):
            lines.append(f"{f'{size}x{size}':>8}" + "".join(f"{each:>12.6f}" for each in row))
        return "\n".join(lines)


def sensitivity(
    backbone: Backbone,
    images: Images,
    *,
    sizes: Sequence[int] = tuple(range(0, 21, 2)),
    count: int = 20,
    percentages: Sequence[float] = (20, 40, 60, 80, 100),
    patch: NoiseBlock | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Score images under square patches of each size.

    Centres and draws are the same for every size. One image with its patches is in memory at a time.

    Args:
        backbone: A graph that gives squared errors.
        images: (n, h, w, c), uint8, n at least 1.
        sizes: Sides in pixels, ascending; 0 leaves the image unchanged.
        count: Patches of an image and size.
        percentages: Shares of the elements, in percent; a score is the mean of the largest ones.
        patch: The change; None adds normal noise of mean 0 and standard deviation 1 to all channels.
        seed: Seed of centres and noise.

    Raises:
        ConfigError: If a patch does not fit, or sizes do not ascend.
        DataError: If there is no image, or the graph gives other outputs.
    """
    patch = patch or NoiseBlock(noise="normal")
    if not sizes or any(later <= earlier for earlier, later in pairwise(sizes)):
        raise ConfigError(f"sizes must ascend, got {list(sizes)}")
    if backbone.output != "errors":
        raise DataError(
            f"patches are scored by the squared errors of an autoencoder, and this graph gives {backbone.output}"
        )
    if not len(images):
        raise DataError("wanted at least 1 image, got none")
    shape = (images.shape[1], images.shape[2], images.shape[3])
    detectors = [Reconstruction(ReconstructionOptions("mse", each), shape) for each in percentages]
    scores = np.empty((len(detectors), len(sizes), len(images)))
    for number in range(len(images)):
        image, largest = images[number : number + 1], (sizes[-1], sizes[-1])
        centres = draw_centres(image, count=count, largest=largest, rng=np.random.default_rng([seed, number, 0]))
        for place, size in enumerate(sizes):
            draws = np.random.default_rng([seed, number, 1])
            masked = apply_mask(image, size=(size, size), rng=draws, count=count, centres=centres, patch=patch)
            errors: Features = backbone(masked.images)
            scores[:, place, number] = [detector.score(errors).mean() for detector in detectors]
    return Sensitivity(tuple(sizes), tuple(percentages), scores)
