"""One protocol, three engines: what one process fits and scores, a process group and a cluster do too."""

from collections.abc import Sequence

import numpy as np
import pytest

from lit_od.cluster.engine import RayEngine
from lit_od.detectors.base import PixelDetector
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError
from lit_od.fitting.engine import Engine, LocalEngine, fit_detector
from lit_od.images.batching import load
from lit_od.images.sources import Source, Unreadable
from tests.support.bundles import local_engine
from tests.support.engines import on_every_engine
from tests.support.graphs import graph_of
from tests.support.images import GREY
from tests.support.pixel_detectors import PixelDeviation
from tests.support.pools import Inline

SPEC = DetectorSpec(PixelDeviation.kind, {"floor": 0.01}, (PixelDeviation.kind,))


@pytest.fixture(scope="module")
def model() -> bytes:
    return graph_of(["errors"], (28, 28, 1))


def errors(sources: Sequence[Source]) -> np.ndarray:
    """The graph's arithmetic in numpy."""
    return np.square(load(sources, GREY) / np.float32(255) - np.float32(0.5))


def test_two_passes_are_the_same_on_every_engine(model: bytes, digits: list[Source]) -> None:
    sources = digits[:300]
    found = on_every_engine(model, lambda engine: fit_detector(engine, SPEC, sources)[0])
    wanted = errors(sources).astype(np.float64)
    mean = wanted.mean(axis=0)
    for detectors in found.values():
        for detector in detectors:
            np.testing.assert_allclose(detector.state()["mean"], mean, rtol=1e-6)
            np.testing.assert_allclose(detector.state()["deviation"], np.abs(wanted - mean).mean(axis=0), rtol=1e-6)
            assert detector.options() == {"floor": 0.01}


def test_scores_and_maps_of_a_subset_are_the_same_on_every_engine(model: bytes, digits: list[Source]) -> None:
    """Maps come batch by batch, to the process that leads; scores and outputs to all."""
    fitted, _ = fit_detector(local_engine(model), SPEC, digits[:300])
    assert isinstance(fitted, PixelDetector)
    subset = [digits[row] for row in range(0, 400, 3)]
    scores, maps = fitted.score_map(errors(subset))

    def work(engine: Engine) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], bool]:
        scored = engine.score(fitted, subset, task="scoring")
        return scored, engine.outputs(subset), list(engine.maps(fitted, subset)), engine.leads

    for answers in on_every_engine(model, work).values():
        assert [leads for *_, leads in answers] == [True, *[False] * (len(answers) - 1)]
        for scored, outputs, mapped, leads in answers:
            np.testing.assert_allclose(scored, scores, rtol=1e-4)
            np.testing.assert_allclose(outputs, errors(subset), rtol=1e-4, atol=1e-7)
            assert outputs.dtype == np.float32
            assert bool(mapped) == leads
            if leads:
                np.testing.assert_allclose(np.concatenate(mapped), maps, rtol=1e-3, atol=1e-4)


def test_an_unreadable_image_is_named_by_every_engine(model: bytes, digits: list[Source]) -> None:
    sources: list[Source] = [*digits[:70], Unreadable("bad.png", "empty file"), *digits[70:200]]
    for engine in (local_engine(model), RayEngine(local_engine(model).extractor, Inline(2, 1))):
        with pytest.raises(DataError, match=r"bad\.png: empty file\. Take it out"):
            fit_detector(engine, SPEC, sources)


def test_processes_without_images_change_nothing(model: bytes, digits: list[Source]) -> None:
    found = on_every_engine(
        model, lambda engine: engine.score(PixelDeviation.from_state({}, STATE), digits[:2], task="x")
    )
    for answers in found.values():
        for scores in answers:
            np.testing.assert_allclose(scores, found["local"][0])
    assert local_engine(model).outputs([]).shape == (0, 0)


STATE = {"mean": np.zeros((28, 28, 1)), "deviation": np.ones((28, 28, 1))}


def test_bytes_of_the_leading_process_reach_all(model: bytes) -> None:
    def work(engine: Engine) -> bytes:
        return engine.share(b"lead" if engine.leads else b"other")

    assert on_every_engine(model, work) == {"local": [b"lead"], "group": [b"lead"] * 3, "ray": [b"lead"]}


def test_a_detector_of_one_pass_takes_no_second(model: bytes, digits: list[Source]) -> None:
    engine: LocalEngine = local_engine(model)
    spec = DetectorSpec("reconstruction", {})
    assert spec.passes == 1
    first = engine.gather(spec, digits[:5]).to_bytes()
    with pytest.raises(ConfigError, match="fitted in one pass"):
        engine.gather(spec, digits[:5], after=first)
