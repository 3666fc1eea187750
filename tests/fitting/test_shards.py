"""Shares of the images: all of them, once, in their order, cut where one process would cut its batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.backbone.extractor import BATCH_SIZE
from lit_od.fitting.shards import all_gather, own_shard, own_threads, shard
from lit_od.images.batching import GRAPH_BATCH
from lit_od.runtime.processes import ALONE, Alone
from lit_od.runtime.threads import available_threads


@given(rows=st.integers(0, 5000), parts=st.integers(1, 40))
def test_shares_laid_end_to_end_are_the_images(rows: int, parts: int) -> None:
    shares = [shard(rows, part, parts) for part in range(parts)]
    assert [row for each in shares for row in each] == list(range(rows))
    for each in shares:
        assert each.start % BATCH_SIZE == 0 or not each
        assert not each or each.stop % BATCH_SIZE == 0 or each.stop == rows
        assert not each or len(each) > GRAPH_BATCH or len(each) == rows
    assert max(map(len, shares)) - rows / parts < 2 * BATCH_SIZE


def test_the_shares_of_a_thousand_and_three() -> None:
    assert [len(shard(1003, part, 4)) for part in range(4)] == [256, 256, 256, 235]


def test_a_process_alone_has_it_all() -> None:
    assert own_shard(7, ALONE) == range(7)
    assert own_threads(None, ALONE) is None
    assert list(ALONE.gather(b"x")) == [b"x"]
    assert ALONE.broadcast(b"x") == b"x"
    rows = np.arange(3.0)
    assert all_gather(rows, ALONE) is rows


@pytest.mark.parametrize(("asked", "given"), [(None, max(1, available_threads() // 2)), (5, 5)])
def test_processes_of_a_machine_share_its_cores(asked: int | None, given: int) -> None:
    assert own_threads(asked, Alone(size=2, local_size=2)) == given
