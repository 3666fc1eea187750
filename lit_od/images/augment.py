"""Changes of images: mirrored, turned, moved and lit otherwise.

A training draws them anew at each step (`lit_od.training.data.augmentation`). Without a training each normal image
gives several views that fit a detector. A pixel p of a view, relative to the centre of the image in (x, y), comes from

    R(90 turns + angle) (S(shear) Z(zoom) p + shift),  R = (cos a, -sin a; sin a, cos a),  S = (1, -sin s; 0, cos s)

by bilinear interpolation; places outside take the nearest pixel of the border. The mirror and the brightness follow.
Shifts are whole pixels, so that views that are only mirrored, turned and shifted hold pixels of the image, unblurred.
"""

import math
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError
from lit_od.types import Images

VIEWS = 8
"""Views of an image by default, itself among them, where changes are drawn."""

MOST_VIEWS = 1000
"""Most views of an image."""


class Augment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Random changes of normal images.

    The options mean what those of Keras' ImageDataGenerator mean; `turns` and `views` are new.

    Attributes:
        rotation: Largest angle, degrees, either way.
        shift: Largest shift, as a share of height and of width, either way.
        zoom: Height and width are each scaled by a factor in [1 - zoom, 1 + zoom].
        shear: Largest shear angle, degrees, either way.
        brightness: Range of the factor that multiplies the pixels (0 to 255, clipped).
        flip: True mirrors half of the images left to right.
        turns: True turns images by 0, 90, 180 or 270 degrees.
        views: Views of each image that fit a detector without a training, the image itself among them. None takes one
            of each pose where there are only flips and turns, else `VIEWS`.
    """

    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    brightness: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    turns: bool = False
    views: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rotation <= 180:
            raise ConfigError(f"augment.rotation must lie in [0, 180], got {self.rotation:g}")
        for name, most in (("shift", 1.0), ("zoom", 1.0), ("shear", 90.0)):
            value = getattr(self, name)
            if not 0 <= value < most:
                raise ConfigError(f"augment.{name} must lie in [0, {most:g}), got {value:g}")
        low, high = self.brightness
        if not 0 <= low <= high < math.inf:
            raise ConfigError(f"augment.brightness must be two factors, 0 <= low <= high, got [{low:g}, {high:g}]")
        if self.views is not None and not 2 <= self.views <= MOST_VIEWS:
            raise ConfigError(
                f"augment.views must lie in 2..{MOST_VIEWS}, the image itself among them, got {self.views}"
            )

    @property
    def poses(self) -> int:
        """Number of flips and turns together."""
        return (2 if self.flip else 1) * (4 if self.turns else 1)

    @property
    def draws(self) -> bool:
        """True if there are changes besides flips and turns."""
        return any((self.rotation, self.shift, self.zoom, self.shear)) or self.brightness != (1.0, 1.0)

    @property
    def rotates(self) -> bool:
        """True if views show a thing in other directions."""
        return self.turns or self.rotation > 0 or self.shear > 0

    @property
    def count(self) -> int:
        """Number of views of an image.

        Raises:
            ConfigError: If nothing changes, or views would repeat.
        """
        if not self.draws and self.poses == 1:
            raise ConfigError(
                "data.augment changes nothing: give flip, turns, rotation, shift, zoom, shear or brightness, or leave "
                "it out"
            )
        if self.views is None:
            return VIEWS if self.draws else self.poses
        if not self.draws and self.views > self.poses:
            raise ConfigError(
                f"data.augment has {self.poses} poses, got views {self.views}, which would repeat them: leave views out"
            )
        return self.views


@dataclass(frozen=True, slots=True)
class Change:
    """Changes that make one view of an image.

    Attributes:
        turns: Quarter turns.
        mirrored: Left to right.
        angle: Degrees.
        shift: Shares of width and of height.
        shear: Degrees.
        zoom: Factors along x and y; below 1 magnifies.
        brightness: Factor of the pixels.
    """

    turns: int = 0
    mirrored: bool = False
    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    shear: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    brightness: float = 1.0

    @property
    def rotates(self) -> bool:
        """True if the view shows a thing in another direction."""
        return self.turns % 2 == 1 or self.angle != 0 or self.shear != 0


def drawn(augment: Augment, *, seed: int, image: int, view: int) -> Change:
    """Return the changes of one view, a function of the arguments alone.

    Poses take turns, in an order of each image, and angles are spread evenly over the views; all else is drawn.

    Args:
        augment: Ranges of the changes.
        seed: Seed of the fit.
        image: Number of the image.
        view: Number of the view; view 0 is the image itself.
    """
    if view == 0:
        return Change()
    poses = np.append(0, 1 + np.random.default_rng([seed, image]).permutation(augment.poses - 1))
    pose = int(poses[view % len(poses)])
    unit = np.random.default_rng([seed, image, view]).uniform(size=7)
    either_way = 2 * unit - 1
    place = (0.5 + (view + either_way[0] / 2) / augment.count) % 1.0  # view 0 is at 0.5
    low, high = augment.brightness
    return Change(
        turns=pose % 4 if augment.turns else 0,
        mirrored=augment.flip and pose >= augment.poses // 2,
        angle=augment.rotation * (2 * place - 1),
        shift=(augment.shift * either_way[1], augment.shift * either_way[2]),
        shear=augment.shear * either_way[3],
        zoom=(1 + augment.zoom * either_way[4], 1 + augment.zoom * either_way[5]),
        brightness=low + (high - low) * unit[6],
    )


def changed(pixels: Images, change: Change) -> Images:
    """Return a view of a prepared image, of the same shape.

    Args:
        pixels: Shape (h, w, c), uint8; square where the view is turned.
        change: The changes.
    """
    view = _moved(np.rot90(pixels, change.turns), change)
    if change.mirrored:
        view = view[:, ::-1]
    if change.brightness != 1:
        view = view * np.float32(change.brightness)
    if view.dtype != np.uint8:
        view = np.clip(np.rint(view), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(view)


def _moved(pixels: Images, change: Change) -> Images | NDArray[np.float32]:
    """Shift, rotate, shear and zoom an image (h, w, c)."""
    height, width = pixels.shape[:2]
    rows, columns = np.arange(height), np.arange(width)
    right, down = round(change.shift[0] * width), round(change.shift[1] * height)
    if not change.angle and not change.shear and change.zoom == (1.0, 1.0):
        shifted: Images = pixels[np.clip(rows + down, 0, height - 1)][:, np.clip(columns + right, 0, width - 1)]
        return shifted
    angle, shear = math.radians(change.angle), math.radians(change.shear)
    # R S = (cos a, -sin(a + s); sin a, cos(a + s))
    x, y = (columns - (width - 1) / 2) * change.zoom[0], ((rows - (height - 1) / 2) * change.zoom[1])[:, None]
    along = math.cos(angle) * (x + right) - math.sin(angle + shear) * y - math.sin(angle) * down
    upward = math.sin(angle) * (x + right) + math.cos(angle + shear) * y + math.cos(angle) * down
    return _interpolated(pixels, along + (width - 1) / 2, upward + (height - 1) / 2)


def _interpolated(pixels: Images, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the values (h, w, c) of an image at places (h, w), bilinearly.

    Places outside take the nearest pixel of the border.
    """
    height, width = pixels.shape[:2]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    of_right, of_below = ((x - left)[..., None].astype(np.float32), (y - top)[..., None].astype(np.float32))
    above = pixels[top, left] * (1 - of_right) + pixels[top, right] * of_right
    under = pixels[below, left] * (1 - of_right) + pixels[below, right] * of_right
    joined: NDArray[np.float32] = above * (1 - of_below) + under * of_below
    return joined
