"""Sums of the members of an ensemble, for images that it takes after the fit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from lit_od.detectors.base import Accumulator
from lit_od.detectors.options import same_options
from lit_od.detectors.state import take_apart
from lit_od.types import Arrays, Labels, Outputs


class MemberSums:
    """An accumulator that hands all images to the members' sums.

    Args:
        ensemble: The ensemble; its shifts, scales and other members stay.
        parts: Accumulators of the members; None for one that needs no sums.
    """

    __slots__ = ("ensemble", "parts")

    def __init__(self, ensemble: Any, parts: Sequence[Accumulator | None]) -> None:
        self.ensemble = ensemble
        self.parts = tuple(parts)

    @classmethod
    def of(cls, ensemble: Any, parts: Sequence[Accumulator | None]) -> Self | None:
        """Return the accumulator of an ensemble; None where no member needs sums.

        Args:
            ensemble: The ensemble.
            parts: As the class takes them.
        """
        return None if all(part is None for part in parts) else cls(ensemble, parts)

    @property
    def settings(self) -> Any:
        """The ensemble's options."""
        return self.ensemble.settings

    def update(self, outputs: Outputs, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, ...); labels play no part.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        del labels
        for part in self.parts:
            if part is not None:
                part.update(outputs)

    def merge(self, other: Self) -> None:
        """Merge the sums of other images.

        Raises:
            ConfigError: If the options differ.
            DataError: If the shapes differ.
        """
        same_options(self.settings, other.settings)
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            if mine is not None and theirs is not None:
                mine.merge(theirs)

    def state(self) -> Arrays:
        """Return the members' sums, prefixed by their numbers."""
        arrays: Arrays = {}
        for number, part in enumerate(self.parts):
            if part is not None:
                arrays |= {f"{number}.{name}": array for name, array in part.state().items()}
        return arrays

    def restore(self, state: Arrays) -> None:
        """Replace the sums by those of a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        _, found = take_apart(state, len(self.parts), ())
        for part, arrays in zip(self.parts, found, strict=True):
            if part is not None:
                part.restore(arrays)

    def finish(self) -> Any:
        """Return the ensemble with members of these sums.

        Raises:
            DataError: If the images do not suffice.
        """
        pairs = zip(self.ensemble.members, self.parts, strict=True)
        members = tuple(member if part is None else part.finish() for member, part in pairs)
        return replace(self.ensemble, members=members)
