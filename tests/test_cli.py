"""The program: exit statuses, one line for every error, and what each command must have."""

import argparse
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import lit_od
from lit_od import cli
from lit_od.bundle.folder import Bundle
from lit_od.cli import split_overrides
from lit_od.errors import BackboneError, BundleError, ConfigError, DataError, ExportError, ImageError, MissingExtra

LIT_OD = [sys.executable, "-m", "lit_od.cli"]

Command = Callable[..., Any]


def replaced(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `lit-od recipes` raise."""

    def run(args: argparse.Namespace, overrides: list[str]) -> int:
        raise error

    monkeypatch.setattr(import_module("lit_od.commands.recipes"), "run", run)


# What there is


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_docstring_arguments_and_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(f"lit_od.commands.{name}")
    assert module.__doc__
    assert list(inspect.signature(module.add_arguments).parameters) == ["parser"]
    assert list(inspect.signature(module.run).parameters) == ["args", "overrides"]
    for function in (module.add_arguments, module.run):
        assert function.__doc__
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    page = capsys.readouterr().out
    assert f"usage: lit-od {name}" in page
    assert module.__doc__.splitlines()[0] in page
    assert cli.COMMANDS[name]


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["help"]])
def test_help_lists_every_command(words: list[str], command: Command) -> None:
    came = command(*words)
    assert came.status == 0
    for name, text in cli.COMMANDS.items():
        assert f"{name} " in came.out
        assert text in came.out
    assert re.findall(r"^(\w+):$", came.out, re.MULTILINE) == ["make", "use", "judge", "operate", "look"]


@pytest.mark.parametrize("word", ["-V", "--version", "version"])
def test_version(word: str, command: Command) -> None:
    assert command(word) == (0, f"{lit_od.__version__}\n", "")


# Refusals


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["magic"], f"lit-od: no command 'magic': wanted one of {', '.join(cli.COMMANDS)}"),
        (["score"], "lit-od: the following arguments are required: BUNDLE, PATH. See lit-od score --help"),
        (["scroe", "b", "p"], "lit-od: no command 'scroe': did you mean score?"),
        (["score", "b", "p", "--wand"], "lit-od: unrecognized arguments: --wand. See lit-od score --help"),
        (
            ["score", "b", "p", "--thr", "2"],
            "lit-od: unrecognized arguments: --thr 2: did you mean --threads? See lit-od score --help",
        ),
        (["fit", "foldr", "--out", "x"], "or a shipped recipe: did you mean folder?"),
        (["recipes", "foldr"], "lit-od: no shipped recipe 'foldr': did you mean folder?"),
        (["fit", "folder", "--out", "x", "--data.roto", "y"], "unknown key `roto` - at `data`: did you mean root?"),
        (["fit", "folder", "--out", "x", "--detectr.k", "3"], "unknown key `detectr`: did you mean detector?"),
        (
            ["score", "b", "p", "--threads", "0"],
            "lit-od: argument --threads: must be a whole number of at least 1, got '0'",
        ),
        (
            ["score", "b", "p", "--batch-size", "x"],
            "must be a whole number of at least 1, got 'x'. See lit-od score --help",
        ),
        (["score", "b", "p", "--batch-size", "-3"], "must be a whole number of at least 1, got '-3'"),
        (["score", "b", "p", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["score", "b", "p", "--data.root", "x"], "lit-od: unknown option --data.root: overrides go with recipes"),
        (["watch", "b", ""], "lit-od: the argument after b is empty: leave it out, or see that its variable is set"),
        (["serve", "b", "--token-file", ""], "lit-od: the argument after --token-file is empty"),
        (["serve", "b", "--token-file="], "lit-od: the value of --token-file= is empty"),
        (["watch", "b", ".", "--poll", "1e308"], "must be a number of seconds from 0 to 86400, got '1e308'"),
        (["watch", "b", ".", "--out", "a.parquet"], "rows of this command are csv or jsonl"),
        (["score", "/nowhere", "p"], "lit-od: no bundle at /nowhere: there is no such folder"),
        (["verify", "/nowhere"], "lit-od: no bundle at /nowhere: there is no such folder"),
        (["inspect", "/nowhere"], "lit-od: no bundle at /nowhere: there is no such folder"),
        (["threshold", "/nowhere"], "lit-od: no bundle at /nowhere: there is no such folder"),
    ],
)
def test_refusals_are_one_line_on_standard_error(words: list[str], line: str, command: Command) -> None:
    status, out, err = command(*words)
    assert (status, out) == (2, "")
    assert line in err
    assert err.startswith("lit-od: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("a\nb"),
        DataError("x"),
        ImageError("x"),
        BundleError("x"),
        BackboneError("x"),
        ExportError("x"),
        MissingExtra("x"),
    ],
)
def test_errors_of_ours_are_their_message(error: Exception, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, error)
    assert command("recipes") == (2, "", f"lit-od: {' '.join(str(error).split())}\n")
    with pytest.raises(type(error)):
        command("--debug", "recipes")
    with pytest.raises(type(error)):
        command("recipes", "--debug")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "out.csv"), "lit-od: out.csv: No space left on device"),
        (OSError("odd"), "lit-od: odd"),
        (KeyError("defect"), "lit-od: unexpected KeyError: 'defect'. Run again with --debug for the trace"),
        (MemoryError(), "lit-od: unexpected MemoryError: . Run again with --debug for the trace"),
    ],
)
def test_other_errors_are_one_line_too(
    error: Exception, line: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, error)
    assert command("recipes") == (2, "", f"{line}\n")
    with pytest.raises(type(error)):
        command("recipes", "--debug")


def test_an_interrupt_is_130(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, KeyboardInterrupt())
    assert command("recipes") == (130, "", "lit-od: interrupted\n")
    with pytest.raises(KeyboardInterrupt):
        command("recipes", "--debug")


# Overrides


@pytest.mark.parametrize(
    ("words", "plain", "overrides"),
    [
        ("mnist --out b", "mnist --out b", ""),
        ("mnist --a.b 3 --out b", "mnist --out b", "--a.b 3"),
        ("--a.b=3 mnist --out=x.csv", "mnist --out=x.csv", "--a.b=3"),
        ("mnist --a.b -1 --c.d x", "mnist", "--a.b -1 --c.d x"),
        ("mnist --a.b --out b", "mnist --out b", "--a.b"),
        ("mnist --out --a.b", "mnist --out", "--a.b"),
        ("b x.png ./y.png -", "b x.png ./y.png -", ""),
        ("b -- --odd.png x", "b -- --odd.png x", ""),
        ("--a.b=1 -- --c.d=2", "-- --c.d=2", "--a.b=1"),
    ],
)
def test_overrides_are_split_from_the_rest(words: str, plain: str, overrides: str) -> None:
    assert split_overrides(words.split()) == (plain.split(), overrides.split())


# In a process of its own


def test_a_traceback_only_for_debug(tmp_path: Path) -> None:
    words = [*LIT_OD, "inspect", str(tmp_path)]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"lit-od: {tmp_path} is no bundle: it has no manifest.json\n"
    run = subprocess.run([*words, "--debug"], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "Traceback" in run.stderr
    assert "BundleError" in run.stderr


def test_a_reader_that_goes_away_is_no_error(made_bundle: Bundle) -> None:
    """As in `lit-od score ... | head -1`, with more rows than a pipe holds."""
    assets = Path(lit_od.__file__).parent / "assets"
    words = [*LIT_OD, "score", str(made_bundle.path), *[f"{assets}/digits.npz:train_images"] * 3, "--threads", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"path,score,p_value,is_outlier,error\n"
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams_end_no_command(
    made_bundle: Bundle, digit_files: Path, tmp_path: Path, closed: str
) -> None:
    line = f'exec "$@" {closed}'
    words = [*LIT_OD, "score", str(made_bundle.path), str(digit_files / "0"), "--threads", "1"]
    run = subprocess.run(
        ["sh", "-c", line, "sh", *words, "--out", str(tmp_path / "rows")], capture_output=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
    assert len((tmp_path / "rows").read_text().splitlines()) == 1 + len(list((digit_files / "0").iterdir()))
    run = subprocess.run(["sh", "-c", line, "sh", *words], capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, b"")


def test_a_list_from_a_closed_standard_input_is_an_empty_one(made_bundle: Bundle) -> None:
    words = [*LIT_OD, "score", str(made_bundle.path), "-"]
    run = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *words], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("lit-od: no image found in -")


def test_a_message_holds_no_control_characters(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, DataError("a\x1b[2Jb\x9b"))
    assert command("recipes") == (2, "", "lit-od: a\\x1b[2Jb\\x9b\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_named_pipe_is_no_bundle_and_nobody_waits_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    line = [sys.executable, "-m", "lit_od.cli", "verify", str(tmp_path / "pipe")]
    run = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, "a bundle is a folder with manifest.json" in run.stderr) == (2, True)


def test_a_full_disk_is_refused() -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run([*LIT_OD, "recipes"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (run.returncode, run.stderr) == (2, "lit-od: No space left on device\n")


def test_without_onnx_runtime_the_pip_lines(made_bundle: Bundle) -> None:
    code = "import sys; sys.modules['onnxruntime'] = None\nfrom lit_od.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code]
    run = subprocess.run([*words, "verify", str(made_bundle.path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        'lit-od: this needs ONNX Runtime, which is not installed. Run: pip install "lit-od[cpu]" or "lit-od[gpu]"\n'
    )
    run = subprocess.run([*words, "inspect", str(made_bundle.path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert run.stdout.startswith("# digits\n")


def test_the_installed_program_is_main() -> None:
    program = Path(sys.executable).with_name("lit-od")
    if not program.exists():
        pytest.skip("lit-od is not installed beside this Python")
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    run = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == f"{lit_od.__version__}\n"
