"""Processes that torchrun or SLURM has started, joined by torch.distributed: bytes from one to another, no pickle.

What they exchange goes by gloo, over the network and never over a GPU. Lightning finds the processes joined
and trains in them; there NCCL carries the gradients of GPUs.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import distributed
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from lit_od.runtime.processes import ALONE, Group, Place, place

REFUSED = 2
"""Exit status of a process that stops because another one has, and has said why."""

CHUNK = 1 << 26
"""Bytes that travel at once: 64 MiB."""

PATIENCE = timedelta(days=1)
"""How long one process may work while others wait; one that ends is noticed at once."""

MEETING = timedelta(minutes=10)
"""How long processes wait for each other at the start."""


class Processes:
    """The processes of this job, as `lit_od.runtime.processes.Group`.

    Attributes:
        rank: Number of this process.
        size: How many there are.
        device: Number of this process on its machine.
        local_size: How many there are on its machine.
    """

    def __init__(self, where: Place) -> None:
        """Join the others, who do the same; torch.distributed has been initialised."""
        self.rank, self.size = where.rank, where.size
        self.device, self.local_size = where.local_rank, where.local_size
        group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        self._group = group if isinstance(group, distributed.ProcessGroup) else None  # every process is in it

    def gather(self, part: bytes) -> Iterator[bytes]:
        """In the first process the parts of all, in the order of their ranks, one at a time; in others none.

        Raises:
            ConnectionError: If another process has ended.
        """
        if self.rank:
            with _peers():
                self._send(part)
            return
        yield part
        for rank in range(1, self.size):
            with _peers():
                other = self._receive(rank)
            yield other

    def broadcast(self, data: bytes) -> bytes:
        """The first process' bytes, in all; what others give is not looked at.

        Raises:
            ConnectionError: If another process has ended.
        """
        with _peers():
            size = torch.tensor([len(data)])
            distributed.broadcast(size, 0, group=self._group)
            chunks = []
            for chunk in self._chunks(data if self.rank == 0 else None, int(size)):
                distributed.broadcast(chunk, 0, group=self._group)
                if self.rank:
                    chunks.append(chunk.numpy().tobytes())
        return b"".join(chunks) if self.rank else data

    def wait(self) -> None:
        """Return once all have come here."""
        with _peers():
            distributed.barrier(group=self._group)

    def _send(self, data: bytes) -> None:
        distributed.send(torch.tensor([len(data)]), 0, group=self._group)
        for chunk in self._chunks(data, len(data)):
            distributed.send(chunk, 0, group=self._group)

    def _receive(self, rank: int) -> bytes:
        size = torch.zeros(1, dtype=torch.int64)
        distributed.recv(size, rank, group=self._group)
        data = bytearray(int(size))
        for start in range(0, len(data), CHUNK):
            chunk = torch.frombuffer(data, dtype=torch.uint8, offset=start, count=min(CHUNK, len(data) - start))
            distributed.recv(chunk, rank, group=self._group)
        return bytes(data)

    def _chunks(self, data: bytes | None, size: int) -> Iterator[torch.Tensor]:
        """The bytes in tensors of at most CHUNK; room for as many where there are none yet."""
        for start in range(0, size, CHUNK):
            if data is None:
                yield torch.empty(min(CHUNK, size - start), dtype=torch.uint8)
            else:
                yield torch.frombuffer(bytearray(data[start : start + CHUNK]), dtype=torch.uint8)


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Say in one line that another process has ended, where torch would tell it from the inside."""
    try:
        yield
    except RuntimeError as error:
        raise lost() from error


def lost() -> ConnectionError:
    """The error of a process whose peer is gone."""
    return ConnectionError("another process of this job has ended: start the job again, a training with --resume")


_joined: list[tuple[object, Processes]] = []
"""The processes, by torch's default group, for as long as that one is theirs."""


def process_group() -> Group:
    """The processes that are joined now, by `together` or by Lightning; ALONE where none are."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return ALONE
    default = distributed.group.WORLD
    if not _joined or _joined[0][0] is not default:
        _joined[:] = [(default, Processes(place() or _of_lightning()))]
    return _joined[0][1]


def _of_lightning() -> Place:
    """Where Lightning's own launcher has put this process, on one machine."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    return Place(rank, world, int(os.environ.get("LOCAL_RANK", rank)), world)


def run_distributed(where: Place, work: Callable[[Group], int]) -> int:
    """Join the other processes, do the work, and part; the exit status.

    An error is raised in the process that meets one first, and it alone will say so; the others end with it.
    """
    environment(where)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, world = next(rendezvous("env://", timeout=MEETING))
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    group = process_group()
    try:
        status = work(group)
        if isinstance(group, Processes):
            group.wait()
    except (Exception, KeyboardInterrupt):
        if _speaks(store):
            raise
        return REFUSED
    distributed.destroy_process_group()
    return status


def _speaks(store: Store) -> bool:
    """Whether this process is the first to ask: of several that fail, one says why."""
    try:
        return bool(store.add("lit_od/failed", 1) == 1)
    except RuntimeError:  # the store has gone with the process that has failed
        return False


def environment(where: Place | None) -> ClusterEnvironment | None:
    """What Lightning needs to know of the processes; None where torchrun has started one, and it finds out itself.

    In a job of SLURM it would take a lone process for one of all tasks, and have the job queued again at a signal.
    """
    if where is None:
        return None if TorchElasticEnvironment.detect() else LightningEnvironment()
    if where.slurm:
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
        os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
        job, step = (int(os.environ.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP"))
        os.environ.setdefault("MASTER_PORT", str(15000 + (job + 997 * step) % 10000))  # jobs on one machine differ
        os.environ |= {
            "RANK": str(where.rank),
            "WORLD_SIZE": str(where.size),
            "LOCAL_RANK": str(where.local_rank),
            "LOCAL_WORLD_SIZE": str(where.local_size),
            "GROUP_RANK": str(where.rank // where.local_size),
        }
    return TorchElasticEnvironment()


def gpus() -> int:
    """CUDA devices of this machine."""
    return torch.cuda.device_count()
