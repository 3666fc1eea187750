"""The manifest of a bundle: strict, versioned JSON.

`sha256` is that of the manifest's canonical JSON without that key: keys sorted, no spaces, ASCII.
"""

import hashlib
import json
import math
import re
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeGuard

import msgspec
from msgspec import Meta

from lit_od.errors import BundleError
from lit_od.formats.text import one_line, unique_keys
from lit_od.images.augment import Augment
from lit_od.images.preparation import MAX_PIXELS, Preparation
from lit_od.types import Output, WeightBits

SCHEMA_VERSION = 1

DETECTOR = "detector.safetensors"
"""Name of the file that holds the detector's state."""

MAX_BYTES = 16 * 2**20
"""Largest manifest; a larger one is refused unread."""

MAX_NESTING = 64
"""Largest nesting of objects and arrays."""

MAX_SIDE = 16_384
"""Largest height and width of a prepared image, and of errors, as in `Preparation`."""

MAX_FEATURES = 2**24
"""Largest number of features of an image: 64 MB."""

_Count: TypeAlias = Annotated[int, Meta(ge=0)]
_Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the bundle: its SHA-256 in hex and its size in bytes."""

    sha256: str
    size: Annotated[int, Meta(ge=0, le=2**40)]

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the entry of a file with these bytes."""
        return cls(sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 must be 64 hexadecimal digits in lower case, got {self.sha256[:80]!r}")


class ModelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The graph: names and shapes of input and output, and its opset.

    None in a shape is the number of images. The input is (None, h, w, c); features are (None, d), errors
    (None, h, w, c), patches (None, gh, gw, d). `weight_bits` stands where the graph is int8: weights of 7 bits give
    the same sums on every processor, those of 8 are made for VNNI.
    """

    input: Annotated[str, Meta(min_length=1, max_length=1024)]
    input_shape: list[int | None]
    output: Output
    output_shape: list[int | None]
    opset: Annotated[int, Meta(ge=1, le=1000)] | None
    weight_bits: WeightBits | msgspec.UnsetType = msgspec.UNSET  # unset, it is not written

    def __post_init__(self) -> None:
        _require_images("input_shape", self.input_shape)
        if self.output == "errors":
            _require_images("output_shape", self.output_shape)
        elif self.output == "patches":
            _require_patches(self.output_shape)
        elif len(self.output_shape) != 2 or self.output_shape[0] is not None or not _within(self.output_shape[1]):
            raise ValueError(
                f"output_shape must be [null, d] with d in 1..{MAX_FEATURES}, as features have it, "
                f"got {_json(self.output_shape)}"
            )


class DetectorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The detector: its kind or import path, its options, and the number of images.

    The images are those that it was fitted on; `augment` stands where views of them did.
    """

    kind: Annotated[str, Meta(max_length=256)]
    options: dict[str, Any]
    images: _Count
    augment: Augment | msgspec.UnsetType = msgspec.UNSET  # unset, it is not written


class CalibrationEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The calibration: threshold, its rule, and the number of calibration inliers.

    Where there are maps there is a threshold for pixels too. Of errors it is a squared error (the mean over channels,
    pixels in [0, 1]) that 99 % of the calibration inliers' pixels do not exceed; of patches it is the threshold for
    images where their score is the peak of the map, else what the same rule takes from the peaks. `method` and `folds`
    stand where each inlier was scored by a detector that was fitted without its fold; as many folds as images leave
    each out by itself, and one is that of a single image, scored by a detector fitted on its other views.
    """

    threshold: float
    rule: dict[str, Any]
    images: _Count
    pixel_threshold: float | None = None
    method: Literal["cross"] | msgspec.UnsetType = msgspec.UNSET  # unset, it is not written
    folds: Annotated[int, Meta(ge=1)] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if isinstance(self.method, str) != isinstance(self.folds, int):
            raise ValueError("calibration.method cross and calibration.folds go together")
        if isinstance(self.folds, int) and self.folds > self.images:
            raise ValueError(f"calibration.folds must be at most the {self.images} images, got {self.folds}")


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Differences that golden images may show on another machine.

    Attributes:
        pixels: Largest difference of a prepared pixel, of 255 (JPEG decoders differ by one or two).
        outputs: Largest relative difference of the graph's outputs for the golden pixels.
        scores: Largest relative difference of the detector's scores for the golden outputs.
    """

    pixels: Annotated[int, Meta(ge=0, le=255)] = 2
    outputs: _Share = 1e-4
    scores: _Share = 1e-6


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Provenance: recipe, data fingerprint, seed, versions, metrics, time (UTC)."""

    created: str
    recipe: dict[str, Any] | None = None
    data: dict[str, Any] = {}
    seed: int | None = None
    versions: dict[str, str] = {}
    metrics: dict[str, Any] = {}


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A bundle's manifest; its parts are described in their classes."""

    schema_version: int
    name: str
    preparation: Preparation
    model: ModelEntry
    detector: DetectorEntry
    calibration: CalibrationEntry
    tolerance: Tolerance
    provenance: Provenance
    files: dict[str, FileEntry]
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.model.input_shape != [None, *self.preparation.shape]:
            raise ValueError(
                f"model.input_shape must be {_json([None, *self.preparation.shape])}, as the images are prepared, "
                f"got {_json(self.model.input_shape)}"
            )


def detector_hash(manifest: Manifest) -> str:
    """Return 12 hex digits of a hash of the detector.

    It is that of the detector's file, or of a model file's parts. Every fit gives another, a new threshold does not.
    """
    files = manifest.files
    if DETECTOR in files:
        return files[DETECTOR].sha256[:12]
    parts = "".join(entry.sha256 for name, entry in sorted(files.items()) if not name.endswith("threshold"))
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def encode(manifest: Manifest) -> bytes:
    """Encode the manifest as indented JSON, with its own hash filled in."""
    tree = msgspec.to_builtins(with_mask(manifest, None))
    tree["sha256"] = _own_hash(tree)
    return json.dumps(tree, indent=2, allow_nan=False).encode() + b"\n"


def with_mask(manifest: Manifest, png: bytes | None) -> Manifest:
    """Return a manifest with the mask of its region, which is another file.

    Args:
        manifest: The manifest.
        png: The file's contents; None takes the mask out.
    """
    mask = msgspec.UNSET if png is None else png
    if mask == manifest.preparation.mask:
        return manifest
    return msgspec.structs.replace(manifest, preparation=msgspec.structs.replace(manifest.preparation, mask=mask))


def decode(raw: bytes) -> Manifest:
    """Read and check a manifest.

    Raises:
        BundleError: If it is no JSON, of another schema version, holds an unknown key or a wrong type,
            or does not match its own hash.
    """
    try:
        tree = json.loads(raw.decode(), object_pairs_hook=unique_keys, parse_int=_integer, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is damaged: {one_line(error)}") from None
    if not isinstance(tree, dict):
        raise BundleError(f"manifest.json must hold an object, got {type(tree).__name__}")
    version = tree.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise BundleError(
            f"manifest.json has schema version {one_line(repr(version))}; this lit_od reads {SCHEMA_VERSION}. "
            "Install the lit_od that wrote it, or export anew"
        )
    if _nesting(tree) > MAX_NESTING:
        raise BundleError(f"manifest.json nests more than {MAX_NESTING} objects")
    if tree.get("sha256") != _own_hash(tree):
        raise BundleError("manifest.json does not match its own sha256: it was changed or damaged")
    try:
        manifest = msgspec.convert(tree, Manifest, strict=True)
    except (msgspec.ValidationError, ValueError) as error:
        raise BundleError(f"manifest.json: {one_line(error)}") from None
    if manifest.preparation.mask is not msgspec.UNSET:
        raise BundleError("manifest.json: the mask of preparation must be a file")
    return manifest


def _require_images(name: str, shape: list[int | None]) -> None:
    """Raise ValueError unless the shape is that of images within the size limits."""
    height, width, channels = shape[1:] if len(shape) == 4 and shape[0] is None else [None] * 3
    if not (_within(height, MAX_SIDE) and _within(width, MAX_SIDE) and _within(channels, MAX_SIDE)):
        raise ValueError(f"{name} must be [null, h, w, c] with sides in 1..{MAX_SIDE}, got {_json(shape)}")
    if height * width * max(channels, 3) > 3 * MAX_PIXELS:
        raise ValueError(f"{name} must hold at most {MAX_PIXELS:,} pixels of 3 channels, got {_json(shape)}")


def _require_patches(shape: list[int | None]) -> None:
    """Raise ValueError unless the shape is that of patches within the limit."""
    sides = shape[1:] if len(shape) == 4 and shape[0] is None else [None]
    if not all(_within(side) for side in sides) or math.prod(side or 0 for side in sides) > MAX_FEATURES:
        raise ValueError(
            f"output_shape must be [null, gh, gw, d] of 1..{MAX_FEATURES} values, as patches have it, "
            f"got {_json(shape)}"
        )


def _within(side: int | None, most: int = MAX_FEATURES) -> TypeGuard[int]:
    return side is not None and 1 <= side <= most


def _json(shape: list[int | None]) -> str:
    return json.dumps(shape if len(shape) <= 8 else [*shape[:8], "..."])


def _nesting(tree: Any) -> int:
    """Count the levels of nested objects and arrays, up to MAX_NESTING + 1."""
    depth, level = 0, [tree]
    while level and depth <= MAX_NESTING:
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth += 1
    return depth


def _own_hash(tree: dict[str, Any]) -> str:
    rest = {key: value for key, value in tree.items() if key != "sha256"}
    try:
        canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is damaged: {error}") from None
    return hashlib.sha256(canonical.encode()).hexdigest()


def _integer(digits: str) -> int:
    value = int(digits)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"an integer of {len(digits)} digits does not fit into 64 bits")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
