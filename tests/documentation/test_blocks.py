"""The blocks of README.md and of the guide run as they stand, in a temporary folder."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from sybil import Document
from sybil.document import PythonDocStringDocument
from sybil.parsers.rest import DocTestParser

from lit_od import cli
from lit_od.errors import ConfigError
from tests.support.documents import ROOT, blocks, check_lines, make_programs, run_lines
from tests.support.once import made_once

sys.path.insert(0, str(ROOT / "scripts"))

from make_samples import make  # scripts are no package

SAMPLES = "python scripts/make_samples.py wall"
FIT = "lit-od fit defects --data.root wall --out bundle"

GENERATED = ("reference/commands.md", "reference/recipes.md", "reference/detectors.md")
LEFT_OUT = {
    ROOT / "docs" / name for name in ("bundle-format.md", "serve.md", "changelog.md", "security.md", *GENERATED)
}
"""Format and server are tested elsewhere; the others have no blocks."""

DOCUMENTS = [
    file.relative_to(ROOT)
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if file not in LEFT_OUT and not {"build", "api", "examples"} & set(file.relative_to(ROOT).parts)
]

WITH_EXAMPLES = """
    __init__ calibration/p_values detectors/knn detectors/local_residual detectors/lof detectors/mahalanobis
    detectors/pca detectors/reconstruction evaluation/metrics evaluation/pixel_metrics
""".split()
"""Files with `>>>` in docstrings."""


@pytest.fixture(scope="session")
def samples(of_all: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `wall`, and the bundle that is fitted on it, for all documents."""

    def fill(folder: Path) -> None:
        make(folder / "wall", train=64, test=2)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            run_lines(f"{FIT} --calibration.method split --data.split.calibration 0.8", {})  # one fit, of few images

    return made_once(of_all / "guide", fill)


@pytest.fixture
def place(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a checkout, with samples and their bundle."""
    for name in ("exported", "lit_od", "scripts", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("wall", "bundle"):
        shutil.copytree(samples / name, tmp_path / name)
    make_programs(tmp_path / "bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_the_blocks_of_a_document_run(document: Path, request: pytest.FixtureRequest) -> None:
    found = blocks(ROOT / document, {SAMPLES: lambda: None, FIT: lambda: None})  # the fixture has run both
    if found:
        request.getfixturevalue("place")
    for block in found:
        block.evaluate()


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_docstrings_are_true(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    document: Document = PythonDocStringDocument.parse(str(ROOT / "lit_od" / f"{name}.py"), DocTestParser())
    examples = list(document.examples())
    assert examples
    for example in examples:
        example.evaluate()


def test_a_block_that_fails_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nlit-od inspect nowhere\n```\n\n```python\nassert False\n```\n", encoding="utf-8")
    for block in blocks(page, {}):
        with pytest.raises(AssertionError):
            block.evaluate()


@pytest.mark.parametrize("line", ["lit-od score bundle --no-such-option x", "lit-od score bundle"])
def test_a_command_that_would_be_refused_is_seen(line: str) -> None:
    with pytest.raises(ConfigError):
        check_lines(line)


def test_commands_of_prose_exist() -> None:
    text = "".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    named = set(re.findall(r"`lit-od ([a-z]+)", text))
    assert named <= {*cli.COMMANDS}


def test_scripts_that_are_named_exist() -> None:
    text = "".join((ROOT / document).read_text(encoding="utf-8") for document in (*DOCUMENTS, "CONTRIBUTING.md"))
    named = set(re.findall(r"(?<![\w/])(?:scripts|runners)/[\w./-]*\w", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_within_the_checkout_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []
