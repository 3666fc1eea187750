"""All experiments in one table: who gets which override, what is taken up again, what a refusal costs."""

import json

import pytest

from lit_od.commands import reproduce
from lit_od.errors import ConfigError, DataError
from lit_od.evaluation.experiments import Options, Report, Row, in_percent, middle
from lit_od.evaluation.experiments.together import duration, keep_summary, table_of, take_up
from lit_od.evaluation.intervals import Interval

ROWS = (Row("a | b", "0.48", "0.5 [0.4, 0.6]", "seeds"), Row("c", "none", "1", "nothing"))


class Fake:
    """An experiment that counts its runs, and is refused where it is told to be."""

    def __init__(self, *, refused=False):
        self.refused, self.given = refused, []

    def run(self, options):
        self.given.append(options)
        if self.refused:
            raise DataError("no such images")
        return Report("text", {"figure": 1}, ROWS)


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
    assert lines[2].startswith("| `mnist-digits` | a / b | 0.48 | 0.5 [0.4, 0.6] | seeds | 0 s |")
    assert lines[3] == "|  | c | none | 1 | nothing |  |"
    for name, fake in experiments.items():
        (options,) = fake.given
        assert (options.root, options.quick, options.out) == ("images", True, tmp_path / "out" / name)
        assert options.budget == ("small" if "budget" in reproduce.TAKES[name] else "full")


def test_what_has_ended_is_not_run_again_unless_it_is_asked_for_otherwise(experiments, command, tmp_path):
    for words in ((), (), ("--quick",)):
        command("reproduce", "all", "--out", tmp_path, *words)
    assert len(experiments["mnist-digits"].given) == 2
    assert len(experiments["cats-autoencoder"].given) == 3  # it never came to its end


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


def test_a_summary_that_is_none_is_refused(tmp_path):
    options = Options(root=None, out=tmp_path)
    kept = keep_summary("x", options, Report("text", {}, ROWS), 61.0)
    assert take_up("x", options) == kept
    assert take_up("x", Options(root="elsewhere", out=tmp_path, threads=3)) == kept
    assert take_up("x", Options(root=None, out=tmp_path, seeds=(5,))) is None
    (tmp_path / "summary.json").write_text(json.dumps({"options": 3}))
    with pytest.raises(ConfigError, match="remove it"):
        take_up("x", options)


def test_words_for_figures():
    assert [duration(each) for each in (3.4, 89, 400, 9000)] == ["3 s", "89 s", "7 min", "2.5 h"]
    assert in_percent(Interval(0.5, 0.25, 1.0)) == "50.00 [25.00, 100.00]"
    assert in_percent(Interval(0.5, 0.25, 1.0), repetitions=3).endswith(", median of 3 seeds")
    made = [Interval(value, value, value) for value in (3.0, 1.0, 2.0)]
    assert middle(made).value == 2.0
    assert middle(made[:2]).value == 1.0
    assert table_of([]).count("\n") == 2
