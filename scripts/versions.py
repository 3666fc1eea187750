"""Run the tests with the oldest and with the newest releases that are admitted.

    scripts/versions [--python PYTHON ...] [--resolution lowest-direct ...] [--train] [--keep DIR] [-- PYTEST OPTIONS]

For every Python (3.11, 3.12 and 3.13 where they are on PATH) and both resolutions of pyproject.toml, `lowest-direct`
and `highest`, uv resolves, from wheels alone, pip installs into a fresh environment, and the tests that need no torch
run there. `--extra cpu` is a scorer's own environment: tests that need more are skipped. With --train all that trains
is installed, and a smoke of it runs instead. The table at the end has a line each; exit status 1 if one of them failed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("python3.11", "python3.12", "python3.13")
RESOLUTIONS = ("lowest-direct", "highest")
EXTRAS = ("cpu", "evaluate", "serve", "quantize", "heif", "video", "parquet")
TOOLS = ("pytest", "pytest-xdist", "hypothesis")
"""Distributions that the tests need besides, at versions that suit the others."""

SHOWN = ("numpy", "onnxruntime", "faiss-cpu", "scipy", "scikit-learn", "onnx", "torch", "lightning", "timm")
"""Distributions whose versions the table names."""

WITHOUT_TORCH = ("-m", "not slow and not torch", "--ignore", "tests/runners")
SMOKE = (
    "tests/training/test_pipeline.py",
    "tests/training/test_frozen.py",
    "tests/training/loop",
    "tests/test_flow.py",
)
"""A training, an export and a bundle of each kind."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", metavar="PYTHON", help="programs or paths (those on PATH)")
    parser.add_argument("--resolution", nargs="+", choices=RESOLUTIONS, default=RESOLUTIONS)
    parser.add_argument("--extra", nargs="+", metavar="NAME", default=EXTRAS, help=f"({' '.join(EXTRAS)})")
    parser.add_argument("--train", action="store_true", help="install the extra train, and run a smoke of the training")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the environments there")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="options of pytest, after --")
    args = parser.parse_args()
    extras = ("train", "cpu") if args.train else args.extra
    tests = [*(SMOKE if args.train else WITHOUT_TORCH), *args.options]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).resolve()
        uv = _environment(folder / "tools", sys.executable, ["uv"]).with_name("uv")
        for python in args.python or [name for name in PYTHONS if _runs(name)]:
            for resolution in args.resolution:
                rows.append(_tried(folder, uv, python, resolution, extras, tests))
                print(rows[-1], flush=True)
    print("\n| Python | resolution | versions | tests |\n|---|---|---|---|")
    print("\n".join(rows))
    return int(any("failed" in row or "error" in row for row in rows))


def _runs(python: str) -> bool:
    words = [python, "-c", "import venv, ensurepip"]
    return shutil.which(python) is not None and not subprocess.run(words, capture_output=True, check=False).returncode


def _environment(folder: Path, python: str, packages: Sequence[str | Path]) -> Path:
    """Make an environment, and return its Python."""
    found = folder / "bin" / "python"
    if not found.is_file():
        subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *packages], check=True, cwd=ROOT)
    return found


def _tried(folder: Path, uv: Path, python: str, resolution: str, extras: Sequence[str], tests: Sequence[str]) -> str:
    """Resolve, install and test; return a row of the table.

    Args:
        folder: Folder of the environments.
        uv: The program.
        python: The Python to try.
        resolution: "lowest-direct" or "highest".
        extras: Extras to install.
        tests: Words for pytest.
    """
    asked = [python, "-c", "import platform; print(platform.python_version())"]
    number = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    place = folder / f"{number}-{'-'.join(extras)}-{resolution}"
    place.mkdir(parents=True, exist_ok=True)
    lines = place / "requirements.txt"
    words = [word for extra in extras for word in ("--extra", extra)]
    words += ["--resolution", resolution, "--only-binary", ":all:", "--python", python, "--output-file", str(lines)]
    resolve = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    subprocess.run([*resolve, *words, "pyproject.toml"], cwd=ROOT, check=True)
    _environment(place, python, ["-r", lines, "-c", lines, *TOOLS])
    found = _environment(place, python, ["--no-deps", "--editable", ROOT])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [str(found), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", *tests]
    with (place / "tests.log").open("w") as log:
        subprocess.run(words, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    said = (place / "tests.log").read_text().splitlines()
    print("\n".join(line for line in said if line.startswith(("FAILED", "ERROR"))), flush=True)
    last = next((line.strip("= ") for line in reversed(said) if line.strip()), "nothing")
    pins = dict(line.split("==") for line in lines.read_text().split() if "==" in line)
    shown = ", ".join(f"{name} {pins[name]}" for name in SHOWN if name in pins)
    return f"| {number} | {resolution} | {shown} | {last} |"


if __name__ == "__main__":
    raise SystemExit(main())
