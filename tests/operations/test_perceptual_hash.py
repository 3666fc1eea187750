"""The hash against scipy's cosine transform, and its bound on the distance of looks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lit_od.operations.perceptual_hash import SIDE, allowed_distance, look_distance, perceptual_hash

copies = arrays(np.uint8, (2, SIDE, SIDE), elements=st.integers(0, 255))
turns = st.tuples(st.integers(0, 3), st.booleans())


def turned(image: np.ndarray, turn: tuple[int, bool]) -> np.ndarray:
    return np.rot90(image[:, ::-1] if turn[1] else image, turn[0])


def test_the_hash_is_made_of_the_cosine_transform() -> None:
    fft = pytest.importorskip("scipy.fft")
    small = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
    for image, found in zip(small, perceptual_hash(small), strict=True):
        spectrum = fft.dctn(image.astype(float), norm="ortho")
        wanted = [
            abs(spectrum[u, u]) if u == v else np.hypot(spectrum[u, v], spectrum[v, u])
            for u in range(SIDE)
            for v in range(u, SIDE)
        ]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-2)


@given(copies, turns)
def test_mirrored_and_turned_images_look_and_hash_alike(pair: np.ndarray, turn: tuple[int, bool]) -> None:
    image, other = pair[:1], turned(pair[0], turn)[None]
    assert look_distance(image, other) == 0
    np.testing.assert_allclose(perceptual_hash(image), perceptual_hash(other), rtol=1e-4, atol=0.5)


@given(copies, turns)
def test_hashes_are_no_further_apart_than_looks(pair: np.ndarray, turn: tuple[int, bool]) -> None:
    one, other = perceptual_hash(pair)
    look = float(look_distance(pair[:1], turned(pair[1], turn)[None])[0])
    assert np.linalg.norm(one - other) / SIDE <= look * (1 + 1e-4) + 0.05
    assert look <= np.sqrt(np.square(pair[0].astype(float) - pair[1]).mean()) + 1e-6


def test_small_images_are_allowed_more() -> None:
    np.testing.assert_allclose(allowed_distance(np.array([32, 64, 10**6]), 2.0), [4, 3, 2], rtol=1e-4)
