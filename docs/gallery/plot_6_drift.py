"""
An alarm when images change
===========================

Score a stream of images, and let a drift alarm with a bound on false alarms read the scores.
"""

# %%
# 600 digits that the bundle knows; after them, one image in three is a digit that it does not know.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import lit_od
from lit_od import Scorer
from lit_od.operations.drift import DriftMonitor, DriftOptions

checkout = Path(lit_od.__file__).parents[1]
scorer = Scorer.load(checkout / "exported" / "mnist-digits")
digits = np.load(checkout / "lit_od" / "assets" / "digits.npz")
rng = np.random.default_rng(0)
known = rng.permutation(digits["test_images"][digits["test_labels"] < 8])
unknown = rng.permutation(digits["test_images"][digits["test_labels"] >= 8])
stream = np.concatenate([known[:600], rng.permutation(np.concatenate([known[600:], unknown[:100]]))])
scores = scorer.score(stream[..., None]).score

# %%
# The chance that the alarm is ever raised while nothing changes is at most `level`.
monitor = DriftMonitor(DriftOptions(level=0.01, burn_in=100))
readings = [monitor.update(score, row=row) for row, score in enumerate(scores, start=1)]
alarms = [reading.alarm for reading in readings if reading.alarm]
for alarm in alarms:
    print(f"alarm at row {alarm.row}, likely changed from row {alarm.start}")

# %%
# Evidence grows only where bets against "nothing has changed" win.
figure, axes = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, layout="constrained")
axes[0].plot(np.arange(1, len(scores) + 1), scores, ".", markersize=3)
axes[0].set(ylabel="score")
axes[1].plot([reading.row for reading in readings], [reading.evidence for reading in readings])
axes[1].axhline(2, color="crimson", linewidth=1, label="alarm: 1 / 0.01")
axes[1].set(xlabel="row", ylabel="evidence, log10")
for place in axes:
    place.axvline(600.5, color="gray", linestyle=":")
axes[1].legend()
plt.show()
