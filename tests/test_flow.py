"""The main job through the command line, on real digits: train, export, score without torch, evaluate."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_od import Bundle, Scorer
from lit_od.cli import main
from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.training.loop.checkpoints import load_module
from tests.support.detectors import MEAN_DISTANCE
from tests.support.images import ASSETS, GREY

QUICK = ["--trainer.max_epochs", "1", "--data.limit", "1500"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and its run, made by `lit-od fit demo`."""
    folder = tmp_path_factory.mktemp("flow")
    assert main(["fit", "demo", "--out", str(folder / "bundle"), "--run", str(folder / "run"), *QUICK]) == 0
    return folder


def test_the_run_folder_holds_what_a_user_looks_for(trained: Path):
    names = {each.name for each in (trained / "run").iterdir()}
    assert {"best.ckpt", "metrics.csv", "config.yaml", "learning_curves.png", "samples.png"} <= names
    with (trained / "run" / "metrics.csv").open(newline="") as table:
        (row,) = csv.DictReader(table)
    assert float(row["val_loss"]) < 2.5
    assert 0 <= float(row["val_outlier_auroc"]) <= 1


def test_torch_and_bundle_agree_on_a_thousand_scores(trained: Path):
    bundle = Bundle.read(trained / "bundle")
    sources = find([f"{ASSETS}/digits.npz:test_images"])
    assert len(sources) == 1000
    module = load_module(trained / "run" / "best.ckpt").eval()
    with torch.inference_mode():
        features = module.backbone()(torch.from_numpy(load(sources, GREY))).numpy()
    wanted = bundle.detector.score(features)
    got = np.concatenate([result.score for result in Scorer.load(trained / "bundle").stream(sources)])
    assert np.abs(got - wanted).max() / np.abs(wanted).max() < 1e-4


def test_scoring_needs_no_torch(trained: Path):
    code = (
        "import sys; from lit_od.cli import main; status = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules; sys.exit(status)"
    )
    words = [sys.executable, "-c", code, "score", str(trained / "bundle"), f"{ASSETS}/garments.npz"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert len(rows) == 1000
    assert all(float(row["score"]) > 0 and 0 < float(row["p_value"]) <= 1 for row in rows)


def test_a_second_detector_costs_no_second_training(trained: Path, capsys: pytest.CaptureFixture[str]):
    out = trained / "plain"
    words = ["export", str(trained / "run" / "best.ckpt"), "--detector", "mahalanobis", "--out", str(out)]
    assert main([*words, "--detector.shrinkage", "0.1", "--calibration.rule", "mean_std", "--calibration.q", "99"]) == 2
    assert "no option 'q'" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, "--detector.shrinkage", "0.1"]) == 0
    made, first = Bundle.read(out), Bundle.read(trained / "bundle")
    assert made.manifest.detector.options["shrinkage"] == 0.1
    assert made.manifest.detector.options["class_conditional"] is False
    assert first.manifest.detector.options["class_conditional"] is True
    assert made.manifest.detector.images == first.manifest.detector.images
    assert main(["verify", str(out)]) == 0


def test_evaluate_by_the_recipe_and_by_paths(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", str(trained / "bundle"), "--out", str(trained / "figures")]) == 0
    table = capsys.readouterr().out
    figures = json.loads((trained / "figures" / "metrics.json").read_text())
    assert "garments" in table
    assert (trained / "figures" / "histogram.png").stat().st_size > 1000
    words = ["--inliers", f"{ASSETS}/digits.npz:test_images:0,1,2,3,4,5,6,7", "--outliers", f"g={ASSETS}/garments.npz"]
    assert main(["evaluate", str(trained / "bundle"), *words, "--out", str(trained / "again")]) == 0
    again = json.loads((trained / "again" / "metrics.json").read_text())
    one, other = (each["figures"]["auroc"] for each in (again["outliers"]["g"], figures["outliers"]["garments"]))
    assert one["value"] == other["value"]
    assert one["low"] < one["value"] < one["high"]


def test_evaluate_refuses_half_of_the_sets(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", str(trained / "bundle"), "--inliers", str(ASSETS / "garments.npz")]) == 2
    assert "go together" in capsys.readouterr().err
    assert main(["evaluate", str(trained / "bundle"), "--inliers", "x.png", "--outliers", "x.png"]) == 2
    assert "NAME=PATH" in capsys.readouterr().err


def test_an_out_that_is_no_bundle_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "precious.txt").write_text("mine")
    assert main(["fit", "demo", "--out", str(tmp_path), *QUICK]) == 2
    assert "no bundle" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["precious.txt"]


def test_refit_scores_as_a_fit_that_saw_the_same_split(trained: Path):
    out = trained / "refitted"
    words = ["refit", str(trained / "bundle"), f"{ASSETS}/garments.npz", "--out", str(out)]
    assert main([*words, "--detector.class_conditional", "false", "--seed", "3"]) == 0
    refitted = Scorer.load(out)
    from lit_od.detectors.spec import DetectorSpec
    from lit_od.fitting.engine import LocalEngine, fit_detector
    from lit_od.images.split import fit_and_calibration

    sources = find([f"{ASSETS}/garments.npz"])
    fit, _ = fit_and_calibration(sources, seed=3)
    detector, _ = fit_detector(LocalEngine(refitted.extractor), DetectorSpec("mahalanobis", {}), fit)
    wanted = detector.score(refitted.backbone(load(sources, refitted.preparation)))
    got = refitted.score(load(sources, refitted.preparation)).score
    np.testing.assert_allclose(got, wanted, rtol=1e-5)  # batches of another size: float32 features differ in the end


def test_refit_needs_labels_for_classes(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["refit", str(trained / "bundle"), f"{ASSETS}/garments.npz", "--out", str(tmp_path / "b")]
    assert main(words) == 2
    assert "--labels folders" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    shutil.copytree(trained / "bundle", tmp_path / "c")
    assert main(["threshold", str(tmp_path / "c"), "--value", "3"]) == 0
    words[1] = str(tmp_path / "c")
    assert main([*words, "--detector.class_conditional", "false"]) == 2
    assert "set by hand" in capsys.readouterr().err


def test_the_demo_runs_twice_in_the_same_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["demo", "--out", str(tmp_path), *QUICK, "--data.limit", "300"]
    for others in ([f"--detector.kind={MEAN_DISTANCE}", "--trust", MEAN_DISTANCE], []):
        assert main([*words, *others]) == 0
        advice = f"(lit-od inspect {tmp_path / 'bundle'}{' ' * bool(others)}{' '.join(others[1:])})\n"
        assert capsys.readouterr().out.endswith(advice)
    assert (tmp_path / "histogram.png").stat().st_size > 1000
    assert main(["verify", str(tmp_path / "bundle")]) == 0


def test_the_demo_leaves_another_run_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: mine\n")
    assert main(["demo", "--out", str(tmp_path), *QUICK]) == 2
    assert "run is not of an earlier tour, and would be replaced: give another --out" in capsys.readouterr().err
    assert [each.name for each in tmp_path.rglob("*")] == ["run", "config.yaml"]


def test_an_export_cannot_divide_the_images_anew(trained: Path, capsys: pytest.CaptureFixture[str]):
    words = ["export", str(trained / "run" / "best.ckpt"), "--out", str(trained / "leaky")]
    assert main([*words, "--data.split.calibration", "0.3"]) == 2
    assert "would calibrate it" in capsys.readouterr().err
    assert not (trained / "leaky").exists()


def test_inliers_is_no_name_for_outliers(trained: Path, capsys: pytest.CaptureFixture[str]):
    sets = ["--inliers", f"{ASSETS}/digits.npz:test_images", "--outliers", f"inliers={ASSETS}/garments.npz"]
    assert main(["evaluate", str(trained / "bundle"), *sets]) == 2
    assert "another name" in capsys.readouterr().err
