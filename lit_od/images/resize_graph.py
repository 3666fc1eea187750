"""Resize images by ONNX Runtime, as a model file does.

The operator is ONNX' Resize on uint8, antialiased, whose weights beyond the border count as none: with these attributes
it is within a few levels of Pillow's `resize`.
"""

from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np

from lit_od.formats import onnx_writer
from lit_od.formats.onnx_writer import Attribute
from lit_od.runtime.onnx_session import Session, run_session
from lit_od.types import Images

GraphResize: TypeAlias = Literal["graph", "graph-bicubic"]
"""Ways of resizing that a model file can run: bilinear and bicubic."""

OPSET = 18
"""First operator set whose Resize knows antialiasing."""


def attributes(way: GraphResize) -> dict[str, Attribute]:
    """Return the attributes of the operator that resizes images (n, h, w, c)."""
    return {
        "antialias": 1,
        "axes": [1, 2],
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": -0.5,
        "exclude_outside": 1,
        "mode": "cubic" if way == "graph-bicubic" else "linear",
    }


def resized(image: Images, size: tuple[int, int], way: GraphResize) -> Images:
    """Resize an image.

    Args:
        image: Shape (h, w, c), uint8.
        size: Height and width that are wanted.
        way: Bilinear or bicubic.

    Returns:
        Shape (*size, c), uint8.
    """
    inputs: dict[str, Any] = {"image": image[None], "sizes": np.array(size, np.int64)}
    return np.asarray(run_session(_session(way), ["resized"], inputs)[0][0], np.uint8)


def whole_box(size: tuple[int, int], wanted: tuple[int, int], fraction: float) -> tuple[int, int, int, int]:
    """Return left, upper, right and lower of a centred box of whole pixels.

    Args:
        size: Height and width of the image.
        wanted: Height and width whose proportions the box has, as far as whole pixels allow.
        fraction: Share of the largest such box, in (0, 1].
    """
    scale = fraction * min(size[0] / wanted[0], size[1] / wanted[1])
    height, width = (max(1, min(side, int(want * scale + 0.5))) for side, want in zip(size, wanted, strict=True))
    left, upper = (size[1] - width) // 2, (size[0] - height) // 2
    return left, upper, left + width, upper + height


@cache
def _session(way: GraphResize) -> Session:
    nodes = [onnx_writer.node("Resize", ["image", "", "", "sizes"], ["resized"], **attributes(way))]
    inputs = [onnx_writer.port("image", np.uint8, ("n", "h", "w", "c")), onnx_writer.port("sizes", np.int64, (2,))]
    outputs = [onnx_writer.port("resized", np.uint8, ("n", None, None, "c"))]
    header = onnx_writer.number(1, onnx_writer.IR_VERSION) + onnx_writer.message(8, onnx_writer.number(2, OPSET))
    return Session(onnx_writer.model(nodes, inputs, outputs, header=header), threads=1, providers=["cpu"])
