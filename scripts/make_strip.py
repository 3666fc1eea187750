"""Draw the strip of pictures at the head of the README.

    python scripts/make_samples.py wall
    lit-od fit defects --data.root wall --out bundle
    python scripts/make_strip.py bundle wall docs/images/strip.png

Each column is the first test photograph of a kind: as it was given, and below with the bundle's heat map, the outline
of what is above the threshold for pixels, and the verdict.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from lit_od import Scorer
from lit_od.bundle.folder import Bundle
from lit_od.images.preparation import prepare
from lit_od.scoring.drawing import in_colour, outlined, overlay
from lit_od.scoring.maps import colour_scale

KINDS = {"good": "normal", "scratch": "scratch", "stain": "stain", "object": "foreign object"}
VERDICTS, COLOURS = ("inlier", "outlier"), ("#1b6e3c", "#b3261e")


def draw(bundle: Path, category: Path, out: Path) -> None:
    """Score the photographs and draw them.

    Args:
        bundle: A bundle of the recipe `defects`.
        category: The folder that `make_samples.py` has made.
        out: The picture.
    """
    read = Bundle.read(bundle)
    scorer = Scorer.of(read)
    scale = colour_scale(read, scorer)
    photographs = [category / "test" / kind / "000.png" for kind in KINDS]
    result = scorer.score(photographs, maps=True)
    limit = scorer.pixel_threshold
    assert result.maps is not None
    assert limit is not None
    figure, axes = plt.subplots(2, len(KINDS), figsize=(8.4, 4.9), dpi=120, layout="constrained")
    for column, (photograph, name) in enumerate(zip(photographs, KINDS.values(), strict=True)):
        pixels = in_colour(prepare(Image.open(photograph), scorer.preparation)[None])
        values = result.maps[column]
        heat = outlined(overlay(pixels, scale.heat(values)[None])[0], values > limit)
        outlier = bool(result.is_outlier[column])
        axes[0, column].imshow(pixels[0])
        axes[0, column].set_title(name, fontsize=11)
        axes[1, column].imshow(heat)
        axes[1, column].set_xlabel(
            f"score {result.score[column]:.2f}   p = {result.p_value[column]:.2f}\n{VERDICTS[outlier]}",
            color=COLOURS[outlier],
            fontsize=11,
        )
    for each in axes.flat:
        each.set(xticks=[], yticks=[])
        each.spines[:].set_visible(False)
    figure.savefig(out, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python scripts/make_strip.py BUNDLE CATEGORY OUT.png")
    draw(*map(Path, sys.argv[1:]))
