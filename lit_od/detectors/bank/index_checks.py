"""Checks of FAISS indexes that come from strangers, before they are searched.

FAISS' reader checks most of what it reads, and not all. Without limits it allocates whatever size a few
bytes name; it takes over search settings that make a search last for ever; a random hyperplane index
(LSH) with a few bytes changed ends the process. So its limits are set to the size of the bytes at hand,
kinds of index that have not stood up to mutation are refused, and the others must be what their factory
string makes, part by part, before they are searched.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError, DataError

MAX_FACTORY = 256
"""Characters of a factory string that is read from a bundle."""

MAX_COUNT = 1 << 24
"""Largest count in a factory string."""

MAX_BITS = 16
"""Most bits of a code in a factory string; FAISS allocates a table of 2 to that number for each."""

MAX_LINKS = 1024
"""Most links of a graph's node; FAISS allocates twice as many for each row."""

_READ = frozenset(
    "Flat HNSWFlat HNSWSQ HNSWPQ IVFFlat IVFScalarQuantizer IVFPQ IVFPQFastScan NSGFlat PQ ScalarQuantizer "
    "PreTransform RefineFlat".split()
)
"""The kinds of index, and of parts of one, that are read from bytes; FAISS puts "Index" before each."""

_QUANTIZERS = {"pq": ("d", "M", "nbits", "dsub", "ksub", "code_size"), "sq": ("d", "qtype", "code_size", "bits")}
"""Attributes of product and scalar quantizers that the factory string fixes."""

_FIXED = ("d", "metric_type", "code_size", "nlist")
"""Attributes of an index that the factory string fixes; training does not change them."""

_SETTINGS = ("nprobe", "max_codes", "k_factor", "polysemous_ht", "search_type", "implem", "implem2", "qbs", "qb")
"""Search settings of a part; those of graphs lie one step deeper."""

_GRAPH_SETTINGS = {"hnsw": "efSearch", "nsg": "search_L"}

_INNER = ("index", "quantizer", "base_index", "refine_index", "storage")
"""The indexes within an index."""


def check_sound(factory: str) -> None:
    """Check that no number of a factory string would crash FAISS.

    FAISS divides by a count of zero or reads beyond its memory, for graphs of one link a node too, and allocates
    whatever a count says.

    Args:
        factory: FAISS' factory string.

    Raises:
        ConfigError: If it has a count of zero, a count above `MAX_COUNT`, codes of more than `MAX_BITS` bits, or a
            graph of fewer than 2 or more than `MAX_LINKS` links a node.
    """
    counts = [int(digits[:20]) for digits in re.findall(r"\d+", factory)]
    links = [int(digits[:20]) for digits in re.findall(r"(?:HNSW|NSG|NNDescent)(\d+)", factory)]
    if len(factory) > MAX_FACTORY or any(not 1 <= count <= MAX_COUNT for count in counts):
        raise ConfigError(
            f"index={factory[:MAX_FACTORY]!r}: wanted counts from 1 to {MAX_COUNT:,} in at most {MAX_FACTORY} "
            "characters, as in HNSW32 or IVF256,Flat"
        )
    if any(int(bits) > MAX_BITS for bits in re.findall(r"\dx(\d{1,4})", factory)):
        raise ConfigError(f"index={factory!r}: wanted codes of at most {MAX_BITS} bits, as in PQ8x8")
    if any(not 2 <= count <= MAX_LINKS for count in links):
        raise ConfigError(f"index={factory!r}: wanted from 2 to {MAX_LINKS} links a node of a graph, as in HNSW32")


def check_modest(factory: str, rows: int, width: int) -> None:
    """Check that an empty index of this kind is not too large for the bank.

    Args:
        factory: FAISS' factory string.
        rows: Rows in the bank: an index has been trained on them, so it has no more lists or centroids.
        width: Features a row.

    Raises:
        DataError: If it is.
    """
    most = max(rows, 8 * width, 1024)
    numbers = [int(digits[:10]) for digits in re.findall(r"\d+", factory)]
    centroids = [
        int(tables or 1) * int(bits) if name == "IMI" else int(bits)
        for name, tables, bits in re.findall(r"(IMI)?(\d{0,3})x(\d{1,4})", factory)
    ]
    if len(factory) > MAX_FACTORY or max(numbers, default=0) > most or 2 ** max(centroids, default=0) > most:
        raise DataError(f"index={factory[:MAX_FACTORY]!r} is no index for a bank of {rows} rows of {width} features")


def check_settings(search: Any, rows: int) -> None:
    """Raise DataError if a search would visit far more than the bank, or nothing."""
    most = max(rows, 4096)
    for name, value in (search or {}).items():
        if not 1 <= value <= most:
            raise DataError(f"search setting {name} must lie in 1..{most} for a bank of {rows} rows, got {value!r}")


@contextmanager
def bounded_by(size: int) -> Iterator[None]:
    """Bound what FAISS' reader allocates at once by the size of its input.

    The caller holds FAISS' switches.
    """
    import faiss

    limits = {"vector_byte_limit": 2 * size + 4096, "loop_limit": size + 64}
    before = {name: getattr(faiss, f"get_deserialization_{name}")() for name in limits}
    try:
        for name, value in limits.items():
            getattr(faiss, f"set_deserialization_{name}")(value)
        yield
    finally:
        for name, value in before.items():
            getattr(faiss, f"set_deserialization_{name}")(value)


def check_like(index: Any, wanted: Any, rows: int, factory: str) -> None:
    """Check that an index is one that its factory string makes.

    Its lists must name rows of the bank, none twice.

    Args:
        index: The index that was read.
        wanted: An empty index by the factory string, with the same search settings.
        rows: Rows in the bank.
        factory: The factory string.

    Raises:
        DataError: If it is another.
    """
    import faiss

    index, wanted = faiss.downcast_index(index), faiss.downcast_index(wanted)
    if _kind(wanted).__name__.removeprefix("Index") not in _READ:
        raise DataError(
            f"index={factory!r} makes a {type(wanted).__name__}, which is not read from a bundle: "
            "use flat, or HNSW, IVF, PQ or SQ"
        )
    if _kind(index) is not _kind(wanted):
        raise _unlike(factory, f"a {type(wanted).__name__} ({factory})", f"a {type(index).__name__}")
    if index.ntotal != rows:
        raise _unlike(factory, f"{rows} rows", str(index.ntotal))
    for name in _FIXED:
        if hasattr(wanted, name) and getattr(index, name) != getattr(wanted, name):
            raise _unlike(factory, f"{name} {getattr(wanted, name)}", str(getattr(index, name)))
    if not index.is_trained:
        raise _unlike(factory, "trained", "untrained")
    _check_codes(index, wanted, factory)
    _check_searched_alike(index, wanted, factory)
    if hasattr(wanted, "chain"):
        _check_chain(index, wanted, factory)
    for name in _INNER:
        if hasattr(wanted, name) and getattr(wanted, name) is not None:
            if getattr(index, name) is None:
                raise _unlike(factory, f"a {name}", "none")
            check_like(
                getattr(index, name),
                getattr(wanted, name),
                index.nlist if name == "quantizer" else rows,
                factory,
            )
    if hasattr(index, "invlists"):
        _check_lists(index, rows, factory)


def _kind(index: Any) -> type[Any]:
    """Return the class of an index; flat ones change theirs on the way to bytes."""
    import faiss

    return faiss.IndexFlat if type(index) in (faiss.IndexFlatL2, faiss.IndexFlatIP) else type(index)


def _check_searched_alike(index: Any, wanted: Any, factory: str) -> None:
    pairs = [(name, index, wanted) for name in _SETTINGS if hasattr(wanted, name)]
    pairs += [
        (setting, getattr(index, graph), getattr(wanted, graph))
        for graph, setting in _GRAPH_SETTINGS.items()
        if hasattr(wanted, graph)
    ]
    for name, part, model in pairs:
        got, want = getattr(part, name), getattr(model, name)
        if got != want:
            raise DataError(
                f"the FAISS index cannot be searched: its {name} is {got}, by {factory!r} it is {want}; fit it anew"
            )


def _check_codes(index: Any, wanted: Any, factory: str) -> None:
    """Raise DataError unless codes and their decoders have the sizes they need."""
    for quantizer, names in _QUANTIZERS.items():
        if hasattr(wanted, quantizer):
            part, model = getattr(index, quantizer), getattr(wanted, quantizer)
            for name in names:
                if getattr(part, name) != getattr(model, name):
                    raise _unlike(factory, f"{name} {getattr(model, name)}", str(getattr(part, name)))
    if hasattr(wanted, "pq") and index.pq.centroids.size() != index.pq.d * index.pq.ksub:
        raise _unlike(factory, f"{index.pq.d * index.pq.ksub} centroids", str(index.pq.centroids.size()))
    if hasattr(wanted, "codes") and index.codes.size() != index.ntotal * index.code_size:
        raise _unlike(factory, f"{index.ntotal * index.code_size} bytes of codes", str(index.codes.size()))


def _check_chain(index: Any, wanted: Any, factory: str) -> None:
    """Raise DataError unless the transforms before an index have the right widths."""
    import faiss

    got, want = (
        [(chain.at(row).d_in, chain.at(row).d_out) for row in range(chain.size())]
        for chain in (index.chain, wanted.chain)
    )
    if got != want:
        raise _unlike(factory, f"transforms of widths {want}", str(got[:4]))
    for row, (width, out) in enumerate(got):
        step = faiss.downcast_VectorTransform(index.chain.at(row))
        if isinstance(step, faiss.LinearTransform):
            sizes, fit = (step.A.size(), step.b.size()), (width * out, out if step.have_bias else step.b.size())
            if sizes != fit:
                raise _unlike(factory, f"a matrix and a shift of sizes {fit}", str(sizes))


def _check_lists(index: Any, rows: int, factory: str) -> None:
    """Raise DataError unless the inverted lists hold rows of the bank, none twice."""
    import faiss

    lists = index.invlists
    if lists is None or lists.nlist != index.nlist:
        raise _unlike(factory, f"{index.nlist} lists", "others")
    sizes = [lists.list_size(row) for row in range(lists.nlist)]
    held = np.zeros(rows, dtype=bool)
    for row, size in enumerate(sizes):
        if size:
            ids: NDArray[np.int64] = faiss.rev_swig_ptr(lists.get_ids(row), size)
            if ids.min() < 0 or ids.max() >= rows:
                raise DataError("the FAISS index names rows that the bank does not hold; fit the detector anew")
            held[ids] = True
    if sum(sizes) != np.count_nonzero(held):
        raise _unlike(factory, "each row once", "some twice")


def _unlike(factory: str, wanted: str, got: str) -> DataError:
    return DataError(
        f"array 'index' of the state must be as {factory!r} makes it: wanted {wanted}, got {got}; fit the detector anew"
    )
