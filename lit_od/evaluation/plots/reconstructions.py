"""Pictures of an autoencoder: reconstructions, errors, and scores against noise."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lit_od.errors import DataError
from lit_od.evaluation.perturbation import Sensitivity
from lit_od.evaluation.plots.style import colour, dash, styled
from lit_od.types import Features, Images

CHANNELS = ("red", "green", "blue")


@styled
def reconstruction_grid(
    images: Images, reconstructed: Features, errors: Features, captions: Sequence[str] | None = None
) -> Figure:
    """Draw a row an image: the image, its reconstruction and its errors by channel.

    One scale holds for the squared errors of all images.

    Args:
        images: (n, h, w, c), uint8, n at least 1, c 1 or 3.
        reconstructed: The same shape, in [0, 1].
        errors: The same shape, at least 0.
        captions: A short text beside each image, n of them.

    Raises:
        DataError: If the shapes differ, or there are no images.
    """
    if images.ndim != 4 or not len(images) or images.shape != reconstructed.shape or images.shape != errors.shape:
        raise DataError(
            "wanted images, reconstructions and errors of one shape (n, h, w, c), n at least 1, got "
            f"{images.shape}, {reconstructed.shape} and {errors.shape}"
        )
    if captions is not None and len(captions) != len(images):
        raise DataError(f"captions must be one an image, got {len(captions)} for {len(images)} images")
    names = CHANNELS if images.shape[3] == 3 else ("error",)
    titles = ["image", "reconstruction", *(f"error, {name}" if len(names) > 1 else name for name in names)]
    figure = Figure(figsize=(1.45 * len(titles) + 0.9, 1.4 * len(images) + 0.4))
    grid = figure.subplots(len(images), len(titles), squeeze=False)
    most = float(errors.max()) or 1.0
    for row, axes in enumerate(grid):
        shown = [images[row], np.clip(reconstructed[row], 0, 1)]
        for axis, pixels in zip(axes[:2], shown, strict=True):
            top = 255 if pixels.dtype == np.uint8 else 1
            axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=top, interpolation="nearest")
        for channel, axis in enumerate(axes[2:]):
            drawn = axis.imshow(errors[row, ..., channel], cmap="inferno", vmin=0, vmax=most, interpolation="nearest")
        for axis in axes:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        if captions is not None:
            axes[0].set_ylabel(captions[row], fontsize=8)
    for axis, title in zip(grid[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    figure.colorbar(drawn, ax=grid[:, -1], label="squared error", fraction=0.08)
    return figure


@styled
def sensitivity_curves(found: Sensitivity) -> Figure:
    """Plot scores against the side of the noise block.

    The left axes show the mean score for each percentage, the right ones each image's score for the last
    percentage.
    """
    figure = Figure(figsize=(9.2, 3.8))
    means, images = figure.subplots(1, 2)
    for number, (percentage, row) in enumerate(zip(found.percentages, found.means(), strict=True)):
        label = f"{percentage:g} % of the elements"
        means.plot(found.sizes, row, marker="o", markersize=3, color=colour(number), ls=dash(number), label=label)
    means.legend()
    means.set(title=f"mean of {found.scores.shape[2]} images", ylabel="outlier score")
    images.plot(found.sizes, found.scores[-1], color=colour(0), alpha=0.3, linewidth=0.8)
    images.set(title=f"each image, {found.percentages[-1]:g} %")
    for axes in (means, images):
        axes.set(xlabel="side of the patch, pixels", xticks=found.sizes)
    return figure
