"""Limits on the threads that numpy's BLAS and FAISS use.

ONNX Runtime and the decoders are given their threads when they are made; OpenMP, which FAISS uses, and
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
from lit_od.runtime.stopping import Stopper, stop_with, stopped_along

if TYPE_CHECKING:
    from threadpoolctl import LibController, ThreadpoolController

_LOCK = threading.Lock()
_blas_limits: list[int] = []
"""Limits in force, one a caller; BLAS has one for the process."""
_blas_before: "dict[str, tuple[LibController, int]]" = {}
"""BLAS libraries by file with their numbers of threads from before, while limits are in force."""


_CALLER = threading.local()
"""Holds `allowed`, the limit in force on this thread."""


def allowed_threads() -> int:
    """Return the limit in force on the calling thread, or one thread a core."""
    allowed: int | None = getattr(_CALLER, "allowed", None)
    return available_threads() if allowed is None else allowed


@contextlib.contextmanager
def limited(threads: int | None, *, blas: int | None = None) -> Iterator[None]:
    """Limit the threads of FAISS, BLAS and searches of memory banks.

    Several threads may be inside at once. OpenMP's limit is each thread's own; of BLAS' limits the
    smallest holds, and the last thread to leave restores the number from before.

    Args:
        threads: Largest number of threads a call; None, and a number of at least one a core, change nothing.
        blas: Largest number of BLAS' threads, if smaller: they keep their cores for a while after each product, which
            a graph that runs next would wait for.
    """
    most = available_threads()
    threads = most if threads is None else min(threads, most)
    of_blas = threads if blas is None else min(blas, threads)
    if of_blas >= most:
        yield
        return
    # FAISS has loaded its OpenMP once its import has ended
    loaded = (hasattr(sys.modules.get("faiss"), "knn"), *(name in sys.modules for name in ("scipy.linalg", "torch")))
    openmp, libraries = _pools(loaded)
    before, allowed = getattr(_CALLER, "allowed", None), min(threads, allowed_threads())
    _CALLER.allowed = allowed
    with openmp.limit(limits=None if allowed >= most else allowed):  # a number that limits nothing raises nothing
        _enter(libraries, of_blas)
        try:
            yield
        finally:
            _leave(of_blas)
            _CALLER.allowed = before


@cache
def _pools(loaded: tuple[bool, ...]) -> "tuple[ThreadpoolController, ThreadpoolController]":
    """Find the loaded OpenMP and BLAS; FAISS, SciPy and torch bring their own."""
    from threadpoolctl import ThreadpoolController  # imported late: only needed with a limit

    del loaded  # only the cache's key: the libraries differ once one of the packages is loaded
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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """Return a checked number of threads, one a core for None.

    Raises ConfigError below 1.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    return available_threads() if threads is None else threads


@contextmanager
def threads_of_a_generator(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool that ends with the generator.

    Waiting work is dropped, and graphs that run are stopped; the stopper of the thread that took the first item stops
    them too.

    The thread that took the first item waits for the pool. Any other does not: garbage collection closes a
    generator on any thread, one of the pool's included, and that one would wait for itself.

    Args:
        count: Number of threads.
        name: Prefix of their names.
    """
    consumer = threading.get_ident()
    stopper = Stopper()
    with stopped_along(stopper):
        pool = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=stop_with, initargs=(stopper,))
        try:
            yield pool
        finally:
            stopper.stop()
            pool.shutdown(wait=threading.get_ident() == consumer, cancel_futures=True)
