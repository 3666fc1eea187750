"""A case of the table: what is made wrong, the command, and the line that must come.

A refused command says one line, ends with status 2 and leaves every file as it was.
"""

import contextlib
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from lit_od.images.find_local import find
from tests.support.job_server import without_imports
from tests.support.refusals.odd_images import ASSETS

RECIPE = """
name: mine
data:
  train: images
  prepare: {size: [28, 28], mode: grey}
model: {class_path: lit_od.training.LitClassifier}
trainer: {max_epochs: 1, accelerator: cpu}
detector: {kind: mahalanobis}
calibration: {rule: percentile, q: 99}
"""
SHELF = ("bundle", "run", "images", "r.yaml")
"""What a case finds in its folder if its command names it: a bundle and the run and images that it was made from."""

Group = Literal["writing", "training", "recipe", "image", "bundle"]
Make: TypeAlias = Callable[[Path], "contextlib.AbstractContextManager[None] | None"]
Run: TypeAlias = Callable[[list[str], Path], tuple[int, str, str]]
"""Status, output and errors of `lit-od` with some words in a folder."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is wrong.

    Attributes:
        group: What it has to do with.
        bad: What is wrong, in a few words.
        words: The command line, carried out in the case's folder.
        says: What the line must hold, a regular expression.
        make: Makes what is wrong in the case's folder; may return a context that holds while the command runs.
        status: Exit status.
        leaves: Names that may be there afterwards and were not before.
    """

    group: Group
    bad: str
    words: list[str]
    says: str
    make: Make
    status: int = 2
    leaves: frozenset[str] = frozenset()

    @property
    def trains(self) -> bool:
        """Whether it takes torch."""
        return self.words[0] in ("train", "fit", "export")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind, and what is wrong with that."""

    line: str
    status: int
    problems: list[str]


def make_shelf(folder: Path, run: Run) -> None:
    """Make images, a recipe, and with them a run and a bundle."""
    make_images(folder / "images")
    (folder / "r.yaml").write_text(RECIPE)
    status, _, err = run(["fit", "r.yaml", "--out", "bundle", "--run", "run"], folder)
    assert status == 0, err


def make_images(folder: Path) -> None:
    """Write digits into a folder for each class."""
    for number, source in enumerate(find([f"{ASSETS}/digits.npz:train_images:0,1,2"])[:120]):
        file = folder / str(source.label) / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        source.decode().save(file)


def carry_out(case: Case, shelf: Path, folder: Path, run: Run) -> Outcome:
    """Make what is wrong in an empty folder, run the command there, and look at what it said and did."""
    for name in SHELF:
        if any(name in word.split("/") for word in case.words) or (
            name == "images" and {"r.yaml", "export"} & {*case.words}
        ):
            copy = shutil.copytree if (shelf / name).is_dir() else shutil.copy
            copy(shelf / name, folder / name)
    with case.make(folder) or contextlib.nullcontext():
        before = contents(folder)
        status, out, err = run(case.words, folder)
        err = without_imports(err)
        after = contents(folder)
    said = (err if case.status == 2 else out).rstrip("\n")
    line = said if case.status == 2 else next((row for row in said.split("\n") if re.search(case.says, row)), said)
    problems = []
    if "Traceback" in out + err:
        problems.append("a traceback")
    if err.count("\n") > 1 or (case.status == 2 and err.count("\n") != 1):
        problems.append(f"{err.count(chr(10))} lines on standard error")
    if status != case.status:
        problems.append(f"status {status} instead of {case.status}")
    if not re.search(case.says, line):
        problems.append(f"no {case.says!r} in it")
    if changed := sorted(name for name in before if after.get(name) != before[name]):
        problems.append(f"{changed[0]} changed")
    if case.status == 2 and (left := sorted(after.keys() - before.keys() - case.leaves)):
        problems.append(f"{left[0]} left behind")
    return Outcome(line, status, problems)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder by its name, and every folder."""
    found = {}
    for path in folder.rglob("*"):
        plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(folder))] = path.read_bytes() if plain else None
    return found


def cases(
    group: Group,
    bad: str,
    make: Make,
    says: str,
    *commands: str,
    status: int = 2,
    leaves: frozenset[str] = frozenset(),
) -> list[Case]:
    """The same thing wrong, with several commands."""
    return [Case(group, bad, shlex.split(each), says, make, status, leaves) for each in commands]
