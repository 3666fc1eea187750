"""The processes of one job: rank, world size, and how they exchange bytes."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from lit_od.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process stands among those of its job.

    Attributes:
        rank: Its number, counted from 0.
        size: How many there are.
        local_rank: Its number on its machine.
        local_size: How many there are on its machine.
        slurm: Whether SLURM has started them.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    slurm: bool = False


def place(environment: Mapping[str, str] | None = None) -> Place | None:
    """Where torchrun or SLURM's srun has put this process; None where neither has started several.

    Raises:
        ConfigError: If SLURM's machines have different numbers of processes.
    """
    given = os.environ if environment is None else environment
    torchrun = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if all(name in given for name in torchrun):
        rank, world, local_rank, local_size = (int(given[name]) for name in torchrun)
        found = Place(rank, world, local_rank, local_size)
        return found if found.size > 1 else None
    # srun's own variables: a batch script has the job's as well, where there is one process
    world = int(given.get("SLURM_STEP_NUM_TASKS", "1"))
    if world == 1 or not {"SLURM_PROCID", "SLURM_LOCALID"} <= given.keys():
        return None
    tasks = given.get("SLURM_STEP_TASKS_PER_NODE", str(world))
    if (each := re.fullmatch(r"(\d+)(\(x\d+\))?", tasks)) is None:
        raise ConfigError(f"every machine must have as many processes, SLURM has {tasks}: set --ntasks-per-node")
    return Place(int(given["SLURM_PROCID"]), world, int(given["SLURM_LOCALID"]), int(each[1]), slurm=True)


def is_first() -> bool:
    """Whether this process is the first or only one of its job: it speaks for all where all find the same."""
    where = place()
    return where is None or where.rank == 0


class Group(Protocol):
    """Processes that do one job together; all of them call the same methods in the same order."""

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
        """Number of this process among those of its machine, and of the GPU that is its own; None of one alone."""
        ...

    @property
    def local_size(self) -> int:
        """Processes on this machine."""
        ...

    def gather(self, part: bytes) -> Iterator[bytes]:
        """In the first process the parts of all, in the order of their ranks, one at a time; in others none."""
        ...

    def broadcast(self, data: bytes) -> bytes:
        """The first process' bytes, in all; what others give is not looked at."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """A process that nobody shares its work with."""

    rank: int = 0
    size: int = 1
    device: int | None = None
    local_size: int = 1

    def gather(self, part: bytes) -> Iterator[bytes]:
        """Its own part."""
        yield part

    def broadcast(self, data: bytes) -> bytes:
        """Its own bytes."""
        return data


ALONE = Alone()
