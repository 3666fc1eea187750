"""Tiles cover an image, each of them whole, and their weights add up to 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.errors import ConfigError, ImageError
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Frame, ImageArray, Tile, Unreadable, tiled
from lit_od.images.tiles import LEAST_OVERLAP, UNSEEN, overlap_of, places_of, starts, weights

SIDES = st.integers(64, 300).flatmap(
    lambda tile: st.tuples(st.integers(tile, 5 * tile), st.just(tile), st.integers(8, tile // 2))
)


@given(SIDES)
def test_tiles_are_whole_and_share_at_least_the_overlap(sides: tuple[int, int, int]) -> None:
    length, tile, overlap = sides
    first = starts(length, tile, overlap)
    assert first[0] == 0
    assert first[-1] + tile == length
    assert (np.diff(first) > 0).all()
    assert (first[1:] - first[:-1] <= tile - overlap).all()


@given(SIDES)
def test_weights_add_up_to_one_and_are_zero_near_edges_within_the_image(sides: tuple[int, int, int]) -> None:
    length, tile, overlap = sides
    first, found = starts(length, tile, overlap), weights(*sides)
    total = np.zeros(length)
    for start, each in zip(first, found, strict=True):
        total[start : start + tile] += each
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (found >= 0).all()
    blind = min(UNSEEN, overlap // 4)
    assert (found[1:, :blind] == 0).all()
    assert (found[:-1, tile - blind :] == 0).all()
    if len(first) == 1:
        assert (found == 1).all()


def test_the_weight_falls_evenly_across_an_overlap() -> None:
    left, right = weights(192, 128, 64)
    np.testing.assert_allclose(left[64 + 16 : 128 - 16], 1 - (np.arange(32) + 0.5) / 32, atol=1e-6)
    np.testing.assert_allclose(right[:64] + left[64:], 1, atol=1e-6)


def test_an_overlap_is_a_share_of_at_least_so_many_pixels() -> None:
    assert overlap_of(448, None) == 112
    assert overlap_of(128, None) == overlap_of(128, 0.5) == LEAST_OVERLAP
    with pytest.raises(ConfigError, match=r"share 45 pixels, wanted at least 64: give data.overlap 0.143"):
        overlap_of(448, 0.1)
    with pytest.raises(ConfigError, match=r"give data\.tile 128"):
        overlap_of(100, None)
    for share in (0.0, 0.6, float("nan")):
        with pytest.raises(ConfigError, match=r"in \(0, 0.5\]"):
            overlap_of(448, share)


def test_places_are_row_by_row_and_no_image_is_smaller_than_a_tile() -> None:
    places = places_of((130, 200), (128, 128), 64)
    assert [(each.rows.start, each.columns.start) for each in places] == [
        (0, 0), (0, 64), (0, 72), (2, 0), (2, 64), (2, 72),
    ]  # fmt: skip
    with pytest.raises(ImageError, match=r"tiles of 128x128 \(h x w\) need a larger image than 127x300"):
        places_of((127, 300), (128, 128), 64)


class Counted(ImageArray):
    """An image that counts how often it is decoded."""

    decoded = 0

    def located(self, preparation):
        type(self).decoded += 1
        return ImageArray.located(self, preparation)


def test_an_image_is_decoded_to_know_its_size_and_once_for_all_its_tiles() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    tiles = tiled(
        [Counted(pixels, "a", "good"), Unreadable("b", "cause"), ImageArray(pixels[:100], "c")],
        Preparation(size=(128, 128), overlap=64),
    )
    assert [each.name for each in tiles] == ["a"] * 6 + ["b", "c"]
    assert [each.label for each in tiles[:6]] == ["good"] * 6
    with pytest.raises(ImageError, match="need a larger image than 100x200"):
        tiles[7].decode()
    whole = Preparation(size=(128, 128))
    for _ in range(2):
        before = Counted.decoded
        cut = [each.prepare(whole) for each in tiles[:6]]
        assert Counted.decoded == before + 1
    assert isinstance(tiles[5], Tile)
    np.testing.assert_array_equal(cut[5], pixels[22:, 72:])


def test_without_tiles_images_stay() -> None:
    images = [Unreadable("a", "cause")]
    assert tiled(images, Preparation(size=(128, 128))) is images


def test_tiles_of_which_nothing_counts_are_left_out() -> None:
    from lit_od.images.roi import encode_mask

    mask = np.zeros((150, 320), bool)
    mask[20:60, 10:60] = True
    pixels = np.full((150, 320, 3), 200, np.uint8)
    region = Preparation(size=(128, 128), overlap=64, mask=encode_mask(mask), mask_colour=(1, 2, 3))
    frame = Frame(ImageArray(pixels, "a"), region)
    assert [(each.rows.start, each.columns.start) for each in frame.places] == [(0, 0), (22, 0)]
    tile = frame.tiles()[1]
    np.testing.assert_array_equal(tile.counted, mask[22:, :128])
    shown = tile.prepare(region)
    assert (shown[mask[22:, :128]] == 200).all()
    assert (shown[~mask[22:, :128]] == (1, 2, 3)).all()
