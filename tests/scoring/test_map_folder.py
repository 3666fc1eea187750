"""The folder that `lit-od score --maps` fills."""

import csv
import json
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.backbone.extractor import Extracted
from lit_od.backbone.model import Backbone
from lit_od.images.batching import batches
from lit_od.images.sources import EncodedImage, ImageArray
from lit_od.scoring.drawing import GAP, colour_bar, overlay
from lit_od.scoring.map_folder import INDEX, file_name, map_folder
from lit_od.scoring.maps import HeatMaps, heat_maps
from lit_od.scoring.scorer import Scorer
from tests.support.graphs import bundle_at, graph_of, patch_bundle
from tests.support.images import GREY


def extracted(batch, errors):
    """A batch with its outputs and maps, as the extractor gives it."""
    finite = np.isfinite(errors).all(axis=tuple(range(1, errors.ndim)))
    return Extracted(batch, errors, finite, np.zeros(len(errors)), errors.mean(axis=3) if errors.ndim == 4 else None)


def table(folder):
    """The rows of maps.csv."""
    with (folder / INDEX).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def bundle(digits, tmp_path_factory):
    return bundle_at(tmp_path_factory.mktemp("maps") / "grey", digits, graph_of(["errors", "reconstruction"]))


def test_score_draws_images_and_heat_for_a_bundle_of_features(made_bundle, digit_files, command, tmp_path):
    files = sorted(Path(digit_files).rglob("*.png"))[:3]
    plain = command("score", made_bundle.path, *files)
    drawn = command("score", made_bundle.path, *files, "--maps", tmp_path / "maps", "--threads", 1)
    assert (drawn.status, drawn.out) == (0, plain.out)
    rows = table(tmp_path / "maps")
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert {row["mask"] for row in rows} == {""}
    maps = HeatMaps.of(made_bundle, Scorer.of(made_bundle, threads=1))
    with Image.open(tmp_path / "maps" / rows[1]["map"]) as picture:
        assert picture.size == (2 * (140 + GAP) + colour_bar(maps.scale, 140).shape[1], 140)
        pixels = np.asarray(picture)
    image = np.asarray(Image.open(files[1]))[None, ..., None]
    np.testing.assert_array_equal(pixels[::5, :140:5, 0], image[0, ..., 0])
    wanted = overlay(image, maps.heats(image))[0]
    assert np.abs(pixels[::5, 140 + GAP : 280 + GAP : 5].astype(int) - wanted).max() <= 1
    raw = np.load(tmp_path / "maps" / rows[1]["raw"])
    np.testing.assert_allclose(raw, heat_maps(maps.scorer, image)[0], rtol=1e-4, atol=1e-6)


def test_raw_maps_are_the_scorers_to_the_byte_and_masks_are_its_regions(digits, garments, tmp_path, command):
    bundle = patch_bundle(tmp_path / "patches", digits)
    images = tmp_path / "images"
    images.mkdir()
    for row, source in enumerate([*digits[300:303], *garments[:3]]):
        source.decode().save(images / f"{row}.png")
    (images / "9.png").write_bytes(b"no image")
    words = ["--maps", tmp_path / "maps", "--regions", tmp_path / "regions.jsonl", "--threads", 1]
    assert command("score", bundle.path, images, *words).status == 1
    (result,) = Scorer.of(bundle, threads=1).stream(images, maps=True)
    rows = table(tmp_path / "maps")
    assert len(rows) == 6
    for row, each in enumerate(rows):
        raw = np.load(tmp_path / "maps" / each["raw"], allow_pickle=False)
        assert (raw.dtype, raw.shape, raw.tobytes()) == (np.float32, (28, 28), result.maps[row].tobytes())
        mask = np.asarray(Image.open(tmp_path / "maps" / each["mask"]))
        assert mask.sum() == sum(region.area for region in result.regions[row])
    lines = [json.loads(line)["regions"] for line in (tmp_path / "regions.jsonl").read_text().splitlines()]
    assert [None if each is None else len(each) for each in lines] == [*map(len, result.regions[:6]), None]


@pytest.mark.parametrize("count", [3, 70])
def test_maps_and_regions_take_one_run_of_the_graph_an_image(digits, tmp_path, command, monkeypatch, count):
    bundle = patch_bundle(tmp_path / "patches", digits)
    np.savez(tmp_path / "some.npz", images=np.stack([np.asarray(each.decode()) for each in digits[:count]]))
    runs, call = [], Backbone.__call__
    monkeypatch.setattr(Backbone, "__call__", lambda self, images: runs.append(len(images)) or call(self, images))
    words = ["--maps", tmp_path / "maps", "--regions", tmp_path / "regions.jsonl"]
    assert command("score", bundle.path, tmp_path / "some.npz", *words).status == 0
    assert sum(runs) == count + 7  # the golden images set the scale of colours


def test_score_draws_each_image_and_gives_the_same_rows(bundle, digit_files, tmp_path, command):
    plain = command("score", bundle.path, digit_files)
    drawn = command("score", bundle.path, digit_files, "--maps", tmp_path / "maps", "--batch-size", 7)
    assert (drawn.status, drawn.out) == (0, plain.out)
    rows = table(tmp_path / "maps")
    paths = [row["path"] for row in csv.DictReader(plain.out.splitlines())]
    assert [row["path"] for row in rows] == paths
    written = {row[column] for row in rows for column in ("map", "mask", "raw")} | {INDEX}
    assert written == {path.name for path in (tmp_path / "maps").iterdir()}
    with Image.open(tmp_path / "maps" / rows[11]["map"]) as picture:
        left = np.asarray(picture)[::5, : 28 * 5 : 5, 0]
    np.testing.assert_array_equal(left, np.asarray(Image.open(paths[11])))


def test_masks_are_white_where_a_pixels_error_is_above_the_threshold(bundle, digits, tmp_path):
    (batch,) = batches(digits[:3], GREY, batch_size=3)
    errors = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)
    maps = HeatMaps.of(bundle, replace(Scorer.of(bundle), pixel_threshold=0.7))
    with map_folder(tmp_path / "maps", maps, total=3) as folder:
        folder(extracted(batch, errors))
    files = [row["mask"] for row in table(tmp_path / "maps")]
    for file, wanted in zip(files, errors[..., 0] > 0.7, strict=True):
        with Image.open(tmp_path / "maps" / file) as mask:
            np.testing.assert_array_equal(np.asarray(mask), wanted)


def test_an_image_that_cannot_be_read_has_no_picture(bundle, digits, tmp_path, command):
    folder = tmp_path / "images"
    folder.mkdir()
    for row in range(3):
        digits[row].decode().save(folder / f"{row}.png")
    (folder / "1.png").write_bytes(b"no image")
    outcome = command("score", bundle.path, folder, "--maps", tmp_path / "maps")
    assert outcome.status == 1
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "0-0_png.mask.png", "0-0_png.npy", "0-0_png.png", "2-2_png.mask.png", "2-2_png.npy", "2-2_png.png", INDEX,
    ]  # fmt: skip


def test_a_folder_with_something_in_it_is_left_alone(bundle, digit_files, tmp_path, command):
    (tmp_path / "mine.txt").write_text("precious")
    outcome = command("score", bundle.path, digit_files, "--maps", tmp_path)
    assert outcome.status == 2
    assert "holds files already: name a folder that is free or empty" in outcome.err
    assert command("score", bundle.path, digit_files, "--maps", tmp_path / "mine.txt").status == 2


@pytest.mark.parametrize(
    ("row", "total", "name", "wanted"),
    [
        (7, 1000, "/data/cat.1.jpg", "007-cat_1_jpg.png"),
        (0, 1, "a.png", "0-a_png.png"),
        (3, 11, "set.npz#17", "03-set_npz_17.png"),
        (3, 10, "日本", "3.png"),
        (3, 10, "../../etc/pass\nwd", "3-pass_wd.png"),
        (3, 10, "\udcff\udcfe.png", "3-png.png"),
        (3, 10, "x" * 300, f"3-{'x' * 80}.png"),
    ],
)
def test_file_names_are_plain(row, total, name, wanted):
    assert file_name(row, total, name) == wanted


def test_file_names_do_not_collide():
    names = ["A.png", "a.png", "a_png", "b/a.png", "", "a.png"] * 20
    made = [file_name(row, len(names), name) for row, name in enumerate(names)]
    assert len({name.lower() for name in made}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+\.png", name) for name in made)


def test_drawing_holds_one_picture_at_a_time(bundle, tmp_path):
    """Memory does not grow with the batch: pictures are written as they are made."""
    rng = np.random.default_rng(0)
    maps, peaks = HeatMaps.of(bundle, Scorer.of(bundle)), []
    for count in (8, 64):
        sources = [ImageArray(rng.integers(0, 256, (28, 28), dtype=np.uint8), f"#{row}") for row in range(count)]
        (batch,) = batches(sources, GREY, batch_size=count)
        errors = np.zeros(batch.images.shape, np.float32)
        with map_folder(tmp_path / str(count), maps, total=count) as folder:
            tracemalloc.start()
            folder(extracted(batch, errors))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 64 * 28 * 28 * 8


def test_errors_that_are_no_number_are_not_drawn(bundle, digits, tmp_path):
    (batch,) = batches([*digits[:2], EncodedImage(b"", "broken"), digits[2]], GREY, batch_size=4)
    errors = np.zeros((3, 28, 28, 1), np.float32)
    errors[1, 4, 5] = np.nan
    with map_folder(tmp_path / "maps", HeatMaps.of(bundle, Scorer.of(bundle)), total=4) as folder:
        folder(extracted(batch, errors))
    assert [path.name[0] for path in sorted((tmp_path / "maps").glob("*.png"))] == ["0", "0", "3", "3"]


def test_a_batch_of_which_nothing_can_be_read_has_no_picture(bundle, tmp_path):
    (batch,) = batches([EncodedImage(b"", "broken")], GREY, batch_size=4)
    with map_folder(tmp_path / "maps", HeatMaps.of(bundle, Scorer.of(bundle, threads=1)), total=1) as folder:
        folder(extracted(batch, np.empty((0, 0), dtype=np.float32)))
    assert [each.name for each in (tmp_path / "maps").iterdir()] == [INDEX]


def test_a_table_without_its_head_gets_it(bundle, digits, tmp_path):
    (tmp_path / INDEX).touch()  # its writer was killed before the first picture
    (batch,) = batches(digits[:1], GREY, batch_size=1)
    maps = HeatMaps.of(bundle, Scorer.of(bundle, threads=1))
    for _ in range(2):
        with map_folder(tmp_path, maps, total=10, goes_on=True) as draw:
            draw(extracted(batch, np.zeros((1, 28, 28, 1), np.float32)))
    assert [row["map"][0] for row in table(tmp_path)] == ["0", "1"]
