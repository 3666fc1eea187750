"""What one share of the images brings to a detector: gathered in one process, merged in another.

The map and the merge of every fit over many processes or machines. A state travels as the bytes of a
safetensors file; sums and rows of any number of shares merge into what one process would have gathered.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

import msgspec
import numpy as np

from lit_od.detectors import Accumulator, Detector
from lit_od.detectors.bank.memory_bank import BankAccumulator
from lit_od.detectors.gmm import GMMAccumulator
from lit_od.detectors.mahalanobis import MahalanobisAccumulator
from lit_od.detectors.moments import Moments
from lit_od.detectors.pca import PCAResidualAccumulator
from lit_od.detectors.reconstruction import ReconstructionAccumulator
from lit_od.detectors.registry import accumulator
from lit_od.detectors.state import check_names, take
from lit_od.errors import DataError
from lit_od.formats import safetensors_file as safetensors
from lit_od.runtime.threads import limited
from lit_od.types import Arrays

_ABOUT = "about"
_SUMS = ("count", "mean", "scatter", "third_moments", "fourth_moments")
_STORE = ("numbers", "rows", "ranks")


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    options: dict[str, Any]
    first_row: int
    images: int


@dataclass(slots=True, eq=False)
class PartialState:
    """An accumulator, and which images it has seen.

    Attributes:
        kind: The detector's kind.
        gathered: Its accumulator.
        first_row: Number of the first image among those of all shares.
        images: How many it has seen.
    """

    kind: str
    gathered: Accumulator
    first_row: int
    images: int

    def merge(self, other: Self) -> None:
        """Take over what a share has gathered from the images after these.

        Raises:
            ConfigError: If the options differ.
            DataError: If the other's images are not those that follow.
        """
        follows = self.first_row + self.images
        if other.first_row != follows:
            raise DataError(
                f"shares merge in the order of the images: wanted the one that begins at row {follows}, "
                f"got one that begins at {other.first_row}"
            )
        if other.kind != self.kind:
            raise DataError(f"shares of one detector merge, got {self.kind} and {other.kind}")
        self.gathered.merge(other.gathered)
        self.images += other.images

    def finish(self) -> Detector:
        """The fitted detector. Raises DataError where the images do not suffice."""
        return self.gathered.finish()

    def to_bytes(self) -> bytes:
        """The state as a safetensors file."""
        options = asdict(self.gathered.settings)  # type: ignore[attr-defined]  # every accumulator of the registry
        about = msgspec.json.encode(_About(self.kind, options, self.first_row, self.images))
        return safetensors.save({**_arrays(self.gathered), _ABOUT: np.frombuffer(about, np.uint8)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Rebuild from `to_bytes()`.

        Raises:
            ConfigError: On a detector or options that do not exist.
            DataError: If the bytes are no state.
        """
        arrays = safetensors.views(data)
        if _ABOUT not in arrays:
            raise DataError("the state of a share lacks 'about': it was not written by to_bytes")
        try:
            about = msgspec.json.decode(arrays.pop(_ABOUT).tobytes(), type=_About)
        except msgspec.MsgspecError as error:
            raise DataError(f"the state of a share cannot be read: {error}") from None
        gathered = accumulator(about.kind, about.options, first_row=about.first_row)
        _restore(gathered, arrays)
        return cls(about.kind, gathered, about.first_row, about.images)


def merged(parts: Iterable[bytes | PartialState]) -> PartialState:
    """All shares as one, taken in the order of their images, one in memory at a time.

    Raises:
        DataError: If there are none, or they do not follow each other.
    """
    whole: PartialState | None = None
    with limited(1):  # a matrix with a vector: threads take longer to find each other than to do it
        for part in parts:
            state = PartialState.from_bytes(part) if isinstance(part, bytes) else part
            if whole is None:
                whole = state
            else:
                whole.merge(state)
    if whole is None:
        raise DataError("there is no share to merge")
    return whole


def _arrays(gathered: Accumulator) -> Arrays:
    match gathered:
        case MahalanobisAccumulator():
            return _sums(gathered.moments)
        case PCAResidualAccumulator():
            return _sums({} if gathered.moments is None else {0: gathered.moments})
        case GMMAccumulator():
            sums = {} if gathered.moments is None else {0: gathered.moments}
            return _sums(sums) if gathered.settings.components == 1 else gathered.store.state()
        case BankAccumulator():
            return gathered.store.state()
        case ReconstructionAccumulator():
            if gathered.shape is None:
                return {}
            return {"shape": np.array(gathered.shape, np.int64), "count": np.array([gathered.count], np.int64)}
        case _:
            raise TypeError(f"{type(gathered).__name__} has no state that travels")


def _restore(gathered: Accumulator, arrays: Arrays) -> None:
    match gathered:
        case MahalanobisAccumulator():
            gathered.moments = _moments(arrays)
        case PCAResidualAccumulator():
            gathered.moments = _moments(arrays).get(0)
        case GMMAccumulator() if gathered.settings.components == 1:
            gathered.moments = _moments(arrays).get(0)
        case GMMAccumulator() | BankAccumulator():
            check_names("a share", arrays, _STORE)
            gathered.store.restore(arrays)
        case ReconstructionAccumulator():
            if arrays:
                check_names("a share", arrays, ("shape", "count"))
                height, width, channels = (int(side) for side in take(arrays, "shape", (3,), np.int64))
                gathered.shape = (height, width, channels)
                gathered.count = int(take(arrays, "count", (1,), np.int64)[0])
        case _:
            raise TypeError(f"{type(gathered).__name__} has no state that travels")


def _sums(moments: dict[int, Moments]) -> Arrays:
    """The sums of k classes, side by side: k labels, and each sum with k in front of its shape."""
    if not moments:
        return {}
    states = [moments[label].state() for label in sorted(moments)]
    stacked: Arrays = {name: np.stack([state[name] for state in states]) for name in _SUMS}
    return stacked | {"labels": np.array(sorted(moments), np.int64)}


def _moments(arrays: Arrays) -> dict[int, Moments]:
    if not arrays:
        return {}
    check_names("a share", arrays, ("labels", *_SUMS))
    labels = take(arrays, "labels", (None,), np.int64)
    if any(len(arrays[name]) != len(labels) for name in _SUMS):
        raise DataError("the state of a share holds another number of classes than of sums")
    return {
        int(label): Moments.from_state({name: arrays[name][row] for name in _SUMS}) for row, label in enumerate(labels)
    }
