"""A pool of workers without a cluster."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lit_od.cluster.ray_pool import Pool, Work


class Inline(Pool):
    """Workers that are called here, one after the other."""

    def map(
        self, make: Callable[..., Work], given: Sequence[Any], work: Iterable[bytes], *, ordered: bool = True
    ) -> Iterator[bytes]:
        workers = [make(*given) for _ in range(self.workers)]
        return (workers[number % self.workers](item) for number, item in enumerate(work))
