"""Embedding maps and galleries: what they show, in which order, and what they refuse."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lit_od.errors import DataError
from lit_od.evaluation.plots.embeddings import embedding_maps, tsne
from lit_od.evaluation.plots.galleries import gallery

RNG = np.random.default_rng(0)
PIXELS = {"inliers": RNG.integers(0, 99, (40, 6, 5, 1)), "garments": RNG.integers(0, 99, (25, 6, 5, 1))}
FEATURES = {"inliers": RNG.normal(size=(40, 70)), "garments": RNG.normal(5, 1, (25, 70))}


def rendered(figure):
    figure.set_dpi(40)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_groups_that_lie_apart_stay_apart():
    rows = np.concatenate(list(FEATURES.values()))
    places = tsne(rows, seed=0)
    assert places.shape == (65, 2)
    groups = places[:40], places[40:]
    nearest = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(nearest, np.inf)
    owner = np.repeat([0, 1], [40, 25])
    assert (owner[nearest.argmin(axis=1)] == owner).mean() > 0.95
    assert not np.allclose(groups[0].mean(axis=0), groups[1].mean(axis=0))


def test_a_seed_makes_the_places():
    rows = FEATURES["inliers"]
    np.testing.assert_array_equal(tsne(rows, seed=3), tsne(rows, seed=3))


def test_maps_stand_side_by_side_with_the_same_images():
    spaces = {"pixels": PIXELS, "features before": PIXELS, "features after": FEATURES}
    figure = embedding_maps(spaces, most=30, seed=1, title="digits")
    assert rendered(figure).std() > 5
    assert [axes.get_title() for axes in figure.axes] == list(spaces)
    first, second, _ = figure.axes
    drawn = [[len(line.get_xdata()) for line in axes.lines if len(line.get_xdata())] for axes in figure.axes]
    assert drawn == [[30, 25]] * 3
    np.testing.assert_array_equal(first.lines[0].get_xdata(), second.lines[0].get_xdata())
    assert len({line.get_marker() for line in second.lines}) == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["inliers (30 of 40)", "garments (n = 25)"]


def test_any_name_of_a_set_is_drawn_as_it_is():
    figure = embedding_maps({"pixels": {"_$\\frac$": FEATURES["inliers"], "a\nb": FEATURES["garments"]}})
    assert rendered(figure).std() > 5
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [" _\\$\\frac\\$ (n = 40)", "a\\nb (n = 25)"]


def test_what_cannot_be_mapped_is_refused():
    for spaces in ({}, {"pixels": {}}):
        with pytest.raises(DataError, match="at least one space with at least one set"):
            embedding_maps(spaces)
    with pytest.raises(DataError, match="the same images of the same sets"):
        embedding_maps({"pixels": PIXELS, "features": {**FEATURES, "garments": FEATURES["garments"][1:]}})
    with pytest.raises(DataError, match="needs at least 8 images, got 7"):
        tsne(np.zeros((7, 3)))
    with pytest.raises(DataError, match="needs finite values"):
        tsne(np.full((9, 3), np.nan))
    with pytest.raises(DataError, match="all 9 are equal"):
        tsne(np.ones((9, 3)))


def numbered(count):
    """Images whose grey level is their number."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 1))


@pytest.mark.parametrize(("least", "wanted"), [(False, [3, 1, 4]), (True, [0, 2, 4])])
def test_galleries_are_in_order(least, wanted):
    scores = np.array([-1.0, 7, 0.5, 8, 2])
    p_values = np.array([1, 0.02, 0.9, 0.01, 0.5])
    names = [f"set {row}" for row in range(5)]
    figure = gallery(numbered(5), scores, p_values, names, least=least, count=3)
    assert rendered(figure).std() > 5
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == [f"set {row}\n{scores[row]:.3g}  p {p_values[row]:.2g}" for row in wanted]
    pixels = np.asarray(axes.images[0].get_array())[..., 0]
    tiles = [pixels[1, 1 + column * 5] for column in range(3)]
    assert tiles == wanted
    assert axes.get_title().endswith("outlying: 3 of 5, score and p-value")


def test_a_gallery_takes_any_name():
    images = RNG.integers(0, 99, (2, 6, 5, 1)).astype(np.uint8)
    names = ["$\\frac$", "a\nb"]
    figure = gallery(images, np.array([2.0, 1.0]), np.array([0.1, 0.2]), names)
    assert rendered(figure).std() > 5
    assert [text.get_text().split("\n")[0] for text in figure.axes[0].texts] == ["$\\frac$", "a\\nb"]


def test_a_gallery_of_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match=r"a score and a p-value for each image, got lengths \[4, 5\]"):
        gallery(numbered(5), np.zeros(5), np.ones(4))
    with pytest.raises(DataError, match="got lengths"):
        gallery(numbered(5), np.zeros(5), np.ones(5), ["a"], least=True)
    with pytest.raises(DataError, match="gallery scores are empty"):
        gallery(numbered(0), np.zeros(0), np.zeros(0))
