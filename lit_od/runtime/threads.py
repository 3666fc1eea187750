"""How many threads the libraries under numpy and FAISS use: as many as the caller has asked for.

ONNX Runtime's and the decoders' threads are given where they are made; OpenMP, which FAISS uses, and
numpy's BLAS know only settings of the calling thread and of the whole process.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from lit_od.errors import ConfigError

if TYPE_CHECKING:
    from threadpoolctl import LibController, ThreadpoolController

_LOCK = threading.Lock()
_blas_limits: list[int] = []
"""Limits in force at the moment, one a caller; BLAS has one for the process."""
_blas_before: "dict[str, tuple[LibController, int]]" = {}
"""BLAS libraries by file and their own numbers of threads, while limits are in force."""


@contextlib.contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """At most so many threads a call of FAISS or BLAS inside the block; None and one a core change nothing.

    Several threads may be inside at once. OpenMP's limit is each thread's own; of BLAS' limits the
    smallest holds, and the last one out restores what was there before.
    """
    if threads is None or threads >= available_threads():
        yield
        return
    # what it brings is there once its import has come to an end
    openmp, blas = _pools(hasattr(sys.modules.get("faiss"), "knn"))
    with openmp.limit(limits=threads):
        _enter(blas, threads)
        try:
            yield
        finally:
            _leave(threads)


@cache
def _pools(faiss: bool) -> "tuple[ThreadpoolController, ThreadpoolController]":
    """The loaded OpenMP and BLAS libraries; FAISS brings its own when it is first used."""
    from threadpoolctl import ThreadpoolController  # not needed where nobody asks for a number of threads

    del faiss  # only tells one state of the process from the other
    found = ThreadpoolController()
    return found.select(user_api="openmp"), found.select(user_api="blas")


def _enter(blas: "ThreadpoolController", threads: int) -> None:
    with _LOCK:
        for library in blas.lib_controllers:  # FAISS may have come since the others entered
            _blas_before.setdefault(library.filepath, (library, library.num_threads))
        _blas_limits.append(threads)
        _apply()


def _leave(threads: int) -> None:
    with _LOCK:
        _blas_limits.remove(threads)
        _apply()
        if not _blas_limits:
            _blas_before.clear()


def _apply() -> None:
    for library, before in _blas_before.values():
        wanted = min([before, *_blas_limits])
        if library.num_threads != wanted:
            library.set_num_threads(wanted)


def available_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """The number of threads that a caller asked for, by default one a core. Raises ConfigError below 1."""
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    return available_threads() if threads is None else threads


@contextmanager
def threads_of_a_generator(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that end with the generator that asks for them; what has not begun by then is left undone.

    The thread that took the first item waits for them. Any other does not: garbage collection closes a generator on
    whatever thread it happens to run, one of these included, and that one would wait for itself.
    """
    consumer = threading.get_ident()
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=threading.get_ident() == consumer, cancel_futures=True)
