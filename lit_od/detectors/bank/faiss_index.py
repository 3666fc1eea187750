"""FAISS proposes candidates here; others decide by exact distances.

FAISS is imported when it is first used, since importing it costs a fifth of a second.
"""

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.bank import index_checks
from lit_od.errors import ConfigError, DataError

_SWITCHES = threading.Lock()
"""FAISS' switches belong to the whole process: code that sets them holds this lock, and sets them back."""


_forked = False
"""True in a process forked from one with FAISS: it lacks OpenMP's threads, for which a search on several would wait."""


def _begin_forked() -> None:
    global _SWITCHES, _forked
    _SWITCHES, _forked = threading.Lock(), "faiss" in sys.modules


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_forked)


def _faiss() -> Any:
    """Import FAISS, with one thread in a forked process."""
    import faiss

    if _forked:
        faiss.omp_set_num_threads(1)
    return faiss


def is_flat(factory: str) -> bool:
    """Return True if a factory string asks for exhaustive search, without index."""
    return factory.lower() == "flat"


def check_factory(factory: str, width: int, search: Mapping[str, float] | None) -> None:
    """Check that FAISS can make an index.

    Args:
        factory: FAISS' factory string.
        width: Features a row.
        search: Search settings by name.

    Raises:
        ConfigError: If it cannot, or a search setting does not exist.
    """
    if is_flat(factory):
        return
    faiss = _faiss()
    index_checks.check_sound(factory)
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_L2)
    except (RuntimeError, MemoryError) as error:
        raise ConfigError(
            f"index={factory!r} is no FAISS factory string for {width} features: {_reason(error)}"
        ) from error
    _set(index, factory, search)


def build(factory: str, rows: NDArray[np.float32], search: Mapping[str, float] | None) -> Any:
    """Return a trained index.

    Args:
        factory: FAISS' factory string.
        rows: Shape (m, d).
        search: Search settings by name.

    Raises:
        ConfigError: If the factory string or a search setting does not exist.
        DataError: If there are too few rows to train it.
    """
    faiss = _faiss()

    index_checks.check_sound(factory)
    index_checks.check_modest(factory, *rows.shape)  # before FAISS allocates what the string says
    check_factory(factory, rows.shape[1], search)
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_L2)
    threads = faiss.omp_get_max_threads()
    try:
        # Several threads link a graph's nodes in an order that differs from run to run.
        if any(graph in factory for graph in ("HNSW", "NSG", "NNDescent")):
            faiss.omp_set_num_threads(1)
        index.train(rows)
        index.add(rows)
    except (RuntimeError, MemoryError) as error:
        raise DataError(
            f"index={factory!r} cannot be trained on {len(rows)} rows: {_reason(error)}. "
            "Pass more images, or index='flat'."
        ) from error
    finally:
        faiss.omp_set_num_threads(threads)
    _set(index, factory, search)
    return index


def to_bytes(index: Any) -> NDArray[np.uint8]:
    """Return FAISS' own serialisation, shape (bytes,)."""
    faiss = _faiss()

    serialised: NDArray[np.uint8] = faiss.serialize_index(index)
    return serialised


def from_bytes(
    serialised: NDArray[np.uint8], factory: str, rows: int, width: int, search: Mapping[str, float] | None
) -> Any:
    """Return the index of a bank, after checking it against the bank.

    Args:
        serialised: FAISS' own serialisation, shape (bytes,).
        factory: FAISS' factory string.
        rows: Rows in the bank.
        width: Features a row.
        search: Search settings by name.

    Raises:
        ConfigError: If the factory string or a search setting does not exist.
        DataError: If the bytes are no such index.
    """
    faiss = _faiss()

    index_checks.check_modest(factory, rows, width)
    index_checks.check_settings(search, rows)
    check_factory(factory, width, search)
    try:
        with _SWITCHES, index_checks.bounded_by(serialised.size):
            index = faiss.deserialize_index(serialised)
    except (RuntimeError, MemoryError, ValueError) as error:
        raise DataError(
            f"array 'index' of the state is no FAISS index: {_reason(error)}; fit the detector anew"
        ) from error
    wanted = faiss.index_factory(width, factory, faiss.METRIC_L2)
    if type(index) is not type(wanted) or index.metric_type != wanted.metric_type:
        raise DataError(
            f"array 'index' of the state must be a {type(wanted).__name__} ({factory}), "
            f"got a {type(index).__name__}; fit the detector anew"
        )
    if (index.ntotal, index.d, bool(index.is_trained)) != (rows, width, True):
        raise DataError(
            f"array 'index' of the state must hold {rows} rows of {width} features, as the bank does, "
            f"got {index.ntotal} of {index.d}; fit the detector anew"
        )
    _set(index, factory, search)
    _set(wanted, factory, search)
    index_checks.check_like(index, wanted, rows, factory)
    return index


def propose(index: Any, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return row numbers of candidates from a trained index, shape (n, count).

    Args:
        index: The index.
        queries: Shape (n, d).
        count: Candidates a query; -1 stands where the index finds no more.

    Raises:
        DataError: If FAISS cannot search the index.
    """
    _faiss()
    try:
        ids: NDArray[np.int64] = index.search(queries, count)[1]
    except (RuntimeError, MemoryError) as error:
        raise DataError(f"the FAISS index cannot be searched: {_reason(error)}; fit it anew") from error
    return ids


def _set(index: Any, factory: str, search: Mapping[str, float] | None) -> None:
    faiss = _faiss()

    for name, value in (search or {}).items():
        try:
            faiss.ParameterSpace().set_index_parameter(index, name, value)
        except RuntimeError as error:
            raise ConfigError(
                f"index={factory!r} has no search setting {name!r}: HNSW has efSearch, IVF nprobe"
            ) from error


def _reason(error: BaseException) -> str:
    """Return FAISS' message in one line, without the position in its source."""
    return " ".join(str(error).rsplit(": ", 1)[-1].split()).rstrip(".") or type(error).__name__
