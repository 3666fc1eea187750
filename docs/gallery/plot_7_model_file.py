"""
One file for any runtime
========================

Compile a bundle into one ONNX file and score with ONNX Runtime alone.
"""

# %%
# The same as `lit-od compile exported/mnist-digits --out digits.onnx` on a command line:
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime

import lit_od
from lit_od import Scorer
from lit_od.cli import main

checkout = Path(lit_od.__file__).parents[1]
file = Path(tempfile.mkdtemp()) / "digits.onnx"
main(["compile", str(checkout / "exported" / "mnist-digits"), "--out", str(file)])

# %%
# Nothing of lit_od is needed from here on. Prepared images go in, verdicts come out.
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
images = np.load(checkout / "lit_od" / "assets" / "digits.npz")["test_images"][..., None]
names = [output.name for output in session.get_outputs()]
found = dict(zip(names, session.run(names, {"image": images}), strict=True))
print({name: values.shape for name, values in found.items()})

# %%
# Scores are those of the scorer, to about a millionth.
scores = Scorer.load(checkout / "exported" / "mnist-digits").score(images).score
print(f"largest difference {np.abs(found['score'] - scores).max():.1e}, largest score {scores.max():.2f}")

figure, axes = plt.subplots(figsize=(4, 3.6), layout="constrained")
axes.plot(scores, found["score"], ".", markersize=3)
axes.set(xlabel="Scorer", ylabel="model file")
plt.show()
