"""The accumulator of ensembles.

Four images of five fit the members, the fifth sets their scales.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.bank.row_store import row_ranks
from lit_od.detectors.base import check_features
from lit_od.detectors.held_out import GROUP, is_held, scale_of
from lit_od.detectors.options import same_options
from lit_od.detectors.patch_maps import check_patches, counted_patches
from lit_od.detectors.state import LARGEST_SINGLE, read_only, take, take_apart
from lit_od.errors import DataError
from lit_od.types import Arrays, Labels, Outputs

MOST_HELD = 48
"""Images that set the scales, at most: a seeded sample of those held out. More where `HELD_VALUES` hold more."""

HELD_VALUES = 2**23
"""Values of the outputs of held-out images that are kept: 32 MiB."""


class EnsembleAccumulator:
    """An accumulator that hands four images of five to the members.

    It holds the fifth, for their scales.

    Args:
        detector: The class of the ensemble.
        settings: The options.
        first_row: Number of the first image it will see.
        gathered: Accumulators of the members; None for one that takes no second pass.
        first: The accumulator of the first pass, for the second.

    Attributes:
        detector: The class of the ensemble.
        settings: The options.
        first_row: Number of the first image it will see.
        gathered: The members' accumulators; None for one that takes no second pass.
        first: The accumulator of the first pass, in the second.
        seen: Images so far.
    """

    __slots__ = ("_held", "_ranks", "detector", "first", "first_row", "gathered", "seen", "settings")

    def __init__(
        self,
        detector: type[Any],
        settings: Any,
        first_row: int,
        gathered: list[Any],
        first: "EnsembleAccumulator | None" = None,
    ) -> None:
        self.detector, self.settings, self.first_row = detector, settings, first_row
        self.gathered, self.first = gathered, first
        self.seen = 0
        self._held: NDArray[np.float32] | None = None  # (m, ...)
        self._ranks = np.empty(0, np.uint64)

    def update(self, outputs: Outputs, labels: Labels | None = None) -> None:
        """Take a batch of patches (n, gh, gw, d) or of features (n, d).

        Labels are handed to the members.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        outputs = check_patches(outputs) if self.settings.reads == "patches" else check_features(outputs)
        if not len(outputs):
            return
        rows = np.arange(len(outputs)) + self.first_row + self.seen
        held = is_held(rows // self.settings.views, self.settings.seed)
        scaling = held & (rows % self.settings.views == 0)
        self.seen += len(outputs)
        for gathered in self.gathered:
            if gathered is not None:
                gathered.update(outputs[~held], None if labels is None else labels[~held])
        if self.first is None:
            counted = outputs[scaling]
            if self.settings.reads == "patches":
                counted = counted_patches(counted, self.settings)
            self._hold(counted.astype(np.float32), row_ranks(self.settings.seed, rows[scaling].astype(np.uint64)))

    def _hold(self, outputs: NDArray[np.float32], ranks: NDArray[np.uint64]) -> None:
        if not len(outputs):
            return
        self._held = outputs if self._held is None else np.concatenate([self._held, outputs])
        self._ranks = np.concatenate([self._ranks, ranks])
        most = max(MOST_HELD, HELD_VALUES // outputs[0].size)
        if len(self._ranks) > most:
            lowest = np.sort(np.argsort(self._ranks, kind="stable")[:most])
            self._held, self._ranks = self._held[lowest], self._ranks[lowest]

    def merge(self, other: Self) -> None:
        """Take over an accumulator with the same options that has seen the next images.

        Raises:
            ConfigError: If the options differ.
            DataError: If the shapes differ, or the images do not follow.
        """
        same_options(self.settings, other.settings)
        if not other.seen:
            return
        follows = self.first_row + self.seen
        if other.first_row != follows:
            raise DataError(
                f"images are held out by number: the accumulator to merge must have first_row={follows}, got "
                f"{other.first_row}. Give each its first_row, and merge in the order of the images."
            )
        for mine, theirs in zip(self.gathered, other.gathered, strict=True):
            if mine is not None:
                mine.merge(theirs)
        if other._held is not None:
            if self._held is not None and self._held.shape[1:] != other._held.shape[1:]:
                raise DataError("accumulators to merge must have seen outputs of one shape")
            self._hold(other._held, other._ranks)
        self.seen += other.seen

    def state(self) -> Arrays:
        """Return what the members have gathered, and the images that are held."""
        arrays: Arrays = {"seen": np.array([self.seen], np.int64), "ranks": self._ranks.view(np.int64)}
        if self._held is not None:
            arrays["held"] = self._held
        for number_, gathered in enumerate(self.gathered):
            if gathered is not None:
                arrays |= {f"{number_}.{name}": array for name, array in gathered.state().items()}
        return arrays

    def restore(self, state: Arrays) -> None:
        """Replace what was gathered by a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        own, parts = take_apart(state, len(self.gathered), ("seen", "ranks", *(["held"] if "held" in state else [])))
        self.seen = int(take(own, "seen", (1,), np.int64)[0])
        ranks, self._held = np.asarray(own["ranks"]), None
        if "held" in own:
            shape = (None,) * (4 if self.settings.reads == "patches" else 2)
            self._held = take(own, "held", shape, np.float32, most=LARGEST_SINGLE)
        held = 0 if self._held is None else len(self._held)
        if ranks.shape != (held,) or ranks.dtype != np.int64 or not held <= self.seen:
            raise DataError("the arrays of a share of an ensemble do not fit together; gather its images anew")
        self._ranks = ranks.view(np.uint64)
        for gathered, part in zip(self.gathered, parts, strict=True):
            if gathered is not None:
                gathered.restore(part)

    def finish(self) -> Any:
        """Return the fitted detector.

        Raises:
            DataError: If this is the first pass, there are too few images, or a scale is zero.
        """
        if self.first is None:
            raise DataError("an ensemble takes two passes over the images: pass this accumulator to start_second")
        held = self.first._held
        if held is None:
            raise DataError(
                f"an ensemble needs at least {GROUP} images, one in {GROUP} of which sets the members' scales, "
                f"got {self.seen // self.settings.views}. Pass more images, "
                "or fit one member alone, as recipe defects-few does."
            )
        members = [(second or first).finish() for second, first in zip(self.gathered, self.first.gathered, strict=True)]
        shifts, scales = np.zeros(len(members)), np.zeros(len(members))
        for row, member in enumerate(members):
            scores = [self.detector.scores_of(member, held[image : image + 1]).ravel() for image in range(len(held))]
            shifts[row], scales[row] = scale_of(member, np.concatenate(scores), images=len(held))
        return self.detector(self.settings, tuple(members), read_only(shifts), read_only(scales))
