"""One channel of the patches is the score, as a trained head gives it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.checks import integer
from lit_od.detectors.map_options import Cells, MapOptions
from lit_od.detectors.options import read_options, same_options
from lit_od.detectors.patch_maps import PatchDetector, check_patches, single
from lit_od.detectors.state import check_names, take
from lit_od.errors import DataError
from lit_od.types import Arrays, Labels, Outputs

MOST_CHANNELS = 2**20
"""Largest number of a channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchChannelOptions(MapOptions):
    """Options, checked: those of maps, and the following.

    Attributes:
        channel: Number of the channel, from 0; below 0 counted from the end.
    """

    channel: int = -1

    def __post_init__(self) -> None:
        MapOptions.__post_init__(self)
        integer("channel", self.channel, least=-MOST_CHANNELS, most=MOST_CHANNELS)


@dataclass(frozen=True, slots=True, eq=False)
class PatchChannel(PatchDetector):
    """Value of one channel of each patch, such as the log-odds of a defect.

    Inliers teach it nothing but the shape of patches.

    Attributes:
        settings: The options it was fitted with.
        grid: Height and width of the grid, and channels of a patch.
    """

    kind: ClassVar[str] = "patch_channel"
    options_type: ClassVar[type[PatchChannelOptions]] = PatchChannelOptions
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.maps:patch_channel"

    settings: PatchChannelOptions
    grid: tuple[int, int, int]

    @classmethod
    def start(cls, settings: PatchChannelOptions, first_row: int = 0) -> "PatchChannelAccumulator":
        """Return an empty accumulator for checked options; row numbers play no part."""
        del first_row
        return PatchChannelAccumulator(settings)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Height and width of the grid, and channels."""
        return self.grid

    @property
    def is_distance(self) -> bool:
        """False: a channel may have any value."""
        return False

    @property
    def falls_with_rows(self) -> bool:
        """True: further inliers change no score."""
        return True

    @property
    def accepts(self) -> bool:
        """True: further inliers change nothing."""
        return True

    @property
    def only_lowers(self) -> bool:
        """True: further inliers change no score."""
        return True

    def cells(self, patches: Outputs, /) -> Cells:
        """Return the channel of each patch, in `cell_shape`."""
        return single(patches[..., self.settings.channel])

    def state(self) -> Arrays:
        """Return the grid."""
        return {"grid": np.array(self.grid, np.int64)}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options.
        """
        settings = read_options(cls.kind, PatchChannelOptions, options)
        check_names(cls.kind, state, ("grid",))
        height, width, channels = (int(side) for side in take(state, "grid", (3,), np.int64))
        if min(height, width, channels) < 1:
            raise DataError(f"array 'grid' of the state must be positive, got {height, width, channels}")
        _require_channel(settings, channels)
        return cls(settings, (height, width, channels))


class PatchChannelAccumulator:
    """An accumulator that keeps the shape of patches.

    Attributes:
        settings: The options.
        grid: Height and width of the grid, and channels; None before the first batch.
    """

    __slots__ = ("grid", "settings")

    def __init__(self, settings: PatchChannelOptions) -> None:
        self.settings = settings
        self.grid: tuple[int, int, int] | None = None

    def update(self, patches: Outputs, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, gh, gw, d); labels play no part.

        Raises:
            DataError: On a wrong shape, values that are not finite, or patches without the channel.
        """
        patches = check_patches(patches, self.grid)
        if len(patches):
            _require_channel(self.settings, patches.shape[3])
            self.grid = (patches.shape[1], patches.shape[2], patches.shape[3])

    def merge(self, other: Self) -> None:
        """Take over an accumulator with the same options.

        Raises:
            ConfigError: If the options differ.
            DataError: If the shapes differ.
        """
        same_options(self.settings, other.settings)
        if None not in (self.grid, other.grid) and self.grid != other.grid:
            raise DataError(f"accumulators to merge must have one shape, got {self.grid} and {other.grid}")
        self.grid = self.grid or other.grid

    def state(self) -> Arrays:
        """Return the grid; nothing before the first batch."""
        return {} if self.grid is None else {"grid": np.array(self.grid, np.int64)}

    def restore(self, state: Arrays) -> None:
        """Replace the grid by that of a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        self.grid = None
        if state:
            height, width, channels = (int(side) for side in take(state, "grid", (3,), np.int64))
            self.grid = (height, width, channels)

    def finish(self) -> PatchChannel:
        """Return the detector.

        Raises:
            DataError: If there were no images.
        """
        if self.grid is None:
            raise DataError("a detector over patches needs at least 1 image, got 0. Pass more images.")
        return PatchChannel(self.settings, self.grid)


def _require_channel(settings: PatchChannelOptions, channels: int) -> None:
    """Raise DataError if patches of so many channels lack the channel."""
    if not -channels <= settings.channel < channels:
        raise DataError(f"patches have {channels} channels, and detector.channel is {settings.channel}: choose another")
