"""Tests share by tests/support alone: no test imports another one, and every file there says what it holds."""

import ast
from collections.abc import Iterator
from pathlib import Path

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
