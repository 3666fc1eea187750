"""The optional packages that tests import, found in their source: each is a marker.

A test is marked `torch` if its module, or a module of tests or of lit_od that this one imports, imports torch outside
functions, or the test function itself does. Where the package is not installed the test is skipped, so that the suite
runs in a scorer's own environment too; `-m "not slow and not torch"` leaves such tests out.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lit_od.errors import MissingExtra

ROOT = Path(__file__).parents[2]

OPTIONAL = frozenset(
    "av captum hatchling huggingface_hub jinja2 lightning markupsafe matplotlib onnx onnxscript openapi_spec_validator"
    " prometheus_client pyarrow python_multipart ray scipy sklearn starlette sybil timm torch torchmetrics torchvision"
    " tritonclient uvicorn watchfiles".split()
)
"""Packages that an extra brings."""

_SAID = re.compile(r"this needs (?:\w+ )*\(?([\w-]+).*, which is not installed\. Run: pip install", re.IGNORECASE)
"""The line by which lit_od names a missing package."""

_IMPORTED = {"scikit-learn": "sklearn", "pyav": "av"}
"""Names by which such packages are imported, where they are others."""

INSTALLED = frozenset(package for package in OPTIONAL if find_spec(package) is not None)
"""Those of them that are there, before a test hides one."""


def missing(packages: frozenset[str]) -> list[str]:
    """Return those of some optional packages that are not installed."""
    return sorted(package for package in packages if package not in INSTALLED)


@cache
def packages_of(file: Path) -> frozenset[str]:
    """Return the optional packages that a module needs before any function of it is called."""
    found: set[str] = set()
    seen, left = {file}, [file]
    while left:
        for name in _imported(_tree(left.pop()).body):
            found.update(OPTIONAL.intersection([name.partition(".")[0]]))
            new = set(_files(name)) - seen
            seen |= new
            left += new
    return frozenset(found)


@cache
def packages_in_functions(file: Path) -> dict[str, frozenset[str]]:
    """Return the optional packages that the functions of a test module import, by function."""
    functions = {each.name: each for each in _tree(file).body if isinstance(each, ast.FunctionDef)}
    return {name: frozenset().union(*_needs(ast.walk(function))) for name, function in functions.items()}


def said_to_be_missing(text: str) -> str:
    """Return the optional package that a text of lit_od's names as missing, if it is not installed; else nothing."""
    found = _SAID.search(text)
    name = found[1].lower() if found else ""
    package = _IMPORTED.get(name, name)
    return package if missing(OPTIONAL & {package}) else ""


def reason_to_skip(error: BaseException | None) -> str:
    """Return why an error is not the code's fault: an optional package is not installed; empty if it is."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and missing(OPTIONAL & {(error.name or "").partition(".")[0]}):
            return f"without {error.name}"
        if isinstance(error, MissingExtra | AssertionError) and (package := said_to_be_missing(str(error))):
            return f"without {package}"
        error = error.__cause__ or error.__context__
    return ""


def _needs(nodes: Iterator[ast.AST]) -> Iterator[frozenset[str]]:
    for name in _imported(nodes):
        yield OPTIONAL.intersection([name.partition(".")[0]]).union(*(packages_of(file) for file in _files(name)))


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _imported(nodes: "list[ast.stmt] | Iterator[ast.AST]") -> Iterator[str]:
    """Yield the names that statements import; `from a import b` gives a and a.b, which may be a module too."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


@cache
def _files(name: str) -> tuple[Path, ...]:
    """Return the files of this repository that run when a name is imported."""
    parts = name.split(".")
    if parts[0] not in ("lit_od", "tests"):
        return ()
    places = [ROOT.joinpath(*parts[: end + 1]) for end in range(len(parts))]
    files = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py"))]
    return tuple(file for file in files if file.is_file())
