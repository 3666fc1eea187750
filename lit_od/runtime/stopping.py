"""Native calls that end when their caller is interrupted.

Python handles signals in the main thread, between its own instructions: a native call there holds Ctrl-C back until it
returns, and one that never returns, as a graph with an endless loop, could not be ended at all.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from lit_od.errors import LitODError

T = TypeVar("T")

GRACE = 5.0
"""Seconds that a stopped call has to return."""


class Stopper:
    """Native calls that can be stopped together.

    A call that begins after `stop` is refused.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[Callable[[], None]] = []
        self._stopped = False

    def call(self, work: Callable[[], T], stop: Callable[[], None]) -> T:
        """Return what a native call returns.

        Args:
            work: The call.
            stop: Makes the call return soon; called on another thread.

        Raises:
            LitODError: If the calls have been stopped already.
        """
        with self.within(stop):
            return work()

    @contextmanager
    def within(self, stop: Callable[[], None]) -> Iterator[None]:
        """Have `stop` called if the calls are stopped during the block.

        Raises:
            LitODError: If they have been stopped already.
        """
        with self._lock:
            if self._stopped:
                raise LitODError("the work was stopped")
            self._running.append(stop)
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(stop)

    def stop(self) -> None:
        """Stop all calls, and those to come."""
        with self._lock:
            self._stopped = True
            for stop in self._running:
                stop()


_THREAD = threading.local()
"""Holds `stopper`, on threads that have one."""


def stop_with(stopper: Stopper) -> None:
    """Have a stopper stop the native calls of the calling thread."""
    _THREAD.stopper = stopper


@contextmanager
def stopped_along(stopper: Stopper) -> Iterator[None]:
    """Have the calling thread's stopper, if any, stop another along with it.

    The thread waits for others during the block, whose calls the other stopper stops.
    """
    outer: Stopper | None = getattr(_THREAD, "stopper", None)
    if outer is None:
        yield
        return
    with outer.within(stopper.stop):
        yield


def stoppable(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Return what a native call returns, in a way that lets signals through.

    The main thread has another thread make the call, and waits; when it is interrupted, it stops the call and goes on.

    Args:
        work: The call.
        stop: Makes the call return soon; called on another thread.
    """
    stopper: Stopper | None = getattr(_THREAD, "stopper", None)
    if stopper is not None:
        return stopper.call(work, stop)
    if threading.current_thread() is not threading.main_thread():
        return work()
    outcome: Future[T] = Future()
    thread = threading.Thread(target=_settle, args=(outcome, work), name="lit_od-native", daemon=True)
    thread.start()
    try:
        return outcome.result()
    except BaseException:
        stop()
        thread.join(GRACE)  # a thread that is within native code at the end of the process would abort it
        raise
    finally:
        del outcome  # it holds the error, whose frames would hold it, and the call's images with it


def _settle(outcome: Future[T], work: Callable[[], T]) -> None:
    """Put what a call returns or raises into a future."""
    try:
        outcome.set_result(work())
    except BaseException as error:
        outcome.set_exception(error)
    finally:
        del outcome
