"""Partial states: a detector's accumulator over one share of the images.

Every fit over many processes or machines makes and merges them. A state is sent as the bytes of a safetensors file;
sums and rows of any number of shares merge into the state that one process would have gathered.
"""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

import msgspec
import numpy as np

from lit_od.detectors import Accumulator, Detector
from lit_od.detectors.registry import accumulator
from lit_od.errors import DataError
from lit_od.formats import safetensors_file as safetensors
from lit_od.runtime.threads import limited

_ABOUT = "about"


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    options: dict[str, Any]
    first_row: int
    images: int


@dataclass(slots=True, eq=False)
class PartialState:
    """An accumulator, and the images that it has seen.

    Attributes:
        kind: The detector's kind.
        gathered: Its accumulator.
        first_row: Number of the first image among those of all shares.
        images: Number of images that it has seen.
    """

    kind: str
    gathered: Accumulator
    first_row: int
    images: int

    def merge(self, other: Self) -> None:
        """Merge the state of the share that follows.

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
        """Return the fitted detector. Raises DataError where the images do not suffice."""
        return self.gathered.finish()

    def to_bytes(self) -> bytes:
        """Return the state as a safetensors file."""
        options = asdict(self.gathered.settings)
        about = msgspec.json.encode(_About(self.kind, options, self.first_row, self.images))
        return safetensors.save({**self.gathered.state(), _ABOUT: np.frombuffer(about, np.uint8)})

    @classmethod
    def from_bytes(cls, data: bytes, *, trust: Collection[str] = (), after: Self | None = None) -> Self:
        """Rebuild from `to_bytes()`.

        Args:
            data: The bytes.
            trust: Import paths of detectors that may be followed.
            after: State of the first pass over all images, for a state of the second.

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
        before = None if after is None else after.gathered
        gathered = accumulator(about.kind, about.options, first_row=about.first_row, trust=trust, after=before)
        gathered.restore(arrays)
        return cls(about.kind, gathered, about.first_row, about.images)


def merged(
    parts: Iterable[bytes | PartialState], *, trust: Collection[str] = (), after: PartialState | None = None
) -> PartialState:
    """Merge all shares in the order of their images, one in memory at a time.

    Args:
        parts: The shares, or their bytes.
        trust: Import paths of detectors that may be followed.
        after: State of the first pass over all images, for shares of the second.

    Raises:
        DataError: If there are none, or they do not follow each other.
    """
    whole: PartialState | None = None
    with limited(1):  # products of a matrix and a vector are quicker on one thread
        for part in parts:
            state = PartialState.from_bytes(part, trust=trust, after=after) if isinstance(part, bytes) else part
            if whole is None:
                whole = state
            else:
                whole.merge(state)
    if whole is None:
        raise DataError("there is no share to merge")
    return whole
