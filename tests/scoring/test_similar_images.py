"""What like images have in common: their features, or the pixels of small copies."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.images.sources import Source, Unreadable
from lit_od.scoring.scorer import Scorer
from lit_od.scoring.similar_images import SIDE, likenesses, similarity_rows, tiny
from tests.support.graphs import bundle_at, graph_of
from tests.support.images import GREY


def test_small_images_are_their_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, 20, 1), dtype=np.uint8)
    np.testing.assert_array_equal(tiny(images), images.reshape(3, -1).astype(np.float32) / 255)


def test_large_images_are_pillows_small_ones() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)
    wanted = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images]
    np.testing.assert_array_equal(tiny(images), np.stack(wanted).reshape(2, -1).astype(np.float32) / 255)


def test_features_are_taken_as_they_are() -> None:
    images, features = np.zeros((2, 4, 4, 1), dtype=np.uint8), np.ones((2, 3), dtype=np.float32)
    assert similarity_rows("features", images, features) is features
    np.testing.assert_array_equal(similarity_rows("errors", images, np.ones((2, 4, 4, 1))), np.zeros((2, 16)))


def test_a_graph_of_errors_is_not_run(digits: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer.of(bundle_at(tmp_path / "grey", digits, graph_of(["errors", "reconstruction"])), threads=1)
    monkeypatch.setattr("lit_od.runtime.onnx_session.run_session", lambda *given: pytest.fail("it ran"))
    sources = [digits[0], Unreadable("gone.png", "no such file"), digits[1]]
    ((batch, rows),) = likenesses(scorer, sources, GREY)
    assert batch.rows.tolist() == [0, 2]
    np.testing.assert_array_equal(rows, tiny(np.stack([digits[0].prepare(GREY), digits[1].prepare(GREY)])))
