"""ONNX backbones by name: those that ship with the package, and files."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from lit_od.backbone.patches import PatchGrid, patch_graph, tensors_of
from lit_od.backbone.pixel_input import PixelInput
from lit_od.backbone.wrapped import features_graph, require_uint8, uint8_graph
from lit_od.errors import BackboneError, ConfigError
from lit_od.formats.onnx_file import read_graph

PACKAGED_BACKBONE = "lit_od:"
"""Prefix of the names of shipped backbones, as in lit_od:tf_efficientnet_lite0."""

_LAYERS = {
    "lit_od:tf_efficientnet_lite0": {
        "blocks.0": "conv2d_2",
        "blocks.1": "add_100",
        "blocks.2": "add_156",
        "blocks.3": "add_243",
        "blocks.4": "add_330",
        "blocks.5": "add_448",
        "blocks.6": "conv2d_47",
    }
}
"""Tensors of shipped backbones' files by the names that timm gives their layers."""


def shipped_backbones() -> dict[str, Path]:
    """Return the files of the shipped backbones, by the names that recipes use."""
    folder = Path(str(resources.files("lit_od") / "assets"))
    return {f"{PACKAGED_BACKBONE}{path.stem}": path for path in sorted(folder.glob("*.onnx"))}


def backbone_file(name: str) -> Path:
    """Return the file that a recipe's `backbone` names.

    Raises:
        ConfigError: If there is none.
    """
    if name.startswith(PACKAGED_BACKBONE):
        known = shipped_backbones()
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(known)}"
            raise ConfigError(f"no backbone {name!r}; {hint}")
        return known[name]
    file = Path(name).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"backbone {name} is no file: wanted an ONNX file, or one of {', '.join(shipped_backbones())}"
        )
    return file


def read_packaged(name: str) -> tuple[bytes, int | None]:
    """Read the ONNX file that a recipe's `backbone` names, and its opset.

    Raises:
        BackboneError: If the file is no ONNX graph.
        ConfigError: If there is no such file.
    """
    model = backbone_file(name).read_bytes()
    try:
        return model, read_graph(model).opset
    except BackboneError as error:
        raise BackboneError(f"backbone {name}: {error}. Give an ONNX file that takes uint8 (n, h, w, c)") from error


def read_features(
    name: str, output: str | None, pixels: PixelInput | None, image_shape: tuple[int, int, int]
) -> tuple[bytes, int | None]:
    """Read a recipe's ONNX file as a backbone of features; return it and its opset.

    It is wrapped where it takes floats or one of its tensors is named.

    Args:
        name: A shipped backbone or a file.
        output: The tensor that gives features; None takes the only output.
        pixels: Numbers that it takes; None where it takes uint8 (n, h, w, c).
        image_shape: (h, w, c) of the prepared images.

    Raises:
        BackboneError: If the file is no ONNX graph that takes such images, or cannot be wrapped.
        ConfigError: If there is no such file, or its output or what it takes must be named.
    """
    model, opset = read_packaged(name)
    if pixels is None:
        require_uint8(model, name)
    if pixels is not None or output is not None:
        model = features_graph(model, pixels, output, image_shape)
    return model, opset


def read_patches(
    name: str,
    layers: Sequence[str],
    grid: PatchGrid,
    image_shape: tuple[int, int, int],
    pixels: PixelInput | None = None,
) -> tuple[bytes, int | None]:
    """Cut a recipe's ONNX file so that it gives patches; return it and its opset.

    Args:
        name: A shipped backbone or a file.
        layers: Names of its layers, as timm has them; of a file names of its tensors.
        grid: Grid and neighbourhood of the patches.
        image_shape: (h, w, c) of the prepared images.
        pixels: Numbers that it takes; None where it takes uint8 (n, h, w, c).

    Raises:
        BackboneError: If the file is no ONNX graph that takes such images, or a layer gives no maps.
        ConfigError: If there is no such file or layer, or the grid does not fit.
    """
    model, opset = read_packaged(name)
    tensors = tensors_of(model, layers, _LAYERS.get(name))
    if pixels is None:
        require_uint8(model, name)
    else:
        model, named = uint8_graph(model, pixels, list(tensors.values()), image_shape)
        tensors = {layer: named[tensor] for layer, tensor in tensors.items()}
    return patch_graph(model, tensors, grid, image_shape), opset
