"""`lit-od refit`: new statistics and the rule applied anew; what it refuses, it refuses before any image is read."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lit_od import Scorer
from lit_od.bundle.folder import BACKBONE, Bundle
from lit_od.calibration.p_values import Calibration
from lit_od.images.augment import Augment
from lit_od.images.find_local import find
from lit_od.images.find_remote import find_with_urls
from lit_od.images.normal_folders import find_all_normal
from lit_od.images.split import fit_and_calibration
from tests.support.categories import mvtec
from tests.support.images import ASSETS

Command = Callable[..., Any]

INLIERS = f"{ASSETS}/digits.npz:test_images:0,1,2,3,4,5,6,7"
OUTLIERS = f"{ASSETS}/garments.npz"


def scores_of(bundle: Bundle, path: str) -> np.ndarray:
    return np.concatenate([each.score for each in Scorer.of(bundle, threads=1).stream(find([path]))])


def test_the_bundles_rule_is_applied_anew(own_bundle: Path, tmp_path: Path, command: Command) -> None:
    assert command("threshold", own_bundle, "--rule", "fpr", "--rate", "0.05").status == 0
    status, out, err = command("refit", own_bundle, INLIERS, "--out", tmp_path / "new", "--seed", 3)
    assert (status, err) == (0, "")
    old, new = Bundle.read(own_bundle), Bundle.read(tmp_path / "new")
    assert new.files[BACKBONE] == old.files[BACKBONE]
    assert new.calibration.rule == old.calibration.rule == {"rule": "fpr", "rate": 0.05}
    _, held_out = fit_and_calibration(find([INLIERS]), seed=3)
    assert new.calibration.scores.size == len(held_out) == 160
    assert new.calibration.threshold == new.calibration.scores[152]  # rank 153 of 160: 8 / 161 <= 0.05
    assert "(fpr, 160 calibration inliers)" in out
    assert "outliers" not in new.manifest.provenance.data


@pytest.mark.parametrize(
    "words",
    [
        ["--calibration.rule", "max_f1", "--outliers", OUTLIERS],
        ["--calibration.rule", "max_f1", "--calibration.outliers", OUTLIERS],
    ],
)
def test_outliers_serve_max_f1(own_bundle: Path, tmp_path: Path, command: Command, words: list[str]) -> None:
    status, _, err = command("refit", own_bundle, INLIERS, "--out", tmp_path / "new", *words)
    assert (status, err) == (0, "")
    new = Bundle.read(tmp_path / "new")
    assert new.manifest.calibration.rule == new.calibration.rule == {"rule": "max_f1", "outliers": 1000}
    want = Calibration.from_inliers(
        new.calibration.scores, {"rule": "max_f1"}, outliers=scores_of(new, OUTLIERS)
    ).threshold
    assert new.calibration.threshold == pytest.approx(want, rel=1e-6)
    assert new.manifest.provenance.data["outliers"]["images"] == 1000


def test_the_bundles_rule_named_again_keeps_its_options_and_another_one_has_its_own(
    own_bundle: Path, tmp_path: Path, command: Command
) -> None:
    assert command("threshold", own_bundle, "--rule", "percentile", "--q", "90").status == 0
    words = ["refit", own_bundle, INLIERS, "--out", tmp_path / "new"]
    assert command(*words, "--calibration.rule", "percentile").status == 0
    assert Bundle.read(tmp_path / "new").calibration.rule == {"rule": "percentile", "q": 90}
    assert command(*words, "--calibration.n", "3", "--calibration.rule", "mean_std").status == 0
    assert Bundle.read(tmp_path / "new").calibration.rule == {"rule": "mean_std", "n": 3}


def test_a_bundle_by_max_f1_asks_for_outliers_again(own_bundle: Path, tmp_path: Path, command: Command) -> None:
    assert command("threshold", own_bundle, "--rule", "max_f1", "--outliers", OUTLIERS).status == 0
    out = tmp_path / "new"
    status, _, err = command("refit", own_bundle, INLIERS, "--out", out)
    assert status == 2
    assert err == (
        "lit-od: rule max_f1 needs labelled outliers: give --outliers PATH (in a recipe calibration.outliers), "
        "or another rule\n"
    )
    assert not out.exists()
    assert command("refit", own_bundle, INLIERS, "--out", out, "--outliers", f"{OUTLIERS}:images:0,1").status == 0
    assert Bundle.read(out).calibration.rule == {"rule": "max_f1", "outliers": 200}
    assert command("refit", own_bundle, INLIERS, "--out", out, "--calibration.rule", "mean_std").status == 0
    assert Bundle.read(out).calibration.rule == {"rule": "mean_std", "n": 2}


def test_views_fit_as_before_unless_they_are_named(own_bundle: Path, tmp_path: Path, command: Command) -> None:
    images, detector = f"{INLIERS.rpartition(':')[0]}:0", ["--detector", "knn", "--detector.coreset", "50"]
    words = ["--data.augment.flip", "true", "--data.augment.shift", "0.1", "--data.augment.views", "3"]
    assert command("refit", own_bundle, images, "--out", tmp_path / "a", *detector, *words).status == 0
    wanted = Augment(flip=True, shift=0.1, views=3)
    assert Bundle.read(tmp_path / "a").manifest.detector.augment == wanted
    assert command("refit", tmp_path / "a", images, "--out", tmp_path / "b").status == 0
    assert Bundle.read(tmp_path / "b").manifest.detector.augment == wanted
    assert command("refit", tmp_path / "a", images, "--out", tmp_path / "c", "--data.augment", "null").status == 0
    assert Bundle.read(tmp_path / "c").manifest.detector.augment is msgspec.UNSET


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.augment.flips", "true"], "data.augment: unknown key `flips`"),
        (["--data.augment.shift", "2"], "augment.shift must lie in [0, 1), got 2"),
        (
            ["--detector.class_conditional", "true"],
            "class-conditional and needs the images' classes: give class folders",
        ),
        (["--detector", "knn", "--detector.k", "0"], "k must be an integer of at least 1, got 0"),
        (["--detector", "magic"], "unknown detector 'magic'"),
        (["--calibration.rule", "max_f1"], "rule max_f1 needs labelled outliers"),
        (["--calibration.rule", "max_f1", "--calibration.outliers", "[[7]]"], "must be a PATH or a list of PATHs"),
        (["--outliers", "anything"], "rule percentile takes no outliers"),
        (
            ["--calibration.rule", "value"],
            "was set by hand and cannot be applied anew: give --calibration.rule, percentile for one",
        ),
        (["--seed", str(2**64)], "seed must be below 2**64, got 18446744073709551616"),
        (["--calibration.rule", "mean_std", "--calibration.n", "-1e308"], "n must be a number in [-1e+06, 1e+06]"),
        (["--calibration.q", "101"], "q must be a number in [0, 100], got 101"),
        (["--data.root", "x"], "unknown option --data.root"),
    ],
)
def test_refusals_come_before_any_image(
    own_bundle: Path, tmp_path: Path, command: Command, words: list[str], message: str
) -> None:
    """The images do not exist, which nobody finds out."""
    status, out, err = command("refit", own_bundle, tmp_path / "absent", "--out", tmp_path / "new", *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["own"]


def test_several_components_need_scikit_learn(
    own_bundle: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--out", tmp_path / "new", "--detector", "gmm", "--detector.components"]
    monkeypatch.setitem(sys.modules, "sklearn", None)
    status, _, err = command("refit", own_bundle, tmp_path / "absent", *words, 2)
    assert status == 2
    assert err == ('lit-od: this needs scikit-learn, which is not installed. Run: pip install "lit-od[evaluate,cpu]"\n')
    status, _, err = command("refit", own_bundle, tmp_path / "absent", *words, 1)
    assert "does not exist" in err  # one component is fitted without it
    monkeypatch.undo()
    status, _, err = command("refit", own_bundle, tmp_path / "absent", *words, 2)
    assert "does not exist" in err


def test_too_few_images_for_a_rate_are_refused_before_the_work(
    own_bundle: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_od.fitting.fit.cross_fit", None)
    words = ["--calibration.rule", "fpr", "--calibration.rate", "0.001"]
    status, _, err = command("refit", own_bundle, INLIERS, "--out", tmp_path / "new", *words)
    assert status == 2
    assert "rate=0.001 needs at least 999 calibration inliers, got 800. Pass more images or a higher rate." in err
    assert not (tmp_path / "new").exists()


def test_an_outlier_that_cannot_be_read_is_named(own_bundle: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    words = ["--calibration.rule", "max_f1", "--outliers", tmp_path / "broken.png"]
    status, _, err = command("refit", own_bundle, INLIERS, "--out", tmp_path / "new", *words)
    assert status == 2
    assert "broken.png: " in err
    assert not (tmp_path / "new").exists()


def test_a_list_with_several_labels_needs_the_inliers_label(
    own_bundle: Path, digit_files: Path, tmp_path: Path, command: Command
) -> None:
    files = sorted(digit_files.rglob("*.png"))
    rows = [f"{file},{'bad' if row % 4 == 0 else 'good'}" for row, file in enumerate(files)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    words = ["refit", own_bundle, tmp_path / "list.csv", "--out", tmp_path / "new"]
    status, _, err = command(*words)
    assert status == 2
    assert "list.csv lists images of several labels (bad, good), and all would count as inliers: say which are" in err
    assert command(*words, "--label", "good").status == 0
    new = Bundle.read(tmp_path / "new")
    assert new.manifest.detector.images == new.calibration.scores.size == 30  # too few to hold some out
    assert command(*words, "--label", "good", "--label", "bad").status == 0
    assert command(*words, "--label", "fine").status == 2


def test_few_images_fit_and_calibrate_all(
    own_bundle: Path, digit_files: Path, tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    """Forty images, of which a fifth supports 11 %; the bundle and the commands say what they do support."""
    new = tmp_path / "new"
    status, out, _ = command("refit", own_bundle, digit_files, "--out", new, "--detector", "knn")
    assert status == 0
    assert caplog.messages[-1:] == [
        "lit-od: percentile 99 asks for a false-positive rate of 1 %, which takes 99 calibration inliers: 40 support "
        "2.44 % at the least"
    ]
    rates = "40 calibration inliers support 2.44% at the least; promised 4.88%, proven at most 9.76%, typical 1.95% to"
    assert f"calibration: cross, each left out; {rates} 5.85%; false-positive rate 0.06% to 13.16%" in out
    bundle = Bundle.read(new)
    assert bundle.manifest.detector.images == bundle.calibration.scores.size == 40
    assert rates in command("inspect", new).out
    assert f"supported: {rates}" in command("threshold", new).out
    _, out, err = command("threshold", new, "--rule", "fpr", "--rate", "0.1")
    assert "cross, each left out; 40 calibration inliers support 2.44% at the least; promised 9.76%" in out
    assert err == ""
    assert "40 support 2.44 % at the least" in command("threshold", new, "--rule", "percentile").err
    assert Bundle.read(new).manifest.calibration.folds == 40
    assert command("verify", new).status == 0


def test_rates_that_no_method_supports_are_refused(
    own_bundle: Path, digit_files: Path, tmp_path: Path, command: Command
) -> None:
    words = ["refit", own_bundle, digit_files, "--out", tmp_path / "new", "--calibration.rule", "fpr"]
    for method, count in (("split", 8), ("cross", 40)):
        status, _, err = command(*words, "--calibration.method", method)
        assert status == 2
        assert f"rate=0.01 needs at least 99 calibration inliers, got {count}. " in err
    assert command(*words, "--calibration.method", "jackknife").err == (
        "lit-od: calibration.method must be one of split, cross, got 'jackknife'\n"
    )
    assert command(*words, "--calibration.rate", "0.1", "--calibration.method", "split").status == 2
    assert command(*words, "--calibration.rate", "0.1").status == 0
    assert command(*words, "--calibration.rule", "mean_std", "--calibration.method", "cross").status == 0
    assert Bundle.read(tmp_path / "new").manifest.calibration.folds == 40


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_an_image_cannot_fit_and_calibrate(
    own_bundle: Path, digit_files: Path, tmp_path: Path, command: Command, engine: str
) -> None:
    """Known before a cluster is started."""
    words = ["refit", own_bundle, digit_files, digit_files, "--out", tmp_path / "new", "--engine", engine]
    for method, message in (("split", "serves as both fit and calibration image"), ("cross", "is named twice")):
        status, _, err = command(*words, "--calibration.method", method)
        assert status == 2
        assert f"{message}: name each image once" in err
    assert not (tmp_path / "new").exists()


def test_a_category_gives_its_normal_images_and_other_folders_must_look_normal(
    own_bundle: Path, tmp_path: Path, command: Command
) -> None:
    pill = mvtec(tmp_path / "pill")
    status, out, err = command("refit", own_bundle, pill, "--out", tmp_path / "new", "--calibration.rule", "mean_std")
    assert (status, err) == (0, "")
    assert "on 12 images" in out or "on 10 images" in out
    (pill / "train").rename(pill / "normal")  # no layout that is known
    words = ["refit", own_bundle, pill, "--out", tmp_path / "all", "--calibration.rule", "mean_std"]
    status, out, err = command(*words)
    assert (status, out) == (2, "")
    assert "pill holds images that are hardly normal: 13 in test/, 8 in ground_truth/. Name the folder" in err
    assert not (tmp_path / "all").exists()
    assert command(*words, "--take-all").status == 0
    assert command("accept", own_bundle, pill / "test").status == 2


def test_a_cluster_takes_of_a_category_what_one_process_takes(tmp_path: Path) -> None:
    pill = mvtec(tmp_path / "pill")
    found = find_with_urls([pill], local=find_all_normal)
    assert [each.name for each in found] == [each.name for each in find([pill / "train" / "good"])]
