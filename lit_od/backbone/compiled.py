"""A model file as a graph that is run: verdicts in place of features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from lit_od.backbone.model import Backbone
from lit_od.errors import BackboneError
from lit_od.runtime.onnx_session import Session, run_session
from lit_od.types import Images, Outputs

INPUT = "image"
"""Name of a model file's input, uint8 (n, h, w, c)."""

OUTPUTS = ("score", "p_value", "is_outlier", "map")
"""Names of a model file's outputs; the last only where the detector has maps."""


class CompiledGraph(Backbone):
    """The graph of a model file, which gives scores and maps.

    Its outputs are (n, 1 + h * w), float64, the score first.
    """

    __slots__ = ()

    @classmethod
    def load(
        cls,
        model: Path | bytes,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        device: int | None = None,
    ) -> Self:
        """Open a model file whose interface was checked.

        Args:
            model: The file or its bytes.
            threads: As `Backbone.load`.
            providers: As `Backbone.load`.
            device: As `Backbone.load`.

        Raises:
            BackboneError: If the graph cannot be loaded.
            ConfigError: If a provider is unknown or absent, or threads is below 1.
            MissingExtra: If no ONNX Runtime is installed.
        """
        graph = Session(model, threads=threads, providers=providers, device=device)
        taken = graph.opened.get_inputs()[0]
        height, width, channels = (side if isinstance(side, int) else None for side in taken.shape[1:])
        verdicts: Any = "verdicts"  # no backbone's output
        return cls(graph, taken.name, verdicts, (height, width, channels), model=model)

    def __call__(self, images: Images) -> Outputs:
        """Run a batch.

        Args:
            images: Prepared images, (n, h, w, c) uint8.

        Returns:
            Scores, and behind each the values of its map: float64, (n, 1 + h * w).

        Raises:
            BackboneError: If the images have another shape than the graph takes.
        """
        self.require_images(images)
        found = self.verdicts(images)
        given = [np.asarray(found[name], np.float64) for name in ("score", "map") if name in found]
        return np.concatenate([each.reshape(len(images), -1) for each in given], axis=1)

    def verdicts(self, images: Images) -> dict[str, Any]:
        """Run a batch of images that the graph takes, and return all outputs by name.

        Raises:
            BackboneError: If the graph fails, or gives other than a value, or a map, for each image.
        """
        names = [port.name for port in self.session.get_outputs()]
        found = dict(zip(names, run_session(self.graph, names, {self.input: images}), strict=True))
        for name, values in found.items():
            if values.shape[:1] != (len(images),) or values.ndim != (3 if name == OUTPUTS[3] else 1):
                raise BackboneError(f"the graph gives {name} of shape {values.shape} for {len(images)} images")
        return found
