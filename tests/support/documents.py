"""Blocks of Markdown documents, run or checked by sybil.

Fences in `bash` and `python` are run, in one folder and one namespace a document; `sh` and `py` mark blocks that cannot
run here, which are checked for syntax, and their commands against the parsers of `lit-od`; `yaml` must be YAML.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from lit_od import cli
from lit_od.commands._catalogue import load_command, parser_of
from lit_od.recipes.load import read

ROOT = Path(__file__).parents[2]

PLAIN = re.compile(r"lit-od [^|<>;&$`*]*")
"""A command that needs no shell, and is run in this process."""


def blocks(path: Path, done: dict[str, Callable[[], None]]) -> list[Example]:
    """Return the blocks of a document; each is run by its `evaluate`.

    Args:
        path: The document.
        done: Lines of `bash` blocks that something else stands for.
    """
    parsers = [
        CodeBlockParser("bash", lambda example: run_lines(example.parsed, done)),
        PythonCodeBlockParser(),
        CodeBlockParser("sh", lambda example: check_lines(example.parsed)),
        CodeBlockParser("py", lambda example: check_python(example.parsed, str(path))),
        CodeBlockParser("yaml", lambda example: check_yaml(example.parsed)),
    ]
    return list(Document.parse(str(path), *parsers).examples())


def run_lines(block: str, done: dict[str, Callable[[], None]]) -> None:
    """Run each line of a block, and end at the first that fails."""
    for line in lines_of(block):
        if line in done:
            done[line]()
        elif PLAIN.fullmatch(line):
            status = cli.main(shlex.split(line)[1:])
            assert status == 0, f"status {status}: {line}"
        else:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path.cwd() / 'bin'}:{os.environ['PATH']}"}
            ran = subprocess.run(["bash", "-euo", "pipefail", "-c", line], env=environment, check=False)
            assert ran.returncode == 0, f"status {ran.returncode}: {line}"


def lines_of(block: str) -> list[str]:
    """Return the commands of a block, joined where a backslash breaks them."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


def make_programs(folder: Path) -> None:
    """Write `lit-od` and `python` of this environment into a folder."""
    folder.mkdir()
    for name, words in (("lit-od", "-m lit_od.cli"), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)


def check_lines(block: str) -> None:
    """Check the syntax of a block, and the options of each `lit-od` in it."""
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    plain = re.sub(r" #.*", "", block.replace("\\\n", " "))
    for words in re.findall(r"(?:lit-od|-m lit_od\.cli) +([a-z][^|<>;&\n]*)", plain):
        check_command(shlex.split(words))


def check_command(words: list[str]) -> None:
    """Parse a command of `lit-od` without running it."""
    plain, _ = cli.split_overrides(words[1:])
    parser_of(words[0], load_command(words[0])).parse_args(plain)


def check_python(block: str, name: str) -> None:
    """Compile a block."""
    compile(block, name, "exec")


def check_yaml(block: str) -> None:
    """Read a block: a whole recipe as recipes are read, a part of one as YAML."""
    found = yaml.safe_load(block)
    if "name" in found:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{found['name']}.yaml"
            file.write_text(block, encoding="utf-8")
            read(str(file), [])
