"""Baseline classifiers: by mean brightness, and by the nearest image."""

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import DataError
from lit_od.types import Images, Labels

BLOCK = 256
"""Test images whose distances are in memory at once."""


def by_brightness(train: Images, labels: Labels, test: Images) -> NDArray[np.bool_]:
    """Classify test images by one cut of the mean brightness.

    The cut is the best one on the training images.

    Args:
        train: (n, h, w, c), uint8.
        labels: 0 or 1 for each, (n,).
        test: (m, h, w, c), uint8.

    Returns:
        True for class 1, shape (m,).

    Raises:
        DataError: If a class has no training image.
    """
    _require_both(labels)
    known, unknown = _brightness(train), _brightness(test)
    order = np.argsort(known, kind="stable")
    values, ones = known[order], labels[order] == 1
    # right[k]: training images that are right if the k darkest are of class 0 and the others of class 1
    right = np.concatenate([[0], np.cumsum(~ones)]) + ones.sum() - np.concatenate([[0], np.cumsum(ones)])
    possible = np.concatenate([[True], values[1:] > values[:-1], [True]])  # equal values lie on one side
    score = np.where(possible, np.maximum(right, len(labels) - right), -1)
    cut = int(np.argmax(score))
    brighter = unknown >= values[cut] if cut < len(values) else np.zeros(len(unknown), dtype=bool)
    return brighter if 2 * right[cut] >= len(labels) else ~brighter


def by_nearest(train: Images, labels: Labels, test: Images) -> NDArray[np.bool_]:
    """Classify test images by the nearest training image, Euclidean by pixel.

    Args:
        train: (n, h, w, c), uint8.
        labels: 0 or 1 for each, (n,).
        test: (m, h, w, c), uint8.

    Returns:
        True for class 1, shape (m,).

    Raises:
        DataError: If a class has no training image.
    """
    _require_both(labels)
    rows = train.reshape(len(train), -1).astype(np.float32) / 255
    squares = np.einsum("nd,nd->n", rows, rows)
    found = np.empty(len(test), dtype=bool)
    for start in range(0, len(test), BLOCK):
        block = test[start : start + BLOCK].reshape(-1, rows.shape[1]).astype(np.float32) / 255
        found[start : start + BLOCK] = labels[np.argmin(squares - 2 * (block @ rows.T), axis=1)] == 1
    return found


def _brightness(images: Images) -> NDArray[np.float64]:
    means: NDArray[np.float64] = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64)
    return means


def _require_both(labels: Labels) -> None:
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise DataError(f"wanted training images of the classes 0 and 1, got {np.unique(labels).tolist()}")
