"""A detector as a recipe names it: kind and options, taken apart once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.base import Accumulator, Detector
from lit_od.detectors.feature_ensemble import ensemble_kind
from lit_od.detectors.map_mask import pack, unpack
from lit_od.detectors.map_options import MapOptions
from lit_od.detectors.options import read_options
from lit_od.detectors.patch_moments import MOST_POSITIONS
from lit_od.detectors.patch_rows import named_detector
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
        kind, options = named_detector(tree)
        if not isinstance(kind, str):
            raise ConfigError(f"a detector needs a kind, one of {', '.join(DETECTORS)}; got {kind!r}")
        return cls(ensemble_kind(kind, options), options, trust)

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
        """Return the detector with maps of a size; unchanged where it enlarges no maps.

        Raises:
            ConfigError: If its options name another size.
        """
        enlarges = any(field.name == "size" for field in fields(find(self.kind, self.trust).options_type))
        if self.reads() != "patches" or not enlarges:
            return self
        size = self.options.get("size")
        if size is not None and list(size) != [height, width]:
            raise ConfigError(
                f"detector.size must be the prepared size, [{height}, {width}], got {size!r}: leave it out"
            )
        return replace(self, options={**self.options, "size": [height, width]})

    def with_mask(self, pixels: NDArray[np.bool_] | None) -> Self:
        """Return the detector with the pixels of its maps that count.

        It is unchanged where it reads features.

        Args:
            pixels: True for pixels of a prepared image that count, (h, w); None if all do.

        Raises:
            ConfigError: If its options name other pixels, or it cannot leave any out.
        """
        masks = any(field.name == "mask" for field in fields(find(self.kind, self.trust).options_type))
        given = self.options.get("mask") if masks else None
        if given is not None and (pixels is None or not np.array_equal(unpack(given, *pixels.shape), pixels)):
            raise ConfigError("detector.mask is taken from data.mask: leave it out")
        if pixels is None or self.reads() == "features":
            return self
        if not masks:
            raise ConfigError(f"detector {self.kind} leaves out no part of an image: take data.mask out")
        return replace(self, options={**self.options, "mask": pack(pixels)})

    def with_views(self, views: int) -> Self:
        """Return the detector fitted on so many consecutive views of each image.

        It is unchanged where it holds out no images.

        Args:
            views: Views of an image, 1 or more.

        Raises:
            ConfigError: If its options name another number.
        """
        holds_out = any(field.name == "views" for field in fields(find(self.kind, self.trust).options_type))
        if not holds_out or self.options.get("views", 1) == views:
            return self
        if "views" in self.options:
            raise ConfigError("detector.views is taken from data.augment: leave it out")
        return replace(self, options={**self.options, "views": views})

    def require_tiles(self) -> None:
        """Check that the detector can be fitted on the tiles of images.

        Raises:
            ConfigError: If it reads no patches, compares the same places of images, or weighs each image.
        """
        settings = self._settings()
        if self.reads() != "patches" or not isinstance(settings, MapOptions):
            raise ConfigError(
                f"data.tile joins maps of patches, and {self.kind} over {self.reads()} has none: leave it out, "
                "or give the backbone output: patches, and choose patchcore"
            )
        if settings.knows_place:
            raise ConfigError(
                f"padim keeps a Gaussian for each position of an image, at most {MOST_POSITIONS:,}, too few for tiles: "
                "give it positions: tile, one for a cell of every tile, which knows no place; or choose patchcore"
            )
        if settings.weighs_images:
            raise ConfigError(
                "patchcore's reweight multiplies a whole image by one weight, and each tile would have another: leave "
                "detector.reweight or data.tile out"
            )

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
