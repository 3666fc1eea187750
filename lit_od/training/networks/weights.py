"""Weights from files, read without running code from them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_od.errors import DataError
from lit_od.training.networks.trial import shape_or_type

Resample: TypeAlias = Callable[[dict[str, Any], nn.Module], dict[str, Any]]
"""Function that fits weights by name to a module's size of images."""


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a `.safetensors` file, or a torch checkpoint of tensors and plain values.

    Raises:
        DataError: If there is no such file, or it holds anything else.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: wanted a file with weights")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, the unpickler and safetensors each raise others
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{path} is no file of weights that can be read safely: {lines[0]}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} must hold tensors by name, got {type(found).__name__}")
    return found


def load_weights(
    module: nn.Module, path: str, *, channels: int, first: str | tuple[str, ...] | None, resample: Resample
) -> None:
    """Load weights under timm's names; further contents of the file are left out.

    Args:
        module: A timm model without a classifier.
        path: The file; weights may lie under "state_dict".
        channels: Channels of the model's input; three input channels of the file are summed into one.
        first: Names of the layers that see the image.
        resample: Fits the weights to the model's size of images.

    Raises:
        DataError: If the file cannot be read, or is of another architecture.
    """
    found = _read_state(path)
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"{path} is of another architecture: {len(missing)} of {len(wanted)} weights are not in it, "
            f"the first is {missing[0]}"
        )
    chosen: dict[str, Tensor] = _resampled({name: found[name] for name in wanted}, module, path, resample)
    for layer in (first,) if isinstance(first, str) else first or ():
        weight = chosen[f"{layer}.weight"]
        if channels == 1 and weight.ndim == 4 and weight.shape[1] == 3:
            chosen[f"{layer}.weight"] = weight.sum(1, keepdim=True)  # grey repeated in three channels
    load_state(module, chosen, path)


def load_part(module: nn.Module, path: str, names: Sequence[str], resample: Resample) -> None:
    """Load some of a network's weights from a file.

    Args:
        module: Any module; its other weights stay.
        path: The file; weights may lie under "state_dict".
        names: Names of the weights in the module.
        resample: Fits the weights to the module's size of images.

    Raises:
        DataError: If the file cannot be read, lacks one of them, or holds it in another shape.
    """
    found, wanted = _read_state(path), module.state_dict()
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"{path} lacks {len(missing)} of the {len(names)} weights that the layers need, the first is {missing[0]}: "
            "choose earlier layers, or another file"
        )
    chosen = _resampled({name: found[name] for name in names}, module, path, resample)
    for name in names:
        shape = shape_or_type(chosen[name])
        if shape != tuple(wanted[name].shape):
            raise DataError(
                f"{path} is of another architecture: {name} is {shape} in the file, {tuple(wanted[name].shape)} in "
                "the network"
            )
    module.load_state_dict(chosen, strict=False)


def _resampled(state: dict[str, Any], module: nn.Module, path: str, resample: Resample) -> dict[str, Any]:
    try:
        return resample(state, module)
    except Exception as error:  # timm's code for each network raises others
        cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(f"{path} is of another architecture: {cause}") from error


def _read_state(path: str) -> dict[str, Any]:
    found = read_tensors(Path(path))
    state = found.get("state_dict", found)
    if not isinstance(state, dict):
        raise DataError(f"{path} must hold tensors by name under state_dict, got {type(state).__name__}")
    return state


def load_state(module: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load a whole state into a module.

    Args:
        module: The module.
        state: Its weights by name.
        path: The file that the state comes from, for messages.

    Raises:
        DataError: If the state is of another architecture.
    """
    wanted = module.state_dict()
    differing = [
        name
        for name in sorted(wanted.keys() | state.keys())
        if name not in wanted or name not in state or wanted[name].shape != state[name].shape
    ]
    if differing:
        name = differing[0]
        sides = [
            f"{tuple(side[name].shape)} in the {owner}" if name in side else f"not in the {owner}"
            for side, owner in ((wanted, "network"), (state, "file"))
        ]
        raise DataError(
            f"{path} is of another architecture: {len(differing)} weights differ, the first is {name}, "
            f"{' and '.join(sides)}"
        )
    module.load_state_dict(state)
