import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.errors import ConfigError, DataError
from lit_od.training.data.samplers import EvaluationBatches, TrainingBatches

LAYOUT = {"rows": st.integers(8, 200), "size": st.integers(1, 40), "world": st.integers(1, 8)}


def epoch_of(rows, size, world, epoch=0, seed=0):
    ranks = [TrainingBatches(rows, size, seed=seed, rank=rank, world=world) for rank in range(world)]
    for batches in ranks:
        batches.set_epoch(epoch)
    return [list(batches) for batches in ranks], ranks


@given(**LAYOUT)
def test_no_image_is_repeated_and_processes_stay_in_step(rows, size, world):
    shares, ranks = epoch_of(rows, size, world)
    flat = np.concatenate([batch for share in shares for batch in share])
    lone = size > 1 and rows // world > size and rows // world % size == 1
    assert len(np.unique(flat)) == len(flat) == (rows // world - lone) * world
    sizes = [[len(batch) for batch in share] for share in shares]
    assert all(other == sizes[0] for other in sizes)
    assert all(len(batches) == len(share) for batches, share in zip(ranks, shares, strict=True))


@given(**LAYOUT)
def test_evaluation_takes_every_image_once(rows, size, world):
    ranks = [EvaluationBatches(rows, size, rank=rank, world=world) for rank in range(world)]
    flat = [row for batches in ranks for batch in batches for row in batch]
    assert sorted(flat) == list(range(rows))
    assert all(len(list(batches)) == len(batches) for batches in ranks)


def test_one_process_takes_the_images_in_order_and_keeps_the_last_batch():
    assert [list(batch) for batch in EvaluationBatches(5, 2)] == [[0, 1], [2, 3], [4]]
    assert [len(batch) for batch in TrainingBatches(6, 4, seed=0)] == [4, 2]


def test_no_training_batch_after_others_is_of_one_image():
    assert [len(batch) for batch in TrainingBatches(5, 2, seed=0)] == [2, 2]
    assert [len(batch) for batch in TrainingBatches(14, 13, seed=0)] == [13]
    assert [len(batch) for batch in TrainingBatches(3, 1, seed=0)] == [1, 1, 1]
    assert [len(batch) for batch in TrainingBatches(1, 4, seed=0)] == [1]
    batches, seen = TrainingBatches(5, 2, seed=0), set()
    for epoch in range(20):
        batches.set_epoch(epoch)
        seen |= {row for batch in batches for row in batch}
    assert seen == set(range(5))


def test_the_order_is_a_function_of_seed_and_epoch():
    def first(**where):
        return np.concatenate(epoch_of(64, 8, 1, **where)[0][0]).tolist()

    assert first(epoch=3) == first(epoch=3)
    assert first(epoch=3) != first(epoch=4)
    assert first(epoch=3) != first(epoch=3, seed=1)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        EvaluationBatches(5, 0)
    with pytest.raises(ConfigError, match=r"rank must lie in 0\.\.1, got 2"):
        EvaluationBatches(5, 1, rank=2, world=2)
    with pytest.raises(DataError, match="3 training images cannot be shared by 4 processes"):
        TrainingBatches(3, 1, seed=0, rank=0, world=4)
