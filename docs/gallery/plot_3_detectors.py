"""
Seven detectors side by side
============================

The same detectors on three sets of points in the plane, and on features of real images.
"""

# %%
# Two kinds of rows: points in the plane, and features that the network of `exported/mnist-digits` gives of digits.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import lit_od
from lit_od.backbone.model import Backbone
from lit_od.calibration.p_values import Calibration
from lit_od.detectors import GMM, KNN, LOF, LocalResidual, Mahalanobis, PCAResidual
from lit_od.evaluation.metrics import auroc

detectors = {
    "Mahalanobis": Mahalanobis.fit,
    "GMM, 2": lambda rows: GMM.fit(rows, components=2),
    "PCA residual": lambda rows: PCAResidual.fit(rows, components=1 if rows.shape[1] == 2 else 0.9),
    "kNN": KNN.fit,
    "LOF": LOF.fit,
    "hull": lambda rows: LocalResidual.fit(rows, k=10),
    "kNN, coreset": lambda rows: KNN.fit(rows, k=1, coreset=60),
}


def points(rng, number):
    """Return three sets of points in the plane."""
    angle = rng.uniform(0, np.pi, number)
    ring = np.stack([np.cos(angle), np.sin(angle) - 0.5], 1) * 1.6 + rng.normal(0, 0.12, (number, 2))
    side = np.where(rng.random((number, 1)) < 0.5, 1.0, -1.0)
    two = side * [1.1, 0.6] + rng.normal(0, np.where(side > 0, 0.45, 0.15), (number, 2))
    line = rng.normal(0, 1, (number, 1)) * [1.0, 0.7] + rng.normal(0, 0.12, (number, 2))
    return {"one line": line, "two of unlike spread": two, "an arch": ring}


rng = np.random.default_rng(0)
learnt, held_out = points(rng, 300), points(rng, 300)
grid = np.stack(np.meshgrid(np.linspace(-3, 3, 80), np.linspace(-2.4, 2.4, 80)), -1).reshape(-1, 2)

checkout = Path(lit_od.__file__).parents[1]
network = Backbone.load(checkout / "exported" / "mnist-digits" / "backbone.onnx")
digits = np.load(checkout / "lit_od" / "assets" / "digits.npz")
train = network(rng.permutation(digits["train_images"][digits["train_labels"] < 8])[:1500, ..., None])
test, known = network(digits["test_images"][..., None]), digits["test_labels"] < 8

# %%
# In the first three rows each detector learns the white points. Darker ground is more outlying; the line is the
# threshold that flags 5 % of inliers that were held out. In the last row each has learnt 1,500 digits from 0 to 7: gray
# are the scores of 800 others, red those of digits 8 and 9. The differences say nothing about other images.
figure, axes = plt.subplots(4, len(detectors), figsize=(11, 6.4), layout="constrained", height_ratios=[2, 2, 2, 1.2])
for row, name in zip(axes, learnt, strict=False):
    for place, fit in zip(row, detectors.values(), strict=True):
        detector = fit(learnt[name].astype(np.float32))
        inliers = detector.score(held_out[name].astype(np.float32))
        threshold = Calibration.from_inliers(inliers, {"rule": "fpr", "rate": 0.05}).threshold
        scores = detector.score(grid.astype(np.float32)).reshape(80, 80)
        ranks = np.searchsorted(np.sort(scores.ravel()), scores) / scores.size
        extent = (-3, 3, -2.4, 2.4)
        place.imshow(ranks, origin="lower", extent=extent, cmap="bone_r", aspect="auto")
        place.contour(scores, [threshold], extent=extent, colors="crimson", linewidths=1.5)
        place.scatter(*learnt[name].T, s=3, c="white", edgecolors="black", linewidths=0.2)
        place.set(xlim=extent[:2], ylim=extent[2:])
    row[0].set_ylabel(name, fontsize=9)
for top, place, (title, fit) in zip(axes[0], axes[3], detectors.items(), strict=True):
    scores = fit(train).score(test)
    edges = np.linspace(scores.min(), np.quantile(scores, 0.995), 40)
    place.hist(scores[known], edges, density=True, color="gray", alpha=0.8)
    place.hist(scores[~known], edges, density=True, color="crimson", alpha=0.6)
    place.set_xlabel(f"AUROC {auroc(scores[known], scores[~known]):.3f}", fontsize=9)
    top.set_title(title, fontsize=10)
axes[3, 0].set_ylabel("digits", fontsize=9)
for place in axes.flat:
    place.set(xticks=[], yticks=[])
plt.show()
