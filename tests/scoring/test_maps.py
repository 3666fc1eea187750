"""Heat maps: their scale, their graph and their pictures."""

from pathlib import Path

import numpy as np
import pytest

from lit_od.backbone.map_graph import MapGraph
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import MAPS, Bundle, golden_arrays
from lit_od.cli import main
from lit_od.errors import BackboneError, BundleError, DataError
from lit_od.images.sources import ImageFile
from lit_od.scoring.colour_scale import ColourScale
from lit_od.scoring.drawing import GAP, colour_bar, outlined, overlay
from lit_od.scoring.maps import HeatMaps, heat_maps
from lit_od.scoring.occlusion import occlusion_maps
from lit_od.scoring.scorer import Scorer
from tests.support.graphs import bundle_at, graph_of, patch_bundle
from tests.support.images import GREY


@pytest.fixture(scope="module")
def bundle(digits, tmp_path_factory):
    return bundle_at(tmp_path_factory.mktemp("maps") / "grey", digits, graph_of(["errors", "reconstruction"]))


def test_a_picture_shows_image_reconstruction_and_heat(bundle, digits):
    maps = HeatMaps.of(bundle, Scorer.of(bundle))
    images = np.stack([each.prepare(GREY) for each in digits[:20]])
    errors = Backbone.load(bundle.files["backbone.onnx"])(images)
    scores = errors.mean(axis=3)
    pictures = list(maps.pictures(images, scores))
    assert len(pictures) == 20
    np.testing.assert_array_equal(pictures[18].map, scores[18])
    np.testing.assert_array_equal(pictures[18].outlying, scores[18] > maps.scale.threshold)
    pixels, side = np.asarray(pictures[18].picture), 28 * 5
    bar = colour_bar(maps.scale, side)
    assert pixels.shape == (side, 3 * (side + GAP) + bar.shape[1], 3)
    np.testing.assert_array_equal(pixels[::5, :side:5], np.broadcast_to(images[18], (28, 28, 3)))
    assert (pixels[:, side : side + GAP] == 255).all()
    assert set(np.unique(pixels[:, side + GAP : 2 * side + GAP])) <= {127, 128}
    wanted = outlined(overlay(images[18:19], maps.scale.heat(scores[18:19]))[0], scores[18] > maps.scale.threshold)
    np.testing.assert_array_equal(pixels[:, 2 * (side + GAP) : 3 * side + 2 * GAP], wanted)
    np.testing.assert_array_equal(pixels[:, 3 * (side + GAP) :], bar)


def test_the_threshold_is_the_99th_percentile_of_the_calibration_inliers_pixels(bundle, digits):
    images = np.stack([each.prepare(GREY) for each in digits[20:120]])
    scores = (images / 255.0 - 0.5) ** 2  # what the graph computes
    found = HeatMaps.of(bundle, Scorer.of(bundle)).scale.threshold
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
    monkeypatch.setattr("lit_od.fitting.pixels.PIXELS", 3 * 28 * 28 + 5)
    few = bundle_at(tmp_path / "few", digits, None)
    images = np.stack([digits[row].prepare(GREY) for row in (20, 69, 119)])
    own = few.manifest.calibration.pixel_threshold
    assert own == pytest.approx(np.percentile((images / 255.0 - 0.5) ** 2, 99), rel=1e-6)


def test_without_maps_the_reconstruction_is_left_out(digits, tmp_path):
    bundle = bundle_at(tmp_path / "plain", digits, None)
    assert MAPS not in bundle.files
    image = digits[0].prepare(GREY)[None]
    maps = HeatMaps.of(bundle, Scorer.of(bundle))
    (drawn,) = maps.pictures(image, np.zeros((1, 28, 28), np.float32))
    assert drawn.picture.size == (2 * (140 + GAP) + colour_bar(maps.scale, 140).shape[1], 140)


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
    np.testing.assert_allclose(drawn.heats(images), drawn.scale.heat(maps))
    assert [each.outlying for each in drawn.pictures(images)] == [None] * 3
    assert drawn.heats(images).max() > 0.5  # hotter than 99 % of the golden images' pixels


def test_the_scale_of_features_is_that_of_the_median_golden_image(made_bundle):
    scorer = Scorer.of(made_bundle, threads=1)
    maps = heat_maps(scorer, golden_arrays(made_bundle)["pixels"])
    hottest = sorted(np.percentile(one, 99) for one in maps)
    assert len(hottest) == 7
    scale = HeatMaps.of(made_bundle, Scorer.of(made_bundle, threads=1)).scale
    assert scale.threshold == pytest.approx(hottest[3], rel=1e-4)
    assert scale.normal == pytest.approx(max(sorted(np.median(one) for one in maps)[3], 0), rel=1e-4, abs=1e-9)


def test_the_scale_of_maps_begins_at_the_median_golden_image_and_its_threshold_moves(digits, tmp_path, command):
    bundle = patch_bundle(tmp_path / "patches", digits)
    scorer = Scorer.of(bundle, threads=1)
    golden = scorer.score(golden_arrays(bundle)["pixels"], maps=True).maps
    scale = HeatMaps.of(bundle, scorer).scale
    assert scale.normal == pytest.approx(sorted(np.median(one) for one in golden)[3], rel=1e-4)
    assert scale.threshold == bundle.calibration.threshold
    assert command("threshold", bundle.path, "--value", 7).status == 0
    moved = Bundle.read(bundle.path)
    assert HeatMaps.of(moved, Scorer.of(moved)).scale == ColourScale(scale.normal, 7.0)


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 28, 27, 1), (2, 28, 28, 3)])
def test_images_that_are_not_prepared_have_no_heat_maps(made_bundle, bundle, shape):
    for each in (made_bundle, bundle):
        with pytest.raises(DataError, match=r"heat maps want prepared images, uint8 \(n, 28, 28, 1\), got uint8"):
            heat_maps(Scorer.of(each, threads=1), np.zeros(shape, dtype=np.uint8))


def test_a_graph_that_gives_something_else_is_refused(bundle, digits, tmp_path):
    with pytest.raises(BackboneError, match="turns uint8 images into errors and reconstruction; this one takes"):
        MapGraph.load(graph_of(["errors"]))
    wrong = bundle_at(tmp_path / "wrong", digits, graph_of(["reconstruction", "errors"]))
    with pytest.raises(BundleError, match=r"maps\.onnx: a graph of heat maps turns"):
        HeatMaps.of(wrong, Scorer.of(wrong))
    graph = MapGraph.load(graph_of(["errors", "reconstruction"], (28, 28, 1)))
    with pytest.raises(BackboneError, match="the graph failed"):
        graph(np.zeros((1, 5, 5, 1), dtype=np.uint8))


def test_stream_outputs_goes_with_the_verdicts(bundle, digit_files):
    scorer = Scorer.of(Bundle.read(bundle.path))
    files = [ImageFile(path, str(path)) for path in sorted(Path(digit_files).rglob("*.png"))]
    wanted = list(scorer.stream(files, batch_size=16))
    for result, (also, found) in zip(wanted, scorer.stream_outputs(files, batch_size=16), strict=True):
        np.testing.assert_array_equal(result.score, also.score)
        np.testing.assert_array_equal(scorer.detector.score(found.outputs), also.score)
        assert len(found.batch.images) == len(found.outputs)
