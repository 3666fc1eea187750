"""`lit-od evaluate`: what it writes; with --record figures go where the card shows them, and nothing else changes."""

import json
import os
import shutil

import msgspec
import pytest

from lit_od import cli
from lit_od.bundle.folder import CARD, Bundle
from lit_od.commands import evaluate as evaluate_command
from lit_od.commands import report as report_command
from lit_od.evaluation.evaluate import evaluate
from lit_od.images.find_local import find
from lit_od.scoring.scorer import Scorer
from tests.support.images import ASSETS

INLIERS = f"{ASSETS}/digits.npz:test_images:0,1,2"
GARMENTS = f"{ASSETS}/garments.npz:images"


def scores_of(bundle, path):
    return Scorer.of(bundle, threads=1).score([source.decode() for source in find([path])]).score


def test_recorded_figures_are_the_evaluations_and_stand_in_the_card(own_bundle, command):
    before = Bundle.read(own_bundle)
    words = ["--inliers", INLIERS, "--outliers", f"garments={GARMENTS}", "--threads", "1"]
    done = command("evaluate", own_bundle, *words, "--record")
    assert done.status == 0
    after = Bundle.read(own_bundle)
    found = evaluate(scores_of(before, INLIERS), {"garments": scores_of(before, GARMENTS)}, threshold=0.0)
    kept = after.manifest.provenance.metrics["against garments"]
    area = found.outliers["garments"].figures["auroc"]
    assert [kept["auroc"], kept["auroc_low"], kept["auroc_high"]] == [area.value, area.low, area.high]
    assert kept["outliers"] == 1000
    assert f"against garments (inliers {kept['inliers']}, outliers 1000, auroc {area.value:.6g}" in (
        after.files[CARD].decode()
    )
    assert after.calibration.threshold == before.calibration.threshold
    assert {name for name in after.files if after.files[name] != before.files[name]} == {CARD}
    again = command("evaluate", own_bundle, "--inliers", INLIERS, "--outliers", f"x={GARMENTS}", "--record")
    assert again.status == 0
    metrics = Bundle.read(own_bundle).manifest.provenance.metrics
    assert "against x" in metrics
    assert "against garments" not in metrics


def test_without_it_the_bundle_stays(own_bundle, command):
    before = (own_bundle / "manifest.json").read_bytes()
    assert command("evaluate", own_bundle, "--inliers", INLIERS, "--outliers", f"g={GARMENTS}").status == 0
    assert (own_bundle / "manifest.json").read_bytes() == before


def test_a_set_whose_name_is_no_unicode_is_written_and_recorded(own_bundle, capsysbinary, tmp_path):
    name = os.fsdecode(b"\xff $\\foo$")
    words = ["evaluate", own_bundle, "--inliers", INLIERS, "--outliers", f"{name}={GARMENTS}"]
    words += ["--out", tmp_path / "out", "--record"]
    assert cli.main([str(word) for word in words]) == 0
    assert capsysbinary.readouterr().err == b""
    assert os.fsencode(name) in (tmp_path / "out" / "table.txt").read_bytes()
    assert r"\udcff $\foo$" in msgspec.json.decode((tmp_path / "out" / "metrics.json").read_bytes())["outliers"]
    assert (tmp_path / "out" / "histogram.png").stat().st_size > 10_000
    assert r"against \udcff $\foo$ (inliers" in Bundle.read(own_bundle).files[CARD].decode()


@pytest.mark.parametrize("word", ["--detector.kind=knn", "--data.prepare.size=[14, 14]", "--trainer.no=3"])
def test_what_changes_nothing_of_a_finished_bundle_is_refused(made_bundle, command, word):
    done = command("evaluate", made_bundle.path, word)
    name = word.partition("=")[0]
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        f"lit-od: {name} changes nothing of a finished bundle: leave it out. "
        "What can be changed is data.root, data.test, data.classes, data.outlier_classes, evaluation\n"
    )


def test_a_place_that_cannot_be_written_is_refused_before_the_work(made_bundle, command, tmp_path, monkeypatch):
    for module in (evaluate_command, report_command):
        monkeypatch.setattr(module, "chosen_sets", lambda *given: pytest.fail("it went to work"))
    (tmp_path / "file").touch()
    done = command("evaluate", made_bundle.path, "--out", tmp_path / "file")
    assert (done.status, done.err) == (2, f"lit-od: {tmp_path}/file is a file: name a folder\n")
    done = command("report", made_bundle.path, "--out", tmp_path / "file" / "x.html")
    assert (done.status, done.err) == (2, f"lit-od: {tmp_path}/file is a file: name a folder\n")


def test_the_name_of_a_set_is_no_command_of_the_terminal(own_bundle, command, tmp_path):
    words = ["--inliers", INLIERS, "--outliers", f"a\x1b[2J\nb={GARMENTS}", "--out", tmp_path / "out"]
    told = command("evaluate", own_bundle, *words)
    assert told.status == 0
    for text in (told.out, (tmp_path / "out" / "table.txt").read_text()):
        assert "\x1b" not in text
        assert "\na\\x1b[2J\\nb" in text


def test_a_folder_called_mnist_is_what_is_evaluated(own_bundle, command, digit_files, tmp_path, monkeypatch):
    shutil.copytree(digit_files / "0", tmp_path / "data" / "mnist")
    count = len(list((tmp_path / "data" / "mnist").iterdir()))
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", own_bundle, "--inliers", "mnist", "--outliers", f"g={GARMENTS}"]
    assert command(*words, "--data.root", tmp_path / "data", "--out", "out").status == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["inliers"]["n"] == count
    monkeypatch.chdir(tmp_path / "data")
    assert command(*words).status == 0
    assert [each.name for each in (tmp_path / "data").iterdir()] == ["mnist"]


def test_one_inlier_is_evaluated_and_recorded_without_an_interval(own_bundle, command, digit_files):
    one = next((digit_files / "0").iterdir())
    done = command("evaluate", own_bundle, "--inliers", one, "--outliers", f"g={GARMENTS}", "--record")
    assert (done.status, done.err) == (0, "")
    kept = Bundle.read(own_bundle).manifest.provenance.metrics["against g"]
    assert set(kept) == {"inliers", "outliers", "auroc", "fpr95"}


def test_labels_say_which_images_of_a_list_are_inliers(own_bundle, command, digit_files, tmp_path):
    files = sorted(digit_files.rglob("*.png"))
    rows = [f"{file},{'bad' if row % 4 == 0 else 'good'}" for row, file in enumerate(files)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    words = ["evaluate", own_bundle, "--inliers", tmp_path / "list.csv", "--outliers", f"g={GARMENTS}"]
    came = command(*words)
    assert came.status == 2
    assert "several labels (bad, good)" in came.err
    assert command(*words, "--label", "good", "--out", tmp_path / "out").status == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["inliers"]["n"] == 30
    assert "--label goes with --inliers" in command("evaluate", own_bundle, "--label", "good").err


def test_an_image_cannot_be_inlier_and_outlier(own_bundle, command, digit_files):
    one = next((digit_files / "0").iterdir())
    came = command("evaluate", own_bundle, "--inliers", digit_files, "--outliers", f"x={one}")
    assert came.status == 2
    assert "serves as both inlier and outlier: name each image once" in came.err
