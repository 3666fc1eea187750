from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.errors import ConfigError, DataError
from lit_od.images.split import evenly, fit_and_calibration, fit_and_calibration_parts, fit_validation_calibration


@given(st.integers(3, 500), st.integers(0, 2**32), st.floats(0.01, 0.99))
def test_every_image_is_in_one_part_and_in_order(count: int, seed: int, share: float):
    fit, calibration = fit_and_calibration(range(count), seed=seed, share=share)
    assert sorted([*fit, *calibration]) == list(range(count))
    assert fit == sorted(fit)
    assert calibration == sorted(calibration)
    assert len(fit) >= 2
    assert len(calibration) >= 1


def test_a_fifth_calibrates_and_the_seed_decides_which():
    parts = [fit_and_calibration(range(1000), seed=seed) for seed in (0, 0, 1)]
    assert [len(calibration) for _, calibration in parts] == [200, 200, 200]
    assert parts[0] == parts[1] != parts[2]


def test_parts_are_the_same_and_make_nothing_before_it_is_wanted():
    class Squares(Sequence[int]):
        asked = 0

        def __len__(self) -> int:
            return 50_000

        def __getitem__(self, row):
            self.asked += 1
            return row**2

    squares = Squares()
    parts = fit_and_calibration_parts(squares, seed=7)
    lists = fit_and_calibration([row**2 for row in range(50_000)], seed=7)
    assert [len(part) for part in parts] == [40_000, 10_000]
    for part, want in zip(parts, lists, strict=True):
        assert squares.asked == 0
        assert [part[0], part[-1], *part[5:9]] == [want[0], want[-1], *want[5:9]]
        assert squares.asked == 6
        assert list(part) == want
        assert sum(1 for _ in part[10:20:2]) == 5
        with pytest.raises(IndexError):
            part[len(want)]
        squares.asked = 0


def test_too_few_images_a_wrong_share_or_a_negative_seed_is_refused():
    with pytest.raises(DataError, match="at least 3 normal images"):
        fit_and_calibration(range(2), seed=0)
    with pytest.raises(ConfigError, match="share must lie in"):
        fit_and_calibration(range(9), seed=0, share=1.0)
    with pytest.raises(ConfigError, match="at least 0"):
        fit_and_calibration(range(9), seed=-1)


@pytest.mark.parametrize(("count", "rows"), [(1, [0]), (3, [0, 4, 9]), (10, list(range(10))), (99, list(range(10)))])
def test_a_sample_lies_evenly_over_the_order(count: int, rows: list[int]) -> None:
    assert evenly(list(range(10)), count) == rows


def test_there_is_no_sample_of_nothing() -> None:
    assert evenly([], 3) == []


def test_sixty_twenty_twenty_leave_no_image_out():
    fit, validation, calibration = fit_validation_calibration(range(100), seed=3)
    assert (len(fit), len(validation), len(calibration)) == (60, 20, 20)
    assert sorted([*fit, *validation, *calibration]) == list(range(100))
    assert list(calibration) == fit_and_calibration(range(100), seed=3)[1]
    assert [len(part) for part in fit_validation_calibration(range(4), seed=0)] == [2, 1, 1]
    with pytest.raises(
        DataError, match=r"wanted at least 4 normal images .two fit, one validates, one calibrates., got 3"
    ):
        fit_validation_calibration(range(3), seed=0)
