"""What a recipe says of a detector: its kind and its options, taken apart once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from lit_od.detectors.base import Accumulator, Detector
from lit_od.detectors.registry import DETECTORS, accumulator, detector_from_state
from lit_od.errors import ConfigError
from lit_od.types import Arrays, Output


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A detector by kind and options, before it is fitted.

    Attributes:
        kind: A key of the registry.
        options: Plain values by name; what is left out takes its default.
    """

    kind: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Self:
        """Read what a recipe writes: `{"kind": KIND, **options}`.

        Raises:
            ConfigError: If there is no kind.
        """
        options = dict(tree)
        kind = options.pop("kind", None)
        if not isinstance(kind, str):
            raise ConfigError(f"a detector needs a kind, one of {', '.join(DETECTORS)}; got {kind!r}")
        return cls(kind, options)

    @property
    def needs_labels(self) -> bool:
        """True if the detector wants the class of every image."""
        return bool(self.options.get("class_conditional"))

    def check(self) -> None:
        """Raise ConfigError unless kind and options are valid, before any image is read."""
        self.accumulator()

    def reads(self) -> Output:
        """Return the kind of output that the detector scores."""
        reads: Output = DETECTORS[self.kind].reads
        return reads

    @property
    def passes(self) -> int:
        """Number of passes over the images that the detector needs."""
        return int(getattr(DETECTORS[self.kind], "passes", 1))

    def accumulator(self, *, first_row: int = 0, after: Accumulator | None = None) -> Accumulator:
        """Return an empty accumulator; `first_row` is the number of its first row among all rows."""
        return accumulator(self.kind, self.options, first_row=first_row)

    def restore(self, state: Arrays) -> Detector:
        """Return the fitted detector that `state` is of. Raises DataError where it does not fit the options."""
        return detector_from_state(self.kind, self.options, state)
