"""Changes of images: which are drawn, and what they make of pixels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.errors import ConfigError
from lit_od.images.augment import VIEWS, Augment, Change, changed, drawn
from lit_od.types import Images

BOTH = Augment(flip=True, turns=True)


def picture(height: int = 9, width: int = 9, channels: int = 3) -> Images:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": -1}, r"augment\.rotation must lie in \[0, 180\], got -1"),
        ({"zoom": 1}, r"augment\.zoom must lie in \[0, 1\), got 1"),
        ({"shift": 1.5}, r"augment\.shift must lie in \[0, 1\), got 1\.5"),
        ({"shear": 90}, r"augment\.shear must lie in \[0, 90\), got 90"),
        ({"brightness": (1.3, 0.7)}, r"augment\.brightness must be two factors.*got \[1\.3, 0\.7\]"),
        ({"flip": True, "views": 1}, r"augment\.views must lie in 2\.\.1000, the image itself among them, got 1"),
    ],
)
def test_ranges_that_are_invalid_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augment(**options)


def test_the_number_of_views() -> None:
    assert [Augment(flip=True).count, Augment(turns=True).count, BOTH.count] == [2, 4, 8]
    assert Augment(shift=0.1).count == VIEWS
    assert Augment(flip=True, turns=True, views=3).count == 3
    assert Augment(flip=True, brightness=(0.9, 1.1), views=30).count == 30
    with pytest.raises(ConfigError, match=r"data\.augment changes nothing: give flip, turns, rotation"):
        Augment(views=4).count  # noqa: B018
    with pytest.raises(ConfigError, match=r"data\.augment has 2 poses, got views 4, which would repeat them"):
        Augment(flip=True, views=4).count  # noqa: B018


def test_poses_are_each_shown_once() -> None:
    """The eight symmetries of a square, in another order of each image, the image itself first."""
    image, orders = picture(), set()
    symmetries = {np.rot90(side, turns).tobytes() for side in (image, image[:, ::-1]) for turns in range(4)}
    for number in range(4):
        changes = [drawn(BOTH, seed=1, image=number, view=view) for view in range(8)]
        views = [changed(image, change).tobytes() for change in changes]
        assert views[0] == image.tobytes()
        assert len(set(views)) == 8
        assert set(views) == symmetries
        orders.add(tuple(changes))
    assert len(orders) > 1


@given(seed=st.integers(0, 5), image=st.integers(0, 1000), view=st.integers(1, 15))
def test_draws_lie_in_their_ranges_and_depend_on_nothing_else(seed: int, image: int, view: int) -> None:
    options = Augment(rotation=170, shift=0.2, zoom=0.3, shear=20, brightness=(0.8, 1.3), views=16)
    change = drawn(options, seed=seed, image=image, view=view)
    assert change == drawn(options, seed=seed, image=image, view=view)
    assert change != drawn(options, seed=seed, image=image + 1, view=view)
    assert change != drawn(options, seed=seed + 1, image=image, view=view)
    assert abs(change.angle) <= 170
    assert max(map(abs, change.shift)) <= 0.2
    assert all(0.7 <= factor <= 1.3 for factor in change.zoom)
    assert abs(change.shear) <= 20
    assert 0.8 <= change.brightness <= 1.3
    assert (change.turns, change.mirrored) == (0, False)


def test_angles_are_spread_over_the_whole_turn() -> None:
    angles = sorted(drawn(Augment(rotation=180, views=36), seed=0, image=0, view=view).angle for view in range(36))
    gaps = np.diff([*angles, angles[0] + 360])
    assert gaps.max() < 20.001  # a step is 10 degrees, and each angle lies within half a step of its place


def test_shifts_are_whole_pixels_and_repeat_the_border() -> None:
    image = picture(6, 8)
    moved = changed(image, Change(shift=(2.2 / 8, -1.4 / 6)))
    rows, columns = np.clip(np.arange(6) - 1, 0, 5), np.clip(np.arange(8) + 2, 0, 7)
    np.testing.assert_array_equal(moved, image[rows][:, columns])


def test_brightness_is_clipped() -> None:
    image = picture()
    wanted = np.minimum(np.rint(image * 1.5), 255)
    np.testing.assert_array_equal(changed(image, Change(brightness=1.5)), wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_rotation_by_quarter_turns_is_a_turn(channels: int) -> None:
    """The interpolating way, given an exact angle, agrees with the copying one."""
    image = picture(channels=channels)
    for turns in (1, 2, 3):
        np.testing.assert_array_equal(changed(image, Change(angle=90.0 * turns)), changed(image, Change(turns=turns)))
