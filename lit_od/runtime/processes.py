"""The processes of one job: rank, world size, and how they exchange bytes."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from lit_od.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """Rank and world size of this process.

    Attributes:
        rank: Number of this process, counted from 0.
        size: Number of processes of the job.
        local_rank: Number of this process on its machine, counted from 0.
        local_size: Number of processes on this machine.
        slurm: True if SLURM started the processes.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    slurm: bool = False


def place(environment: Mapping[str, str] | None = None) -> Place | None:
    """Return the place that torchrun or srun gave this process; None if it is alone.

    Args:
        environment: Environment variables; None takes those of this process.

    Raises:
        ConfigError: If SLURM's machines have different numbers of processes.
    """
    variables = os.environ if environment is None else environment
    torchrun = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if all(name in variables for name in torchrun):
        rank, world, local_rank, local_size = (int(variables[name]) for name in torchrun)
        found = Place(rank, world, local_rank, local_size)
        return found if found.size > 1 else None
    # srun's own variables: a batch script has the job's as well, where there is one process
    world = int(variables.get("SLURM_STEP_NUM_TASKS", "1"))
    if world == 1 or not {"SLURM_PROCID", "SLURM_LOCALID"} <= variables.keys():
        return None
    tasks = variables.get("SLURM_STEP_TASKS_PER_NODE", str(world))
    if (each := re.fullmatch(r"(\d+)(\(x\d+\))?", tasks)) is None:
        raise ConfigError(f"every machine must have as many processes, SLURM has {tasks}: set --ntasks-per-node")
    return Place(int(variables["SLURM_PROCID"]), world, int(variables["SLURM_LOCALID"]), int(each[1]), slurm=True)


def is_first() -> bool:
    """Return True if this process is the first or only one of its job.

    The first one speaks for all where all come to the same result.
    """
    found = place()
    return found is None or found.rank == 0


class Group(Protocol):
    """Processes of one job; all of them call the same methods in the same order."""

    @property
    def rank(self) -> int:
        """Number of this process, counted from 0; the first one writes and prints."""
        ...

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    @property
    def device(self) -> int | None:
        """Number of this process on its machine, and of its GPU; None if it is alone."""
        ...

    @property
    def local_size(self) -> int:
        """Processes on this machine."""
        ...

    def gather(self, part: bytes) -> Iterator[bytes]:
        """Yield the parts of all processes by rank in the first process, none in others."""
        ...

    def broadcast(self, data: bytes) -> bytes:
        """Return the first process' bytes in all processes."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """The only process of its job."""

    rank: int = 0
    size: int = 1
    device: int | None = None
    local_size: int = 1

    def gather(self, part: bytes) -> Iterator[bytes]:
        """Yield the only part."""
        yield part

    def broadcast(self, data: bytes) -> bytes:
        """Return the bytes unchanged."""
        return data


ALONE = Alone()
