"""Checks of a detector's arrays, which may come from strangers."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import DataError
from lit_od.types import Arrays, Stats

LARGEST = 1e60
"""Largest absolute value of statistics: squares of their products are finite. Float32 features reach 3.4e38, so their
statistics and differences lie within."""

LARGEST_SINGLE = 1e30
"""Largest absolute value of float32 statistics."""

SMALLEST = 1e-60
"""Least value of statistics that are divided by, or whose logarithm is taken."""


def check_names(kind: str, state: Arrays, names: Iterable[str]) -> None:
    """Check that a state holds exactly these arrays.

    Args:
        kind: The detector's kind, for messages.
        state: The arrays by name.
        names: The wanted names.

    Raises:
        DataError: If it lacks one, or holds another.
    """
    wanted = set(names)
    if missing := sorted(wanted - state.keys()):
        raise DataError(f"the state of {kind} lacks the array {missing[0]!r}; fit the detector anew")
    if extra := sorted(state.keys() - wanted):
        raise DataError(f"the state of {kind} holds an unknown array {extra[0]!r}; fit the detector anew")


def take(
    state: Arrays,
    name: str,
    shape: tuple[int | None, ...],
    dtype: type[np.generic] = np.float64,
    *,
    most: float = LARGEST,
) -> NDArray[Any]:
    """Return an array of a state, read-only, after checking shape, dtype and values.

    Args:
        state: The arrays by name.
        name: Name of the array; `check_names` has found it.
        shape: The wanted shape; None stands for any length of at least 1.
        dtype: The wanted dtype, native byte order.
        most: Largest absolute value of floating-point numbers.

    Raises:
        DataError: If the array has another shape or dtype, or values that are too large or not finite.
    """
    array = np.asarray(state[name])
    fits = array.ndim == len(shape) and all(
        got >= 1 if want is None else got == want for got, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise DataError(f"array {name!r} of the state must have shape ({wanted}), got {array.shape}")
    if array.dtype != np.dtype(dtype):
        raise DataError(f"array {name!r} of the state must be {np.dtype(dtype)}, got {array.dtype}")
    if array.dtype.kind == "f":
        finite = array if array.dtype == np.float16 else (array.min(), array.max())  # NaN, where there is one
        if not np.isfinite(finite).all():
            raise DataError(f"array {name!r} of the state must be finite, but it holds NaN or infinity")
        if array.dtype != np.float16 and max(-finite[0], finite[1]) > most:
            low, high = finite
            raise DataError(f"array {name!r} of the state must lie within {most:g}, got {low:g} to {high:g}")
    return read_only(array)


def take_whitener(state: Arrays, name: str, width: int) -> Stats:
    """Return the inverse of a lower Cholesky factor, shape (d, d), after checking it.

    Args:
        state: The arrays by name.
        name: Name of the array.
        width: The wanted d.

    Raises:
        DataError: If it is not triangular with a positive diagonal.
    """
    matrix = take(state, name, (width, width))
    if not (matrix.diagonal() >= SMALLEST).all():
        raise DataError(f"the diagonal of array {name!r} of the state must be positive; fit the detector anew")
    require_triangular(name, matrix)
    return matrix


def require_triangular(name: str, matrices: Stats) -> None:
    """Raise DataError unless matrices of shape (..., d, d) are lower triangular."""
    for row in range(matrices.shape[-1]):
        if matrices[..., row, row + 1 :].any():
            raise DataError(f"array {name!r} of the state must be lower triangular; fit the detector anew")


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous view that cannot be written through."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def take_apart(state: Arrays, members: int, own: tuple[str, ...]) -> tuple[Arrays, list[Arrays]]:
    """Take apart the arrays of an ensemble and those of its members.

    Args:
        state: All arrays; those of a member have its number and a dot before their names.
        members: Number of members.
        own: Names of the ensemble's arrays.

    Raises:
        DataError: If an array is missing or unknown.
    """
    parts: list[Arrays] = [{} for _ in range(members)]
    rest: Arrays = {}
    for name, array in state.items():
        head, dot, tail = name.partition(".")
        if dot and head.isdecimal() and head.isascii() and int(head) < members:
            parts[int(head)][tail] = array
        else:
            rest[name] = array
    if rest.keys() != set(own):
        wrong = sorted(rest.keys() ^ set(own))[0]
        raise DataError(f"the state of an ensemble lacks or holds the array {wrong!r}; fit the detector anew")
    return rest, parts
