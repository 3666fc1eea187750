import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.errors import ConfigError, DataError
from lit_od.splitting import fit_and_calibration


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


def test_too_few_images_a_wrong_share_or_a_negative_seed_is_refused():
    with pytest.raises(DataError, match="at least 3 normal images"):
        fit_and_calibration(range(2), seed=0)
    with pytest.raises(ConfigError, match="share must lie in"):
        fit_and_calibration(range(9), seed=0, share=1.0)
    with pytest.raises(ConfigError, match="at least 0"):
        fit_and_calibration(range(9), seed=-1)
