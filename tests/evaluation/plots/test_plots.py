import copy
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_od.calibration.p_values import Calibration
from lit_od.errors import ConfigError, DataError
from lit_od.evaluation import plots
from lit_od.evaluation.plots.style import ScoreAxis

RNG = np.random.default_rng(0)
USUAL = {"inliers": RNG.normal(8, 1, 400), "near": RNG.normal(9, 1, 300), "far": RNG.normal(30, 3, 200)}
SETS = {
    "usual": USUAL,
    "tiny": {name: each * 1e-9 for name, each in USUAL.items()},
    "large": {name: each * 1e9 for name, each in USUAL.items()},
    "huge range": {"inliers": np.exp(RNG.normal(0, 1, 200)), "far": np.exp(RNG.normal(9, 4, 200))},
    "stray values": {"inliers": np.append(USUAL["inliers"], [-1e9, 1e9]), "far": USUAL["far"]},
    "one value each": {"zero": np.zeros(5), "also": np.zeros(3)},
    "one image": {"alone": np.array([7.0])},
    "negative": {"inliers": -USUAL["inliers"], "far": np.array([-1e-3])},
    "many sets": {f"set {number}": RNG.normal(number, 1, 50) for number in range(9)},
}
BY_SET = [plots.score_histograms, plots.box_violin, plots.means_with_sd, plots.score_against_index]
CURVES = [plots.roc_curves, plots.precision_recall]


def drawn(figure):
    """Whether a figure can be rendered, and is not blank."""
    figure.set_dpi(40)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return isinstance(figure, Figure) and np.asarray(canvas.buffer_rgba())[..., :3].std() > 5


@pytest.mark.parametrize("sets", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("plot", BY_SET)
def test_any_scores_can_be_drawn_with_and_without_a_threshold(plot, sets):
    threshold = float(np.median(next(iter(sets.values()))))
    assert drawn(plot(sets, threshold))
    assert plot(sets).axes


@pytest.mark.parametrize("plot", CURVES)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_curves_of_any_scale_can_be_drawn(plot, scale):
    inliers, outliers = USUAL["inliers"] * scale, {name: USUAL[name] * scale for name in ("near", "far")}
    assert drawn(plot(inliers, outliers, 10 * scale))
    assert drawn(plot(np.zeros(1), {"same": np.zeros(1)}))


def test_a_histogram_counts_every_score_once_also_those_beyond_the_edges():
    figure = plots.score_histograms(SETS["stray values"], 10.0)
    (axes,) = figure.axes
    shares = [patch.get_data().values.sum() for patch in axes.patches]
    assert shares == pytest.approx([1.0] * 4)
    assert "2 beyond the edges, drawn there" in axes.get_xlabel()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == f"inliers (n = 402, {(SETS['stray values']['inliers'] > 10).mean():.1%} above)"
    assert labels[-1] == "threshold 10"


def test_the_roc_curve_is_the_curve_and_the_dot_is_the_threshold():
    (axes,) = plots.roc_curves(USUAL["inliers"], {"near": USUAL["near"]}, 9.0).axes
    _, curve, dot = axes.lines
    assert np.trapezoid(curve.get_ydata(), curve.get_xdata()) == pytest.approx(
        (USUAL["near"][:, None] > USUAL["inliers"]).mean(), abs=1e-12
    )
    assert dot.get_xdata() == [(USUAL["inliers"] > 9).mean()]
    assert dot.get_ydata() == [(USUAL["near"] > 9).mean()]


def test_valid_p_values_stay_within_their_band():
    p_values = {"inliers": np.arange(1, 501) / 500, "far": np.full(20, 1 / 501)}
    figure = plots.p_value_reliability(p_values, calibration=500)
    assert drawn(figure)
    diagonal, inliers, _ = figure.axes[0].lines
    np.testing.assert_allclose(inliers.get_ydata(), diagonal.get_ydata(), atol=1 / 500)
    assert figure.axes[1].get_xscale() == figure.axes[1].get_yscale() == "log"


def band(images, calibration):
    """Levels, shape (501,), and the lower and upper end of the drawn band at each."""
    p_values = {"inliers": np.linspace(1e-9, 1, images)}
    shape = plots.p_value_reliability(p_values, calibration=calibration).axes[0].collections[0].get_paths()[0].vertices
    levels = np.linspace(0, 1, 501)
    return levels, *(np.array([extreme(shape[shape[:, 0] == each, 1]) for each in levels]) for extreme in (min, max))


@pytest.mark.parametrize(
    ("images", "calibration"), [(1000, 250), (300, 300), (3000, 400), (2000, 20), (20, 1000), (10, 10)]
)
def test_the_band_holds_what_valid_p_values_give_over_calibration_sets_too(images, calibration):
    rng = np.random.default_rng(0)
    levels, low, high = band(images, calibration)
    low = np.where(low <= low.min(), 0, low)  # where it would leave the logarithmic axes
    within = []
    for _ in range(2000):
        held_out = Calibration.from_inliers(rng.normal(size=calibration), {"rule": "mean_std", "n": 2})
        p_values = np.sort(held_out.p_values(rng.normal(size=images)))
        share = np.searchsorted(p_values, levels, "right") / images
        within.append(bool(((low <= share) & (share <= high)).all()))
    assert np.mean(within) >= 0.95


def test_the_band_is_no_wider_than_it_must_be():
    _, low, high = band(1000, 250)
    assert (high - low).max() == pytest.approx(2 * (1.36 * np.sqrt(1 / 1000 + 1 / 250) + 1 / 251), rel=2e-3)


@pytest.mark.parametrize("plot", [*BY_SET, *CURVES, plots.p_value_reliability])
def test_any_name_of_a_set_can_be_drawn(plot, tmp_path):
    names = [r"$\foo$", "one $", r"a\$b$", "\udcff", "a\x1b[31mb", "$x$ \udcfe$"]
    scores = {name: USUAL["near"] / USUAL["near"].max() for name in names}
    given = (USUAL["inliers"], scores) if plot in CURVES else (scores,)
    figure = plot(*given, calibration=9) if plot is plots.p_value_reliability else plot(*given)
    assert drawn(figure)
    plots.save(figure, tmp_path / "a.svg")
    text = "".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    for shown in (r"$\foo$", "one $", r"a\$b$", r"\udcff", r"a\x1b[31mb", r"$x$ \udcfe$"):
        assert f"{shown}\n" in text or f"{shown}, AU" in text or f"{shown} (n" in text


def test_learning_curves_draw_the_means_of_each_epoch():
    nan = np.nan
    columns = {
        "epoch": [0, 0, 0, 1, 1],
        "step": [1, 2, 3, 4, 5],
        "train_loss": [3.0, 1.0, nan, 0.5, nan],
        "val_loss": [nan, nan, 2.0, nan, nan],
        "val_accuracy": [nan, nan, 0.8, nan, 0.9],
        "lr-Adam": [1e-3, nan, nan, 1e-4, nan],
        "empty": [nan] * 5,
    }
    figure = plots.learning_curves(columns)
    assert drawn(figure)
    loss, other, rate = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["loss", "figure", "learning rate"]
    assert [list(line.get_ydata()) for line in loss.lines] == [[2.0, 0.5], [2.0]]
    assert list(other.lines[0].get_xdata()) == [0, 1]
    assert rate.get_yscale() == "log"
    assert len(plots.learning_curves({"epoch": [0.0], "loss": [1.0]}).axes) == 1


@pytest.mark.parametrize("shape", [(1, 28, 28, 1), (11, 12, 20, 3), (3, 96, 64, 3)])
def test_an_image_grid_holds_every_pixel(shape):
    images = RNG.integers(0, 255, size=shape, dtype=np.uint8)
    figure = plots.image_grid(images, [str(number) for number in range(len(images))], columns=4, title="images")
    assert drawn(figure)
    (axes,) = figure.axes
    canvas = np.asarray(axes.images[0].get_array())
    assert [text.get_text() for text in axes.texts] == [str(number) for number in range(len(images))]
    wide, tall = canvas.shape[1] // min(4, len(images)), canvas.shape[0] // -(-len(images) // 4)
    for number, image in enumerate(images):
        top, left = number // 4 * tall, number % 4 * wide
        tile = canvas[top : top + shape[1], left : left + shape[2]]
        np.testing.assert_array_equal(tile, np.broadcast_to(image, (*shape[1:3], 3)))


def test_global_settings_stay_as_they_are_and_do_not_matter(tmp_path):
    plots.save(plots.score_histograms(USUAL, 10.0), tmp_path / "before.png")
    with mpl.rc_context({"font.size": 31, "axes.facecolor": "red", "savefig.dpi": 20}):
        settings = copy.deepcopy(dict(mpl.rcParams))
        plots.save(plots.score_histograms(USUAL, 10.0), tmp_path / "after.png")
        assert dict(mpl.rcParams) == settings
    assert (tmp_path / "before.png").read_bytes() == (tmp_path / "after.png").read_bytes()


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_equal_pictures_are_equal_files(ending, tmp_path):
    for name in ("a", "b"):
        plots.save(plots.score_against_index(USUAL, 10.0), tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def loaded_by(module):
    code = f"import sys, {module}; print(*({{'torch', 'matplotlib.pyplot'}} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_pictures_and_tables_load_neither_torch_nor_pyplot():
    assert loaded_by("lit_od.evaluation.plots.scores, lit_od.evaluation.evaluate") == set()
    assert loaded_by("lit_od.training.loop.outlier_metrics") == {"torch", "matplotlib.pyplot"}  # torchmetrics'; the probe sees it


class TestScoreAxis:
    def test_a_wide_range_of_positive_scores_is_logarithmic(self):
        assert ScoreAxis.of(list(SETS["huge range"].values())).log
        assert not ScoreAxis.of(list(USUAL.values())).log
        assert not ScoreAxis.of(list(SETS["huge range"].values()), -1.0).log
        assert ScoreAxis.of([np.ones(3)], 1000.0).log

    def test_the_bulk_and_the_threshold_are_always_inside(self):
        axis = ScoreAxis.of(list(SETS["stray values"].values()), 77.0)
        assert axis.low < 6
        assert axis.high > 77.0
        assert axis.high < 1000
        assert axis.held == 2
        np.testing.assert_array_equal(axis.clip(np.array([-1e9, 8.0, 1e9])), [axis.low, 8.0, axis.high])

    def test_nothing_is_held_back_where_all_fits(self):
        axis = ScoreAxis.of(list(USUAL.values()))
        assert axis.held == 0
        assert axis.low < min(each.min() for each in USUAL.values())
        assert axis.high > max(each.max() for each in USUAL.values())


@pytest.mark.parametrize("plot", BY_SET)
def test_sets_that_cannot_be_drawn_are_refused(plot):
    with pytest.raises(DataError, match="at least one set, got none"):
        plot({})
    with pytest.raises(DataError, match="far scores are empty"):
        plot({"inliers": np.ones(3), "far": np.empty(0)})
    with pytest.raises(DataError, match="far scores must be finite, but 1 of 2"):
        plot({"far": np.array([1.0, np.nan])})


def test_other_refusals(tmp_path):
    with pytest.raises(DataError, match=r"p-values of inliers must lie in \(0, 1\], got 0 to 0\.5"):
        plots.p_value_reliability({"inliers": np.array([0.0, 0.5])}, calibration=1)
    with pytest.raises(DataError, match="at least 1 calibration image, got 0"):
        plots.p_value_reliability({"inliers": np.array([0.5])}, calibration=0)
    with pytest.raises(DataError, match='a column "epoch", got loss'):
        plots.learning_curves({"loss": [1.0]})
    with pytest.raises(DataError, match="columns must be of one length"):
        plots.learning_curves({"epoch": [0.0, 1.0], "loss": [1.0]})
    with pytest.raises(DataError, match="nothing to draw"):
        plots.learning_curves({"epoch": [0.0], "step": [1.0], "loss": [np.nan]})
    with pytest.raises(DataError, match="a grid needs uint8 images"):
        plots.image_grid(np.zeros((2, 4, 4, 1)))
    with pytest.raises(DataError, match="captions must be one an image, got 1 for 2"):
        plots.image_grid(np.zeros((2, 4, 4, 1), np.uint8), ["one"])
    with pytest.raises(ConfigError, match=r"must end in \.png, \.svg, \.pdf, got 'a\.gif'"):
        plots.save(plots.score_histograms(USUAL), tmp_path / "a.gif")
