import numpy as np
import pytest

from lit_od.backbone.model import Backbone
from lit_od.errors import ConfigError, DataError
from lit_od.evaluation.perturbation import NoiseBlock, Sensitivity, apply_mask, draw_centres, sensitivity
from lit_od.evaluation.plots.reconstructions import reconstruction_grid, sensitivity_curves
from tests.support.graphs import graph_of

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("noise", ["uniform", "normal", "zero"])
def test_nothing_changes_outside_the_patch(noise):
    found = apply_mask(IMAGES, size=(4, 3), count=5, rng=rng(), patch=NoiseBlock(noise=noise))
    given = np.repeat(IMAGES, 5, axis=0)
    assert found.images.shape == found.where.shape == (15, 12, 10, 3)
    assert found.images.dtype == np.uint8
    np.testing.assert_array_equal(found.images[~found.where], given[~found.where])
    assert (found.where.sum(axis=(1, 2, 3)) == 4 * 3 * 3).all()
    assert (found.images != given)[found.where].mean() > 0.9


def test_a_patch_is_a_rectangle_around_its_centre():
    centres = np.array([[[5, 4]], [[2, 1]], [[10, 8]]])
    where = apply_mask(IMAGES, size=(4, 3), centres=centres, rng=rng()).where[..., 0]
    for row, (top, left) in enumerate([(3, 3), (0, 0), (8, 7)]):
        expected = np.zeros((12, 10), dtype=bool)
        expected[top : top + 4, left : left + 3] = True
        np.testing.assert_array_equal(where[row], expected)


def test_uniform_noise_is_added_and_clipped():
    grey = np.full((1, 60, 60, 1), 51, dtype=np.uint8)  # 0.2
    found = apply_mask(grey, size=(60, 60), rng=rng(), patch=NoiseBlock(low_high=(0.1, 0.5))).images / 255
    assert found.min() == pytest.approx(0.3, abs=0.01)
    assert found.max() == pytest.approx(0.7, abs=0.01)
    clipped = (
        apply_mask(grey, size=(60, 60), rng=rng(), patch=NoiseBlock(low_high=(0.1, 0.5), clip=(0.4, 0.6))).images / 255
    )
    assert (clipped.min(), clipped.max()) == (0.4, 0.6)


def test_normal_noise_has_its_mean_and_standard_deviation():
    grey = np.full((1, 200, 200, 1), 102, dtype=np.uint8)
    found = (
        apply_mask(grey, size=(200, 200), rng=rng(), patch=NoiseBlock(noise="normal", mean_sd=(0.1, 0.05))).images / 255
    )
    assert found.mean() == pytest.approx(0.5, abs=0.002)
    assert found.std() == pytest.approx(0.05, abs=0.002)


def test_zero_is_black_and_only_in_the_channels_that_are_named():
    found = apply_mask(IMAGES, size=(12, 10), rng=rng(), patch=NoiseBlock(noise="zero", channels=(0, 2)))
    assert not found.images[..., [0, 2]].any()
    np.testing.assert_array_equal(found.images[..., 1], IMAGES[..., 1])


def test_a_larger_patch_holds_the_smaller_ones_noise():
    centres = draw_centres(IMAGES, count=4, largest=(8, 8), rng=rng(1))
    small, large = (
        apply_mask(IMAGES, size=(side, side), count=4, centres=centres, rng=rng(2), patch=NoiseBlock(noise="normal"))
        for side in (4, 8)
    )
    assert (large.where | ~small.where).all()
    np.testing.assert_array_equal(large.images[small.where], small.images[small.where])


def test_a_seed_repeats_itself_and_no_patch_changes_nothing():
    first, second, other = (apply_mask(IMAGES, size=(3, 3), count=2, rng=rng(seed)).images for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    np.testing.assert_array_equal(apply_mask(IMAGES, size=(0, 0), rng=rng()).images, IMAGES)


def test_centres_reach_every_place_where_the_largest_fits():
    found = draw_centres(IMAGES[:1], count=2000, largest=(4, 10), rng=rng())[0]
    assert set(found[:, 0].tolist()) == set(range(2, 11))
    assert set(found[:, 1].tolist()) == {5}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"size": (13, 2)}, ConfigError, r"a patch of 13x2 \(h x w\) does not fit into 12x10"),
        ({"centres": np.array([[[0, 0]]] * 3)}, ConfigError, "does not fit around its centre in 12x10"),
        ({"centres": np.zeros((3, 2), dtype=int)}, DataError, r"centres must have shape \(3, 1, 2\), got \(3, 2\)"),
        ({"count": 0}, ConfigError, "count must be at least 1, got 0"),
        ({"patch": NoiseBlock(channels=(3,))}, ConfigError, r"channels must lie in 0\.\.2, got \[3\]"),
        ({"images": IMAGES[0]}, DataError, r"wanted uint8 images \(n, h, w, c\), got uint8 \(12, 10, 3\)"),
        ({"images": IMAGES / 255}, DataError, "wanted uint8 images"),
    ],
)
def test_what_cannot_be_is_refused(change, error, message):
    arguments = {"images": IMAGES, "size": (2, 2), "rng": rng()} | change
    with pytest.raises(error, match=message):
        apply_mask(arguments.pop("images"), **arguments)


@pytest.mark.parametrize("change", [{"noise": "salt"}, {"low_high": (1, 0)}, {"mean_sd": (0, -1)}, {"clip": (0.5, 2)},
    {"mean_sd": (float("nan"), 1)}, {"low_high": (0, float("inf"))},
])  # fmt: skip
def test_a_patch_that_cannot_be_is_refused(change):
    with pytest.raises(ConfigError):
        NoiseBlock(**change)


@pytest.fixture(scope="module")
def found():
    grey = np.random.default_rng(1).integers(120, 136, (4, 24, 24, 1), dtype=np.uint8)  # near what the graph gives
    backbone = Backbone.load(graph_of(["errors"]))
    return grey, backbone, sensitivity(backbone, grey, sizes=(0, 2, 4, 8), count=3, percentages=(10, 100))


def test_the_means_are_those_of_a_plain_loop(found):
    grey, _, result = found
    assert result.scores.shape == (2, 4, 4)
    np.testing.assert_allclose(result.scores[1, 0], ((grey / 255 - 0.5) ** 2).mean(axis=(1, 2, 3)), rtol=1e-5)
    centres = draw_centres(grey[2:3], count=3, largest=(8, 8), rng=np.random.default_rng([0, 2, 0]))
    draws = np.random.default_rng([0, 2, 1])
    masked = apply_mask(grey[2:3], size=(4, 4), count=3, centres=centres, rng=draws, patch=NoiseBlock(noise="normal"))
    errors = np.sort(((masked.images / 255 - 0.5) ** 2).reshape(3, -1))
    np.testing.assert_allclose(result.scores[:, 2, 2], [errors[:, -58:].mean(), errors.mean()], rtol=1e-5)


def test_scores_rise_with_the_patch_and_a_fall_is_seen(found):
    result = found[2]
    assert result.rises()
    assert not Sensitivity(result.sizes, result.percentages, result.scores[:, ::-1]).rises()
    lines = result.table().splitlines()
    assert lines[0].split() == ["patch", "10", "%", "100", "%"]
    assert lines[2].split() == ["2x2", *(f"{each:.6f}" for each in result.means()[:, 1])]


def test_what_cannot_be_measured_is_refused(found, small_graph):
    grey, backbone, _ = found
    with pytest.raises(ConfigError, match=r"sizes must ascend, got \[2, 2\]"):
        sensitivity(backbone, grey, sizes=(2, 2))
    with pytest.raises(ConfigError, match="does not fit into 24x24"):
        sensitivity(backbone, grey, sizes=(0, 25))
    with pytest.raises(DataError, match="wanted at least 1 image"):
        sensitivity(backbone, grey[:0])
    with pytest.raises(DataError, match="this graph gives features"):
        sensitivity(Backbone.load(small_graph), np.zeros((1, 28, 28, 1), np.uint8))


def test_the_curves_show_every_mean(found):
    axes = sensitivity_curves(found[2]).axes
    for line, row in zip(axes[0].lines, found[2].means(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), row)
    assert len(axes[1].lines) == 4


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_shows_image_reconstruction_and_each_channels_error(channels):
    images = IMAGES[..., :channels]
    reconstructed = np.full(images.shape, 0.5, np.float32)
    errors = np.square(images / 255 - reconstructed).astype(np.float32)
    figure = reconstruction_grid(images, reconstructed, errors, ["a", "b", "c"])
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 3 * (2 + channels) + 0
    np.testing.assert_array_equal(panels[2].images[0].get_array(), errors[0, ..., 0])
    assert panels[2].images[0].get_clim() == (0, errors.max())
    np.testing.assert_array_equal(panels[2 + channels].images[0].get_array(), images[1].squeeze())


def test_a_grid_of_other_shapes_is_refused():
    with pytest.raises(DataError, match="of one shape"):
        reconstruction_grid(IMAGES, IMAGES[:2] / 255, IMAGES / 255)
    with pytest.raises(DataError, match="captions must be one an image, got 1 for 3"):
        reconstruction_grid(IMAGES, IMAGES / 255, IMAGES / 255, ["a"])
