"""All experiments in one table: who gets which override, what is taken up again, what a refusal costs."""

import json
from pathlib import Path

import pytest

from lit_od.commands import reproduce
from lit_od.errors import DataError
from lit_od.evaluation.intervals import Interval
from lit_od.experiments.results import ExperimentOptions, ExperimentResult, ResultRow, in_percent, middle
from lit_od.experiments.summary_table import duration, keep, keep_summary, table_of, take_up

ROWS = (ResultRow("a | b", "0.48", "0.5 [0.4, 0.6]", "seeds"), ResultRow("c", "none", "1", "nothing"))


class Fake:
    """An experiment that counts its runs, and is refused where it is told to be."""

    def __init__(self, *, refused=False):
        self.refused, self.given = refused, []

    def run(self, options):
        self.given.append(options)
        if self.refused:
            raise DataError("no such images")
        return ExperimentResult("text", {"figure": 1}, ROWS)


@pytest.fixture
def experiments(monkeypatch):
    published = [name for name in reproduce.EXPERIMENTS if name not in reproduce.UNPUBLISHED]
    made = {name: Fake(refused=name == "cats-autoencoder") for name in published}
    monkeypatch.setattr(reproduce, "_experiment", made.__getitem__)
    return made


def test_one_table_of_those_that_ended(experiments, command, tmp_path):
    done = command(
        "reproduce", "all", "--out", tmp_path / "out", "--quick", "--data.root", "images", "--budget", "small"
    )
    assert done.status == 1
    assert "cats-autoencoder: no such images" in done.err
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in done.out
    lines = table.splitlines()
    assert len(lines) == 2 + 2 * (len(experiments) - 1)
    assert lines[2].startswith("| `mnist-digits` smoke run | a / b | 0.48 | 0.5 [0.4, 0.6] | seeds | 0 s |")
    assert lines[3] == "| smoke run | c | none | 1 | nothing |  |"
    for name, fake in experiments.items():
        (options,) = fake.given
        assert (options.root, options.quick, options.out) == ("images", True, tmp_path / "out" / name)
        assert options.budget == ("small" if "budget" in reproduce.EXPERIMENTS[name] else "full")


def test_what_has_ended_is_not_run_again_unless_it_is_asked_for_otherwise(experiments, command, tmp_path):
    for words in ((), (), ("--seeds", "5")):
        command("reproduce", "all", "--out", tmp_path, *words)
    assert len(experiments["mnist-digits"].given) == 2
    assert len(experiments["cats-autoencoder"].given) == 3  # it never came to its end
    for words in (("--data.root", tmp_path), (f"--data.root={tmp_path}/",)):
        command("reproduce", "all", "--out", tmp_path, *words)
    assert len(experiments["mnist-digits"].given) == 3  # back to the first seeds, wherever the data lie
    assert "| `mnist-digits` | a / b |" in (tmp_path / "table.md").read_text()


def files_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["all", "mnist-digits"])
def test_a_smoke_run_leaves_what_took_hours_as_it_is(experiments, command, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    command("reproduce", name)
    before = files_below(tmp_path / "runs" / name)
    assert before
    command("reproduce", name, "--quick")
    assert files_below(tmp_path / "runs" / name) == before
    assert {path.relative_to(tmp_path / "runs" / name) for path in before} == {
        path.relative_to(tmp_path / "runs" / f"{name}-quick")
        for path in files_below(tmp_path / "runs" / f"{name}-quick")
    }
    assert [options.quick for options in experiments["mnist-digits"].given] == [False, True]


@pytest.mark.parametrize("name", ["all", "mnist-digits"])
@pytest.mark.parametrize(("first", "second", "held"), [((), ("--quick",), "full run"), (("--quick",), (), "smoke run")])
def test_a_full_and_a_smoke_run_do_not_share_a_folder(experiments, command, tmp_path, name, first, second, held):
    command("reproduce", name, "--out", tmp_path, *first)
    before = files_below(tmp_path)
    runs = {each: len(fake.given) for each, fake in experiments.items()}
    done = command("reproduce", name, "--out", tmp_path, *second)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert f"holds a {held}" in done.err
    assert files_below(tmp_path) == before
    assert {each: len(fake.given) for each, fake in experiments.items()} == runs


@pytest.mark.parametrize("damaged", ["", "{", "[3]", '{"options": 3}', '{"rows": [{}], "options": {}, "seconds": 1}'])
def test_a_damaged_summary_is_passed_over_and_written_anew(experiments, command, tmp_path, damaged):
    command("reproduce", "all", "--out", tmp_path)
    file = tmp_path / "mnist-digits" / "summary.json"
    file.write_text(damaged)
    done = command("reproduce", "all", "--out", tmp_path)
    assert done.status == 1  # the cats' images alone
    assert len(experiments["mnist-digits"].given) == 2
    assert len(experiments["vgg16-gmm"].given) == 1
    assert json.loads(file.read_text())["rows"]


def test_what_is_kept_is_whole_whatever_happens(tmp_path, monkeypatch):
    options = ExperimentOptions(root=None, out=tmp_path)
    kept = keep_summary("x", options, ExperimentResult("text", {}, ROWS), 61.0)

    def cut_off(path, text, **how):
        with path.open("w") as file:
            file.write(text[:20])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut_off)
    for write in (
        lambda: keep_summary("x", options, ExperimentResult("text", {}, ()), 1.0),
        lambda: keep("new", tmp_path / "x"),
    ):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert take_up("x", options) == kept
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_an_override_goes_to_the_experiment_that_it_names(experiments, command, tmp_path):
    words = ("--vgg16-gmm.model.init_args.checkpoint_path", "weights", "--out", tmp_path)
    command("reproduce", "all", *words)
    assert experiments["vgg16-gmm"].given[0].overrides == ("--model.init_args.checkpoint_path", "weights")
    assert experiments["mnist-digits"].given[0].overrides == ()


@pytest.mark.parametrize("word", ["--model.x=1", "--mnist-digits.seed=3", "--one-class.seed=1"])
def test_an_override_of_nobody_is_refused(experiments, command, tmp_path, word):
    done = command("reproduce", "all", "--out", tmp_path, word)
    assert done.status == 2
    assert "begin with one of vgg16-gmm" in done.err
    assert not experiments["mnist-digits"].given


@pytest.mark.parametrize("words", [("--recipe", "demo"), ("--data", "mnist"), ("--contamination", "0.1")])
def test_what_one_experiment_alone_takes_is_refused(experiments, command, tmp_path, words):
    done = command("reproduce", "all", "--out", tmp_path, *words)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert f"all takes no {words[0]}" in done.err


def test_a_summary_is_of_one_experiment_and_its_options(tmp_path):
    options = ExperimentOptions(root=None, out=tmp_path)
    kept = keep_summary("x", options, ExperimentResult("text", {}, ROWS), 61.0)
    assert take_up("x", options) == kept
    assert take_up("x", ExperimentOptions(root="elsewhere", out=tmp_path, threads=3)) == kept
    assert take_up("x", ExperimentOptions(root=None, out=tmp_path, seeds=(5,))) is None
    assert take_up("y", options) is None
    tree = json.loads((tmp_path / "summary.json").read_text())
    del tree["name"]  # as they were kept before
    tree["options"]["overrides"] = ["--data.root", "/elsewhere"]
    (tmp_path / "summary.json").write_text(json.dumps(tree))
    assert take_up("x", options) == kept


def test_words_for_figures():
    assert [duration(each) for each in (3.4, 89, 400, 9000)] == ["3 s", "89 s", "7 min", "2.5 h"]
    assert in_percent(Interval(0.5, 0.25, 1.0)) == "50.00 [25.00, 100.00]"
    assert in_percent(Interval(0.5, 0.25, 1.0), repetitions=3).endswith(", median of 3 seeds")
    made = [Interval(value, value, value) for value in (3.0, 1.0, 2.0)]
    assert middle(made).value == 2.0
    assert middle(made[:2]).value == 1.0
    assert table_of([]).count("\n") == 2
