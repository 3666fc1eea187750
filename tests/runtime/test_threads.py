"""The number of threads of OpenMP and BLAS: what was asked for inside, what was there before outside."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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


BESIDE_IMPORTS = """
import shutil, sys, threading
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import find_spec, module_from_spec
import numpy
from lit_od.runtime.threads import _pools

name, found = "_multiprocessing", []
for number in range(5000):
    file = shutil.copy(find_spec(name).origin, f"{sys.argv[1]}/{number}.so")
    module_from_spec(ModuleSpec(name, ExtensionFileLoader(name, file), origin=file))
    if number == 0:
        search = threading.Thread(target=lambda: found.extend(_pools.__wrapped__(()) for _ in range(10)), daemon=True)
        search.start()
    if not search.is_alive():
        break
print(len(found))
"""
"""Program that searches for libraries on a thread while it loads extensions, as lazy imports do."""


@pytest.mark.skipif(sys.platform != "linux", reason="the loader of Linux")
def test_a_search_for_libraries_beside_imports_ends(tmp_path: Path) -> None:
    words = [sys.executable, "-c", BESIDE_IMPORTS, str(tmp_path)]
    came = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert came.stdout == "10\n"
