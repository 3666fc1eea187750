"""Train and export with torch and Lightning.

fit trains, exports and writes a bundle from a recipe; export_bundle exports and writes one from a trained module.
"""

from lit_od.training.autoencoder import LitAutoencoder
from lit_od.training.classifier import LitClassifier
from lit_od.training.data.image_data import ImageData
from lit_od.training.doc import LitDOC
from lit_od.training.export.backbone_graph import export_backbone
from lit_od.training.frozen import FrozenBackbone
from lit_od.training.loop.train import train
from lit_od.training.pipeline import export_bundle, fit
from lit_od.training.segmenter import LitSegmenter

__all__ = [
    "FrozenBackbone",
    "ImageData",
    "LitAutoencoder",
    "LitClassifier",
    "LitDOC",
    "LitSegmenter",
    "export_backbone",
    "export_bundle",
    "fit",
    "train",
]
