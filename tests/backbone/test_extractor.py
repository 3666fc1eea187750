"""Images through a backbone: the same outputs on the way of many images and on that of few."""

import threading
from typing import Any, cast

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import BACKBONE, Bundle
from lit_od.detectors.base import Detector
from lit_od.errors import BackboneError, ConfigError, DataError
from lit_od.images.batching import GRAPH_BATCH
from lit_od.images.preparation import Preparation
from lit_od.images.sources import ImageArray, Source, Unreadable
from lit_od.types import Features, Scores
from tests.support.images import GREY


@pytest.fixture(scope="module")
def backbone(made_bundle: Bundle) -> Backbone:
    return Backbone.load(made_bundle.files[BACKBONE], threads=2)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, GRAPH_BATCH, GRAPH_BATCH + 1, 5 * GRAPH_BATCH + 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_outputs_are_the_graphs_in_order(backbone: Backbone, count: int, threads: int) -> None:
    images = pixels(count)
    sources = [ImageArray(image, f"#{row}") for row, image in enumerate(images)]
    came = list(Extractor(backbone, GREY, threads).outputs(sources, batch_size=2 * GRAPH_BATCH))
    assert [source for each in came for source in each.batch.sources] == sources
    outputs = np.concatenate([each.outputs for each in came])
    np.testing.assert_allclose(outputs, backbone(images), rtol=1e-5, atol=1e-6)


def test_unreadable_images_leave_no_gap_in_the_outputs(backbone: Backbone) -> None:
    images = pixels(3 * GRAPH_BATCH)
    broken = {0, 5, *range(GRAPH_BATCH, 2 * GRAPH_BATCH), 3 * GRAPH_BATCH - 1}  # one whole run among them
    sources: list[Source] = [
        Unreadable(f"#{row}", "cause") if row in broken else ImageArray(image, f"#{row}")
        for row, image in enumerate(images)
    ]
    [found] = Extractor(backbone, GREY, 2).outputs(sources, batch_size=len(images))
    readable = sorted(set(range(3 * GRAPH_BATCH)) - broken)
    assert found.batch.rows.tolist() == readable
    assert found.batch.errors.keys() == broken
    np.testing.assert_allclose(found.outputs, backbone(images[readable]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [3, 5 * GRAPH_BATCH + 3])
def test_scores_are_those_of_the_readable_images(backbone: Backbone, count: int) -> None:
    """Of many images each thread scores its own, on itself alone; of a few, the caller's does, on all."""
    before = {each["filepath"]: each["num_threads"] for each in threadpool_info()}
    inside: list[tuple[str, int]] = []

    class Sum:
        def score(self, outputs: Features) -> Scores:
            inside.append((threading.current_thread().name, max(each["num_threads"] for each in threadpool_info())))
            return outputs.sum(axis=1, dtype=np.float64)

    images = pixels(count)
    sources: list[Source] = [ImageArray(image, f"#{row}") for row, image in enumerate(images)]
    sources[1] = Unreadable("#1", "cause")
    extractor = Extractor(backbone, GREY, 2)
    came = list(extractor.scores(sources, cast(Detector, Sum()), batch_size=2 * GRAPH_BATCH))
    for each in came:
        assert len(each.batch.rows) == len(each.outputs) == len(each.finite)
        np.testing.assert_array_equal(each.scores, each.outputs.sum(axis=1, dtype=np.float64))
    assert sum(len(each.scores) for each in came) == count - 1
    assert {each["filepath"]: each["num_threads"] for each in threadpool_info()} == before
    many = count > GRAPH_BATCH
    assert all(name.startswith("lit_od-decode") == many for name, _ in inside)
    if many:
        assert {threads for _, threads in inside} == {1}


@pytest.mark.parametrize("count", [3, GRAPH_BATCH + 1])
@pytest.mark.parametrize(
    ("wrong", "got"), [(np.float32, r"float32 of shape \(\d+,\)"), (1, r"float64 of shape \(\d+, 1\)")]
)
def test_scores_of_another_type_or_shape_are_refused(backbone: Backbone, count: int, wrong: Any, got: str) -> None:
    class Mistaken:
        kind = "mine:Mistaken"

        def score(self, outputs: Features) -> Scores:
            return outputs[:, :1].astype(np.float64) if wrong == 1 else outputs[:, 0].astype(wrong)

    sources: list[Source] = [ImageArray(image, f"#{row}") for row, image in enumerate(pixels(count))]
    with pytest.raises(ConfigError, match=r"mine:Mistaken must return scores as float64 of shape \(\d+,\), got " + got):
        list(Extractor(backbone, GREY, 2).scores(sources, cast(Detector, Mistaken())))


def test_a_batch_of_unreadable_images_gives_no_outputs(backbone: Backbone) -> None:
    sources = [Unreadable(f"#{row}", "cause") for row in range(3 * GRAPH_BATCH)]
    came = list(Extractor(backbone, GREY).outputs(sources, batch_size=GRAPH_BATCH))
    assert [each.outputs.shape for each in came] == [(0, 0)] * 3
    with pytest.raises(DataError, match="#0: cause"):
        came[0].require_sound()


def test_the_graph_on_one_thread_is_made_once(backbone: Backbone) -> None:
    assert backbone.single() is backbone.single()
    assert backbone.single().threads == 1
    assert backbone.single().single() is backbone.single()


def test_a_preparation_of_another_shape_is_refused(backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match=r"images are prepared to \(28, 28, 3\) \(h, w, c\), the graph takes"):
        Extractor(backbone, Preparation(size=(28, 28), mode="rgb"))
