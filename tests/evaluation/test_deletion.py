"""Whether maps point at the cause: the masks, the pairs and the interval, on a score that is known."""

import numpy as np
import pytest

from lit_od.errors import ConfigError, DataError
from lit_od.evaluation.deletion import hottest, moved, pointing

RNG = np.random.default_rng(0)


def brightness(images):
    return images.astype(np.float64).sum(axis=(1, 2, 3)) / 255


def with_spots(count, side=20, spot=4):
    images = np.zeros((count, side, side, 1), dtype=np.uint8)
    for image, (top, left) in zip(images, RNG.integers(0, side - spot + 1, (count, 2)), strict=True):
        image[top : top + spot, left : left + spot] = 255
    return images


def test_a_map_that_points_at_the_cause_is_told_from_one_that_does_not():
    images = with_spots(40)
    normal = np.zeros_like(images)
    right = pointing(brightness, images, images[..., 0] / 255.0, normal, rng=np.random.default_rng(0), share=0.04)
    np.testing.assert_array_equal(right.top, 16)
    assert right.elsewhere.max() < 16
    assert right.difference.low > 0
    assert right.difference.value == pytest.approx((right.top - right.elsewhere).mean())
    noise = RNG.random((40, 20, 20))
    wrong = pointing(brightness, images, noise, normal, rng=np.random.default_rng(0), share=0.04)
    assert wrong.difference.low < 0 < wrong.difference.high
    assert "top 16, elsewhere" in right.line()


def test_the_interval_is_about_students():
    from scipy import stats

    images = RNG.integers(0, 256, (200, 10, 10, 1), dtype=np.uint8)
    found = pointing(brightness, images, images[..., 0], np.zeros_like(images), rng=np.random.default_rng(1))
    gaps = found.top - found.elsewhere
    low, high = stats.t.interval(0.95, len(gaps) - 1, gaps.mean(), stats.sem(gaps))
    assert found.difference.low == pytest.approx(low, rel=0.02)
    assert found.difference.high == pytest.approx(high, rel=0.02)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5])
def test_the_hottest_pixels_are_the_share_of_them(share):
    maps = RNG.integers(0, 4, (5, 12, 9)).astype(np.float32)  # with ties
    masks = hottest(maps, share)
    assert (masks.sum(axis=(1, 2)) == max(1, round(share * 108))).all()
    for one, mask in zip(maps, masks, strict=True):
        assert one[mask].min() >= one[~mask].max()


def test_a_moved_mask_keeps_its_size_and_goes_far():
    masks = np.zeros((300, 16, 24), dtype=bool)
    masks[:, 5, 7] = True
    places = np.argwhere(moved(masks, np.random.default_rng(0)))
    assert len(places) == 300
    down = np.minimum((places[:, 1] - 5) % 16, (5 - places[:, 1]) % 16)
    right = np.minimum((places[:, 2] - 7) % 24, (7 - places[:, 2]) % 24)
    assert (down.min(), right.min()) == (4, 6)
    np.testing.assert_array_equal(places, np.argwhere(moved(masks, np.random.default_rng(0))))


def test_what_does_not_fit_is_refused():
    images, rng = with_spots(4), np.random.default_rng(0)
    maps = images[..., 0].astype(float)
    with pytest.raises(DataError, match="wanted at least 2 outliers, a map and a normal image"):
        pointing(brightness, images, maps[:3], images, rng=rng)
    with pytest.raises(DataError, match="wanted at least 2 outliers"):
        pointing(brightness, images[:1], maps[:1], images[:1], rng=rng)
    with pytest.raises(ConfigError, match="share must lie between 0 and 1"):
        pointing(brightness, images, maps, images, rng=rng, share=1)
    with pytest.raises(ConfigError, match="level must lie between 0 and 1"):
        pointing(brightness, images, maps, images, rng=rng, level=95)
