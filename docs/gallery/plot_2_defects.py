"""
Where is the defect?
====================

Fit the recipe `defects` on photographs of a brick wall, and look at the heat maps of new ones.
"""

# %%
# `scripts/make_samples.py` cuts photographs from one picture and draws defects over some of them. Take your own folder
# instead.
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import lit_od
from lit_od import Scorer
from lit_od.cli import main

checkout = Path(lit_od.__file__).parents[1]
sys.path.insert(0, str(checkout / "scripts"))
from make_samples import make

work = Path(tempfile.mkdtemp())
make(work / "wall", train=60, test=3)

# %%
# The same as `lit-od fit defects --data.root wall ...` on a command line. Holding out a part of the images is quicker
# than the default, where each of them fits and calibrates. The threshold flags one normal image in ten at most.
options = "--calibration.method split --data.split.calibration 0.4 --calibration.rule fpr --calibration.rate 0.1"
status = main(f"fit defects --data.root {work}/wall --out {work}/bundle {options}".split())

# %%
# One run of the network gives score, map and regions.
scorer = Scorer.load(work / "bundle")
kinds = ("good", "scratch", "stain", "object")
files = [work / "wall" / "test" / kind / "000.png" for kind in kinds]
result = scorer.score(files, maps=True)
for kind, regions in zip(kinds, result.regions, strict=True):
    print(kind, [region.box for region in regions])

# %%
# The line is the threshold for pixels. Boxes are in the pixels of the photograph as it was given.
figure, axes = plt.subplots(2, 4, figsize=(9, 4.8), layout="constrained")
most = float(np.nanmax(result.maps))
for column, (kind, file) in enumerate(zip(kinds, files, strict=True)):
    axes[0, column].imshow(Image.open(file), cmap="gray")
    axes[0, column].set_title(kind)
    axes[1, column].imshow(result.maps[column], cmap="inferno", vmin=0, vmax=most)
    axes[1, column].contour(result.maps[column] > scorer.pixel_threshold, [0.5], colors="cyan", linewidths=1)
    axes[1, column].set_xlabel(f"score {result.score[column]:.2f}, p = {result.p_value[column]:.2f}")
for place in axes.flat:
    place.set(xticks=[], yticks=[])
plt.show()
