"""The commands accept, history and rollback, and the line that threshold and refit add."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_od.bundle.folder import ACCUMULATOR, Bundle
from lit_od.recipes.load import read
from tests.support.commands import Outcome
from tests.support.images import ASSETS

INLIERS = f"{ASSETS}/digits.npz:test_images:0,1"
ODD = f"{ASSETS}/garments.npz:images:1"
ONE = ("--threads", "1")
Command = Callable[..., Outcome]


@pytest.fixture
def bank(own_bundle: Path, tmp_path: Path, command: Command) -> Path:
    """A bundle whose detector is a bank."""
    words = ("--detector", "knn", "--detector.k", "1", *ONE)
    assert command("refit", own_bundle, INLIERS, "--out", tmp_path / "bank", *words).status == 0
    return tmp_path / "bank"


def test_accepted_images_are_inliers_from_then_on(bank: Path, command: Command) -> None:
    shown = command("accept", bank, ODD, "--dry-run", "--on", ODD, *ONE)
    assert shown.status == 0
    assert not (bank / "history").exists()
    lines = shown.out.splitlines()
    assert " images would be accepted" in lines[0]
    assert "stays: scores can only fall, so images like the calibration images are flagged no more often" in lines[2]
    assert "outliers " in lines[3]
    assert all(line.endswith("outlier -> inlier") for line in lines[4:])
    assert len(lines) > 4
    done = command("accept", bank, ODD, "--note", "new\tcollection", *ONE)
    assert done.status == 0
    assert done.out.splitlines()[0] == lines[0].replace("would be accepted", "accepted")
    rows = command("score", bank, ODD, *ONE).out.splitlines()[1:]
    assert all(",false," in row for row in rows)
    again = command("accept", bank, ODD, *ONE)
    assert f"0 images accepted, {len(rows)} left out: accepted before, or given twice" in again.out
    assert command("verify", bank, *ONE).status == 0
    record = command("history", bank).out.splitlines()
    assert len(record) == 2
    assert (
        f"accept, threshold {Bundle.read(bank).calibration.threshold:.6g} stays, accepted {len(rows)} images"
        in record[1]
    )
    assert "\t" not in record[1]


def test_rates_of_before_are_called_so(own_bundle: Path, tmp_path: Path, command: Command) -> None:
    """Wherever a rate is said: scores of this detector may have risen."""
    folder = tmp_path / "lof"
    assert command("refit", own_bundle, INLIERS, "--out", folder, "--detector", "lof", *ONE).status == 0
    since = "before images were accepted, and not guaranteed since"
    said = [("threshold", folder), ("threshold", folder, "--value", "9"), ("inspect", folder)]
    assert [command(*words).out.count(since) for words in said] == [0, 0, 0]
    assert command("accept", folder, ODD, *ONE).status == 0
    assert [command(*words).out.count(since) for words in said] == [1, 1, 2]
    assert "A p-value is approximate" in command("inspect", folder).out
    assert command("rollback", folder, "1").status == 0
    assert [command(*words).out.count(since) for words in said] == [0, 0, 0]


def test_every_change_in_place_can_be_undone(bank: Path, command: Command) -> None:
    first = Bundle.read(bank)
    assert command("threshold", bank, "--value", "9").status == 0
    words = ("--detector.k", "2", "--calibration.rule", "percentile", "--note", "k of 2")
    assert command("refit", bank, INLIERS, "--out", bank, *words, *ONE).status == 0
    assert command("accept", bank, ODD, *ONE).status == 0
    record = command("history", bank).out.splitlines()
    assert [line.split(",")[0].split()[-1] for line in record[1:]] == ["threshold", "refit", "accept"]
    assert "fit 200 images, calibration 200 images, lit_od" in record[2]
    assert record[2].endswith(", k of 2")
    back = command("rollback", bank, "2", "--note", "too many")
    assert back.status == 0
    assert "state 2, threshold" in back.out
    assert Bundle.read(bank).detector.options()["k"] == 2
    assert command("rollback", bank).status == 0
    assert Bundle.read(bank).calibration.threshold == 9
    assert command("rollback", bank, "0").status == 0
    now = Bundle.read(bank, whole=True)
    assert now.files == first.files
    assert command("history", bank, "--keep", "1").out.count("not to be undone") == 5
    assert "keeps no way back beyond change 5" in command("rollback", bank, "1").err
    assert command("history", bank, "--purge").out.strip().endswith("the history is removed")
    assert "has no history: it is as it was made" in command("history", bank, "--keep", "1").out
    assert Bundle.read(bank).files == first.files


def test_a_refit_elsewhere_begins_without_a_history(bank: Path, tmp_path: Path, command: Command) -> None:
    command("threshold", bank, "--value", "9")
    words = ("--calibration.rule", "percentile", *ONE)
    assert command("refit", bank, INLIERS, "--out", tmp_path / "new", *words).status == 0
    assert not (tmp_path / "new" / "history").exists()
    assert (bank / "history").is_dir()


def test_a_fit_in_its_place_replaces_history_and_all(bank: Path, own_bundle: Path, command: Command) -> None:
    command("threshold", bank, "--value", "9")
    assert command("refit", own_bundle, INLIERS, "--out", bank, *ONE).status == 0
    assert not (bank / "history").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["accept", "BANK", ODD, "--on", ODD], "--on goes with --dry-run: leave it out, or give both"),
        (["accept", "OWN", ODD], "holds no accumulator.safetensors, without which mahalanobis needs the normal images"),
        (["accept", "BANK", "absent.png"], "absent.png"),
        (["history", "BANK", "--keep", "-1"], "must be a whole number of at least 0"),
        (["history", "BANK", "--keep", "1", "--purge"], "not allowed with"),
        (["rollback", "BANK"], "has no history: it is as it was made"),
        (["rollback", "BANK", "x"], "invalid int value"),
    ],
)
def test_what_is_refused(bank: Path, own_bundle: Path, words: list[str], message: str, command: Command) -> None:
    places = {"BANK": bank, "OWN": own_bundle}
    status, _, err = command(*[places.get(word, word) for word in words])
    assert status == 2
    assert message in err
    assert not (bank / "history").exists()


def test_sums_follow_a_refit(bank: Path, tmp_path: Path, command: Command) -> None:
    """Sums are kept, if the bundle has them and its detector needs any."""
    folder = tmp_path / "gauss"
    words = ("--calibration.rule", "percentile", *ONE)
    assert command("refit", bank, INLIERS, "--out", folder, "--detector", "mahalanobis", *words).status == 0
    assert not (folder / ACCUMULATOR).exists()
    assert command("accept", folder, ODD, "--normal", INLIERS, *ONE).status == 0
    assert not (folder / ACCUMULATOR).exists()
    shutil.rmtree(folder)


def test_the_recipe_of_folders_keeps_the_sums_and_that_of_defects_does_not() -> None:
    assert read("folder", []).keep_accumulator
    assert not read("defects", []).keep_accumulator


def test_fit_says_whether_the_sums_are_kept(digit_files: Path, tmp_path: Path, command: Command) -> None:
    words = ("fit", "folder", "--data.root", digit_files, "--data.prepare.size", "[32, 32]", *ONE)
    assert command(*words, "--out", tmp_path / "kept").status == 0
    assert command(*words, "--out", tmp_path / "bare", "--no-keep-accumulator").status == 0
    assert (tmp_path / "kept" / ACCUMULATOR).exists()
    assert not (tmp_path / "bare" / ACCUMULATOR).exists()
    assert command("verify", tmp_path / "kept", *ONE).status == 0
    assert command("accept", tmp_path / "kept", ODD, *ONE).status == 0
    status, _, err = command(*words, "--out", tmp_path / "x", "--keep-accumulator", "--no-keep-accumulator")
    assert status == 2
    assert "not allowed with" in err
