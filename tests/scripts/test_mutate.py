"""scripts/mutate.py: what it counts, that a crash or a hanging case does not stop it, and that it finds no failure."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.onnx  # by which bundles are changed

SCRIPT = Path(__file__).parents[2] / "scripts" / "mutate.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("words", "kinds"), [((), "reconstruction"), (("--index",), "IVF2,Flat")])
def test_it_counts_and_finds_no_failure(words: tuple[str, ...], kinds: str) -> None:
    came = run("--cases", "300", "--seed", "4", *words)
    assert came.returncode == 0, came.stdout + came.stderr
    assert re.search(rf"^{kinds} .* 0$", came.stdout, re.MULTILINE)
    together = re.search(r"^together +(\d+) +(\d+) +(\d+) +0$", came.stdout, re.MULTILINE)
    assert together is not None, came.stdout
    assert sum(int(number) for number in together.groups()) == 300
    assert int(together[1]) > 100
    assert re.search(r"^300 cases in [\d.]+ s, peak memory \d+ MB$", came.stdout, re.MULTILINE)


def test_one_case_says_what_was_done() -> None:
    one, other = run("--case", "17"), run("--case", "17")
    assert one.returncode == 0
    assert one.stdout == other.stdout
    assert re.match(r"^[a-z, ]+: [a-z ,]+\n(refused\n\S+|accepted)", one.stdout)


def test_a_crash_is_counted_and_the_next_case_follows(tmp_path: Path) -> None:
    """The script over a reader that ends the process now and then."""
    crashing = SCRIPT.read_text().replace(
        "            came = outcome(", "            case % 7 or os.abort()\n            came = outcome("
    )
    (tmp_path / "scripts").mkdir()
    for name in ("lit_od", "tests"):
        (tmp_path / name).symlink_to(SCRIPT.parents[1] / name)
    (tmp_path / "scripts" / "mutate.py").write_text(crashing)
    came = subprocess.run(
        [sys.executable, str(tmp_path / "scripts" / "mutate.py"), "--cases", "15"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert came.returncode == 1
    for case in (0, 7, 14):
        assert f"case {case} (" in came.stdout
    assert came.stdout.count("failed: crash, exit status -6") == 3
    assert "again: python scripts/mutate.py --seed 0 --case NUMBER" in came.stdout
