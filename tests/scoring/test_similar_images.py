"""Likeness of images: by their features, or by the pixels of small copies."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.errors import DataError
from lit_od.images.sources import Source, Unreadable
from lit_od.scoring.scorer import Scorer
from lit_od.scoring.similar_images import SIDE, SimilarImages, nearest_rows, small_pixels
from tests.support.graphs import bundle_at, graph_of
from tests.support.images import GREY


def test_small_images_are_their_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, 20, 1), dtype=np.uint8)
    np.testing.assert_array_equal(small_pixels(images), images.reshape(3, -1).astype(np.float32) / 255)


def test_large_images_are_pillows_small_ones() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)
    wanted = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images]
    np.testing.assert_array_equal(small_pixels(images), np.stack(wanted).reshape(2, -1).astype(np.float32) / 255)


def test_a_graph_of_errors_is_not_run(digits: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer.of(bundle_at(tmp_path / "grey", digits, graph_of(["errors", "reconstruction"])), threads=1)
    monkeypatch.setattr("lit_od.runtime.onnx_session.run_session", lambda *given: pytest.fail("it ran"))
    sources = [digits[0], Unreadable("gone.png", "no such file"), digits[1]]
    found = SimilarImages.of(scorer, sources, GREY)
    assert found.places.tolist() == [0, 2]
    images = np.stack([digits[0].prepare(GREY), digits[1].prepare(GREY)])
    np.testing.assert_array_equal(found.rows, small_pixels(images))
    places, distances = found.nearest(images, np.ones((2, 28, 28, 1)), 1)
    assert (places.tolist(), distances.tolist()) == ([[0], [2]], [[0.0], [0.0]])
    with pytest.raises(DataError, match=r"gone\.png"):
        SimilarImages.of(scorer, sources, GREY, readable=True)


def test_the_nearest_rows_are_the_nearest() -> None:
    rng = np.random.default_rng(0)
    rows, bank = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(50, 5)).astype(np.float32)
    apart = np.linalg.norm(rows[:, None] - bank, axis=2)
    found, distances = nearest_rows(rows, bank, 4)
    np.testing.assert_array_equal(found, np.argsort(apart, axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(apart, axis=1)[:, :4], rtol=1e-5)
