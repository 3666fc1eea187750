"""The numbers that a float graph takes for the pixels of an image."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError
from lit_od.formats.onnx_builder import GraphBuilder
from lit_od.types import Images

Numbers: TypeAlias = float | list[float] | Literal["imagenet"]
"""A number for all channels, one a channel, or those of ImageNet by name."""

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""Mean and standard deviation of red, green and blue over ImageNet, of pixels in [0, 1]."""


@dataclass(frozen=True, slots=True)
class PixelInput:
    """Numbers that a float graph takes for the pixels of an image.

    They are (x / scale - mean) / std of pixels x from 0 to 255, in float32.

    Attributes:
        layout: Order of the axes: "nchw" or "nhwc".
        mean: A number, or one a channel in the graph's order of channels; "imagenet" those of red, green and blue.
        std: Likewise, above 0.
        scale: Above 0; 255 brings pixels to [0, 1].
        channels: Order of the channels: "rgb" or "bgr".

    Raises:
        ConfigError: If a number is none, or not above 0 where it divides.
    """

    layout: Literal["nchw", "nhwc"]
    mean: Numbers = 0.0
    std: Numbers = 1.0
    scale: float = 255.0
    channels: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        for name, given in (("mean", self.mean), ("std", self.std), ("scale", self.scale)):
            numbers = np.asarray(IMAGENET["std"] if given == "imagenet" else given, np.float64)
            if not numbers.size or not np.isfinite(numbers).all() or (name != "mean" and (numbers <= 0).any()):
                raise ConfigError(
                    f"backbone.{name} must be {'finite' if name == 'mean' else 'finite and above 0'}, got {given!r}"
                )

    def constants(self, count: int) -> list[tuple[str, NDArray[np.float32]]]:
        """Return the operators that pixels go through, with their numbers (count,).

        Those that change nothing are left out.

        Raises:
            ConfigError: If there are other numbers than channels.
        """
        steps = [("Div", "scale", self.scale), ("Sub", "mean", self.mean), ("Div", "std", self.std)]
        found = []
        for operator, name, given in steps:
            numbers = np.asarray(IMAGENET[name] if given == "imagenet" else given, np.float32)
            if given == "imagenet" and self.channels == "bgr":
                numbers = numbers[::-1]
            if numbers.ndim and numbers.size != count:
                raise ConfigError(
                    f"backbone.{name} has {numbers.size} numbers, the prepared images have {count} "
                    f"channel{'s' if count > 1 else ''}: change one of them (data.prepare.mode)"
                )
            if (numbers != (0 if operator == "Sub" else 1)).any():
                found.append((operator, np.broadcast_to(numbers, count)))
        if self.channels == "bgr" and count != 3:
            raise ConfigError(f"backbone.channels bgr wants images of 3 channels, the prepared ones have {count}")
        return found

    def __call__(self, images: Images) -> NDArray[np.float32]:
        """Return the numbers of images (n, h, w, c), in the graph's layout."""
        turned = images[..., ::-1] if self.channels == "bgr" else images
        numbers = turned.astype(np.float32)
        for operator, values in self.constants(images.shape[3]):
            numbers = numbers - values if operator == "Sub" else numbers / values
        return numbers.transpose(0, 3, 1, 2) if self.layout == "nchw" else numbers

    def add(self, graph: GraphBuilder, images: str, count: int) -> str:
        """Add the same to a graph, and return the numbers' name.

        Args:
            graph: The graph.
            images: Name of the images, uint8 (n, h, w, count).
            count: Number of channels.
        """
        if self.channels == "bgr":
            images = graph.op("Gather", images, graph.integers(2, 1, 0), axis=3)
        if self.layout == "nchw":
            images = graph.op("Transpose", images, perm=[0, 3, 1, 2])  # of bytes, a quarter of the floats
        numbers = graph.cast(images, np.float32)
        for operator, values in self.constants(count):
            shaped = values.reshape(-1, 1, 1) if self.layout == "nchw" else values
            numbers = graph.op(operator, numbers, graph.constant(shaped, np.float32))
        return numbers
