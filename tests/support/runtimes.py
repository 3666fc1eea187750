"""Runners for tests: what they need is found or built, and their tests are skipped, with the reason, without it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNNERS = ROOT / "runners"
HEADER = "onnxruntime_c_api.h"
PLATFORMS = {"linux": "linux", "darwin": "darwin", "win32": "win32"}
MACHINES = {"x86_64": "x64", "AMD64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def require_program(name: str) -> str:
    """Return a program's path; skip the test where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here")
    return found


def require_packages(runner: str) -> Path:
    """Return the packages of a runner of npm; skip the test where they are missing."""
    packages = RUNNERS / runner / "node_modules"
    if not packages.is_dir():
        pytest.skip(f"no packages of runners/{runner}: npm ci --ignore-scripts installs them")
    return packages


def require_node() -> str:
    """Return Node.js; skip the test where it or its packages are missing, or it is too old."""
    node = require_program("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.strip().lstrip("v").split(".")[0]) < 20:
        pytest.skip(f"Node.js {version.strip()} here, the runner needs 20")
    require_packages("node")
    return node


def require_onnxruntime(folder: Path) -> Path:
    """Make a folder of ONNX Runtime as its releases are, of headers that are at hand and the library of npm's package.

    The headers are those of `$ONNXRUNTIME_ROOT`, or of shared/onnxruntime in or beside the checkout.
    """
    told = os.environ.get("ONNXRUNTIME_ROOT")
    places = [Path(told)] if told else [ROOT / "shared" / "onnxruntime", ROOT.parent / "shared" / "onnxruntime"]
    headers = [place / "include" for place in places if (place / "include" / HEADER).is_file()]
    if not headers:
        pytest.skip(f"no {HEADER} here: ONNXRUNTIME_ROOT names a release of ONNX Runtime")
    if told and (Path(told) / "lib").is_dir():
        return Path(told)
    platform, machine = PLATFORMS.get(sys.platform, ""), MACHINES.get(os.uname().machine, "")
    libraries = require_packages("node") / "onnxruntime-node" / "bin" / "napi-v6" / platform / machine
    library = libraries / "libonnxruntime.so.1"
    if not library.is_file():
        pytest.skip("no library of ONNX Runtime for this machine in npm's package")
    (folder / "lib").mkdir(parents=True)
    (folder / "include").symlink_to(headers[0].resolve())
    for name in ("libonnxruntime.so.1", "libonnxruntime.so"):
        (folder / "lib" / name).symlink_to(library)
    return folder


def build_c(folder: Path) -> None:
    """Build the runner in C in a folder; skip the test where a tool or a library is missing."""
    cmake, _ = require_program("cmake"), require_program("cc")
    root = require_onnxruntime(folder / "onnxruntime")
    for library, header in (("libjpeg", "jpeglib.h"), ("libpng", "png.h")):
        tried = subprocess.run(["cc", "-E", "-include", "stdio.h", "-include", header, "-"], input="", text=True,
                               capture_output=True)  # fmt: skip
        if tried.returncode:
            pytest.skip(f"no headers of {library} here")
    for words in (
        ["-S", RUNNERS / "c", "-B", folder, f"-DONNXRUNTIME_ROOT={root}", "-DCMAKE_C_FLAGS=-Werror"],
        ["--build", folder],
    ):
        done = subprocess.run([cmake, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def run_runner(words: list[str], *more: object) -> "subprocess.CompletedProcess[str]":
    """Run a runner, whose standard error must be a line for each thing that it refuses."""
    return subprocess.run([*words, *map(str, more)], capture_output=True, text=True, timeout=120)
