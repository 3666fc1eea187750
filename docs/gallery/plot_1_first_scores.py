"""
First scores
============

Load a bundle, score images, and look at what is flagged.
"""

# %%
# The bundle in `exported/mnist-digits` was trained on the digits 0 to 7. Whatever else comes is an outlier to it.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import lit_od
from lit_od import Scorer

checkout = Path(lit_od.__file__).parents[1]
scorer = Scorer.load(checkout / "exported" / "mnist-digits")

digits = np.load(checkout / "lit_od" / "assets" / "digits.npz")
garments = np.load(checkout / "lit_od" / "assets" / "garments.npz")["images"]
labels = digits["test_labels"]
sets = {
    "digits 0 to 7": digits["test_images"][labels < 8],
    "digits 8 and 9": digits["test_images"][labels >= 8],
    "garments": garments[:200],
}

# %%
# Arrays are taken as they are, (n, h, w, c). A score says how outlying an image is, a p-value how rare such a score is
# among normal images.
results = {name: scorer.score(images[..., None]) for name, images in sets.items()}
for name, result in results.items():
    print(f"{name:15} {result.is_outlier.mean():6.1%} flagged, median p-value {np.median(result.p_value):.4f}")

# %%
# Each row is a set, from its lowest to its highest score; red ones are flagged.
figure, axes = plt.subplots(3, 8, figsize=(8, 3.6), layout="constrained")
for row, (name, images) in zip(axes, sets.items(), strict=True):
    result = results[name]
    order = np.argsort(result.score)[np.linspace(0, len(images) - 1, 8).astype(int)]
    for place, chosen in zip(row, order, strict=True):
        place.imshow(images[chosen], cmap="gray")
        place.set(xticks=[], yticks=[])
        place.set_xlabel(f"{result.score[chosen]:.2f}", color="firebrick" if result.is_outlier[chosen] else "black")
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()
