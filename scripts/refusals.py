"""Run every command that must be refused, and print a Markdown table.

    python scripts/refusals.py [WORD]

runs the cases whose group or description holds the word, by default all. Exit status 1 if one of them
printed a traceback or more than one line, ended with another status than expected, said something else,
or changed a file.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.refusals.case import carry_out, make_shelf  # noqa: E402  # the table lies with the tests
from tests.support.refusals.table import CASES  # noqa: E402  # as above


def run(words: list[str], folder: Path) -> tuple[int, str, str]:
    """Run `lit-od` in a folder; return status, output and errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-m", "lit_od.cli", *words], cwd=folder, env=environment, capture_output=True, check=False
    )
    return done.returncode, *(text.decode("utf-8", "backslashreplace") for text in (done.stdout, done.stderr))


def cell(text: str, folder: Path) -> str:
    """Escape text for a cell of a table."""
    shown = text.replace(str(folder), "").replace("\n", "\\n").replace("|", "\\|")
    return shown.encode("utf-8", "backslashreplace").decode()


def main() -> int:
    """Run the cases and print the table; return the exit status."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="lit_od-refusals-") as temporary:
        shelf = Path(temporary) / "shelf"
        shelf.mkdir()
        make_shelf(shelf, run)
        print("| bad input | command | the line that a user sees | exit status |\n|---|---|---|---|", flush=True)
        for number, case in enumerate(each for each in CASES if word in f"{each.group} {each.bad}"):
            folder = Path(temporary) / f"{number}"
            folder.mkdir()
            outcome = carry_out(case, shelf, folder, run)
            command = cell(f"lit-od {shlex.join(case.words)}", folder)
            row = [cell(case.bad, folder), f"`{command}`", cell(outcome.line, folder), str(outcome.status)]
            print(f"| {' | '.join(row)} |", flush=True)
            for problem in outcome.problems:
                wrong += 1
                print(f"WRONG: {command}: {problem}", file=sys.stderr, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
