"""The boundary: only `lit_od.training` and `lit_od.experiments` load torch; and the probe can see it."""

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import lit_od
from lit_od import cli

PACKAGE = Path(lit_od.__file__).parent
TORCH = "torch lightning torchvision timm torchmetrics onnx".split()
"""Packages that only training and experiments may load; onnx comes with the training extra too."""

HEAVY = [*TORCH, *"sklearn scipy matplotlib pandas".split()]
"""Packages that a scorer must not load."""

PROBE = """
import json, sys
loaded = {}
for name in sys.argv[2:]:
    __import__(name)
    loaded[name] = [heavy for heavy in sys.argv[1].split() if heavy in sys.modules]
    if loaded[name]:
        break  # what comes after it would be blamed for it
print(json.dumps(loaded))
"""


DRAWING = "matplotlib scipy torchvision".split()
"""Packages that training imports where it uses them."""

WITHOUT = """
import importlib.metadata, sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
version = importlib.metadata.version
def none_of(name):
    if name in sys.argv[1:]:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = none_of
import lit_od.training
print([name for name in sys.argv[1:] if name in sys.modules])
"""
"""Imports training in a process where packages are neither found nor said to be installed."""


def heavy_after_importing(*names: str, path: Path | None = None, heavy: list[str] = HEAVY) -> dict[str, list[str]]:
    """Import modules in a fresh process, one after the other; what each of them has loaded by then."""
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    words = [sys.executable, "-c", PROBE, " ".join(heavy), *names]
    run = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    loaded: dict[str, list[str]] = json.loads(run.stdout)
    return loaded


def modules_outside(*packages: str) -> list[str]:
    """Every module of lit_od outside some of its packages."""
    names = []
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[1] not in packages:
            names.append(".".join(parts).removesuffix(".__init__"))
    return names


def light_modules() -> list[str]:
    """Every module that a scorer may need."""
    return modules_outside("training", "experiments", "evaluation")


@pytest.mark.jinja2
@pytest.mark.matplotlib
@pytest.mark.starlette
@pytest.mark.uvicorn
def test_nothing_outside_training_and_experiments_loads_torch() -> None:
    names = modules_outside("training", "experiments")
    assert {"lit_od", "lit_od.evaluation.metrics", "lit_od.evaluation.plots"} <= set(names)
    assert not any(name.startswith(("lit_od.training", "lit_od.experiments")) for name in names)
    loaded = heavy_after_importing(*names, heavy=TORCH)
    assert loaded == {name: [] for name in names}


@pytest.mark.starlette
@pytest.mark.uvicorn
def test_what_a_scorer_may_need_loads_neither_torch_nor_what_draws() -> None:
    names = light_modules()
    assert {"lit_od", "lit_od.scoring.scorer", "lit_od.detectors.mahalanobis", "lit_od.commands.score"} <= set(names)
    loaded = heavy_after_importing(*names)
    assert loaded == {name: [] for name in names}


@pytest.mark.torch
def test_the_probe_can_see_torch() -> None:
    assert "torch" in heavy_after_importing("lit_od", "lit_od.training")["lit_od.training"]


@pytest.mark.torch
def test_training_is_imported_without_what_draws_tests_and_names_networks() -> None:
    """As on a machine that lacks them; of what is imported, torchmetrics takes them where they are installed."""
    run = subprocess.run([sys.executable, "-c", WITHOUT, *DRAWING], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr


def test_the_probe_can_see_each_of_them(tmp_path: Path) -> None:
    """Stand-ins, imported by way of another module, as a careless import would be."""
    for heavy in HEAVY:
        (tmp_path / f"{heavy}.py").touch()
        (tmp_path / f"careless_{heavy}.py").write_text(f"import {heavy}\n")
        loaded = heavy_after_importing("json", f"careless_{heavy}", path=tmp_path)
        assert loaded == {"json": [], f"careless_{heavy}": [heavy]}


def test_no_module_but_training_and_experiments_names_torch_anywhere() -> None:
    """The same boundary in the source, so that an import inside a function or a condition is found too."""
    barred = {*HEAVY, "torchaudio", "faiss.contrib.torch_utils", "pickle"}
    for name in light_modules():
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
            roots = set()
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots = {str(node.module).split(".")[0]}
            # scikit-learn fits mixtures of several components, onnx brings graphs to int8: each is imported when that
            # is asked for.
            assert roots & barred <= {"sklearn", "onnx"}, f"{name} imports {roots & barred}"


def test_the_public_names() -> None:
    assert lit_od.__all__ == ["Bundle", "LitODError", "Preparation", "Result", "Scorer", "__version__"]
    for name in lit_od.__all__:
        assert getattr(lit_od, name) is not None
    assert len(lit_od.__all__) <= 8


def test_every_module_says_what_it_is() -> None:
    for name in light_modules():
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        assert ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))), name


def test_every_command_is_a_module_and_every_module_a_command() -> None:
    """Files whose names begin with an underscore are shared by commands."""
    files = {file.stem for file in (PACKAGE / "commands").glob("*.py") if not file.stem.startswith("_")}
    assert files == set(cli.COMMANDS)
