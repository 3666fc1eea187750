"""The layers of the house: imports run downward, never in a circle, and the test is shown to fail.

`LAYERS` is the module map of CONTRIBUTING.md. Every import counts, those inside functions and under
TYPE_CHECKING too: a sketch of who knows whom is wrong if it leaves some out.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import lit_od

PACKAGE = Path(lit_od.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "types", "versions"),
    ("checks", "import_paths", "runtime", "formats"),
    ("images", "detectors", "calibration"),
    ("backbone",),
    ("recipes", "bundle"),
    ("fitting", "scoring"),
    ("cluster", "evaluation", "operations"),
    ("deploy",),
    ("training", "serving"),
    ("experiments",),
    ("__init__",),
    ("commands",),
    ("cli",),
)
"""Places at the top of the package, from the bottom layer up. Places of one layer do not import each other."""

NOT_FOR = {
    "scoring": {"recipes"},
    "cluster": {"recipes"},
    "operations": {"recipes"},
    "training": {"cluster"},
    "deploy": {"recipes", "cluster"},
    "serving": {"recipes", "fitting", "cluster", "evaluation", "deploy"},
    "experiments": {"cluster", "serving"},
    "commands": {"cli"},
}
"""Lower places that a place leaves alone all the same."""

TORCH = {"torch", "torchvision", "torchmetrics", "lightning", "timm", "captum"}
MAY_IMPORT_TORCH = {"training", "experiments"}
HOMES = {
    "onnxruntime": "runtime/onnx_session.py",
    "faiss": "detectors/bank/",
    "ray": "cluster/",
    "starlette": "serving/",
    "uvicorn": "serving/",
    "prometheus_client": "serving/",
    "python_multipart": "serving/",
    "av": "images/camera.py",
    "watchfiles": "images/watch_folder.py",
}
"""The only file or folder that imports a runtime."""

MOST_AT_THE_TOP = 10
MOST_LINES = 350
MOST_PARAMETERS = 7
MANY_OPTIONS = {"training", "experiments"}


class Import(NamedTuple):
    """One import: which file asks for which module, at which line, and for which names."""

    file: Path
    line: int
    module: str
    names: tuple[str, ...]


def imports_of(package: Path) -> Iterator[Import]:
    """Every import in every file of a package, wherever it stands."""
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(file, node.lineno, alias.name, ())
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno} imports relatively"
                yield Import(file, node.lineno, str(node.module), tuple(alias.name for alias in node.names))


def file_of(package: Path, module: str) -> Path | None:
    """The file of a module of the package; None where it is another's."""
    name, *parts = module.split(".")
    if name != package.name:
        return None
    place = package.joinpath(*parts)
    if (place / "__init__.py").is_file():
        return place / "__init__.py"
    return place.with_suffix(".py") if place.with_suffix(".py").is_file() else None


def targets(package: Path, each: Import) -> set[Path]:
    """The files of the package that an import leads to: modules by name, else the file that holds the names."""
    found = set()
    own = file_of(package, each.module)
    if own is None:
        return found
    for name in each.names or ("",):
        below = file_of(package, f"{each.module}.{name}") if name else None
        found.add(below or own)
    return found


def place_of(package: Path, file: Path) -> str:
    """The place at the top of the package that a file belongs to."""
    parts = file.relative_to(package).with_suffix("").parts
    return parts[0]


def faults(package: Path) -> list[str]:
    """Every import that breaks a rule of the house, a line each."""
    layer = {place: number for number, places in enumerate(LAYERS) for place in places}
    found: list[str] = []
    arrows: dict[Path, set[Path]] = {}
    for each in imports_of(package):
        here = place_of(package, each.file)
        where = f"{each.file.relative_to(package)}:{each.line}"
        if here not in layer:
            found.append(f"{where}: {here} has no layer")
            continue
        root = each.module.split(".")[0]
        if root in TORCH and here not in MAY_IMPORT_TORCH:
            found.append(f"{where}: {root} outside {', '.join(sorted(MAY_IMPORT_TORCH))}")
        if root in HOMES and not str(each.file.relative_to(package)).startswith(HOMES[root]):
            found.append(f"{where}: {root} outside {HOMES[root]}")
        for target in targets(package, each):
            there = place_of(package, target)
            shown = target.relative_to(package)
            if there != here and layer.get(there, len(LAYERS)) >= layer[here]:
                found.append(f"{where}: {here} imports {there}, which is not below it")
            if there in NOT_FOR.get(here, ()):
                found.append(f"{where}: {here} leaves {there} alone")
            if target.name == "__init__.py" and target.parent in each.file.parents and here == there:
                found.append(f"{where}: imports {shown}, which hands on what is in its own package")
            if there == "commands" and here == "commands":
                private = [
                    name
                    for name in each.names
                    if name.startswith("_") and file_of(package, f"{each.module}.{name}") is None
                ]
                if private or not (target.stem.startswith("_") or target.name == "__init__.py"):
                    found.append(
                        f"{where}: takes {', '.join(each.names)} out of {shown}; what commands share lies in _FILES"
                    )
            elif there == "commands" and here != "cli":
                found.append(f"{where}: {here} imports a command")
            if any(name.startswith("_") and not name.startswith("__") for name in each.names) and there != "commands":
                found.append(f"{where}: imports the private {', '.join(each.names)} of {shown}")
            if target != each.file and each.file.name != "__init__.py":
                arrows.setdefault(each.file, set()).add(target)
    return found + [
        f"a circle of files: {' -> '.join(str(f.relative_to(package)) for f in ring)}" for ring in rings(arrows)
    ]


def rings(arrows: dict[Path, set[Path]]) -> list[list[Path]]:
    """One circle from each file that lies on one, followed in depth."""
    found: list[list[Path]] = []
    done: set[Path] = set()

    def follow(file: Path, way: list[Path]) -> None:
        if file in way:
            found.append([*way[way.index(file) :], file])
            return
        if file in done:
            return
        for target in sorted(arrows.get(file, ())):
            follow(target, [*way, file])
        done.add(file)

    for file in sorted(arrows):
        follow(file, [])
    return found


def test_imports_run_downward_and_never_in_a_circle() -> None:
    assert faults(PACKAGE) == []


def test_every_place_has_a_layer_and_every_layer_its_places() -> None:
    places = {place_of(PACKAGE, file) for file in PACKAGE.rglob("*.py")}
    assert places == {place for places in LAYERS for place in places}


def layers_of(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the places of each layer that the module map of a text names, from the bottom layer up."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(len(rows)))
    return tuple(tuple(re.findall(r"`(\w+)`", places)) for _, places in rows)


def test_the_module_map_shows_the_layers() -> None:
    """CONTRIBUTING.md tells what each place is for; here only that it tells of all."""
    assert layers_of((PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")) == LAYERS
    assert layers_of("| layer | place |\n|---|---|\n| 0 | `a` `b` | x |\n| 1 | `c` | y |\n") == (("a", "b"), ("c",))


def test_packages_form_no_circle() -> None:
    """Find circles without the table of layers: arrows run between the places of files."""
    arrows: dict[Path, set[Path]] = {}
    for each in imports_of(PACKAGE):
        here = place_of(PACKAGE, each.file)
        for target in targets(PACKAGE, each):
            if (there := place_of(PACKAGE, target)) != here:
                arrows.setdefault(Path(here), set()).add(Path(there))
    assert rings(arrows) == []


def test_few_modules_lie_at_the_top_and_no_file_is_long() -> None:
    files = list(PACKAGE.rglob("*.py"))
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_THE_TOP
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {str(file): length for file, length in lengths.items() if length > MOST_LINES} == {}
    assert sorted(lengths.values())[len(lengths) // 2] < 150


def test_what_travels_together_is_one_parameter() -> None:
    """No function of the fitting and scoring way takes more than seven; options of a network may be many."""
    long = []
    for file in PACKAGE.rglob("*.py"):
        if place_of(PACKAGE, file) in MANY_OPTIONS:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [each.arg for each in given if each.arg not in ("self", "cls")]
                if len(names) > MOST_PARAMETERS:
                    long.append(f"{file.relative_to(PACKAGE)}:{node.lineno} {node.name} takes {len(names)}")
    assert long == []


PLANTED = {
    "an upward import": ("images/planted.py", "from lit_od.scoring import scorer", "not below it"),
    "one inside a function": ("images/planted.py", "def f():\n    import lit_od.fitting.fit", "not below it"),
    "a sibling": ("detectors/planted.py", "from lit_od.images.split import CALIBRATION_SHARE", "not below it"),
    "a layer that is left alone": (
        "cluster/planted.py",
        "from lit_od.recipes.load import read",
        "leaves recipes alone",
    ),
    "torch outside its packages": ("evaluation/planted.py", "import torch.nn", "torch outside"),
    "a runtime outside its home": (
        "detectors/planted.py",
        "def f():\n    import faiss",
        "faiss outside detectors/bank/",
    ),
    "the own package's face": ("scoring/planted.py", "from lit_od import Scorer", "not below it"),
    "the own sub-package's face": ("detectors/bank/planted.py", "from lit_od.detectors import KNN", "hands on"),
    "a helper of a command": ("commands/planted.py", "from lit_od.commands.score import run", "what commands share"),
    "a private helper of a command": (
        "commands/planted.py",
        "from lit_od.commands._status import _bank",
        "what commands",
    ),
    "a private name": ("scoring/planted.py", "from lit_od.images.split import _hidden", "private _hidden"),
    "a place without a layer": ("attic/planted.py", "import lit_od.errors", "has no layer"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_import_is_found(name: str, tmp_path: Path) -> None:
    """In a copy of the package's files, with nothing in them, so that what is planted is all there is."""
    package = tmp_path / "lit_od"
    for file in PACKAGE.rglob("*.py"):
        copy = package / file.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    assert faults(package) == []
    where, text, wanted = PLANTED[name]
    (package / where).parent.mkdir(exist_ok=True)
    (package / where).write_text(f"{text}\n", encoding="utf-8")
    found = faults(package)
    assert len(found) == 1, found
    assert re.search(wanted, found[0])


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "lit_od"
    (package / "images").mkdir(parents=True)
    for folder in (package, package / "images"):
        (folder / "__init__.py").touch()
    (package / "images" / "one.py").write_text("from lit_od.images import two\n")
    (package / "images" / "two.py").write_text("def f():\n    from lit_od.images.one import g\n")
    assert len(found := faults(package)) == 1, found
    assert found[0].startswith("a circle of files: images/one.py -> images/two.py -> images/one.py")
