"""Shrunk covariances, and whiteners, which make Mahalanobis distances Euclidean."""

from typing import Literal, TypeAlias

import numpy as np

from lit_od.detectors.moments import ledoit_wolf_shrinkage
from lit_od.errors import DataError
from lit_od.types import Stats

Shrinkage: TypeAlias = float | Literal["ledoit-wolf"]
"""Weight of the scaled identity in a covariance, in [0, 1], or the rule that chooses it."""

SINGULAR = 1e-12
"""A feature is a combination of others if they leave less than this share of its variance: float32
features carry seven digits, whose squares end near here."""


PANEL = 64
"""Rows of a triangular matrix that are multiplied together: what lies right of a panel is zero and left out."""


def shrunk_covariance(count: int, scatter: Stats, fourth_moments: float, shrinkage: Shrinkage) -> Stats:
    """Return (1 - a) S / n + a mu I, shape (d, d) (Ledoit and Wolf 2004).

    mu is the mean variance.

    Args:
        count: Number of rows, n.
        scatter: Sum of y y^T about the mean, shape (d, d).
        fourth_moments: Sum of ||y||^4 about the mean, for the Ledoit-Wolf rule.
        shrinkage: a, or the rule.

    Raises:
        DataError: If no feature varies.
    """
    if not np.trace(scatter) > 0:
        raise DataError(
            f"features must vary, but all {count} rows are equal (within their class). Pass different images."
        )
    weight = ledoit_wolf_shrinkage(count, scatter, fourth_moments) if shrinkage == "ledoit-wolf" else shrinkage
    covariance = scatter * ((1.0 - weight) / count)
    covariance[np.diag_indices_from(covariance)] += weight * np.trace(scatter) / count / len(scatter)
    return covariance


def whitener(covariance: Stats, mend: str) -> Stats:
    """Return L^-1, where L L^T is the covariance: lower triangular, shape (d, d).

    Args:
        covariance: Shape (d, d).
        mend: One sentence of the message: the remedy for a singular covariance.

    Raises:
        DataError: If the covariance is singular to working precision.
    """
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        singular = True
    else:
        # the squared pivot is the variance that the features before it leave unexplained
        singular = bool((factor.diagonal() ** 2 < SINGULAR * covariance.diagonal()).any())
    if singular:
        raise DataError(f"the covariance of {len(covariance)} features is singular. {mend}")
    return np.tril(np.linalg.inv(factor))


def whitened(rows: Stats, factor: Stats) -> Stats:
    """Return rows @ factor.T without the products with the factor's zeros.

    Args:
        rows: Shape (n, d).
        factor: Lower triangular, shape (d, d).
    """
    white = np.empty_like(rows)
    for start, stop in panels(len(factor)):
        np.matmul(rows[:, :stop], factor[start:stop, :stop].T, out=white[:, start:stop])
    return white


def panels(width: int) -> list[tuple[int, int]]:
    """Return start and stop of the rows of each panel of a triangular matrix."""
    return [(start, min(start + PANEL, width)) for start in range(0, width, PANEL)]


def squared_norms(rows: Stats) -> Stats:
    """Return the squared Euclidean length of each row of (..., d), shape (...)."""
    squares: Stats = np.vecdot(rows, rows)
    return squares
