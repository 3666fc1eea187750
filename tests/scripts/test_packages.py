"""The packages, built as `scripts/packages` builds them, with the hatchling that is installed, without a network."""

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from lit_od import __version__

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[2]
ADDED = "PKG-INFO"
"""Hatchling's own file."""

LEFT_OUT = frozenset({".ci/run"})
"""Files of the repository that no user of a source distribution runs."""

LARGEST = 12_000_000
"""Bytes of the wheel."""


def _build(kind: str, source: Path, out: Path) -> Path:
    words = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(out)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (package,) = out.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return package


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution's files."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(_build("sdist", ROOT, folder)) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"lit_od-{__version__}"


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the source distribution gives."""
    return _build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


def _files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_the_source_distribution_is_the_repository(unpacked: Path):
    if not (ROOT / ".git").exists():
        pytest.skip("what belongs to the repository is asked of git")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    kept = {name for name in listed.splitlines() if (ROOT / name).is_file()}  # not those that a change removes
    assert kept - _files(unpacked) == LEFT_OUT
    assert ADDED in _files(unpacked)


def test_the_wheel_is_the_package_and_nothing_else(unpacked: Path, wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith(f"lit_od-{__version__}.dist-info/")}
    assert names == {name for name in _files(unpacked) if name.startswith("lit_od/")}
    assert {"lit_od/py.typed", "lit_od/assets/tf_efficientnet_lite0.onnx", "lit_od/recipes/folder.yaml"} <= names
    assert not any(name.endswith(".pyc") for name in names)
    assert wheel.stat().st_size < LARGEST


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"lit_od-{__version__}.dist-info/METADATA"))


def test_the_wheel_says_what_it_needs_and_brings_its_licences(wheel: Path):
    metadata = _metadata(wheel)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    versions = [name.rpartition(" ")[2] for name in metadata.get_all("Classifier", []) if "Python :: 3." in name]
    assert metadata["Requires-Python"] == f">={versions[0]}"


def test_the_citation_is_of_this_version(unpacked: Path):
    assert f"\nversion: {__version__}\n" in (unpacked / "CITATION.cff").read_text(encoding="utf-8")
