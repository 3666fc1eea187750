"""Scores, maps and regions from one run of the backbone."""

import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import Bundle
from lit_od.images.preparation import Preparation
from lit_od.images.sources import EncodedImage, ImageArray
from lit_od.scoring.scorer import Scorer
from tests.support.graphs import bundle_at, patch_bundle

OTHER = {"kind": "patchcore", "coreset": 60, "aggregate": "top_share", "share": 0.05}


@pytest.fixture(scope="module")
def bundle(digits, tmp_path_factory):
    return patch_bundle(tmp_path_factory.mktemp("one") / "patches", digits)


@pytest.fixture(scope="module")
def scorer(bundle):
    return Scorer.of(bundle, threads=2)


@pytest.fixture(scope="module")
def errors(digits, tmp_path_factory):
    return bundle_at(tmp_path_factory.mktemp("one") / "errors", digits, None)


def test_scores_are_the_peaks_of_maps_and_regions_say_where(scorer, digits, garments):
    images = [*digits[300:330], *garments[:10]]
    (plain,) = scorer.stream(images)
    assert (plain.maps, plain.regions) == (None, None)
    (result,) = scorer.stream(images, maps=True)
    np.testing.assert_array_equal(result.score, plain.score)
    assert (result.maps.shape, result.maps.dtype) == ((40, 28, 28), np.float32)
    np.testing.assert_array_equal(result.maps.max(axis=(1, 2)), result.score)
    assert 0 < result.is_outlier.sum() < 40
    np.testing.assert_array_equal([bool(each) for each in result.regions], result.is_outlier)
    for regions, score, flagged in zip(result.regions, result.score, result.is_outlier, strict=True):
        if flagged:
            assert regions[0].peak == score
            assert all(each.peak > scorer.calibration.threshold for each in regions)


def test_the_graph_runs_once_an_image(scorer, digits, monkeypatch):
    runs, call = [], Backbone.__call__
    monkeypatch.setattr(Backbone, "__call__", lambda self, images: runs.append(len(images)) or call(self, images))
    list(scorer.stream(digits[:70], maps=True))
    assert sum(runs) == 70


def test_however_images_are_given_maps_are_the_same(scorer, garments):
    arrays = np.stack([each.prepare(scorer.preparation) for each in garments[:20]])
    wanted = scorer.score(arrays, maps=True)
    for found in (
        scorer.score(list(arrays), maps=True, batch_size=7),
        scorer.score([Image.fromarray(each[..., 0]) for each in arrays], maps=True),
        scorer.score(arrays, maps=True, batch_size=3),
    ):
        np.testing.assert_allclose(found.maps, wanted.maps, rtol=1e-5)
        assert [[each.box for each in one] for one in found.regions] == [[e.box for e in one] for one in wanted.regions]
    none = scorer.score(arrays[:0], maps=True)
    assert (len(none), none.maps, none.regions) == (0, None, None)


def test_an_unreadable_image_has_a_map_of_no_number_and_no_region(scorer, garments):
    result = scorer.score([garments[0].prepare(scorer.preparation), b"no image"], maps=True)
    assert np.isfinite(result.maps[0]).all()
    assert np.isnan(result.maps[1]).all()
    assert result.regions[1] == ()
    alone = scorer.score([b"no image"], maps=True)
    assert alone.maps.shape == (1, 28, 28)
    assert alone.regions == [()]


def test_reconstruction_errors_have_maps_and_regions_too(errors, garments):
    scorer = Scorer.of(errors, threads=1)
    images = np.stack([each.prepare(scorer.preparation) for each in garments[:5]])
    result = scorer.score(images, maps=True)
    np.testing.assert_allclose(result.maps, (images[..., 0] / 255.0 - 0.5) ** 2, rtol=1e-3)
    assert scorer.pixel_threshold == errors.manifest.calibration.pixel_threshold
    counts = (result.maps > np.float64(scorer.pixel_threshold)).sum(axis=(1, 2))
    assert [sum(region.area for region in regions) for regions in result.regions] == counts.tolist()


def test_features_have_neither_maps_nor_regions(made_bundle, digits):
    result = Scorer.of(made_bundle, threads=1).score(digits[0].prepare(made_bundle.manifest.preparation), maps=True)
    assert (result.maps, result.regions) == (None, None)


def test_regions_are_where_the_file_has_them(digits, tmp_path):
    """A defect is found in a crop of a large image that EXIF turns on its side."""
    preparation = Preparation(size=(28, 28), mode="grey", crop=(112, 112))
    plain = [ImageArray(np.full((120, 160), 100 + row % 9, np.uint8), str(row)) for row in range(200)]
    scorer = Scorer.of(patch_bundle(tmp_path / "b", plain, preparation), threads=1)
    pixels = np.full((120, 160), 104, np.uint8)
    pixels[40:56, 72:88] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    for orientation in (1, 6):
        exif[0x0112] = orientation
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", exif=exif)
        (regions,) = scorer.score([file.getvalue()], maps=True).regions
        left, top, right, bottom = regions[0].box
        assert len(regions) == 1
        assert 48 <= left <= 72
        assert 88 <= right <= 112
        assert 24 <= top <= 40
        assert 56 <= bottom <= 80
        assert 72 <= regions[0].at[0] < 88
        assert 40 <= regions[0].at[1] < 56
        assert regions[0].area > 16 * 16


def test_small_regions_are_left_out_and_verdicts_stay(scorer, garments):
    images = np.stack([each.prepare(scorer.preparation) for each in garments[:20]])
    every, large = scorer.score(images, maps=True), scorer.score(images, maps=True, min_area=60)
    np.testing.assert_array_equal(every.is_outlier, large.is_outlier)
    wanted = [tuple(each for each in regions if each.area >= 60) for regions in every.regions]
    assert large.regions == wanted != every.regions


def test_of_other_aggregates_regions_are_above_a_threshold_of_their_own(digits, garments, tmp_path):
    bundle = patch_bundle(tmp_path / "b", digits, detector=OTHER)
    scorer = Scorer.of(bundle, threads=1)
    assert scorer.pixel_threshold == bundle.manifest.calibration.pixel_threshold != bundle.calibration.threshold
    result = scorer.score([each.prepare(scorer.preparation) for each in garments[:9]], maps=True)
    peaks = result.maps.max(axis=(1, 2)).astype(np.float64)
    assert [bool(each) for each in result.regions] == (peaks > scorer.pixel_threshold).tolist()


def test_a_threshold_that_is_moved_moves_regions(bundle, command, tmp_path, garments, digits):
    moved = patch_bundle(tmp_path / "b", digits)
    assert command("threshold", moved.path, "--value", 1e9).status == 0
    scorer = Scorer.of(Bundle.read(moved.path), threads=1)
    assert scorer.pixel_threshold == 1e9
    assert scorer.score([garments[0].prepare(scorer.preparation)], maps=True).regions == [()]


def test_images_of_no_finite_output_have_no_map(scorer, garments):
    images = np.stack([each.prepare(scorer.preparation) for each in garments[:3]])

    class Broken:
        def __call__(self, pixels):
            outputs = scorer.backbone(pixels)
            outputs[1, 3, 3, 0] = np.nan
            return outputs

        def __getattr__(self, name):
            return getattr(scorer.backbone, name)

    broken = replace(scorer, extractor=replace(scorer.extractor, backbone=Broken()))
    result = broken.score(images, maps=True)
    assert np.isnan(result.maps).all(axis=(1, 2)).tolist() == [False, True, False]
    assert result.error[1] is not None
    assert result.regions[1] == ()


def test_a_stream_with_maps_takes_bounded_memory(scorer):
    """Memory does not grow with the number of images, only with the batch."""
    rng, peaks = np.random.default_rng(0), []
    pixels = rng.integers(0, 256, (28, 28), dtype=np.uint8)
    for count in (320, 1600):
        sources = (ImageArray(pixels, "") for _ in range(count))
        tracemalloc.start()
        for result in scorer.stream(sources, batch_size=32, maps=True):
            assert result.maps.shape == (32, 28, 28)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.6 * peaks[0]


def test_bytes_that_are_scored_twice_have_one_geometry(scorer, garments):
    file = io.BytesIO()
    garments[0].decode().save(file, "PNG")
    one, two = (next(iter(scorer.stream([EncodedImage(file.getvalue(), "a")], maps=True))) for _ in range(2))
    assert one.regions == two.regions
