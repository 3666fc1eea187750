"""Outliers made of normal images: a part pasted elsewhere, blur, noise.

They stand in for outliers where there are none, to compare two detectors on the same images. They say nothing about
how well either finds real ones.

References:
    Li, Sohn, Yoon and Pfister 2021, CutPaste: Self-Supervised Learning for Anomaly Detection and Localization.
"""

import numpy as np
from PIL import Image, ImageFilter

from lit_od.evaluation.perturbation import NoiseBlock, apply_mask
from lit_od.types import Images

AREA = (0.1, 0.3)
"""Least and largest share of the image that is pasted elsewhere; more than published, so that features show it."""

ASPECT = (0.3, 1 / 0.3)
"""Least and largest height of that part over its width, as published."""

BLUR = (0.01, 0.04)
"""Least and largest standard deviation of the Gaussian blur, as a share of the longer side."""

NOISE = (0.05, 0.25)
"""Least and largest standard deviation of the noise; pixels count from 0 to 1."""


def synthetic_outliers(images: Images, rng: np.random.Generator) -> dict[str, Images]:
    """Make an outlier of each kind of each image.

    Args:
        images: Prepared normal images, (n, h, w, c) uint8, n at least 1.
        rng: Draws parts, places and noise.

    Returns:
        Images of the same shape, by kind: "cut-paste", "blur" and "noise".
    """
    return {
        "cut-paste": np.stack([_pasted(image, rng) for image in images]),
        "blur": np.stack([_blurred(image, rng) for image in images]),
        "noise": np.concatenate([_noisy(image[None], rng) for image in images]),
    }


def _pasted(image: Images, rng: np.random.Generator) -> Images:
    """Copy a rectangle of the image to another place."""
    sides = np.array(image.shape[:2])
    root = np.sqrt(rng.uniform(*AREA) * sides.prod())
    stretch = np.exp(rng.uniform(*np.log(ASPECT)) / 2)
    height, width = np.clip(np.rint([root * stretch, root / stretch]).astype(int), 1, sides)
    (top, left), (low, right) = rng.integers(0, sides - (height, width) + 1, size=(2, 2))
    pasted = image.copy()
    pasted[low : low + height, right : right + width] = image[top : top + height, left : left + width]
    return pasted


def _blurred(image: Images, rng: np.random.Generator) -> Images:
    radius = rng.uniform(*BLUR) * max(image.shape[:2])
    planes = [Image.fromarray(plane).filter(ImageFilter.GaussianBlur(radius)) for plane in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _noisy(images: Images, rng: np.random.Generator) -> Images:
    noise = NoiseBlock(noise="normal", mean_sd=(0.0, rng.uniform(*NOISE)))
    return apply_mask(images, size=(images.shape[1], images.shape[2]), rng=rng, patch=noise).images
