"""Features kept on disk: what is another entry, and what is never used."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from lit_od.backbone.model import Backbone
from lit_od.errors import DataError
from lit_od.experiments import feature_cache as features
from lit_od.experiments.feature_cache import CachedFeatures, FeatureCache
from lit_od.images.batching import load
from lit_od.images.sources import EncodedImage, ImageArray, ImageFile, OpenImage, Source, Unreadable
from tests.support.images import GREY


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "below" / "features")


@pytest.fixture
def some(digits: list[Source]) -> list[Source]:
    return digits[:20]


def entry(cache: FeatureCache) -> tuple[Path, Path]:
    (rows,), (note,) = cache.folder.glob("*.npy"), cache.folder.glob("*.json")
    return rows, note


def test_features_are_what_the_backbone_computes_and_are_kept(
    cache: FeatureCache, small_graph: bytes, some: list[Source], monkeypatch: pytest.MonkeyPatch
):
    first = cache.features(small_graph, some, GREY, threads=1)
    wanted = Backbone.load(small_graph, threads=1)(load(some, GREY))
    np.testing.assert_allclose(first.features, wanted, rtol=1e-6)
    assert (first.features.dtype, first.kept) == (np.float32, False)
    assert first.process_seconds > 0
    assert first.seconds_an_image == first.process_seconds / 20
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".json", ".npy"]
    monkeypatch.setattr(features, "_write", None)  # nothing is computed again
    again = cache.features(small_graph, some, GREY, threads=2)
    np.testing.assert_array_equal(again.features, first.features)
    assert (again.kept, again.process_seconds) == (True, first.process_seconds)


def test_what_differs_is_another_entry(
    cache: FeatureCache, small_graph: bytes, some: list[Source], monkeypatch: pytest.MonkeyPatch
):
    def made(model: bytes = small_graph, sources: list[Source] = some, **prepare: object) -> CachedFeatures:
        return cache.features(model, sources, msgspec.structs.replace(GREY, **prepare), threads=1)

    assert not made().kept
    assert not made(small_graph + b"\x9a\x03\x00").kept  # an empty field that protobuf's readers pass over
    assert not made(resize="bicubic").kept
    assert not made(sources=some[::-1]).kept
    assert not made(sources=some[:19]).kept
    changed = some[0].prepare(GREY).copy()
    changed[0, 0] ^= 1
    assert not made(sources=[ImageArray(changed, "digit"), *some[1:]]).kept
    renamed = [replace(source, name="other", label=None) for source in some]
    assert made(sources=renamed).kept
    monkeypatch.setattr(features, "FORMAT", 2)
    assert not made().kept


def test_a_file_that_was_overwritten_is_another_image(cache: FeatureCache, small_graph: bytes, tmp_path: Path):
    path = tmp_path / "a.bmp"  # of one size whatever it shows
    found = []
    for value in (10, 200):
        Image.new("L", (28, 28), value).save(path)
        found.append(cache.features(small_graph, [ImageFile(path, "a")], GREY, threads=1))
    assert [each.kept for each in found] == [False, False]
    assert not np.array_equal(found[0].features, found[1].features)
    opened = Image.new("L", (28, 28), 200)
    for source in (EncodedImage(path.read_bytes(), "a"), OpenImage(opened, "a")):
        np.testing.assert_array_equal(
            cache.features(small_graph, [source], GREY, threads=1).features, found[1].features
        )


def truncate(rows: Path, note: Path) -> None:
    rows.write_bytes(rows.read_bytes()[:-4])


def flip(rows: Path, note: Path) -> None:
    rows.write_bytes(rows.read_bytes()[:-1] + b"\x7f")


def other_rows(rows: Path, note: Path) -> None:
    np.save(rows, np.zeros((20, 16), dtype=np.float32))


def no_note(rows: Path, note: Path) -> None:
    note.unlink()


def cut_note(rows: Path, note: Path) -> None:
    note.write_bytes(note.read_bytes()[:-5])


def other_key(rows: Path, note: Path) -> None:
    note.write_text(json.dumps(json.loads(note.read_bytes()) | {"key": "0" * 64}))


def sealed(rows: Path, note: Path, table: np.ndarray) -> None:
    np.save(rows, table)
    note.write_text(json.dumps(json.loads(note.read_bytes()) | {"sha256": features._sha256(rows)}))


def doubles(rows: Path, note: Path) -> None:
    sealed(rows, note, np.load(rows).astype(np.float64))


def fewer(rows: Path, note: Path) -> None:
    sealed(rows, note, np.load(rows)[:-1])


@pytest.mark.parametrize("damage", [truncate, flip, other_rows, no_note, cut_note, other_key, doubles, fewer])
def test_an_entry_that_is_not_what_was_written_is_computed_again(
    cache: FeatureCache, small_graph: bytes, some: list[Source], damage
):
    wanted = np.array(cache.features(small_graph, some, GREY, threads=1).features)
    damage(*entry(cache))
    again = cache.features(small_graph, some, GREY, threads=1)
    assert not again.kept
    np.testing.assert_array_equal(again.features, wanted)
    assert cache.features(small_graph, some, GREY, threads=1).kept


def test_what_cannot_be_extracted_leaves_nothing(
    cache: FeatureCache, small_graph: bytes, some: list[Source], tmp_path: Path
):
    with pytest.raises(DataError, match="no images to extract features from"):
        cache.features(small_graph, [], GREY)
    with pytest.raises(DataError, match=r"gone\.png: .*No such file.*Take it out"):
        cache.features(small_graph, [ImageFile(tmp_path / "gone.png", "gone.png")], GREY, threads=1)
    with pytest.raises(DataError, match="shut: closed"):
        cache.features(small_graph, [Unreadable("shut", "closed")], GREY, threads=1)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png: not an image"):
        cache.features(small_graph, [*some, ImageFile(tmp_path / "bad.png", "bad.png")], GREY, threads=1)
    assert not list(cache.folder.iterdir())
