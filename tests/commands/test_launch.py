"""Where torchrun and SLURM put a process, how many a command starts itself, and how these end."""

import os
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_od.commands import _launch as launching
from lit_od.commands import train
from lit_od.commands._arguments import add_recipe_arguments, read_recipe
from lit_od.commands._launch import command_line, process_count
from lit_od.errors import ConfigError
from lit_od.runtime.processes import Place, place

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def test_where_a_process_stands() -> None:
    assert place({}) is None
    assert place(TORCHRUN) == Place(3, 4, 1, 2)
    assert place(TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}) is None
    assert place(SLURM) == Place(2, 4, 0, 2, slurm=True)
    assert place(SLURM | TORCHRUN) == Place(3, 4, 1, 2)  # torchrun inside a SLURM job
    assert place({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) is None  # a batch script's own
    with pytest.raises(ConfigError, match=r"as many processes, SLURM has 2,1: set --ntasks-per-node"):
        place(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2,1"})


@pytest.mark.parametrize(
    ("trainer", "count"),
    [
        ({}, 1),
        ({"devices": 3}, 3),
        ({"devices": "2"}, 2),
        ({"devices": [0, 2]}, 2),
        ({"devices": 1}, 1),
        ({"devices": "0,1"}, 2),
        ({"devices": "0, 3"}, 2),
        ({"devices": "3,"}, 1),
        ({"devices": "auto"}, 4),
        ({"devices": "-1"}, 4),
        ({"devices": [-1], "accelerator": "gpu"}, 4),
        ({"devices": "auto", "accelerator": "cpu"}, 1),
        ({"devices": 2, "accelerator": "cpu"}, 2),
    ],
)
def test_a_process_a_device(trainer: dict[str, object], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_od.training.distributed.gpus", lambda: 4)
    assert process_count(trainer) == count
    assert process_count({"devices": "auto", "accelerator": "cpu"}) == 1
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes 2: start a process a device on every machine"):
        process_count(trainer | {"num_nodes": 2})


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        *[
            ({"devices": bad}, "must be a number of processes of at least 1, numbers of GPUs such as 0,1, or auto, got")
            for bad in ("abc", "0;1", "0,0", 0, "0", -2, [], [0, 0], [0, "a"], 1.5, True, None, {"a": 1})
        ],
        ({"devices": "0,4"}, r"names GPU 4, and this run has 4 of them: give the numbers"),
        ({"devices": "0,1", "accelerator": "cpu"}, r"names GPU 0, and this run has 0 of them"),
    ],
)
def test_devices_that_are_none_start_nothing(
    trainer: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_od.training.distributed.gpus", lambda: 4)
    with pytest.raises(ConfigError, match=message):
        process_count(trainer)


def test_a_command_line_from_its_arguments() -> None:
    args = Namespace(recipe="demo", seed=3, out="a b", resume=None)
    words = command_line("train", args, ["--trainer.devices", "2"])
    assert words == ["train", "demo", "--seed=3", "--out=a b", "--trainer.devices", "2"]


@pytest.mark.parametrize(
    ("words", "stops"), [([], 6), (["--early_stopping", "3"], 3), (["--early-stopping=null"], None)]
)
def test_when_a_training_stops_is_said_with_the_recipe(words: list[str], stops: int | None) -> None:
    parser = ArgumentParser()
    add_recipe_arguments(parser)
    args = parser.parse_args(["demo", "--seed", "5", *words])
    recipe = read_recipe(args, ["--trainer.devices=2"])
    assert (recipe.early_stopping, recipe.seed) == (stops, 5)
    told = command_line("train", args, [])  # to the processes that the command starts
    assert read_recipe(parser.parse_args(told[1:]), []).early_stopping == stops


@pytest.mark.parametrize("debug", [True, False])
def test_the_processes_are_told_to_show_the_trace(
    debug: bool, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(train, "launch", lambda count, words: started.append(words) or 0)
    words = ["--debug"] * debug + ["train", "demo", "--trainer.devices=2", "--out", str(tmp_path)]
    assert command(*words).status == 0
    ((*_, last),) = started
    assert last == "--trainer.devices=2"
    assert ("--debug" in started[0]) == debug


# How they end


def process(code: str) -> subprocess.Popen[bytes]:
    """A process that says when its code is under way."""
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.readline()
    running.stdout.close()
    return running


SLEEPS = "import time; print(flush=True); time.sleep(120)"
REFUSES = "import sys; print(flush=True); sys.exit(2)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"


@pytest.mark.parametrize(("other", "ended"), [(SLEEPS, -signal.SIGTERM), (STUBBORN, -signal.SIGKILL)])
def test_one_that_fails_ends_the_others_whatever_they_do(
    other: str, ended: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "GRACE", 0.2)
    running = [process(other), process(REFUSES), process(other)]
    try:
        assert launching._watch(running) == 2
        assert [each.wait(timeout=30) for each in running] == [ended, 2, ended]
    finally:
        for each in running:
            each.kill()


CHILD = """
import os, signal, sys, time
from lit_od.commands import _launch as launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever has started the tests may ignore it
launch.place = lambda: None  # they meet nobody
def work(group):
    try:
        os.write(1, f"{os.getpid()}\\n".encode())  # a line whole: two of them share the pipe
        time.sleep(120)
    except KeyboardInterrupt:
        os.write(2, b"interrupted, says a child\\n")
        return 130
sys.exit(launch.each_process(work))
"""
PARENT = """
import signal, sys
from lit_od import cli
from lit_od.commands import _launch as launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # as above
from lit_od.commands import recipes
sys.executable, launch.GRACE = sys.argv[1], float(sys.argv[2])
recipes.run = lambda args, overrides: launch.launch(2, ["train"])
sys.exit(cli.main(["recipes"]))
"""


class Job:
    """A command that has started two processes."""

    def __init__(self, folder: Path, grace: float) -> None:
        (folder / "child.py").write_text(CHILD)
        stub = folder / "python"
        stub.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/child.py"\n')
        stub.chmod(0o755)
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(stub), str(grace)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self.parent.stdout is not None
        self.children = [int(self.parent.stdout.readline()) for _ in range(2)]

    def ended(self) -> tuple[int, str]:
        """The command's status, and what all have said, once none is left that could say more."""
        _, said = self.parent.communicate(timeout=30)
        return self.parent.returncode, said


@pytest.fixture
def job(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Job]:
    """With the patience that is asked for, in seconds."""
    started = Job(tmp_path, request.param)
    yield started
    for each in (started.parent.pid, *started.children):
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue
    started.parent.communicate()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX'")
@pytest.mark.parametrize("job", [60], indirect=True)
def test_they_end_with_the_command_that_is_killed(job: Job) -> None:
    """Else a job that is started again writes into the run that they write into."""
    job.parent.kill()
    assert job.ended() == (-signal.SIGKILL, "")


@pytest.mark.skipif(os.name != "posix", reason="sessions are POSIX'")
@pytest.mark.parametrize("job", [60], indirect=True)
def test_an_interrupt_of_all_is_for_them_to_tell(job: Job) -> None:
    os.killpg(job.parent.pid, signal.SIGINT)
    assert job.ended() == (130, "interrupted, says a child\n" * 2)


@pytest.mark.skipif(os.name != "posix", reason="sessions are POSIX'")
@pytest.mark.parametrize("job", [0.1], indirect=True)
def test_an_interrupt_of_the_command_alone_ends_them_too(job: Job) -> None:
    job.parent.send_signal(signal.SIGINT)
    assert job.ended() == (130, "lit-od: interrupted\n")
