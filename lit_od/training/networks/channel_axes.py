"""The axis of the channels in each layer's output.

It is followed through a network's operations, from the image on. Networks of one library differ, and so do the
layers of one network: a linear layer has its channels last, a convolution second, and both occur side by side.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

SECOND = frozenset({"convolution", "_convolution", "native_batch_norm", "_native_batch_norm_legit_no_training"})
"""Operations whose results have their channels in axis 1."""

LAST = frozenset({"addmm", "mm", "bmm", "baddbmm", "linear", "native_layer_norm"})
"""Operations whose results have their channels in the last axis."""

VIEWS = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})


def channel_axes(body: nn.Module, layers: Sequence[str], pixels: Tensor) -> dict[str, int]:
    """Return the axis of the channels in the first output of layers.

    Args:
        body: The network, in evaluation mode.
        layers: Names as in `body.named_modules()`.
        pixels: An input, (n, c, h, w).

    Returns:
        The axis by the layer's name, without layers whose operations leave it open or that are not run.
    """
    found: dict[str, int] = {}
    seen: set[str] = set()

    def note(layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if layer not in seen:
            seen.add(layer)
            if isinstance(output, Tensor) and (axis := _axis(output)) is not None:
                found[layer] = axis
        if len(seen) == len(layers):
            raise _Seen

    pixels = pixels.clone()
    _mark(pixels, 1)
    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(body.get_submodule(layer).register_forward_hook(partial(note, layer)))
        with torch.no_grad(), _Followed():  # type: ignore[no-untyped-call]  # torch's class is untyped
            try:
                body(pixels)
            except Exception:  # all layers have run, or one fails, which a run of the layers alone reports
                return found
    return found


class _Seen(Exception):
    """Control flow: all layers have run."""


class _Followed(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """Operations that mark their results with the axis of the channels."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        results = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        for result in _tensors([results]):
            axis = _axis_of_result(name, args, result)
            if axis is not None:
                _mark(result, axis)
        return results


def _axis_of_result(name: str, args: tuple[Any, ...], result: Tensor) -> int | None:
    """Return the channels' axis in an operation's result; None where it is open."""
    if name in SECOND and result.ndim >= 2:
        return 1
    if name in LAST:
        return result.ndim - 1
    source = next((each for each in _tensors(args) if _axis(each) is not None), None)
    if source is None:
        return None
    axis = _axis(source)
    assert axis is not None
    match name:
        case "permute":
            order: list[int] = [each % source.ndim for each in args[1]]
            return order.index(axis)
        case "transpose":
            swapped: list[int] = [each % source.ndim for each in args[1:3]]
            return swapped[1 - swapped.index(axis)] if axis in swapped else axis
        case "t":
            return 1 - axis
        case _ if name in VIEWS:
            return _after_view(source.shape, axis, result.shape)
        case _:
            return axis if result.ndim == source.ndim else None


def _after_view(before: Sequence[int], axis: int, after: Sequence[int]) -> int | None:
    """Return an axis as it is after a view; None where that joins or divides it.

    The axis has the same length then, behind as many values.
    """
    for place, length in enumerate(after):
        if length == before[axis] and math.prod(after[:place]) == math.prod(before[:axis]):
            return place
    return None


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _axis(tensor: Tensor) -> int | None:
    axis: int | None = getattr(tensor, "_lit_od_channels", None)
    return axis


def _mark(tensor: Tensor, axis: int) -> None:
    tensor._lit_od_channels = axis  # type: ignore[attr-defined]  # the mark goes with the tensor
