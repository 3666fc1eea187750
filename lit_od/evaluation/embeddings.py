"""Deprecated name of lit_od.evaluation.plots.embeddings, for one release."""

import warnings

from lit_od.evaluation.plots.embeddings import embedding_maps, tsne

__all__ = ["embedding_maps", "tsne"]
warnings.warn(
    "lit_od.evaluation.embeddings is lit_od.evaluation.plots.embeddings now", DeprecationWarning, stacklevel=2
)
