"""The queue: turns, pieces taken together, what is given up, what fails."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest

from lit_od.backbone.model import Backbone
from lit_od.errors import LitODError
from lit_od.images.sources import Source, Unreadable
from lit_od.runtime.threads import threads_of_a_generator
from lit_od.serving.limits import Refused
from lit_od.serving.models import Answers, Model
from lit_od.serving.work_queue import WorkQueue
from tests.support.endless import endless_graph

PLAIN = frozenset({"score"})


class Held:
    """A model that notes what it is given, and waits until it may answer."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.alone: list[bool] = []
        self.begun = threading.Semaphore(0)
        self.may = threading.Event()

    def answer(self, sources: Sequence[Source], wanted: frozenset[str], *, alone: bool) -> Answers:
        names = [source.name for source in sources]
        self.calls.append(names)
        self.alone.append(alone)
        self.begun.release()
        assert self.may.wait(10)
        if "fail" in names:
            raise ArithmeticError("no")
        return {"score": np.arange(len(names), dtype=float), "name": names}


def sources(*names: str) -> list[Source]:
    return [Unreadable(name, "") for name in names]


def submit(queue: WorkQueue, model: Held, *names: str, wanted: frozenset[str] = PLAIN) -> "list[Future[Answers]]":
    return queue.submit(cast(Model, model), sources(*names), wanted)


@pytest.fixture
def queue() -> Iterator[WorkQueue]:
    queue = WorkQueue(workers=1, capacity=4)
    yield queue
    queue.close()


@pytest.fixture
def held(queue: WorkQueue) -> Iterator[Held]:
    """A model whose first call, of "first", occupies the only worker."""
    model = Held()
    submit(queue, model, "first")
    assert model.begun.acquire(timeout=10)
    yield model
    model.may.set()


def names(parts: "list[Future[Answers]]") -> list[str]:
    return [name for part in parts for name in cast(list[str], part.result(10)["name"])]


def test_small_requests_go_together_and_each_gets_its_own(queue: WorkQueue, held: Held) -> None:
    one, two = submit(queue, held, "a", "b"), submit(queue, held, "c")
    held.may.set()
    assert (names(one), names(two)) == (["a", "b"], ["c"])
    assert held.calls == [["first"], ["a", "b", "c"]]
    assert cast(np.ndarray, one[0].result()["score"]).tolist() == [0, 1]
    assert cast(np.ndarray, two[0].result()["score"]).tolist() == [2]


def test_a_large_request_does_not_hold_up_a_small_one(queue: WorkQueue, held: Held) -> None:
    large = submit(queue, held, *(f"large{row}" for row in range(48)))
    small = submit(queue, held, "small", wanted=frozenset({"p_value"}))
    held.may.set()
    assert names(large) == [f"large{row}" for row in range(48)]
    assert names(small) == ["small"]
    assert [call[0] for call in held.calls] == ["first", "large0", "small", "large16", "large32"]


def test_other_outputs_and_other_models_do_not_go_together(queue: WorkQueue, held: Held) -> None:
    other = Held()
    other.may.set()
    waiting = [
        submit(queue, held, "a"),
        submit(queue, held, "b", wanted=frozenset({"map"})),
        submit(queue, other, "c"),
    ]
    held.may.set()
    assert [names(parts) for parts in waiting] == [["a"], ["b"], ["c"]]
    assert (held.calls, other.calls) == ([["first"], ["a"], ["b"]], [["c"]])


def test_heat_maps_are_made_one_by_one(queue: WorkQueue, held: Held) -> None:
    parts = submit(queue, held, "a", "b", wanted=frozenset({"map"}))
    held.may.set()
    assert names(parts) == ["a", "b"]
    assert held.calls == [["first"], ["a"], ["b"]]


def test_what_is_given_up_is_not_scored(queue: WorkQueue, held: Held) -> None:
    gone, stays = submit(queue, held, "gone"), submit(queue, held, "stays")
    assert gone[0].cancel()
    held.may.set()
    assert names(stays) == ["stays"]
    assert held.calls == [["first"], ["stays"]]


def test_a_failure_reaches_all_who_wait_for_it_and_no_one_else(queue: WorkQueue, held: Held) -> None:
    both = [submit(queue, held, "a"), submit(queue, held, "fail")]
    held.may.set()
    for parts in both:
        with pytest.raises(ArithmeticError):
            parts[0].result(10)
    assert names(submit(queue, held, "after")) == ["after"]


def test_a_full_queue_refuses_until_a_request_is_done(queue: WorkQueue, held: Held) -> None:
    for name in "abc":
        submit(queue, held, name)
    with pytest.raises(Refused, match="4 requests are waiting") as refusal:
        submit(queue, held, "d")
    assert (refusal.value.status, refusal.value.retry_after) == (503, 1)
    queue.done()
    submit(queue, held, "d")


def test_only_who_is_alone_gets_all_cores(queue: WorkQueue, held: Held) -> None:
    crowd: list[Any] = [submit(queue, held, "a"), submit(queue, held, "b", wanted=frozenset({"p_value"}))]
    held.may.set()
    for parts in crowd:
        names(parts)
    assert held.alone == [True, False, True]


class Endless:
    """A model whose graph never ends, on the worker or on a thread that the worker waits for."""

    def __init__(self, *, below: bool) -> None:
        self.backbone = Backbone.load(endless_graph(), threads=1, providers=["cpu"])
        self.below = below
        self.begun = threading.Event()

    def run(self) -> Answers:
        self.begun.set()
        return {"score": self.backbone(np.zeros((1, 2, 2, 1), np.uint8))[:, 0]}

    def answer(self, sources: Sequence[Source], wanted: frozenset[str], *, alone: bool) -> Answers:
        if not self.below:
            return self.run()
        with threads_of_a_generator(1, "test") as pool:
            return pool.submit(self.run).result()


@pytest.mark.parametrize("below", [False, True])
def test_the_end_stops_a_graph_that_never_ends(below: bool) -> None:
    queue, model = WorkQueue(workers=2, capacity=4), Endless(below=below)
    running, waiting = queue.submit(cast(Model, model), sources(*map(str, range(32))), PLAIN)
    assert model.begun.wait(10)
    time.sleep(0.3)  # both are in the graph by now
    begun = time.monotonic()
    queue.close()
    assert time.monotonic() - begun < 5
    for piece in (running, waiting):
        with pytest.raises(LitODError, match=r"the graph failed|the work was stopped"):
            piece.result(0)
