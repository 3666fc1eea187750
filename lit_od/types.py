"""Arrays that cross module borders, their shapes, and the direction of scores.

A *score* is one float64 per image, and **a higher score means more outlying**: for every
detector, in every file, on every page.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Images: TypeAlias = NDArray[np.uint8]
"""Prepared images, shape (n, h, w, c), 0 to 255, c is 1 (grey) or 3 (RGB)."""

Outputs: TypeAlias = NDArray[np.floating[Any]]
"""Any output of a backbone, float32, one entry an image.

It is features (n, d), squared errors (n, h, w, c), or patches (n, gh, gw, d).
"""

Features: TypeAlias = NDArray[np.floating[Any]]
"""Features of a backbone, float32: one vector an image, shape (n, d)."""

Patches: TypeAlias = NDArray[np.floating[Any]]
"""Features of a backbone cell by cell, float32: one vector for each cell of a grid, shape (n, gh, gw, d)."""

Labels: TypeAlias = NDArray[np.integer[Any]]
"""Class of each image, shape (n,)."""

Scores: TypeAlias = NDArray[np.float64]
"""Outlier scores, shape (n,). Higher is more outlying."""

Maps: TypeAlias = NDArray[np.floating[Any]]
"""Score of every pixel, shape (n, h, w). Higher is more outlying."""

Score: TypeAlias = Callable[[Outputs], Scores]
"""Outputs of n images to their scores."""

Stats: TypeAlias = NDArray[np.float64]
"""A fitted statistic; its attribute's docstring gives the shape."""

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""Named arrays, as a safetensors file holds them."""

Output: TypeAlias = Literal["features", "errors", "patches"]
"""Output of a graph that a detector reads.

It is features (n, d), squared errors (n, h, w, c), or patches (n, gh, gw, d).
"""

WeightBits: TypeAlias = Literal[7, 8]
"""Bits of an int8 graph's weights: no processor saturates sums of 7-bit ones, 8 are made for VNNI."""
