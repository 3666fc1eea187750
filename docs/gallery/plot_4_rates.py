"""
What a rate promises
====================

A threshold from calibration images keeps its rate on average. With the images that you happen to have, it scatters.
"""

# %%
# Scores of 800 digits that the shipped bundle knows stand for all normal images there are. A hundred times, n of them
# are drawn to calibrate, rule `fpr` takes a threshold for a rate of 5 %, and the true rate of that threshold is read
# off all of them.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import lit_od
from lit_od import Scorer
from lit_od.calibration.p_values import Calibration

checkout = Path(lit_od.__file__).parents[1]
scorer = Scorer.load(checkout / "exported" / "mnist-digits")
digits = np.load(checkout / "lit_od" / "assets" / "digits.npz")
scores = scorer.score(digits["test_images"][digits["test_labels"] < 8][..., None]).score

rng = np.random.default_rng(0)
rates = {}
for number in (20, 50, 100, 400):
    drawn = [rng.choice(scores, number, replace=False) for _ in range(100)]
    thresholds = [Calibration.from_inliers(each, {"rule": "fpr", "rate": 0.05}).threshold for each in drawn]
    rates[number] = [float((scores > threshold).mean()) for threshold in thresholds]
    least, most = min(rates[number]), max(rates[number])
    print(f"{number:3} images: mean rate {np.mean(rates[number]):.3f}, from {least:.3f} to {most:.3f}")

# %%
# The mean stays below 5 %, as promised. How far one draw may lie from it depends on the number of images alone: that
# is the interval that `lit-od fit` and `lit-od threshold` print.
figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
axes.boxplot(list(rates.values()), tick_labels=[str(number) for number in rates], whis=(0, 100))
axes.axhline(0.05, color="crimson", linewidth=1, label="asked for")
axes.set(xlabel="images that calibrate", ylabel="true false-positive rate")
axes.legend()
plt.show()
