"""Processes that torchrun or SLURM has started, joined by torch.distributed.

They exchange bytes without pickle, by gloo: over the network and never over a GPU. Lightning finds the processes
joined and trains in them; there NCCL carries the gradients of GPUs.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
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
"""Exit status of a process that stops because another one has failed and reported it."""

CHUNK = 1 << 26
"""Most bytes of one message: 64 MiB."""

WORK_TIMEOUT = timedelta(days=1)
"""Time that one process may work while others wait; one that ends is noticed at once."""

START_TIMEOUT = timedelta(minutes=10)
"""Time that processes wait for each other at the start."""


class Processes:
    """The processes of this job, as `lit_od.runtime.processes.Group`.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        device: Number of this process on its machine.
        local_size: Number of processes on its machine.
    """

    def __init__(self, where: Place) -> None:
        """Join the other processes, which do the same.

        torch.distributed must have been initialised.

        Args:
            where: Place of this process.
        """
        self.rank, self.size = where.rank, where.size
        self.device, self.local_size = where.local_rank, where.local_size
        group = distributed.new_group(backend="gloo", timeout=WORK_TIMEOUT)
        self._group = group if isinstance(group, distributed.ProcessGroup) else None  # every process is in it

    def gather(self, part: bytes) -> Iterator[bytes]:
        """Yield the parts of all processes in the order of ranks; none unless of rank 0.

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
        """Return the bytes of rank 0 in every process; other bytes are ignored.

        Raises:
            ConnectionError: If another process has ended.
        """
        with _peers():
            size = torch.tensor([len(data)])
            distributed.broadcast(size, 0, group=self._group)
            buffer = bytearray(data if self.rank == 0 else int(size))
            for chunk in _chunks(buffer):
                distributed.broadcast(chunk, 0, group=self._group)
        return bytes(buffer) if self.rank else data

    def wait(self) -> None:
        """Return once all processes have called this."""
        with _peers():
            distributed.barrier(group=self._group)

    def _send(self, data: bytes) -> None:
        distributed.send(torch.tensor([len(data)]), 0, group=self._group)
        for chunk in _chunks(bytearray(data)):
            distributed.send(chunk, 0, group=self._group)

    def _receive(self, rank: int) -> bytes:
        size = torch.zeros(1, dtype=torch.int64)
        distributed.recv(size, rank, group=self._group)
        data = bytearray(int(size))
        for chunk in _chunks(data):
            distributed.recv(chunk, rank, group=self._group)
        return bytes(data)


def _chunks(data: bytearray) -> Sequence[torch.Tensor]:
    """Return tensors over the bytes, of at most CHUNK; they share the memory."""
    return torch.split(torch.frombuffer(data, dtype=torch.uint8), CHUNK) if data else ()


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Raise a ConnectionError of one line where torch finds that a peer has ended."""
    try:
        yield
    except RuntimeError as error:
        raise lost() from error


def lost() -> ConnectionError:
    """Return the error of a process whose peer has ended."""
    return ConnectionError("another process of this job has ended: start the job again, a training with --resume")


_joined: list[tuple[object, Processes]] = []
"""The joined processes with torch's default group; another group makes them stale."""


def process_group() -> Group:
    """Return the processes that `run_distributed` or Lightning joined, else ALONE."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return ALONE
    default = distributed.group.WORLD
    if not _joined or _joined[0][0] is not default:
        _joined[:] = [(default, Processes(place() or _lightning_place()))]
    return _joined[0][1]


def _lightning_place() -> Place:
    """Return the place that Lightning's launcher gave this process, on one machine."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    return Place(rank, world, int(os.environ.get("LOCAL_RANK", rank)), world)


def run_distributed(where: Place, work: Callable[[Group], int]) -> int:
    """Join the other processes, do the work, and leave them.

    The process that fails first raises its error and alone reports it; the others end with it.

    Args:
        where: Place of this process.
        work: The work, given the processes; it returns an exit status.

    Returns:
        The exit status of this process.
    """
    environment(where)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, world = next(rendezvous("env://", timeout=START_TIMEOUT))
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    group = process_group()
    try:
        status = work(group)
        if isinstance(group, Processes):
            group.wait()
    except (Exception, KeyboardInterrupt):
        if _is_first_failure(store):
            raise
        return REFUSED
    distributed.destroy_process_group()
    return status


def _is_first_failure(store: Store) -> bool:
    """Return True in the process that failed first, which alone reports it."""
    try:
        return bool(store.add("lit_od/failed", 1) == 1)
    except RuntimeError:  # the store ended with the process that failed
        return False


def environment(where: Place | None) -> ClusterEnvironment | None:
    """Return the environment that tells Lightning of the processes.

    In a job of SLURM Lightning would take a lone process for one of all tasks, and requeue the job at a signal.

    Args:
        where: Place of this process; None if it is alone.

    Returns:
        The environment; None where torchrun has started a single process, which Lightning finds itself.
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
    """Return the number of CUDA devices of this machine."""
    return torch.cuda.device_count()
