"""Pictures of scores, curves and images, each as a Matplotlib Figure.

`save(figure, path)` writes one; a notebook shows it unaided. Where sets of scores go in as a mapping,
the first one is drawn in blue: put the inliers there.
"""

from lit_od.evaluation.plots.curves import learning_curves, p_value_reliability, precision_recall, roc_curves
from lit_od.evaluation.plots.images import image_grid
from lit_od.evaluation.plots.scores import box_violin, means_with_sd, score_against_index, score_histograms
from lit_od.evaluation.plots.style import save

__all__ = [
    "box_violin",
    "image_grid",
    "learning_curves",
    "means_with_sd",
    "p_value_reliability",
    "precision_recall",
    "roc_curves",
    "save",
    "score_against_index",
    "score_histograms",
]
