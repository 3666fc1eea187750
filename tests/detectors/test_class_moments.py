"""Moments class by class: any order of batches and merges gives the same sums, which travel as arrays."""

import numpy as np
import pytest

from lit_od.detectors.class_moments import MomentsAccumulator
from lit_od.errors import ConfigError, DataError
from lit_od.formats.safetensors_file import load, save

ROWS = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)


class ByParity(MomentsAccumulator[str]):
    """Rows of even and of odd number are two classes."""

    def update(self, features, labels=None):
        for label in (0, 1):
            self.of_class(label, features.shape[1]).update(features[label::2])


def test_classes_merge_each_with_its_own():
    whole, first, second = ByParity("x"), ByParity("x"), ByParity("x")
    whole.update(ROWS)
    first.update(ROWS[:100])
    second.update(ROWS[100:])
    first.merge(second)
    for label in (0, 1):
        np.testing.assert_allclose(first.moments[label].mean, ROWS[label::2].mean(axis=0, dtype=float), rtol=1e-9)
        np.testing.assert_allclose(first.moments[label].scatter, whole.moments[label].scatter, rtol=1e-9)


def test_a_state_is_one_array_a_sum_and_travels():
    gathered, again = ByParity("x"), ByParity("x")
    gathered.update(ROWS)
    state = load(save(gathered.state()))
    assert (state["labels"].tolist(), state["mean"].shape, state["scatter"].shape) == ([0, 1], (2, 5), (2, 5, 5))
    again.restore(state)
    for label in (0, 1):
        np.testing.assert_array_equal(again.moments[label].scatter, gathered.moments[label].scatter)
    assert MomentsAccumulator("x").state() == {}
    again.restore({})
    assert again.width is None
    with pytest.raises(DataError, match="lacks the array 'scatter'"):
        again.restore({name: array for name, array in state.items() if name != "scatter"})
    with pytest.raises(DataError, match="another number of classes than of sums"):
        again.restore(state | {"labels": np.arange(3)})


def test_unlike_accumulators_do_not_merge():
    narrow, wide = MomentsAccumulator("x"), MomentsAccumulator("x")
    narrow.update(ROWS[:, :3])
    wide.update(ROWS)
    with pytest.raises(DataError, match="accumulators to merge must have one width, got 3 and 5"):
        narrow.merge(wide)
    with pytest.raises(ConfigError, match="must have the same options, got x and y"):
        narrow.merge(MomentsAccumulator("y"))
