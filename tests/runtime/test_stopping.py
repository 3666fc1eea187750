"""Graphs that never end: one signal ends the work, on the main thread and on those that decode."""

import gc
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from lit_od.backbone.model import Backbone
from lit_od.errors import BackboneError, LitODError
from lit_od.runtime.stopping import Stopper, stoppable
from lit_od.runtime.threads import threads_of_a_generator
from tests.support.endless import endless_graph

IMAGES = np.zeros((2, 2, 2, 1), np.uint8)


def _raise(images: np.ndarray) -> None:
    raise ValueError(f"no such axis: {images.ndim}")


@pytest.fixture
def interrupt_soon() -> Iterator[Callable[[], None]]:
    """Starts what a Ctrl-C does, in a moment."""
    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever has started the tests may ignore it
    yield threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start
    signal.signal(signal.SIGINT, before)


def test_one_interrupt_ends_a_graph_that_never_ends(
    interrupt_soon: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    backbone = Backbone.load(endless_graph(), threads=1)
    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        backbone(IMAGES)
    assert not [thread for thread in threading.enumerate() if thread.name == "lit_od-native"]  # none aborts the exit
    assert capfd.readouterr() == ("", "")


def test_one_interrupt_ends_graphs_on_threads_of_a_generator(interrupt_soon: Callable[[], None]) -> None:
    backbone = Backbone.load(endless_graph(), threads=1)
    running: list[Future[np.ndarray]] = []

    def run() -> None:
        with threads_of_a_generator(2, "test") as pool:
            running.extend(pool.submit(backbone, IMAGES) for _ in range(2))
            running[0].result()

    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        run()
    for each in running:
        with pytest.raises(BackboneError, match="the graph failed"):
            each.result()


def test_a_call_after_the_stop_is_refused_and_results_and_errors_come_through() -> None:
    stopper = Stopper()
    assert stopper.call(lambda: 3, lambda: None) == 3
    stopper.stop()
    with pytest.raises(LitODError, match="the work was stopped"):
        stopper.call(lambda: 3, lambda: None)
    assert stoppable(lambda: 4, lambda: None) == 4
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(stoppable, lambda: 5, lambda: None).result() == 5
    with pytest.raises(ZeroDivisionError):
        stoppable(lambda: 1 // 0, lambda: None)


def test_a_call_that_fails_keeps_nothing_of_it() -> None:
    """Its images are freed with its error, before garbage is collected."""
    images = np.zeros(3)
    freed = weakref.ref(images)

    def fail(work: np.ndarray) -> None:
        with pytest.raises(ValueError, match="no such axis"):
            stoppable(lambda: _raise(work), lambda: None)

    gc.disable()
    try:
        fail(images)
        del images
        assert freed() is None
    finally:
        gc.enable()
