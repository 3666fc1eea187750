"""Heat maps: their colours, their graph, and the folder that `lit-od score --maps` fills."""

import csv
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.backbone.extractor import Extracted
from lit_od.backbone.map_graph import MapGraph
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import MAPS, Bundle, golden_arrays
from lit_od.cli import main
from lit_od.errors import BackboneError, BundleError, DataError
from lit_od.images.batching import batches
from lit_od.images.sources import EncodedImage, ImageArray, ImageFile
from lit_od.scoring.drawing import GAP, OPAQUE, colours, heat, overlay
from lit_od.scoring.map_folder import INDEX, file_name, map_folder
from lit_od.scoring.maps import HeatMaps, heat_maps
from lit_od.scoring.occlusion import occlusion_maps
from lit_od.scoring.scorer import Scorer
from tests.support.graphs import bundle_at, graph_of
from tests.support.images import GREY


def extracted(batch, outputs):
    """A batch with its outputs, as the extractor gives it."""
    return Extracted(batch, outputs, np.isfinite(outputs).all(axis=tuple(range(1, outputs.ndim))))


@pytest.fixture(scope="module")
def bundle(digits, tmp_path_factory):
    return bundle_at(tmp_path_factory.mktemp("maps") / "grey", digits, graph_of(["errors", "reconstruction"]))


def lightness(colour):
    """CIE L* of 8-bit sRGB, by the standard's formulas."""
    linear = np.where(colour / 255 <= 0.04045, colour / 255 / 12.92, ((colour / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


def test_colours_rise_evenly_in_lightness():
    steps = np.diff(lightness(colours(np.linspace(0, 1, 33)).astype(float)))
    assert steps.min() > 0
    assert steps.max() < 2.5 * steps.mean()


def test_the_table_is_that_of_inferno():
    from matplotlib import colormaps

    heats = np.linspace(0, 1, 101)
    assert np.abs(colours(heats) - 255 * colormaps["inferno"](heats)[:, :3]).max() < 12


def test_heat_is_one_half_at_the_threshold_and_one_from_twice_that_on():
    np.testing.assert_allclose(heat(np.array([-3.0, 0.0, 1.0, 2.0, 4.0, 9.0]), 2.0), [0, 0, 0.25, 0.5, 1, 1])
    np.testing.assert_array_equal(heat(np.array([0.0, 1e-9]), 0.0), [0, 1])


@pytest.mark.parametrize("channels", [1, 3])
def test_without_heat_an_image_stays_as_it_is(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, channels), dtype=np.uint8)
    heats = np.zeros((2, 5, 4))
    heats[1, 2, 3] = 1.0
    found = overlay(images, heats)
    expected = np.broadcast_to(images, (2, 5, 4, 3)).copy()
    expected[1, 2, 3] = np.rint((1 - OPAQUE) * expected[1, 2, 3] + OPAQUE * np.array([252, 255, 164]))
    np.testing.assert_array_equal(found, expected)


def test_a_picture_shows_image_reconstruction_and_heat(bundle, digits):
    maps = HeatMaps.of(bundle, Scorer.of(bundle))
    images = np.stack([each.prepare(GREY) for each in digits[:20]])
    errors = Backbone.load(bundle.files["backbone.onnx"])(images)
    pictures = list(maps.pictures(images, errors))
    assert len(pictures) == 20
    pixels = np.asarray(pictures[18])
    factor = 5  # 28 to 140
    assert pixels.shape == (28 * factor, (3 * 28 + 2 * GAP) * factor, 3)
    small = pixels[::factor, ::factor]
    np.testing.assert_array_equal(small[:, :28], np.broadcast_to(images[18], (28, 28, 3)))
    assert (small[:, 28 : 28 + GAP] == 255).all()
    assert set(np.unique(small[:, 28 + GAP : 56 + GAP])) <= {127, 128}
    wanted = overlay(images[18:19], heat(errors[18:19].mean(axis=3, dtype=np.float64), maps.threshold))[0]
    np.testing.assert_array_equal(small[:, -28:], wanted)


def test_the_threshold_is_the_99th_percentile_of_the_calibration_inliers_pixels(bundle, digits):
    images = np.stack([each.prepare(GREY) for each in digits[20:120]])
    scores = (images / 255.0 - 0.5) ** 2  # what the graph computes
    found = HeatMaps.of(bundle, Scorer.of(bundle)).threshold
    assert found == bundle.manifest.calibration.pixel_threshold
    assert found == pytest.approx(np.percentile(scores, 99), rel=1e-6)


def test_the_threshold_of_pixels_is_renewed_with_the_images_and_stays_with_the_rule(bundle, digits, tmp_path):
    few = bundle_at(tmp_path / "few", digits, None, calibration=digits[20:25])
    images = np.stack([each.prepare(GREY) for each in digits[20:25]])
    own = few.manifest.calibration.pixel_threshold
    assert own == pytest.approx(np.percentile((images / 255.0 - 0.5) ** 2, 99), rel=1e-6)
    assert main(["threshold", str(few.path), "--value", "0.2"]) == 0
    again = Bundle.read(few.path).manifest.calibration
    assert (again.threshold, again.pixel_threshold) == (0.2, own)


def test_of_many_pixels_some_images_are_taken(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("lit_od.fitting.fit.PIXELS", 3 * 28 * 28 + 5)
    few = bundle_at(tmp_path / "few", digits, None)
    images = np.stack([digits[row].prepare(GREY) for row in (20, 69, 119)])
    own = few.manifest.calibration.pixel_threshold
    assert own == pytest.approx(np.percentile((images / 255.0 - 0.5) ** 2, 99), rel=1e-6)


def test_without_maps_the_reconstruction_is_left_out(digits, tmp_path):
    bundle = bundle_at(tmp_path / "plain", digits, None)
    assert MAPS not in bundle.files
    image = digits[0].prepare(GREY)[None]
    (picture,) = HeatMaps.of(bundle, Scorer.of(bundle)).pictures(image, np.zeros(image.shape, np.float32))
    assert picture.size == ((2 * 28 + GAP) * 5, 140)


def test_heat_maps_of_an_autoencoder_are_its_errors(bundle, digits):
    scorer = Scorer.of(bundle)
    images = np.stack([each.prepare(GREY) for each in digits[:20]])
    maps = heat_maps(scorer, images)
    assert (maps.shape, maps.dtype) == ((20, 28, 28), np.float32)
    np.testing.assert_allclose(maps, ((images[..., 0] / 255.0) - 0.5) ** 2, rtol=1e-3)


def test_heat_maps_of_features_come_from_occlusion(made_bundle, digits, garments):
    scorer = Scorer.of(made_bundle, threads=1)
    images = np.stack([each.prepare(GREY) for each in garments[:3]])
    maps = heat_maps(scorer, images)
    np.testing.assert_array_equal(maps, occlusion_maps(scorer, images))
    drawn = HeatMaps.of(made_bundle, scorer)
    assert drawn.scorer is scorer
    np.testing.assert_allclose(drawn.heats(images), heat(maps.astype(np.float64), drawn.threshold))
    assert drawn.heats(images).max() > 0.5  # hotter than 99 % of the golden images' pixels


def test_the_scale_of_features_is_that_of_the_median_golden_image(made_bundle):
    scorer = Scorer.of(made_bundle, threads=1)
    maps = heat_maps(scorer, golden_arrays(made_bundle)["pixels"])
    hottest = sorted(np.percentile(one, 99) for one in maps)
    assert len(hottest) == 7
    assert HeatMaps.of(made_bundle, Scorer.of(made_bundle, threads=1)).threshold == pytest.approx(hottest[3], rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 28, 27, 1), (2, 28, 28, 3)])
def test_images_that_are_not_prepared_have_no_heat_maps(made_bundle, bundle, shape):
    for each in (made_bundle, bundle):
        with pytest.raises(DataError, match=r"heat maps want prepared images, uint8 \(n, 28, 28, 1\), got uint8"):
            heat_maps(Scorer.of(each, threads=1), np.zeros(shape, dtype=np.uint8))


def test_score_draws_images_and_heat_for_a_bundle_of_features(made_bundle, digit_files, command, tmp_path):
    files = sorted(Path(digit_files).rglob("*.png"))[:3]
    plain = command("score", made_bundle.path, *files)
    drawn = command("score", made_bundle.path, *files, "--maps", tmp_path / "maps", "--threads", 1)
    assert (drawn.status, drawn.out) == (0, plain.out)
    with (tmp_path / "maps" / INDEX).open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert {row["mask"] for row in rows} == {""}
    with Image.open(tmp_path / "maps" / rows[1]["map"]) as picture:
        assert picture.size == ((2 * 28 + GAP) * 5, 140)
        pixels = np.asarray(picture)[::5, ::5]
    image = np.asarray(Image.open(files[1]))[None, ..., None]
    np.testing.assert_array_equal(pixels[:, :28, 0], image[0, ..., 0])
    wanted = overlay(image, HeatMaps.of(made_bundle, Scorer.of(made_bundle, threads=1)).heats(image))[0]
    assert np.abs(pixels[:, -28:].astype(int) - wanted).max() <= 1


def test_a_graph_that_gives_something_else_is_refused(bundle, digits, tmp_path):
    with pytest.raises(BackboneError, match="turns uint8 images into errors and reconstruction; this one takes"):
        MapGraph.load(graph_of(["errors"]))
    wrong = bundle_at(tmp_path / "wrong", digits, graph_of(["reconstruction", "errors"]))
    with pytest.raises(BundleError, match=r"maps\.onnx: a graph of heat maps turns"):
        HeatMaps.of(wrong, Scorer.of(wrong))
    graph = MapGraph.load(graph_of(["errors", "reconstruction"], (28, 28, 1)))
    with pytest.raises(BackboneError, match="the graph failed"):
        graph(np.zeros((1, 5, 5, 1), dtype=np.uint8))


def test_score_draws_each_image_and_gives_the_same_rows(bundle, digit_files, tmp_path, command):
    plain = command("score", bundle.path, digit_files)
    drawn = command("score", bundle.path, digit_files, "--maps", tmp_path / "maps", "--batch-size", 7)
    assert (drawn.status, drawn.out) == (0, plain.out)
    with (tmp_path / "maps" / INDEX).open(newline="") as table:
        rows = list(csv.DictReader(table))
    paths = [row["path"] for row in csv.DictReader(plain.out.splitlines())]
    assert [row["path"] for row in rows] == paths
    written = {row["map"] for row in rows} | {row["mask"] for row in rows} | {INDEX}
    assert written == {path.name for path in (tmp_path / "maps").iterdir()}
    with Image.open(tmp_path / "maps" / rows[11]["map"]) as picture:
        left = np.asarray(picture)[::5, : 28 * 5 : 5, 0]
    np.testing.assert_array_equal(left, np.asarray(Image.open(paths[11])))


def test_masks_are_white_where_a_pixels_error_is_above_the_threshold(bundle, digits, tmp_path):
    (batch,) = batches(digits[:3], GREY, batch_size=3)
    errors = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)
    maps = replace(HeatMaps.of(bundle, Scorer.of(bundle)), threshold=0.7)
    with map_folder(tmp_path / "maps", maps, total=3) as folder:
        folder(extracted(batch, errors))
    with (tmp_path / "maps" / INDEX).open(newline="") as table:
        files = [row["mask"] for row in csv.DictReader(table)]
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
        "0-0_png.mask.png", "0-0_png.png", "2-2_png.mask.png", "2-2_png.png", INDEX,
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


def test_stream_outputs_goes_with_the_verdicts(bundle, digit_files):
    scorer = Scorer.of(Bundle.read(bundle.path))
    files = [ImageFile(path, str(path)) for path in sorted(Path(digit_files).rglob("*.png"))]
    wanted = list(scorer.stream(files, batch_size=16))
    for result, (also, found) in zip(wanted, scorer.stream_outputs(files, batch_size=16), strict=True):
        np.testing.assert_array_equal(result.score, also.score)
        np.testing.assert_array_equal(scorer.detector.score(found.outputs), also.score)
        assert len(found.batch.images) == len(found.outputs)


def test_a_batch_of_which_nothing_can_be_read_has_no_picture(bundle, tmp_path):
    (batch,) = batches([EncodedImage(b"", "broken")], GREY, batch_size=4)
    with map_folder(tmp_path / "maps", HeatMaps.of(bundle, Scorer.of(bundle, threads=1)), total=1) as folder:
        folder(extracted(batch, np.empty((0, 0), dtype=np.float32)))
    assert [each.name for each in (tmp_path / "maps").iterdir()] == [INDEX]
