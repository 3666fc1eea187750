"""`lit-od classify`: one bundle a class."""

import csv
import io
import json

import numpy as np
import pytest

from lit_od.calibration.p_values import Calibration
from lit_od.errors import ConfigError
from lit_od.fitting.fit import Origin
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation
from lit_od.scoring.classifier import classify, images_needed, largest, z_score
from lit_od.scoring.scorer import Scorer
from tests.support.bundles import make_bundle
from tests.support.images import ASSETS, GREY


def of_digit(digit):
    return find([f"{ASSETS}/digits.npz:train_images:{digit}"])


@pytest.fixture(scope="module")
def two(small_graph, tmp_path_factory):
    """A bundle of zeros and one of ones, whose detectors differ in kind; the second crops."""
    folders = []
    for digit, kind, how in (
        (0, "mahalanobis", GREY),
        (1, "pca_residual", Preparation(size=(28, 28), mode="grey", crop=(28, 28))),
    ):
        images = of_digit(digit)
        out = tmp_path_factory.mktemp("classes") / f"digit-{digit}"
        make_bundle(
            out,
            model=small_graph,
            preparation=how,
            fit=images[:120],
            calibration=images[120:200],
            detector={"kind": kind, **({"components": 4} if kind == "pca_residual" else {})},
            rule={"rule": "percentile", "q": 99},
            origin=Origin(name=out.name),
            threads=1,
        )
        folders.append(out)
    return folders


@pytest.fixture(scope="module")
def images(tmp_path_factory, garments):
    """Forty zeros, forty ones and forty garments that no bundle has seen, as .npz rows."""
    sources = [*of_digit(0)[200:240], *of_digit(1)[200:240], *garments[:40]]
    file = tmp_path_factory.mktemp("images") / "set.npz"
    np.savez(file, images=np.stack([each.prepare(GREY)[..., 0] for each in sources]))
    return file


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_class_is_the_one_with_the_largest_p_value(two, images, command):
    outcome = command("classify", "--bundle", two[0], "--bundle", two[1], images, "--batch-size", 50)
    assert outcome.status == 0
    rows = rows_of(outcome.out)
    assert list(rows[0]) == ["path", "class", "p_value", "p_value.digit-0", "p_value.digit-1", "error"]
    assert [row["path"] for row in rows] == [f"{images}#{row}" for row in range(120)]
    for row in rows:
        p_values = {name: float(row[f"p_value.{name}"]) for name in ("digit-0", "digit-1")}
        best = max(p_values.values())
        assert float(row["p_value"]) == best
        wanted = {name for name, each in p_values.items() if each == best} if best >= 0.05 else {"none"}
        assert row["class"] in wanted
    found = [row["class"] for row in rows]
    assert found[:40].count("digit-0") >= 34
    assert found[40:80].count("digit-1") >= 34
    assert found[80:].count("none") >= 30


def test_each_p_value_is_that_of_the_bundle_alone(two, images):
    sources = find([images])
    scorers = {folder.name: Scorer.load(folder) for folder in two}
    (classes,) = classify(scorers, sources, level=0.05, batch_size=200)
    for name, scorer in scorers.items():
        (alone,) = scorer.stream(sources, batch_size=200)
        np.testing.assert_array_equal(classes.p_values[name], alone.p_value)


def test_jsonl_says_the_same(two, images, command):
    words = ["classify", "--bundle", f"zero={two[0]}", "--bundle", f"one={two[1]}", images]
    as_csv, lines = rows_of(command(*words).out), command(*words, "--format", "jsonl").out.splitlines()
    for row, line in zip(as_csv, lines, strict=True):
        tree = json.loads(line)
        assert list(tree) == list(row)
        assert tree["class"] == row["class"]
        assert tree["p_value.zero"] == float(row["p_value.zero"])
        assert tree["error"] is None


def test_a_level_of_0_calls_nothing_none(two, images, command):
    outcome = command("classify", "--bundle", two[0], "--bundle", two[1], images, "--level", 0)
    assert {row["class"] for row in rows_of(outcome.out)} == {"digit-0", "digit-1"}


def test_an_image_that_one_bundle_cannot_read_has_no_class(two, tmp_path, digits, command):
    digits[0].decode().save(tmp_path / "a.png")
    digits[0].decode().resize((20, 20)).save(tmp_path / "small.png")  # smaller than the second one's crop
    (tmp_path / "z.png").write_bytes(b"")
    outcome = command("classify", "--bundle", two[0], "--bundle", two[1], tmp_path)
    assert outcome.status == 1
    good, small, broken = rows_of(outcome.out)
    assert good["class"]
    assert good["error"] == ""
    assert small["error"].startswith("a crop of 28x28")
    assert broken["error"] == "empty file"
    assert all(not row[name] for row in (small, broken) for name in ("class", "p_value", "p_value.digit-0"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bundle", "{0}"], "a classifier needs a bundle for each of two classes or more, got 1"),
        (["--bundle", "{0}", "--bundle", "{0}"], "two classes are called 'digit-0': give them names"),
        (["--bundle", "none={0}", "--bundle", "{1}"], "a class cannot be called 'none'"),
        (["--bundle", "={0}", "--bundle", "{1}"], "wanted BUNDLE or NAME=BUNDLE"),
        (["--bundle", "{0}", "--bundle", "{1}", "--level", "1"], "level must lie in [0, 1), got 1"),
        (
            ["--bundle", "{0}", "--bundle", "{1}", "--level", "0.012"],
            "level=0.012 needs at least 83 calibration inliers, bundle 'digit-0' has 80, so that no image could be",
        ),
        (["--bundle", "{0}", "--bundle", "nowhere"], "no bundle at nowhere"),
        ([], "required: --bundle"),
    ],
)
def test_what_cannot_be_is_refused(two, images, command, words, message):
    outcome = command("classify", *(word.format(*two) for word in words), images)
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err


def test_of_equal_p_values_the_lowest_standing_wins_then_the_first():
    p_values = np.array([[0.5, 1.0, 1.0, 0.1], [0.5, 0.2, 1.0, 0.3]])
    standings = np.array([[2.0, 9.0, -1.0, -5.0], [1.0, -9.0, -1.0, 5.0]])
    assert largest(p_values, standings).tolist() == [1, 0, 0, 1]
    assert largest(p_values[:, :0], standings[:, :0]).shape == (0,)
    unknown = np.full((2, 1), np.inf)
    assert largest(np.ones((2, 1)), unknown).tolist() == [0]


def test_standing_is_in_standard_deviations_of_the_calibration_scores():
    calibration = Calibration.from_inliers(np.array([1.0, 3.0]), {"rule": "percentile", "q": 99})
    np.testing.assert_allclose(z_score(calibration, np.array([2.0, 4.0])), [0, 2], atol=2e-6)  # raised by a hair
    same = Calibration.from_inliers(np.array([2.0, 2.0]), {"rule": "percentile", "q": 99})
    around = np.array([1.0, same.scores[0], 3.0])
    np.testing.assert_array_equal(z_score(same, around), [-np.inf, 0, np.inf])


def test_a_single_class_is_refused_in_python_too(two):
    with pytest.raises(ConfigError, match="two classes or more, got 1"):
        classify({"zero": Scorer.load(two[0])}, [], level=0.05)


def test_a_level_that_no_p_value_is_below_is_refused_in_python_too(two, images):
    scorers = {folder.name: Scorer.load(folder, threads=1) for folder in two}
    sources = find([images])[80:]
    with pytest.raises(ConfigError, match=r"needs at least 81 calibration inliers, bundle 'digit-0' has 80, so that"):
        classify(scorers, sources, level=1 / 81)
    (classes,) = classify(scorers, sources, level=np.nextafter(1 / 81, 1), batch_size=200)
    assert "none" in classes.label


@pytest.mark.parametrize("level", [0.9, 0.5, 1 / 3, 0.3, 0.1, 0.05, np.nextafter(0.05, 1), 1 / 49, 0.01, 0.003])
def test_the_images_that_a_level_needs_are_the_least_that_do(level):
    least = next(n for n in range(1, 1000) if 1 / (n + 1) < level)
    assert images_needed(level) == least


def test_the_smallest_level_is_refused_at_once(two):
    scorers = {folder.name: Scorer.load(folder, threads=1) for folder in two}
    with pytest.raises(ConfigError, match=r"level=1e-300 needs at least 999,.* has 80, so"):
        classify(scorers, [], level=1e-300)
