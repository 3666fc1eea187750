"""The number of threads of OpenMP and BLAS: what was asked for inside, what was there before outside."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from lit_od.runtime import threads
from lit_od.runtime.threads import limited


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_threads", lambda: 4)


def counts() -> dict[str, int]:
    """Threads of every loaded library of the scorer's, by file."""
    found: list[dict[str, Any]] = threadpool_info()
    return {each["filepath"]: each["num_threads"] for each in found}


def test_inside_and_after() -> None:
    assert np.ones((2, 2)) @ np.ones(2) is not None
    before, openmp = counts(), faiss.omp_get_max_threads()
    with limited(1):
        assert faiss.omp_get_max_threads() == 1
        assert set(counts().values()) == {1}
    assert (counts(), faiss.omp_get_max_threads()) == (before, openmp)
    with pytest.raises(KeyError), limited(1):
        raise KeyError
    assert counts() == before


@pytest.mark.parametrize("wanted", [None, 4, 9])
def test_a_number_that_limits_nothing_changes_nothing(wanted: int | None) -> None:
    before = counts()
    with limited(wanted):
        assert counts() == before


def test_callers_on_several_threads_do_not_keep_each_others_limits() -> None:
    before = counts()

    def work(number: int) -> int:
        """The most threads that there were inside; fewer where another caller wants fewer of BLAS."""
        most = 0
        for _ in range(200):
            with limited(1 + number):
                most = max(most, faiss.omp_get_max_threads())
        return most

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [1, 2, 3]
    assert counts() == before


def test_a_library_that_comes_while_limits_are_in_force_is_limited_and_set_back() -> None:
    """As FAISS does, whose first use may lie inside of a limit."""
    before = counts()
    real = threads._pools(True)
    first = real[1].lib_controllers[:1]
    for entered, left in ((first, real[1].lib_controllers[::-1]), (real[1].lib_controllers[::-1], first)):
        threads._enter(SimpleNamespace(lib_controllers=entered), 1)  # type: ignore[arg-type]  # all that is read of it
        threads._enter(SimpleNamespace(lib_controllers=left), 2)  # type: ignore[arg-type]
        assert all(library.num_threads == 1 for library in real[1].lib_controllers)
        threads._leave(1)
        threads._leave(2)
        assert counts() == before
    assert not threads._blas_before
    assert not threads._blas_limits


def test_a_limit_of_blas_alone_leaves_openmp_as_an_outer_limit_has_it() -> None:
    before = counts()
    with limited(1):
        with limited(None, blas=1):
            assert faiss.omp_get_max_threads() == 1
            assert threads.allowed_threads() == 1
        with limited(3):
            assert faiss.omp_get_max_threads() == 1
    assert counts() == before
