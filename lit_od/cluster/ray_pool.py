"""A pool of workers on a Ray cluster, which answer items of work.

Workers are actors of Ray Data. An item is bytes, and so is its answer. The items lie in the object store before
the job begins: no task reads for the workers, which may therefore take every core (a task that waited for a
core while all of them are held by workers that wait for it would wait for ever).
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lit_od.errors import DataError, LitODError

Work: TypeAlias = Callable[[bytes], bytes]
"""Function from an item to its answer."""

RETRIES = 5
"""Workers that may die over one item before the job is given up: its images may kill them."""


_GOOD, _REFUSED = b"+", b"-"


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers on a cluster that this process is connected to.

    Attributes:
        workers: Number of workers.
        threads: Threads, and cores, of each.
        gpus: GPUs of each, 0 or 1.
        providers: Execution providers of each, as `Backbone.load` takes them.
    """

    workers: int
    threads: int
    gpus: int = 0
    providers: tuple[str, ...] = ("cpu",)

    def map(
        self, make: Callable[..., Work], arguments: Sequence[Any], items: Iterable[bytes], *, ordered: bool = True
    ) -> Iterator[bytes]:
        """Have the workers answer each item once.

        Args:
            make: Makes the work of one worker; called once in each.
            arguments: Its arguments, sent to every worker.
            items: The items.
            ordered: Yield answers in the order of the items, not as they are ready.

        Yields:
            The answers.

        Raises:
            DataError: Where the work raises an error of this package; the message is the worker's.
            LitODError: Where an item kills every worker that takes it, or the cluster fails.
        """
        import pyarrow as pa
        import ray

        tables = [pa.table({"item": pa.array([item], pa.large_binary())}) for item in items]
        if not tables:
            return
        try:
            for batch in _without_warnings(lambda: self._start(ray, make, arguments, tables, ordered)):
                for answer in batch["answer"]:
                    yield _unwrapped(answer.as_py())
        except LitODError:
            raise
        except Exception as error:  # Ray's own, of several kinds
            raise LitODError(f"the cluster gave the job up: {cause(error)}") from error

    def _start(
        self, ray: Any, make: Callable[..., Work], arguments: Sequence[Any], tables: list[Any], ordered: bool
    ) -> Iterator[Any]:
        """Start the job; return an iterator over tables of answers."""
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        here = ray.data.DataContext.get_current()
        size = min(self.workers, len(tables))
        before = here.enable_progress_bars, here.execution_options.preserve_order
        here.enable_progress_bars, here.execution_options.preserve_order = False, ordered
        try:
            # from_arrow would have a task look at every table, on the workers' cores; both copy the settings
            work = ray.data.from_blocks(tables)
            tables.clear()  # they are in the object store
            done = work.map_batches(
                _Actor,
                fn_constructor_args=(make, ray.put(list(arguments))),
                batch_size=1,  # a table has one row; of workers with GPUs Ray wants a number
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=size),
                num_cpus=self.threads,
                num_gpus=self.gpus or None,
                max_task_retries=RETRIES,
            )
        finally:
            here.enable_progress_bars, here.execution_options.preserve_order = before
        answers: Iterator[Any] = iter(done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
        return answers


class _Actor:
    """The class that Ray Data runs in each worker."""

    def __init__(self, make: Callable[..., Work], arguments: Any) -> None:
        self._make, self._arguments = make, arguments
        self._work: Work | None = None

    def __call__(self, table: Any) -> Any:
        """Answer each item of a table with a column `item`."""
        import pyarrow as pa

        answers = [self._answer(item.as_py()) for item in table["item"]]
        return pa.table({"answer": pa.array(answers, pa.large_binary())})

    def _answer(self, item: bytes) -> bytes:
        try:
            if self._work is None:  # here, where its error is a message
                import ray

                self._work = self._make(*ray.get(self._arguments))
            return _GOOD + self._work(item)
        except LitODError as error:
            return _REFUSED + str(error).encode(errors="surrogateescape")


def _without_warnings(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Iterate without the warnings that Ray gives about itself."""
    running: Iterator[Any] | None = None
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            running = start() if running is None else running
            found = next(running, None)
        if found is None:
            return
        yield found


def _unwrapped(answer: bytes) -> bytes:
    if answer[:1] == _REFUSED:
        raise DataError(answer[1:].decode(errors="surrogateescape"))
    return answer[1:]


def cause(error: BaseException) -> str:
    """Return the last line of one of Ray's errors, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300].rstrip('.')}" if lines else type(error).__name__
