"""Make the backbone that ships with the package from timm's EfficientNet-Lite0.

    python scripts/make_backbone.py WEIGHTS.safetensors [IMAGES]

WEIGHTS hold timm's tf_efficientnet_lite0. The network is cut after LAYERS, their outputs pooled by POOL
and, with UNIT_LENGTH, divided by their length. Batch normalisation is folded into the convolutions. The
weights of the 1x1 convolutions are then rounded to fp16 and stored so, with a cast to fp32 behind each:
ONNX Runtime folds the casts when it opens the file, and computes in fp32. The others are few, and
rounding them would move the features five times as far. Height and width stay free. IMAGES, any PATH,
prove the file; without it, the packaged digits and garments do.

`lit_od/backbone/packaged.py` names the tensors of its layers, for patches.

Proven before the file is kept, as max|a - b| / max|a| over the features of real images at each of SIZES:
at most 1e-4 from torch with the same rounded weights, and at most ROUNDING from torch with the weights
as timm publishes them.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from timm.layers import Conv2dSame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation
from lit_od.training.export.backbone_graph import export_backbone
from lit_od.training.export.parity import check_parity
from lit_od.training.frozen import FrozenBackbone
from lit_od.types import Images

NETWORK = "tf_efficientnet_lite0"
LAYERS = ["bn2"]
POOL = "avg"
UNIT_LENGTH = True

SIZES = ((32, 32), (56, 56), (64, 64), (75, 101), (96, 96), (128, 128), (224, 224))
"""Height and width; one of them is odd in every layer."""

ROUNDING = 7e-3
MAX_BYTES = 8_000_000
ASSETS = Path(__file__).parents[1] / "lit_od" / "assets"
PROOF_IMAGES = 32


def network(weights: str) -> FrozenBackbone:
    """Build the network that is exported, cut and pooled."""
    return FrozenBackbone(network=NETWORK, layers=LAYERS, pool=POOL, unit_length=UNIT_LENGTH, checkpoint_path=weights)


def fold(module: nn.Module) -> None:
    """Fold each batch normalisation into its convolution; activations stay."""
    for part in list(module.modules()):
        before = ""
        for name, child in list(part.named_children()):
            convolution = part._modules.get(before)
            if isinstance(child, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d) and child.weight.numel():
                setattr(part, before, fuse_conv_bn_eval(convolution, child))
                setattr(part, name, child.act)
            before = name


def round_weights(module: nn.Module) -> None:
    """Round the weights of 1x1 convolutions to fp16, in place."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1):
            part.weight.data = part.weight.data.half().float()


def pad_symmetrically(module: nn.Module) -> list[tuple[int, ...]]:
    """Replace TensorFlow's padding by a fixed one of the same output size.

    timm computes TensorFlow's padding from the size.

    Returns:
        The shapes of the weights of the convolutions that are to pad otherwise in the graph.
    """
    shapes = []
    for path, part in list(module.named_modules()):
        if isinstance(part, Conv2dSame) and part.weight.numel():
            plain = nn.Conv2d(
                part.in_channels,
                part.out_channels,
                part.kernel_size,
                part.stride,
                padding=part.kernel_size[0] // 2,
                groups=part.groups,
            )
            plain.weight, plain.bias = part.weight, part.bias
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, plain)
            shapes.append(tuple(part.weight.shape))
    return shapes


def finish(model: onnx.ModelProto, same: list[tuple[int, ...]]) -> None:
    """Restore TensorFlow's padding in a graph, and store 1x1 weights in fp16.

    Strided convolutions get the padding.

    Raises:
        SystemExit: If a convolution is not found in the graph.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    casts = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        strides = next(list(each.ints) for each in node.attribute if each.name == "strides")
        if strides != [1, 1]:
            same.remove(tuple(weights[node.input[1]].dims))
            kept = [each for each in node.attribute if each.name not in ("pads", "auto_pad")]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_UPPER")])
        name = node.input[1]
        if list(weights[name].dims)[2:] != [1, 1]:
            continue
        half = numpy_helper.to_array(weights[name]).astype(np.float16)
        weights[name].CopyFrom(numpy_helper.from_array(half, f"{name}.fp16"))
        casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
    if same:
        raise SystemExit(f"convolutions {same} were not found in the graph")
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)


def proof_images(path: str | None, size: tuple[int, int]) -> Images:
    """Load images of the proof, evenly spread over the packaged or given ones."""
    paths = [path] if path else [f"{ASSETS}/digits.npz:test_images", f"{ASSETS}/garments.npz"]
    sources = find(paths)
    rows = np.linspace(0, len(sources) - 1, PROOF_IMAGES).astype(int)
    return load([sources[row] for row in rows], Preparation(size=size))


def difference(wanted: nn.Module, file: Path, images: Images) -> float:
    """Return the relative difference of a module and a file on images.

    Args:
        wanted: The module.
        file: The ONNX file.
        images: Prepared images, (n, h, w, c) uint8.
    """
    return max(check_parity(wanted, file, images, batch_sizes=[len(images)], tolerance=1.0).values())


def main(weights: str, images: str | None = None) -> None:
    original, rounded, plain = (network(weights).backbone() for _ in range(3))
    for module in (rounded, plain):
        fold(module)
        round_weights(module)
    same = pad_symmetrically(plain)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{NETWORK}.onnx"
        export_backbone(plain, file, proof_images(images, (96, 128)), free_size=True)
        model = onnx.load(file)
        finish(model, same)
        onnx.save(model, file)
        if file.stat().st_size > MAX_BYTES:
            raise SystemExit(f"{file.stat().st_size:,} bytes, at most {MAX_BYTES:,} are allowed: choose earlier layers")
        for size in SIZES:
            pixels = proof_images(images, size)
            exported = max(check_parity(rounded, file, pixels).values())
            rounding = difference(original, file, pixels)
            print(f"{size[0]}x{size[1]}: {exported:.1e} from torch, rounded weights; {rounding:.1e} from torch")
            if rounding > ROUNDING:
                raise SystemExit(f"rounding the weights changes the features by {rounding:.1e}, above {ROUNDING:g}")
        with torch.no_grad():
            width = original(torch.from_numpy(pixels[:1])).shape[1]
        target = ASSETS / file.name
        target.write_bytes(file.read_bytes())
    print(f"{target.name}: {', '.join(LAYERS)} pooled by {POOL}, {width:,} features, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
