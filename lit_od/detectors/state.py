"""Reading a detector's arrays back. They may come from strangers: nothing about them is trusted."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import DataError
from lit_od.types import Arrays


def check_names(kind: str, state: Arrays, names: Iterable[str]) -> None:
    """Raise DataError unless the state holds exactly these arrays."""
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
) -> NDArray[Any]:
    """One array of a state, read-only, after its shape, dtype and finiteness have been checked.

    Args:
        state: The arrays by name.
        name: Which of them; `check_names` has found it there.
        shape: The wanted shape; None stands for any length of at least 1.
        dtype: The wanted dtype, native byte order.

    Raises:
        DataError: If the array is not what is wanted.
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
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"array {name!r} of the state must be finite, but it holds NaN or infinity")
    return read_only(array)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A contiguous view that cannot be written through."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
