"""The graph of heat maps, `maps.onnx`: squared errors and reconstructions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from lit_od.errors import BackboneError
from lit_od.runtime.onnx_session import Session, run_session
from lit_od.types import Features, Images

OUTPUTS = ("errors", "reconstruction")
"""Outputs of a graph of heat maps, float32 (n, h, w, c): squared errors, and pixels in [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class MapGraph:
    """A loaded `maps.onnx`.

    Attributes:
        graph: The graph that ONNX Runtime runs.
        input: Name of its input.
    """

    graph: Session
    input: str

    @classmethod
    def load(cls, model: bytes, *, threads: int | None = None, providers: Sequence[str] | None = None) -> Self:
        """Open a graph.

        Args:
            model: The ONNX file's bytes.
            threads: Threads of the session. None takes one a core.
            providers: Execution providers in order of preference, as `Backbone.load` takes them.

        Raises:
            BackboneError: If the graph cannot be loaded, or gives no heat maps.
            ConfigError: If a provider is unknown or absent.
            MissingExtra: If no ONNX Runtime is installed.
        """
        graph = Session(model, threads=threads, providers=providers)
        inputs, outputs = graph.opened.get_inputs(), [each.name for each in graph.opened.get_outputs()]
        if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or tuple(outputs) != OUTPUTS:
            raise BackboneError(
                f"a graph of heat maps turns uint8 images into {' and '.join(OUTPUTS)}; this one takes "
                f"{', '.join(each.type for each in inputs)} and gives {', '.join(outputs)}"
            )
        return cls(graph, inputs[0].name)

    def __call__(self, images: Images) -> tuple[Features, Features]:
        """Return squared errors and reconstructions of images, each in their shape.

        Args:
            images: Prepared images, (n, h, w, c) uint8.

        Raises:
            BackboneError: If the graph fails, or gives another shape.
        """
        errors, reconstructed = run_session(self.graph, OUTPUTS, {self.input: images})
        if errors.shape != images.shape or reconstructed.shape != images.shape:
            raise BackboneError(
                f"the heat maps' graph gives {errors.shape} and {reconstructed.shape} for {images.shape}"
            )
        return errors, reconstructed
