"""Outliers made of normal images keep shape and type, differ from them, and hang on the seed alone."""

import numpy as np

from lit_od.evaluation.synthetic_outliers import synthetic_outliers


def images(shape: tuple[int, ...] = (5, 24, 30, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_each_kind_changes_each_image() -> None:
    for shape in ((5, 24, 30, 3), (4, 16, 16, 1)):
        normal = images(shape)
        made = synthetic_outliers(normal, np.random.default_rng(1))
        assert set(made) == {"cut-paste", "blur", "noise"}
        for outliers in made.values():
            assert (outliers.shape, outliers.dtype) == (normal.shape, np.uint8)
            assert (outliers != normal).any(axis=(1, 2, 3)).all()


def test_the_seed_decides_and_the_images_stay() -> None:
    normal = images()
    copy = normal.copy()
    first, again, other = (synthetic_outliers(normal, np.random.default_rng(seed)) for seed in (3, 3, 4))
    for kind in first:
        np.testing.assert_array_equal(first[kind], again[kind])
        assert (first[kind] != other[kind]).any()
    np.testing.assert_array_equal(normal, copy)


def test_a_pasted_part_is_a_rectangle_of_the_image() -> None:
    normal = images((1, 40, 40, 1))
    pasted = synthetic_outliers(normal, np.random.default_rng(0))["cut-paste"][0, :, :, 0]
    rows, columns = np.nonzero(pasted != normal[0, :, :, 0])
    part = pasted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = part.shape
    windows = np.lib.stride_tricks.sliding_window_view(normal[0, :, :, 0], part.shape)
    assert (windows == part).all(axis=(2, 3)).any()
    assert 0.08 < height * width / 1600 < 0.32


def test_blur_smooths_and_noise_roughens() -> None:
    normal = np.tile(np.arange(0, 240, 8, dtype=np.uint8)[:, None, None], (2, 1, 30, 1))
    made = synthetic_outliers(normal, np.random.default_rng(0))
    rough = {kind: np.abs(np.diff(each.astype(int), axis=2)).mean() for kind, each in made.items()}
    assert rough["blur"] <= 0.1 < 5 < rough["noise"]
