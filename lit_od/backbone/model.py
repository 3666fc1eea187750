"""The backbone: an ONNX graph from images to features, errors or patches.

A backbone is an ONNX graph with one input, uint8 (n, h, w, c), and one output, floating point:
"features" (n, d), "errors" (n, h, w, c) or "patches" (n, gh, gw, d). Scaling and normalisation are inside the graph.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from lit_od.errors import BackboneError
from lit_od.formats.onnx_functions import check_expansion
from lit_od.runtime.onnx_session import Session, run_session
from lit_od.types import Images, Output, Outputs

OUTPUT_SHAPES: dict[Output, str] = {"features": "(n, d)", "errors": "(n, h, w, c)", "patches": "(n, gh, gw, d)"}
"""Shapes of a backbone's outputs, for messages."""

_SIDES: dict[str, int] = {"features": 2, "errors": 4, "patches": 4}

_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")

_SINGLE = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Backbone:
    """A loaded graph.

    Attributes:
        graph: The graph that ONNX Runtime runs; pickled, it is opened anew.
        input: Name of its input.
        output: Name of its output: "features", "errors" or "patches".
        image_shape: (h, w, c) that it takes; None where it takes any.
        model: The ONNX file or its bytes.
    """

    graph: Session
    input: str
    output: Output
    image_shape: tuple[int | None, int | None, int | None]
    model: Path | bytes = field(repr=False)
    _single: "list[Backbone]" = field(default_factory=list, init=False, repr=False)

    @classmethod
    def load(
        cls,
        model: Path | bytes,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        device: int | None = None,
    ) -> Self:
        """Open a graph.

        Args:
            model: An ONNX file, or its bytes.
            threads: Threads of the session. None takes one a core.
            providers: Execution providers in order of preference ("cpu", "cuda", or ONNX Runtime's own
                names). None takes CUDA where it is there and starts, else the CPU.
            device: Number of the GPU, for providers that run on NVIDIA's. None takes the first.

        Raises:
            BackboneError: If the graph cannot be loaded or is no backbone.
            ConfigError: If a provider is unknown or absent (there is no silent fall back), or threads is below 1.
            MissingExtra: If no ONNX Runtime is installed.
        """
        try:
            check_expansion(model)
        except BackboneError as error:
            raise BackboneError(f"the graph cannot be loaded: {error}") from None
        graph = Session(model, threads=threads, providers=providers, device=device)
        return cls(graph, *_interface(graph.opened), model=model)

    @property
    def session(self) -> Any:
        """The onnxruntime.InferenceSession."""
        return self.graph.opened

    @property
    def provider(self) -> str:
        """The execution provider that runs it."""
        return self.graph.provider

    @property
    def threads(self) -> int:
        """Threads of a run."""
        return self.graph.threads

    def single(self) -> Self:
        """Return the same graph with one thread a run.

        It is for callers that run several batches at once: two batches on a core each take less time than one after
        the other on two cores, where a convolution's parts wait for each other. The session is opened by the first
        call.
        """
        if self.threads == 1:
            return self
        with _SINGLE:
            if not self._single:
                self._single.append(type(self).load(self.model, threads=1, providers=[self.provider]))
            return self._single[0]  # type: ignore[return-value]  # made by type(self) just above

    def require_images(self, images: Images) -> None:
        """Raise BackboneError unless images have type and shape that the graph takes."""
        fits = images.ndim == 4 and all(
            want in (None, got) for want, got in zip(self.image_shape, images.shape[1:], strict=True)
        )
        if not fits or images.dtype != np.uint8:
            raise BackboneError(
                f"the graph takes uint8 (n, {shape_text(self.image_shape)}), got {images.dtype} {images.shape}"
            )

    def __call__(self, images: Images) -> Outputs:
        """Run a batch.

        Args:
            images: Prepared images, (n, h, w, c) uint8.

        Returns:
            Features (n, d), squared errors (n, h, w, c), or patches (n, gh, gw, d), float32.

        Raises:
            BackboneError: If the images have another shape than the graph takes, or the outputs than a backbone gives.
        """
        self.require_images(images)
        outputs = run_session(self.graph, [self.output], {self.input: images})[0]
        if not _fits(self.output, outputs.shape, images.shape):
            raise BackboneError(
                f"a backbone gives {self.output} {OUTPUT_SHAPES[self.output]}, a row an image; this graph gives "
                f"{outputs.shape} for images {images.shape}"
            )
        return outputs


def _interface(
    session: Any,
) -> tuple[str, Output, tuple[int | None, int | None, int | None]]:
    """Read input name, output and image shape.

    Raises:
        BackboneError: If the graph is no backbone.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4:
        found = ", ".join(f"{each.type} {each.shape}" for each in inputs)
        raise BackboneError(f"a backbone takes one input, uint8 (n, h, w, c); this graph takes {found}")
    if len(outputs) != 1 or outputs[0].name not in OUTPUT_SHAPES:
        found = ", ".join(each.name for each in outputs)
        raise BackboneError(f'a backbone gives one output, "features", "errors" or "patches"; this graph gives {found}')
    height, width, channels = (side if isinstance(side, int) else None for side in inputs[0].shape[1:])
    if height in (1, 3) and channels not in (1, 2, 3, 4):
        raise BackboneError(
            f"a backbone takes uint8 (n, h, w, c); this graph takes {inputs[0].shape}, channels first. Export it anew "
            "with the transposition inside"
        )
    if isinstance(inputs[0].shape[0], int):
        raise BackboneError(f"a backbone takes any number of images; this graph takes {inputs[0].shape[0]}")
    name, shape = outputs[0].name, outputs[0].shape
    if outputs[0].type not in _FLOATS or (shape and (len(shape) != _SIDES[name] or isinstance(shape[0], int))):
        raise BackboneError(
            f"a backbone gives {name} {OUTPUT_SHAPES[name]}, floating point, a row an image; this graph gives "
            f"{outputs[0].type} {shape}"
        )
    return inputs[0].name, name, (height, width, channels)


def _fits(output: Output, shape: tuple[int, ...], images: tuple[int, ...]) -> bool:
    """Return True if outputs have a shape that belongs to the images' shape."""
    if output == "errors":
        return shape == images
    return len(shape) == _SIDES[output] and shape[0] == images[0]


def shape_text(shape: Sequence[int | None]) -> str:
    """Format a shape for a message; None is any length."""
    return ", ".join("any" if side is None else str(side) for side in shape)
