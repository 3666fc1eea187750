"""Tests share by tests/support alone: no test imports another one, and every file there says what it holds."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_od.errors import MissingExtra
from tests.support import needs

TESTS = Path(__file__).parent


def imports_of_tests(tests: Path) -> Iterator[str]:
    """Yield every import of a module of the tests outside tests/support, as file:line: module."""
    for file in sorted(tests.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = "tests" if node.level else str(node.module)
                modules = [f"{module}.{alias.name}" for alias in node.names]
            for module in modules:
                parts = module.split(".")
                if parts[0] == "conftest" or (parts[0] == "tests" and parts[1:2] != ["support"]):
                    yield f"{file.relative_to(tests)}:{node.lineno}: {module}"


def test_no_test_imports_another_one() -> None:
    assert list(imports_of_tests(TESTS)) == []


def test_a_planted_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "from tests.support import images\nfrom tests.support.images import GREY\nimport tests.support.images\n"
        "from tests import test_two\nfrom tests.conftest import digits\nimport tests.test_two\n"
        "from . import test_two\nfrom conftest import digits\ndef f():\n    from tests.images.test_two import g\n"
    )
    assert [each.split(":")[1] for each in imports_of_tests(tmp_path)] == ["4", "5", "6", "7", "8", "10"]


def test_every_file_of_support_says_what_it_holds() -> None:
    for file in (TESTS / "support").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not text.strip() or ast.get_docstring(ast.parse(text)), file


def test_the_packages_of_a_test_are_found_by_its_imports() -> None:
    assert needs.packages_of(TESTS / "conftest.py") == frozenset()
    assert needs.packages_of(TESTS / "test_flow.py") >= {"torch", "lightning"}  # by way of lit_od.training
    assert needs.packages_of(TESTS / "backbone" / "test_int8.py") == {"onnx"}
    metrics = TESTS / "evaluation" / "test_metrics.py"
    assert needs.packages_of(metrics) == {"sklearn"}
    found = needs.packages_in_functions(metrics)
    assert found["test_distances_far_above_one_are_told_apart"] == {"torch", "torchmetrics"}
    assert found["test_fpr95_says_which_class_is_found"] == frozenset()


def test_only_what_is_not_installed_is_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    said = 'this needs scikit-learn, which is not installed. Run: pip install "lit-od[evaluate,cpu]"'
    served = (
        'this needs a web server (Starlette and uvicorn), which is not installed. Run: pip install "lit-od[serve,cpu]"'
    )
    for there in (True, False):
        monkeypatch.setattr(needs, "INSTALLED", needs.OPTIONAL if there else frozenset())
        assert needs.said_to_be_missing(f"lit-od: {said}\n") == ("" if there else "sklearn")
        assert needs.said_to_be_missing(served) == ("" if there else "starlette")
        assert needs.reason_to_skip(MissingExtra(said)) == ("" if there else "without sklearn")
        assert needs.reason_to_skip(ModuleNotFoundError(name="torch.nn")) == ("" if there else "without torch.nn")
        assert needs.reason_to_skip(ModuleNotFoundError(name="lit_od.gone")) == ""
        assert needs.reason_to_skip(AssertionError("2 == 0")) == ""
