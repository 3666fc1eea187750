"""States of shares: they travel as bytes, and merge in the order of the images."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from lit_od.detectors.registry import DETECTORS, accumulator
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError
from lit_od.fitting.partial_state import PartialState, merged
from lit_od.formats import safetensors_file as safetensors
from lit_od.types import Features
from tests.support.detectors import DEVIATION

ONE_PASS = [kind for kind, detector in DETECTORS.items() if detector.passes == 1 and detector.reads != "patches"]
"""Detectors whose states are tried here; the others are in tests/detectors."""

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in ONE_PASS),
    ("mahalanobis", {"class_conditional": True}),
    ("gmm", {"components": 2, "reservoir": 50}),
    ("knn", {"coreset": 40, "coreset_method": "sample"}),
    ("lof", {"memory_budget": "1kB"}),
]


def rows_of(kind: str, count: int) -> Features:
    rows = np.random.default_rng(0).standard_normal((count, 6)).cumsum(axis=1).astype(np.float32)
    return np.square(rows).reshape(-1, 3, 2, 1) if DETECTORS[kind].reads == "errors" else rows


def part(kind: str, options: dict[str, Any], rows: Features, start: int, stop: int) -> PartialState:
    gathered = accumulator(kind, options, first_row=start)
    gathered.update(rows[start:stop], np.arange(start, stop) % 3)
    return PartialState(kind, gathered, start, stop - start)


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_shares_that_have_travelled_are_the_whole(kind: str, options: dict[str, Any]) -> None:
    rows = rows_of(kind, 200)
    edges = [0, 70, 70, 150, 200]
    states = [part(kind, options, rows, *cut).to_bytes() for cut in pairwise(edges)]
    whole = part(kind, options, rows, 0, 200)
    again = merged(states)
    assert (again.first_row, again.images) == (0, 200)
    np.testing.assert_allclose(again.finish().score(rows), whole.finish().score(rows), rtol=1e-9)
    assert again.to_bytes() == merged([again.to_bytes()]).to_bytes()


@pytest.mark.parametrize("kind", ONE_PASS)
def test_a_share_without_an_image_travels(kind: str) -> None:
    empty = PartialState(kind, accumulator(kind, {}), 0, 0)
    with pytest.raises(DataError, match=r"got 0|got none"):
        merged([empty.to_bytes()]).finish()
    rows = rows_of(kind, 60)
    whole = merged([empty.to_bytes(), part(kind, {}, rows, 0, 60).to_bytes()])
    np.testing.assert_allclose(whole.finish().score(rows), part(kind, {}, rows, 0, 60).finish().score(rows), rtol=1e-9)


def test_a_detector_elsewhere_and_its_second_pass_travel() -> None:
    rows, edges = rows_of("knn", 90), [0, 30, 70, 90]
    spec = DetectorSpec(DEVIATION, {"order": 1}, trust=[DEVIATION])

    def shares(after: PartialState | None) -> list[bytes]:
        found = []
        for start, stop in pairwise(edges):
            gathered = spec.accumulator(first_row=start, after=after and after.gathered)
            gathered.update(rows[start:stop])
            found.append(PartialState(spec.kind, gathered, start, stop - start).to_bytes())
        return found

    first = merged(shares(None), trust=spec.trust)
    second = merged(shares(first), trust=spec.trust, after=first)
    assert second.images == 90
    fitted = second.finish()
    wanted = np.abs(rows - rows.mean(axis=0, dtype=np.float64)).sum(axis=1)
    np.testing.assert_allclose(fitted.score(rows), wanted / wanted.mean(), rtol=1e-9)
    np.testing.assert_array_equal(spec.restore(fitted.state()).score(rows), fitted.score(rows))
    with pytest.raises(ConfigError, match=f"add --trust {DEVIATION}"):
        merged(shares(None))


def test_merging_waits_for_no_threads() -> None:
    """The products of a merge are so small that BLAS' threads take longer to find each other than to compute them."""
    rows, within = rows_of("mahalanobis", 90), []

    def states() -> Iterator[bytes]:
        for start in range(0, 90, 30):
            within.append(blas_threads())
            yield part("mahalanobis", {}, rows, start, start + 30).to_bytes()

    before = blas_threads()
    merged(states())
    assert within == [{1}] * 3
    assert blas_threads() == before


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_shares_out_of_order_twice_or_of_another_detector_are_refused() -> None:
    rows = rows_of("knn", 90)
    first, second = part("knn", {}, rows, 0, 40), part("knn", {}, rows, 40, 90)
    with pytest.raises(DataError, match="wanted the one that begins at row 90, got one that begins at 0"):
        merged([second, first])
    with pytest.raises(DataError, match="wanted the one that begins at row 40, got one that begins at 0"):
        merged([first, first])
    with pytest.raises(DataError, match="shares of one detector merge, got knn and lof"):
        merged([first, part("lof", {}, rows, 40, 90)])
    with pytest.raises(ConfigError, match="must have the same options"):
        merged([first, part("knn", {"k": 3}, rows, 40, 90)])
    with pytest.raises(DataError, match="there is no share to merge"):
        merged([])


def test_damaged_states_are_refused() -> None:
    good = safetensors.load(part("knn", {}, rows_of("knn", 30), 0, 30).to_bytes())
    for name, array, message in (
        ("about", None, "lacks 'about'"),
        ("about", np.frombuffer(b"{}", np.uint8), "cannot be read"),
        ("rows", None, "lacks the array 'rows'"),
        ("rows", good["rows"][:-1], "do not fit together"),
        ("ranks", good["ranks"].astype(np.float64), "do not fit together"),
        ("numbers", good["numbers"] * 0, "do not fit together"),
    ):
        changed = {key: value for key, value in good.items() if key != name or array is not None}
        if array is not None:
            changed[name] = array
        with pytest.raises(DataError, match=message):
            PartialState.from_bytes(safetensors.save(changed))
    classes = safetensors.load(part("mahalanobis", {}, rows_of("mahalanobis", 30), 0, 30).to_bytes())
    with pytest.raises(DataError, match="another number of classes than of sums"):
        PartialState.from_bytes(safetensors.save(classes | {"labels": np.array([0, 1])}))
