"""The manifest: everything that a bundle says of itself, strict and versioned.

`sha256` is that of the manifest's own canonical JSON without that key: keys sorted, no spaces, ASCII.
"""

import hashlib
import json
from typing import Any, Literal

import msgspec

from lit_od.errors import BundleError
from lit_od.images import Preparation

SCHEMA_VERSION = 1
MAX_BYTES = 16 * 2**20
"""A larger manifest is refused unread."""


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the bundle: its SHA-256 in hex and its size in bytes."""

    sha256: str
    size: int


class ModelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The graph: input and output by name with their shapes (None is the number of images), and its opset."""

    input: str
    input_shape: list[int | None]
    output: Literal["features", "errors"]
    output_shape: list[int | None]
    opset: int | None


class DetectorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The detector's kind, the options it was fitted with, and how many images fitted it."""

    kind: str
    options: dict[str, Any]
    images: int


class CalibrationEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The threshold, the rule that gave it, and how many inliers it was taken from."""

    threshold: float
    rule: dict[str, Any]
    images: int


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far the golden images may be off on another machine.

    Attributes:
        pixels: Largest difference of a prepared pixel, of 255 (JPEG decoders differ by one or two).
        outputs: Largest relative difference of what the graph computes from the golden pixels.
        scores: Largest relative difference of what the detector makes of the golden outputs.
    """

    pixels: int = 2
    outputs: float = 1e-4
    scores: float = 1e-6


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the bundle comes from: recipe, data fingerprint, seed, versions, metrics, time (UTC)."""

    created: str
    recipe: dict[str, Any] | None = None
    data: dict[str, Any] = {}
    seed: int | None = None
    versions: dict[str, str] = {}
    metrics: dict[str, Any] = {}


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A bundle's manifest; its parts are described in their own classes."""

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


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON for people, with its own hash filled in."""
    tree = msgspec.to_builtins(manifest)
    tree["sha256"] = _own_hash(tree)
    return json.dumps(tree, indent=2, allow_nan=False).encode() + b"\n"


def decode(raw: bytes) -> Manifest:
    """Read and check a manifest.

    Raises:
        BundleError: If it is no JSON, of another schema version, holds an unknown key or a wrong type,
            or does not match its own hash.
    """
    try:
        tree = json.loads(raw, object_pairs_hook=_no_twins, parse_int=_integer, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is damaged: {error}") from None
    if not isinstance(tree, dict):
        raise BundleError(f"manifest.json must hold an object, got {type(tree).__name__}")
    version = tree.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise BundleError(
            f"manifest.json has schema version {version!r}; this lit_od reads {SCHEMA_VERSION}. "
            "Install the lit_od that wrote it, or export anew"
        )
    if tree.get("sha256") != _own_hash(tree):
        raise BundleError("manifest.json does not match its own sha256: it was changed or damaged")
    try:
        return msgspec.convert(tree, Manifest, strict=True)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json: {error}") from None


def _own_hash(tree: dict[str, Any]) -> str:
    rest = {key: value for key, value in tree.items() if key != "sha256"}
    try:
        canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is damaged: {error}") from None
    return hashlib.sha256(canonical.encode()).hexdigest()


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key stands twice")
    return tree


def _integer(digits: str) -> int:
    value = int(digits)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"an integer of {len(digits)} digits does not fit into 64 bits")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
