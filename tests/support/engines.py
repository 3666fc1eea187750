"""The three engines over one graph: threads stand for the processes of a group, a pool in this one for a cluster."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from lit_od.cluster.engine import RayEngine
from lit_od.fitting.engine import Engine
from lit_od.fitting.process_group import GroupEngine
from tests.support.bundles import local_engine
from tests.support.pools import Inline

T = TypeVar("T")


@dataclass
class Board:
    """Lets threads stand for the processes of a group."""

    size: int
    parts: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=30)


@dataclass
class Member:
    """A thread as a process of a group."""

    rank: int
    board: Board
    device: int | None = None
    local_size: int = 1

    @property
    def size(self) -> int:
        return self.board.size

    def gather(self, part: bytes) -> Iterator[bytes]:
        self.board.parts[self.rank] = part
        self.board.barrier.wait()
        found = [self.board.parts[rank] for rank in range(self.size)]
        self.board.barrier.wait()
        yield from found if self.rank == 0 else ()

    def broadcast(self, data: bytes) -> bytes:
        self.board.parts[self.rank] = data
        self.board.barrier.wait()
        found = self.board.parts[0]
        self.board.barrier.wait()
        return found


def on_every_engine(model: bytes, work: Callable[[Engine], T]) -> dict[str, list[T]]:
    """Do the same on each engine; the answers of all processes, the leading one first."""
    found = {"local": [work(local_engine(model))]}
    board = Board(3)
    engines = [GroupEngine(local_engine(model), Member(rank, board)) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found["group"] = list(pool.map(work, engines))
    found["ray"] = [work(RayEngine(local_engine(model).extractor, Inline(4, 1)))]
    return found
