"""Which images a process works on, and what processes tell each other: results do not depend on how many there are.

A share is a run of consecutive images that begins and ends where one process would begin and end a batch.
So the graph is given the same batches whatever the number of processes, a share's features are the same to
the bit, and shares laid end to end are the data in their order.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lit_od.backbone.extractor import BATCH_SIZE
from lit_od.formats import safetensors_file as safetensors
from lit_od.images.batching import GRAPH_BATCH
from lit_od.runtime.processes import Group
from lit_od.runtime.threads import available_threads

T = TypeVar("T", bound=np.generic)


def shard(rows: int, part: int, parts: int) -> range:
    """Row numbers of one share of several: none is repeated, none is left out, some shares may be empty.

    Args:
        rows: Images in all.
        part: Number of the share, counted from 0.
        parts: Number of shares.
    """
    # A few last images go with the batch before them: alone they would run on another session.
    blocks = max(1, -(-(rows - GRAPH_BATCH) // BATCH_SIZE))

    def edge(number: int) -> int:
        block = number * blocks // parts
        return rows if block == blocks else block * BATCH_SIZE

    return range(edge(part), edge(part + 1))


def own_shard(rows: int, group: Group) -> range:
    """Row numbers of this process' share."""
    return shard(rows, group.rank, group.size)


def own_threads(threads: int | None, group: Group) -> int | None:
    """Threads of this process: those that were asked for, else its part of the machine's cores."""
    if threads is not None or group.local_size == 1:
        return threads
    return max(1, available_threads() // group.local_size)


def all_gather(rows: NDArray[T], group: Group) -> NDArray[T]:
    """Return the rows of all processes in the order of their ranks, shape (n, ...), in every process."""
    if group.size == 1:
        return rows
    parts = [safetensors.load(part)["rows"] for part in group.gather(safetensors.save({"rows": rows}))]
    whole = np.concatenate([part for part in parts if len(part)] or [rows]) if parts else rows
    return safetensors.load(group.broadcast(safetensors.save({"rows": whole})))["rows"]
