"""Models that are served, each replaceable while it answers."""

from collections.abc import Mapping
from types import MappingProxyType

from lit_od.serving.limits import RETRY_AFTER, Refused
from lit_od.serving.models import Model
from lit_od.serving.normal_images import NormalImages


class Shelf:
    """Models by name.

    A request takes its model once and keeps it to the end, so that a model may be replaced at any time.

    Attributes:
        normal: Normal images that the page shows; None if there are none.
    """

    def __init__(self) -> None:
        self.normal: NormalImages | None = None
        self._models: Mapping[str, Model] = MappingProxyType({})

    @property
    def ready(self) -> bool:
        """Return True once the models are loaded."""
        return bool(self._models)

    @property
    def models(self) -> Mapping[str, Model]:
        """Return the models by name.

        Raises:
            Refused: 503 while they are loaded.
        """
        if not self._models:
            raise Refused(503, "the bundles are being loaded: try again", retry_after=RETRY_AFTER)
        return self._models

    def fill(self, models: Mapping[str, Model], normal: NormalImages | None = None) -> None:
        """Serve models from now on, and normal images beside them."""
        self.normal = normal
        self._models = MappingProxyType(dict(models))

    def replace(self, model: Model) -> None:
        """Serve a model in place of the one of its name."""
        self._models = MappingProxyType({**self._models, model.name: model})

    def named(self, name: str) -> Model:
        """Return a model.

        Raises:
            Refused: 404 if there is none of this name, 503 while they are loaded.
        """
        models = self.models
        if name not in models:
            raise Refused(404, f"there is no model {name[:100]!r}: here are {', '.join(models)}")
        return models[name]

    def only(self) -> Model:
        """Return the model for requests that name none.

        Raises:
            Refused: 400 if there are several, 503 while they are loaded.
        """
        models = self.models
        if len(models) > 1:
            raise Refused(400, f"several bundles are served: add ?model=NAME, one of {', '.join(models)}")
        return next(iter(models.values()))
