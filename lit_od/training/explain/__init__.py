"""Heat maps by gradients, and the torch forms of detectors."""

from lit_od.training.explain.gradients import gradient_maps, overlays, pixel_gradients, spatial_layer

__all__ = ["gradient_maps", "overlays", "pixel_gradients", "spatial_layer"]
