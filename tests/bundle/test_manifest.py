"""The manifest: what goes out comes back, and nothing else is taken."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_od.bundle.folder import Bundle
from lit_od.bundle.manifest import MAX_NESTING, SCHEMA_VERSION, Manifest, decode, encode
from lit_od.errors import BundleError
from lit_od.images.preparation import Preparation
from tests.support.sealing import signed

Tree = dict[str, Any]


@pytest.fixture
def tree(made_bundle: Bundle) -> Tree:
    built: Tree = msgspec.to_builtins(made_bundle.manifest)
    return built


def test_it_comes_back_as_it_went_out(made_bundle: Bundle) -> None:
    manifest = made_bundle.manifest
    raw = encode(manifest)
    assert decode(raw) == manifest
    assert encode(decode(raw)) == raw
    assert raw.endswith(b"}\n")
    raw.decode("ascii")


def test_bits_are_a_key_only_where_they_are_set(made_bundle: Bundle) -> None:
    """Manifests without them are, byte for byte, those of before the key."""
    manifest, raw = made_bundle.manifest, encode(made_bundle.manifest)
    assert b'"bits"' not in raw
    for bits in (None, msgspec.UNSET):
        how = Preparation(**{**msgspec.structs.asdict(manifest.preparation), "bits": bits})
        assert encode(msgspec.structs.replace(manifest, preparation=how)) == raw
    how = msgspec.structs.replace(manifest.preparation, bits=12)
    twelve = msgspec.structs.replace(manifest, preparation=how)
    assert json.loads(encode(twelve))["preparation"]["bits"] == 12
    assert decode(encode(twelve)).preparation == how
    assert how != manifest.preparation


def test_its_hash_is_that_of_its_canonical_json(made_bundle: Bundle, tree: Tree) -> None:
    assert json.loads(signed(tree))["sha256"] == made_bundle.manifest.sha256
    assert decode(signed(tree)) == made_bundle.manifest


def test_the_order_of_keys_and_white_space_do_not_matter(made_bundle: Bundle, tree: Tree) -> None:
    shuffled = dict(reversed(json.loads(signed(tree)).items()))
    assert decode(json.dumps(shuffled, indent=5).encode()) == made_bundle.manifest


def test_names_in_other_scripts_survive(made_bundle: Bundle) -> None:
    manifest = msgspec.structs.replace(made_bundle.manifest, name='数字 "8"\nё')
    assert decode(encode(manifest)).name == manifest.name


def change(tree: Tree, path: str, value: object) -> Tree:
    *parents, last = path.split(".")
    here = tree
    for key in parents:
        here = here[key]
    here[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema_version", 2, r"schema version 2; this lit_od reads 1\. Install the lit_od that wrote it"),
        ("schema_version", "1", "schema version '1'"),
        ("schema_version", True, "schema version True"),
        ("schema_version", None, "schema version None"),
        ("extra", 1, "Object contains unknown field `extra`"),
        ("model.extra", 1, r"Object contains unknown field `extra` - at `\$\.model`"),
        ("tolerance.extra", 1, r"unknown field `extra` - at `\$\.tolerance`"),
        ("preparation.extra", 1, r"unknown field `extra` - at `\$\.preparation`"),
        ("files", {"backbone.onnx": {"sha256": "0", "size": 1, "extra": 1}}, r"unknown field `extra` - at `\$\.files"),
        ("calibration.threshold", "1", r"Expected `float`, got `str` - at `\$\.calibration\.threshold`"),
        ("detector.images", 1.5, r"Expected `int`, got `float` - at `\$\.detector\.images`"),
        ("model.output", "logits", r"Invalid enum value 'logits' - at `\$\.model\.output`"),
        ("preparation.size", [28], r"Expected `array` of length 2"),
        ("preparation.size", [-28, 28], r"size must be height and width in 1\.\.16384, got \[-28, 28\]"),
        ("preparation.size", [10**9, 28], r"size must be height and width in 1\.\.16384"),
        ("preparation.crop_fraction", 2.0, r"crop_fraction must lie in \(0, 1\]"),
        ("preparation.bits", 16, r"bits must lie in 9\.\.15, or be null for all 16, got 16"),
        ("preparation.bits", True, r"Expected `int \| null`, got `bool` - at `\$\.preparation\.bits`"),
        ("preparation.mode", "RGB", "Invalid enum value 'RGB'"),
        ("files", [], r"Expected `object`, got `array` - at `\$\.files`"),
        ("calibration.method", "split", r"Invalid enum value 'split' - at `\$\.calibration\.method`"),
        ("calibration.method", "cross", r"calibration\.method cross and calibration\.folds go together"),
        ("calibration.folds", 10, r"calibration\.method cross and calibration\.folds go together"),
        ("calibration.folds", 0, r"Expected `int` >= 1 - at `\$\.calibration\.folds`"),
        ("name", None, r"Expected `str`, got `null` - at `\$\.name`"),
    ],
)
def test_what_is_unknown_or_impossible_is_refused(tree: Tree, path: str, value: object, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        decode(signed(change(tree, path, value)))


def test_folds_are_at_most_as_many_as_images(tree: Tree) -> None:
    images = tree["calibration"]["images"]
    for folds in (2, images):
        tree["calibration"] |= {"method": "cross", "folds": folds}
        assert decode(signed(tree)).calibration.folds == folds
    with pytest.raises(BundleError, match=f"folds must be at most the {images} images, got {images + 1}"):
        decode(signed(change(tree, "calibration.folds", images + 1)))


def test_a_key_that_is_missing_is_refused(tree: Tree) -> None:
    for key in ("name", "model", "files", "tolerance"):
        rest = {other: value for other, value in tree.items() if other != key}
        with pytest.raises(BundleError, match=f"Object missing required field `{key}`"):
            decode(signed(rest))


def test_another_hash_is_refused(tree: Tree) -> None:
    for value in ("0" * 64, "", None, 1):
        with pytest.raises(BundleError, match=r"does not match its own sha256: it was changed or damaged"):
            decode(json.dumps({**tree, "sha256": value}).encode())
    tree.pop("sha256")
    with pytest.raises(BundleError, match="does not match its own sha256"):
        decode(json.dumps(tree).encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_none_are_refused(tree: Tree, number: str) -> None:
    raw = signed(change(tree, "calibration.threshold", 123454321.0)).decode().replace("123454321.0", number)
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: "):
        decode(raw.encode())


def test_integers_of_more_than_64_bits_are_refused(tree: Tree) -> None:
    assert decode(signed(change(tree, "provenance.seed", 2**63 - 1))).provenance.seed == 2**63 - 1
    for path in ("provenance.seed", "calibration.rule.q"):
        with pytest.raises(BundleError, match=r"damaged: an integer of 401 digits does not fit into 64 bits"):
            decode(signed(change(tree, path, 10**400)))


def test_a_key_that_stands_twice_is_refused(tree: Tree) -> None:
    raw = signed(tree).decode()
    for twice in (raw.replace("{", '{"name": "other", ', 1), raw.replace('"opset"', '"opset": 1, "opset"')):
        with pytest.raises(BundleError, match="is damaged: a key stands twice"):
            decode(twice.encode())


@pytest.mark.parametrize(
    "deep",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"schema_version": 1, "provenance": ' + "[" * 900 + "]" * 900 + "}",
    ],
)
def test_deep_nesting_is_refused(deep: str) -> None:
    with pytest.raises(BundleError, match=r"^manifest\.json "):
        decode(deep.encode())


@pytest.mark.parametrize("depth", [50, 61, 62, 300, 900])
def test_deep_nesting_under_a_right_hash(tree: Tree, depth: int) -> None:
    """The manifest, its provenance and the data's own object are three of the 64."""
    nested: Any = {}
    for _ in range(depth):
        nested = {"a": nested}
    raw = signed(change(tree, "provenance.data", nested))
    if depth <= MAX_NESTING - 3:
        assert decode(raw).provenance.data == nested
    else:
        with pytest.raises(BundleError, match=r"^manifest\.json nests more than 64 objects$"):
            decode(raw)


@pytest.mark.parametrize("words", ["two\nlines", "\x1b[31mred", "\u202ebackwards", "long" * 10_000])
def test_a_strangers_words_stay_on_one_line(tree: Tree, words: str) -> None:
    for raw in (
        signed({**tree, words: 1}),
        signed({**tree, "schema_version": words}),
        signed(change(tree, "model.output", words)),
    ):
        with pytest.raises(BundleError, match=r"^manifest\.json") as caught:
            decode(raw)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


def decoded_or_refused(raw: bytes) -> Manifest | None:
    """The manifest, or None where it was refused in one line; anything else that is raised is a defect."""
    try:
        return decode(raw)
    except BundleError:
        with pytest.raises(BundleError, match=r"^manifest\.json[^\n]*$"):
            decode(raw)
        return None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", r"is damaged: Expecting value"),
        (b"{", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        ('{"schema_version": 1}'.encode("utf-16"), "is damaged"),
        (b"\x89PNG\r\n", "is damaged"),
        (b"[1]", "must hold an object, got list"),
        (b"1", "must hold an object, got int"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "is damaged: Exceeds the limit"),
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        decode(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(tree: Tree, here: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        if "." not in key:
            found.append(f"{here}{key}")
            found += places(value, f"{here}{key}.") if isinstance(value, dict) else []
    return found


@settings(max_examples=100)
@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused_in_one_line(made_bundle: Bundle, data: st.DataObject) -> None:
    tree: Tree = msgspec.to_builtins(made_bundle.manifest)
    change(tree, data.draw(st.sampled_from(places(tree))), data.draw(JSON))
    manifest = decoded_or_refused(signed(tree))
    if manifest is not None:
        assert manifest.schema_version == SCHEMA_VERSION
        assert encode(decode(encode(manifest))) == encode(manifest)


@settings(max_examples=150)
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), draw=st.sampled_from(["flip", "cut"]))
def test_no_byte_can_change_unnoticed(made_bundle: Bundle, position: float, byte: int, draw: str) -> None:
    raw = bytearray(encode(made_bundle.manifest))
    place = int(position * len(raw))
    if draw == "cut":
        damaged = bytes(raw[:place])
    else:
        raw[place] ^= byte
        damaged = bytes(raw)
    assert decoded_or_refused(damaged) in (None, made_bundle.manifest)  # white space, or the same byte
