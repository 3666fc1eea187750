"""Registry of detectors: built-in ones by kind, others by import path."""

import re
from collections.abc import Collection, Mapping
from dataclasses import is_dataclass
from typing import Any, get_args

from lit_od.checks import suggest
from lit_od.detectors.base import Accumulator, Detector
from lit_od.detectors.ensemble import OF_PATCHES, Ensemble
from lit_od.detectors.feature_ensemble import FeatureEnsemble
from lit_od.detectors.options import read_options
from lit_od.detectors.patch_rows import OF_FEATURES
from lit_od.detectors.reconstruction import Reconstruction
from lit_od.errors import ConfigError
from lit_od.import_paths import named, require_trusted
from lit_od.types import Arrays, Output

BUILT_IN: tuple[type[Detector], ...] = (*OF_FEATURES, Reconstruction, *OF_PATCHES, Ensemble, FeatureEnsemble)
"""Every detector of the package. All else about a detector is asked of its class."""

DETECTORS: dict[str, type[Detector]] = {detector.kind: detector for detector in BUILT_IN}
"""Every detector of the package by its kind."""

IMPORT_PATH = re.compile(r"\w+(\.\w+)*:\w+")
"""Kind of a detector outside the package: "package.module:Class"."""


def find(kind: str, trust: Collection[str] = ()) -> type[Detector]:
    """Return the class of a detector.

    Args:
        kind: A key of `DETECTORS`, or an import path "package.module:Class".
        trust: Import paths that may be followed; importing a module runs its code.

    Raises:
        ConfigError: On an unknown kind, or a path that is not trusted, cannot be imported or leads to no detector.
    """
    if kind in DETECTORS:
        return DETECTORS[kind]
    if not IMPORT_PATH.fullmatch(kind):
        hint = ". Another goes by its import path, package.module:Class" if {".", ":"} & set(kind) else ""
        raise ConfigError(f"unknown detector {kind!r}: {suggest(kind, list(DETECTORS))}{hint}")
    require_trusted(kind, trust, "detector")
    found = named(kind, "detector")
    if not (isinstance(found, type) and Detector in found.__mro__):
        raise ConfigError(f"detector: {kind} must be a class derived from lit_od.detectors.Detector")
    return _complete(kind, found)


def accumulator(
    kind: str,
    options: Mapping[str, Any],
    *,
    first_row: int = 0,
    trust: Collection[str] = (),
    after: Accumulator | None = None,
) -> Accumulator:
    """Return an empty accumulator for a detector named in a recipe.

    Args:
        kind: Built-in name or import path, as `find` takes it.
        options: Plain values by name; others have their defaults.
        first_row: Number of the first row it will see, among the rows of all accumulators that
            are to be merged. Detectors that draw a sample of the rows draw it by row number.
        trust: Import paths of detectors that may be followed.
        after: Accumulator of the first pass over all images, for the second pass of a detector that takes two.

    Raises:
        ConfigError: As `find`; on an unknown option, a wrong type or a value out of range, or a second pass
            of a detector that takes one.
    """
    detector = find(kind, trust)
    settings = read_options(kind, detector.options_type, options)
    return detector.start(settings, first_row) if after is None else detector.start_second(after, first_row)


def detector_from_state(
    kind: str, options: Mapping[str, Any], state: Arrays, *, trust: Collection[str] = ()
) -> Detector:
    """Return a fitted detector from its kind, options and arrays.

    Args:
        kind: As `find` takes it.
        options: The options it was fitted with.
        state: Its arrays by name.
        trust: As `find` takes it.

    Raises:
        ConfigError: As `find`; on options that do not exist or are out of range.
        DataError: If the arrays do not fit the options or each other.
    """
    return find(kind, trust).from_state(dict(options), state)


def _complete(kind: str, detector: type[Detector]) -> type[Detector]:
    """Return a detector's class. Raises ConfigError unless it is complete."""
    wants = sorted(detector.__abstractmethods__)
    wants += [name for name in ("reads", "options_type") if not hasattr(detector, name)]
    if wants:
        raise ConfigError(f"detector: {kind} lacks {', '.join(wants)}")
    if detector.kind != kind:
        raise ConfigError(
            f"detector: {kind} has the kind {detector.kind}: name it so, and leave `kind` out of the class"
        )
    if detector.reads not in get_args(Output) or not is_dataclass(detector.options_type):
        raise ConfigError(
            f"detector: {kind} must read one of {', '.join(get_args(Output))}, and its options_type be a dataclass"
        )
    if detector.passes not in (1, 2):
        raise ConfigError(f"detector: {kind} must take 1 or 2 passes, got {detector.passes!r}")
    return detector
