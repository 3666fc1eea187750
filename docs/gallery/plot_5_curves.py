"""
Curves and histograms
=====================

The pictures of `lit-od report`, drawn one by one.
"""

# %%
# Scores of inliers and of two sets of outliers:
from pathlib import Path

import numpy as np

import lit_od
from lit_od import Scorer
from lit_od.evaluation import plots
from lit_od.evaluation.evaluate import evaluate

checkout = Path(lit_od.__file__).parents[1]
scorer = Scorer.load(checkout / "exported" / "mnist-digits")
digits = np.load(checkout / "lit_od" / "assets" / "digits.npz")
garments = np.load(checkout / "lit_od" / "assets" / "garments.npz")["images"]
known = digits["test_labels"] < 8
inliers = scorer.score(digits["test_images"][known][..., None])
outliers = {
    "digits 8 and 9": scorer.score(digits["test_images"][~known][..., None]).score,
    "garments": scorer.score(garments[:300, ..., None]).score,
}
threshold = scorer.calibration.threshold
print(evaluate(inliers.score, outliers, threshold=threshold).table())

# %%
# Where the sets lie, and the threshold:
figure = plots.score_histograms({"digits 0 to 7": inliers.score, **outliers}, threshold)

# %%
# Which share of the outliers is found at which share of false alarms:
figure = plots.roc_curves(inliers.score, outliers, threshold)

# %%
# Whether p-values keep what they promise: for normal images the share below p is p.
figure = plots.p_value_reliability({"digits 0 to 7": inliers.p_value}, calibration=scorer.calibration.scores.size)
