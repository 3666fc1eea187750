"""Divide images between processes such that their number changes no result.

A shard is a run of consecutive images that begins and ends where one process would begin and end a batch. So the
graph is given the same batches whatever the number of processes, a shard's features are the same to the bit, and
the shards in the order of the ranks are the data in their order.
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
    """Return the row numbers of one shard of several.

    Together the shards hold each row once; some may be empty.

    Args:
        rows: Images in all.
        part: Number of the shard, counted from 0.
        parts: Number of shards.
    """
    # a few last images go with the batch before them: alone they would run on another session
    blocks = max(1, -(-(rows - GRAPH_BATCH) // BATCH_SIZE))

    def edge(number: int) -> int:
        block = number * blocks // parts
        return rows if block == blocks else block * BATCH_SIZE

    return range(edge(part), edge(part + 1))


def own_shard(rows: int, group: Group) -> range:
    """Return the row numbers of this process' shard."""
    return shard(rows, group.rank, group.size)


def own_threads(threads: int | None, group: Group) -> int | None:
    """Return the threads of this process; None is one a core.

    Processes of one machine divide its cores, unless threads are given.
    """
    if threads is not None or group.local_size == 1:
        return threads
    return max(1, available_threads() // group.local_size)


def all_gather(rows: NDArray[T], group: Group) -> NDArray[T]:
    """Return the rows of all processes in the order of ranks, in every process.

    Args:
        rows: Rows of this process, shape (m, ...).
        group: The processes.

    Returns:
        Shape (n, ...).
    """
    if group.size == 1:
        return rows
    parts = [safetensors.load(part)["rows"] for part in group.gather(safetensors.save({"rows": rows}))]
    whole = np.concatenate([part for part in parts if len(part)] or [rows]) if parts else rows
    return safetensors.load(group.broadcast(safetensors.save({"rows": whole})))["rows"]
