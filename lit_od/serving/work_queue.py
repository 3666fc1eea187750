"""A bounded queue before one worker a core.

A request is cut into pieces. Each worker decodes a piece, runs it through the graph on one thread and
scores it; several pieces at a time make better use of the cores than one on all of them. Requests take
turns piece by piece, so that a large one does not hold up a small one. Small waiting pieces for the same
model are scored together. A piece without competitors runs on all cores, to be answered soon.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from lit_od.images.batching import GRAPH_BATCH
from lit_od.images.sources import Source
from lit_od.runtime.stopping import Stopper, stop_with
from lit_od.serving.limits import RETRY_AFTER, Refused
from lit_od.serving.map_answers import LARGE
from lit_od.serving.models import Answers, Model, part


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of a request.

    Attributes:
        model: The model that scores it.
        sources: At most GRAPH_BATCH images; one if a picture or a map is wanted, which may take as long as many.
        wanted: Names of the wanted outputs.
        answers: Future of its answers.
    """

    model: Model
    sources: Sequence[Source]
    wanted: frozenset[str]
    answers: "Future[Answers]" = field(default_factory=Future)


class WorkQueue:
    """A queue of pieces of requests, and its workers.

    Args:
        workers: Number of workers.
        capacity: Number of requests that may wait or be scored at a time.
        scored: Told of all answers, on the worker's thread. None tells nobody.

    Attributes:
        capacity: As given.
    """

    def __init__(self, *, workers: int, capacity: int, scored: Callable[[Model, Answers], None] | None = None) -> None:
        self.capacity = capacity
        self._scored = scored
        self._stopper = Stopper()
        self._pool = ThreadPoolExecutor(
            workers, thread_name_prefix="lit_od-serve", initializer=stop_with, initargs=(self._stopper,)
        )
        self._lock = threading.Lock()
        self._waiting: deque[deque[Piece]] = deque()  # pieces by request
        self._busy = 0
        self._requests = 0

    def submit(self, model: Model, sources: Sequence[Source], wanted: frozenset[str]) -> "list[Future[Answers]]":
        """Queue a request; the caller must call `done` after it.

        Args:
            model: The model.
            sources: The images.
            wanted: Names of the wanted outputs.

        Returns:
            Futures of the answers to its pieces, in order.

        Raises:
            Refused: 503 if the queue is full.
        """
        step = _most(wanted)
        pieces = [Piece(model, sources[start : start + step], wanted) for start in range(0, len(sources), step)]
        with self._lock:
            if self._requests >= self.capacity:
                raise Refused(503, f"{self.capacity} requests are waiting: try again", retry_after=RETRY_AFTER)
            self._requests += 1
            self._waiting.append(deque(pieces))
        for _ in pieces:
            self._pool.submit(self._work)
        return [piece.answers for piece in pieces]

    @property
    def requests(self) -> int:
        """Return the number of requests that wait or are being scored."""
        return self._requests

    def done(self) -> None:
        """Count a request as answered or given up."""
        with self._lock:
            self._requests -= 1

    def close(self) -> None:
        """Drop the waiting pieces, stop the graphs of the others, and wait.

        No request waits for them any more. A decoder is not stopped.
        """
        self._stopper.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _work(self) -> None:
        with self._lock:
            taken = self._take()
            self._busy += 1
            alone = self._busy == 1 and not self._waiting
        try:
            if taken:
                _score(taken, self._scored, alone=alone)
        finally:
            with self._lock:
                self._busy -= 1

    def _take(self) -> list[Piece]:
        """Take the next piece, and others of the same model that fit beside it.

        Pieces that were given up are left out.
        """
        taken: list[Piece] = []
        left: deque[deque[Piece]] = deque()
        served: deque[deque[Piece]] = deque()
        for request in self._waiting:
            before = len(request)
            while request and _fits(request[0], taken):
                piece = request.popleft()
                if piece.answers.set_running_or_notify_cancel():
                    taken.append(piece)
            if request:
                (left if len(request) == before else served).append(request)
        self._waiting = left + served
        return taken


def _most(wanted: frozenset[str]) -> int:
    """Return the largest number of images that a worker takes at once."""
    return 1 if LARGE & wanted else GRAPH_BATCH


def _fits(piece: Piece, taken: Sequence[Piece]) -> bool:
    if not taken:
        return True
    room = _most(taken[0].wanted) - sum(len(each.sources) for each in taken)
    return piece.model is taken[0].model and piece.wanted == taken[0].wanted and len(piece.sources) <= room


def _score(pieces: Sequence[Piece], scored: Callable[[Model, Answers], None] | None, *, alone: bool) -> None:
    try:
        sources = [source for piece in pieces for source in piece.sources]
        answers = pieces[0].model.answer(sources, pieces[0].wanted, alone=alone)
        if scored is not None:
            scored(pieces[0].model, answers)
    except BaseException as error:  # any error must reach the waiting requests
        for piece in pieces:
            piece.answers.set_exception(error)
        return
    start = 0
    for piece in pieces:
        piece.answers.set_result(part(answers, slice(start, start + len(piece.sources))))
        start += len(piece.sources)
