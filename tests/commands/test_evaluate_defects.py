"""`lit-od evaluate` and `report` on a category of defects."""

import json

import pytest

from tests.support import categories


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return categories.mvtec(tmp_path_factory.mktemp("data") / "nut", defects=3)


def test_a_category_is_evaluated_by_kind(made_bundle, command, folder, tmp_path):
    done = command("evaluate", made_bundle.path, "--data.root", folder, "--out", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("MVTec AD, nut: image figures")
    tree = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(tree["defects"]) == {"hole", "scratch", "together"}
    assert (tmp_path / "out" / "histogram.png").stat().st_size > 10_000


def test_figures_of_a_category_are_recorded(own_bundle, command, folder):
    assert command("evaluate", own_bundle, "--data.root", folder, "--record").status == 0
    metrics = json.loads((own_bundle / "manifest.json").read_text())["provenance"]["metrics"]
    assert {"against hole", "against scratch"} <= set(metrics)


def test_a_report_of_a_category(made_bundle, command, folder, tmp_path):
    done = command("report", made_bundle.path, "--data.root", folder, "--out", tmp_path / "x.html")
    assert done.status == 0
    page = (tmp_path / "x.html").read_text()
    for words in ("MVTec AD, nut: image figures in percent", "F1-max", "scratch", "so pixels are not evaluated."):
        assert words in page
        assert words in done.out


def test_masks_of_named_sets_and_of_a_folder(made_bundle, command, folder):
    named = ["--inliers", folder / "test" / "good", "--outliers", f"hole={folder / 'test' / 'hole'}"]
    for words in (["--data.root", folder / "test"], named):
        done = command("evaluate", made_bundle.path, *words, "--masks", folder / "ground_truth")
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith("masks")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.root", "{0}", "--masks", "{0}"], "which has its masks: leave out --masks"),
        (["--masks", "{0}"], "--masks goes with --data.root FOLDER, or with --inliers and --outliers: give either"),
        (["--data.root", "{0}", "--masks", "{0}/none"], "/none is not a folder"),
        (
            ["--data.root", "{0}/.."],
            "is a folder of categories, and each has normal images of its own: name one of nut",
        ),
        (["--data.root", "{0}", "--data.classes", "[a]"], "--data.classes chooses nothing of a category of defects"),
    ],
)
def test_what_does_not_go_together_is_refused(made_bundle, command, folder, words, message):
    done = command("evaluate", made_bundle.path, *(word.format(folder) for word in words))
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
