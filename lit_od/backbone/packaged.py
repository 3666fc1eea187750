"""ONNX backbones by name: those that ship with the package, and files."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from lit_od.backbone.patches import PatchGrid, patch_graph, tensors_of
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


def read_patches(
    name: str, layers: Sequence[str], grid: PatchGrid, image_shape: tuple[int, int, int]
) -> tuple[bytes, int | None]:
    """Cut a recipe's ONNX file so that it gives patches; return it and its opset.

    Args:
        name: A shipped backbone or a file.
        layers: Names of its layers, as timm has them; of a file names of its tensors.
        grid: Grid and neighbourhood of the patches.
        image_shape: (h, w, c) of the prepared images.

    Raises:
        BackboneError: If the file is no ONNX graph that takes such images, or a layer gives no maps.
        ConfigError: If there is no such file or layer, or the grid does not fit.
    """
    model, opset = read_packaged(name)
    tensors = tensors_of(model, layers, _LAYERS.get(name))
    return patch_graph(model, tensors, grid, image_shape), opset
