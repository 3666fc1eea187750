"""A detector as a recipe names it: kind and options, taken apart once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.base import Accumulator, Detector
from lit_od.detectors.options import read_options
from lit_od.detectors.patch_maps import MapOptions
from lit_od.detectors.patch_rows import PatchRows
from lit_od.detectors.registry import DETECTORS, accumulator, detector_from_state, find
from lit_od.errors import ConfigError
from lit_od.types import Arrays, Labels, Output, Outputs

BLOCK = 64
"""Rows that an accumulator takes at once, as many as the backbone runs."""

Rows: TypeAlias = NDArray[np.intp]
"""Row numbers, shape (m,)."""


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A detector by kind and options, before it is fitted.

    Attributes:
        kind: A key of the registry, or an import path "package.module:Class".
        options: Plain values by name; others have their defaults.
        trust: Import paths that may be followed.
    """

    kind: str
    options: Mapping[str, Any]
    trust: Collection[str] = ()

    @classmethod
    def parse(cls, tree: Mapping[str, Any], trust: Collection[str] = ()) -> Self:
        """Parse the form of a recipe, `{"kind": KIND, **options}`.

        Args:
            tree: A recipe's `detector`.
            trust: Import paths that may be followed.

        Raises:
            ConfigError: If there is no kind.
        """
        options = dict(tree)
        kind = options.pop("kind", None)
        if not isinstance(kind, str):
            raise ConfigError(f"a detector needs a kind, one of {', '.join(DETECTORS)}; got {kind!r}")
        return cls(kind, options, trust) if "over" not in options else cls(*_over_patches(kind, options), trust)

    @property
    def needs_labels(self) -> bool:
        """True if every image needs a class: the option `class_conditional` is true."""
        return bool(getattr(self._settings(), "class_conditional", False))

    @property
    def passes(self) -> int:
        """Passes over the images that fitting takes, 1 or 2."""
        return find(self.kind, self.trust).passes

    @property
    def leaves_out(self) -> bool:
        """True if the fitted detector can score its inliers without each of them."""
        return find(self.kind, self.trust).can_leave_out(self._settings())

    def with_map_size(self, height: int, width: int) -> Self:
        """Return the detector with maps of a size.

        Nothing changes where it enlarges no maps, or has a size.
        """
        enlarges = any(field.name == "size" for field in fields(find(self.kind, self.trust).options_type))
        if self.reads() != "patches" or not enlarges or "size" in self.options:
            return self
        return replace(self, options={**self.options, "size": [height, width]})

    def check(self) -> None:
        """Check kind, options and installed packages, before any image is read.

        Raises:
            ConfigError: If kind or options are invalid.
            MissingExtra: If fitting needs a package that is not installed.
        """
        find(self.kind, self.trust).require_installed(self._settings())

    def reads(self) -> Output:
        """Return the kind of output that the detector scores."""
        return find(self.kind, self.trust).reads

    def accumulator(self, *, first_row: int = 0, after: Accumulator | None = None) -> Accumulator:
        """Return an empty accumulator.

        Args:
            first_row: Number of the first row it will see, among the rows of all accumulators.
            after: Accumulator of the first pass over all images, for the second pass.

        Raises:
            ConfigError: If kind or options are invalid, or there is no second pass.
        """
        return accumulator(self.kind, self.options, first_row=first_row, trust=self.trust, after=after)

    def fit(self, outputs: Outputs, labels: Labels | None = None, *, rows: Rows | None = None) -> Detector:
        """Return the detector fitted on outputs in memory, in as many passes as it takes.

        Args:
            outputs: Shape (n, ...).
            labels: Class numbers, shape (n,), for class-conditional detectors.
            rows: Numbers of the rows that fit it, ascending; None takes all.

        Raises:
            ConfigError: If kind or options are invalid.
            DataError: If the outputs do not suffice.
        """
        return self.gathered(outputs, labels, rows=rows).finish()

    def gathered(self, outputs: Outputs, labels: Labels | None = None, *, rows: Rows | None = None) -> Accumulator:
        """Return the accumulator of the last pass over outputs in memory.

        Args:
            outputs: As `fit` takes them.
            labels: As `fit` takes them.
            rows: As `fit` takes them.

        Raises:
            ConfigError: If kind or options are invalid.
            DataError: If the outputs do not suffice.
        """
        chosen = np.arange(len(outputs)) if rows is None else rows
        gathered: Accumulator | None = None
        for _ in range(self.passes):
            gathered = self.accumulator(after=gathered)
            for start in range(0, len(chosen), BLOCK):
                block = chosen[start : start + BLOCK]
                gathered.update(outputs[block], None if labels is None else labels[block])
        assert gathered is not None
        return gathered

    def restore(self, state: Arrays) -> Detector:
        """Return the fitted detector of a state.

        Raises:
            DataError: If the arrays do not fit the options or each other.
        """
        return detector_from_state(self.kind, self.options, state, trust=self.trust)

    def _settings(self) -> Any:
        """Return the checked options, an object of the class' `options_type`."""
        return read_options(self.kind, find(self.kind, self.trust).options_type, self.options)


def _over_patches(kind: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return kind and options of a detector of features over patches.

    Raises:
        ConfigError: If it is to go over anything else.
    """
    over = options.pop("over")
    if over != "patches":
        raise ConfigError(f"over must be patches, got {over!r}")
    of_maps = {field.name for field in fields(MapOptions)}
    member = {"kind": kind} | {name: value for name, value in options.items() if name not in of_maps}
    return PatchRows.kind, {"member": member} | {name: value for name, value in options.items() if name in of_maps}
