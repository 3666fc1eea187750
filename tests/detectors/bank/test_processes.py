"""Memory banks in other processes: forked ones, and those that get them pickled."""

import multiprocessing
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od import Bundle, Scorer
from lit_od.detectors import KNN, LOF

ROWS = np.random.default_rng(0).normal(size=(600, 16)).astype(np.float32)

KINDS: list[dict[str, Any]] = [{}, {"precision": "fp16"}, {"index": "HNSW8"}, {"index": "IVF4,Flat"}]


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("detector", [KNN, LOF])
def test_a_pickled_detector_scores_to_the_bit(detector: type[KNN | LOF], options: dict[str, Any]) -> None:
    fitted = detector.fit(ROWS[:300], k=3, **options)
    again = pickled(fitted)
    np.testing.assert_array_equal(again.score(ROWS[300:]), fitted.score(ROWS[300:]))


@pytest.mark.parametrize("options", KINDS)
def test_a_forked_process_scores(options: dict[str, Any]) -> None:
    fitted = KNN.fit(ROWS[:300], k=3, **options)
    wanted = fitted.score(ROWS)  # FAISS has started its threads
    np.testing.assert_allclose(_forked(fitted.score, ROWS), wanted, rtol=1e-12)


def test_a_scorer_scores_in_a_forked_process_and_pickled(made_bundle: Bundle, digit_files: Path) -> None:
    scorer = Scorer.of(made_bundle, threads=2)
    files = sorted(map(str, digit_files.rglob("*.png")))
    few, many = scorer.score(files[:3]).score, scorer.score(files).score
    for child in (_forked(_scores, (scorer, files[:3])), _scores((pickled(scorer), files[:3]))):
        np.testing.assert_array_equal(child, few)
    np.testing.assert_array_equal(_forked(_scores, (scorer, files)), many)


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301  # of our own making


def _scores(work: tuple[Scorer, list[str]]) -> np.ndarray:
    return work[0].score(work[1]).score


def _forked(function: Any, argument: Any) -> Any:
    """Return what a function returns in a forked process, which must end by itself."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=lambda: there.send(function(argument)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks beside threads
        process.start()
    try:
        assert here.poll(20), "the forked process hangs"
        answer = here.recv()
        process.join(20)
        assert process.exitcode == 0
    finally:
        process.kill()
    return answer
