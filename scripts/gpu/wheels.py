"""Wheels of the packages that the check imports, gathered and installed.

Torch and what torch brings are not among them.
"""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DIRECT = "numpy pillow safetensors msgspec pyyaml tqdm lightning torchmetrics matplotlib".split()
"""Names of packages that training imports; pyproject.toml has their floors."""
INDIRECT = (
    "lightning-utilities pytorch-lightning packaging contourpy cycler fonttools kiwisolver pyparsing python-dateutil"
).split()
"""Names of packages that those import."""
MOST_BYTES = 60_000_000
GLIBC = (17, 24, 26, 27, 28)
"""Minor versions of glibc 2 that wheels may be built for; pip compares them as names."""


def requirements(root: Path) -> dict[str, str]:
    """Return the requirement of each package by its name."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for each in project["optional-dependencies"].values() for line in each)]
    floors = {re.split(r"[\[<>=]", line)[0]: line for line in lines}
    return {name: floors[name] for name in DIRECT} | {name: name for name in INDIRECT}


def missing(root: Path) -> list[str]:
    """Return the requirements that this interpreter's packages do not meet."""
    return [line for name, line in requirements(root).items() if not _is_met(name, line)]


def gather(root: Path, folder: Path, python: str) -> int:
    """Download the wheels for Linux on x86-64; return their bytes.

    Args:
        root: The checkout.
        folder: Folder of the wheels.
        python: Version of the interpreter that they are for, such as "3.12".
    """
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["--platform=manylinux2014_x86_64"]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    _pip("download", "--no-deps", "--dest", str(folder), *target, *requirements(root).values())
    size = sum(file.stat().st_size for file in folder.glob("*.whl"))
    if size > MOST_BYTES:
        sys.exit(f"gpu_check: {folder} has {size / 1e6:.0f} MB, wanted at most {MOST_BYTES / 1e6:.0f}: empty it first")
    return size


def install(lacking: list[str], wheels: Path, folder: Path) -> None:
    """Install requirements from wheels, without a network.

    Args:
        lacking: The requirements.
        wheels: Folder of the wheels.
        folder: Folder to install into.
    """
    _pip("install", "--no-index", "--no-deps", "--find-links", str(wheels), "--target", str(folder), *lacking)


def _is_met(name: str, requirement: str) -> bool:
    try:
        found = _numbers(version(name))
    except PackageNotFoundError:
        return False
    return found >= _numbers(requirement.partition(">=")[2])


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _pip(*words: str) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    status = subprocess.run([sys.executable, "-m", "pip", words[0], *options, *words[1:]], check=False).returncode
    if status:
        sys.exit(f"gpu_check: pip {words[0]} failed with status {status}")
