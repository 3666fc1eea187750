"""Recipes against categories of defects: every pair makes a row of a table."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from lit_od.backbone.packaged import read_packaged
from lit_od.bundle.folder import Bundle
from lit_od.errors import DataError, LitODError, MissingExtra, first_line
from lit_od.evaluation.defects import DefectEvaluation, evaluate_defects, title
from lit_od.evaluation.image_sets import sets_of_category
from lit_od.evaluation.intervals import Interval
from lit_od.formats.atomic import atomic_file
from lit_od.formats.text import csv_path, csv_row, one_line
from lit_od.images.identity import fingerprint
from lit_od.images.layouts import categories_below, read_category
from lit_od.images.sources import ImageFile
from lit_od.recipes.load import portable_tree
from lit_od.recipes.schema import EvaluationConfig, OnnxBackbone, Recipe
from lit_od.scoring.scorer import Scorer
from lit_od.versions import __version__

Fit: TypeAlias = Callable[[Recipe, Path], Bundle]
"""Function that carries out a recipe, and writes the bundle to a folder."""

Load: TypeAlias = Callable[[Bundle], Scorer]
"""Function that loads a bundle's graph."""

FIGURES = ("auroc", "aupr", "f1_max", "pixel_auroc", "aupro_0.3", "aupro_0.05", "spro_0.3", "spro_0.05")
"""Figures of the table, in its order; those that no row has are left out."""

ROW = "row.json"
"""File of a finished row, in the folder of its recipe and category."""


class BenchmarkRow(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe on one category.

    Attributes:
        recipe: Name of the recipe.
        category: Path of the category below the root.
        layout: Name of its layout.
        train: Normal images for fitting and calibration.
        good: Normal test images.
        defective: Defective test images.
        figures: Figures of all kinds of defect together: value, low and high end, as shares of 1; the ends are None
            where images are too few.
        fit_seconds: Wall time of the fit.
        evaluate_seconds: Wall time of reading, scoring and measuring the test images.
        size: Bytes of the bundle.
        error: Cause for which there are no figures; "" if there are.
    """

    recipe: str
    category: str
    layout: str = ""
    train: int = 0
    good: int = 0
    defective: int = 0
    figures: dict[str, tuple[float, float | None, float | None]] = {}
    fit_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    size: int = 0
    error: str = ""


class _Kept(msgspec.Struct, frozen=True):
    """A finished row in a file, and the hash of what it was made of."""

    key: str
    row: BenchmarkRow


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Rows of a benchmark, in the order of recipes and categories.

    Attributes:
        rows: The rows.
    """

    rows: list[BenchmarkRow] = field(default_factory=list)

    def markdown(self) -> str:
        """Format a Markdown table in percent.

        A recipe that has several categories gets their mean.
        """
        shown = [name for name in FIGURES if any(name in row.figures for row in self.rows)]
        heads = ["category", "recipe", "train", "test", *map(title, shown), "fit s", "MB"]
        lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
        for row in self.rows:
            if row.error:
                lines.append([row.category, row.recipe, one_line(row.error, most=200), *[""] * (len(heads) - 3)])
                continue
            values = [f"{100 * row.figures[name][0]:.2f}" if name in row.figures else "" for name in shown]
            images = [f"{row.train:,}", f"{row.good:,} + {row.defective:,}"]
            lines.append(
                [row.category, row.recipe, *images, *values, f"{row.fit_seconds:.1f}", f"{row.size / 1e6:.1f}"]
            )
        for recipe in dict.fromkeys(row.recipe for row in self.rows):
            done = [row for row in self.rows if row.recipe == recipe and not row.error]
            if len(done) > 1:
                values = [_mean([row.figures[name][0] for row in done if name in row.figures]) for name in shown]
                seconds = f"{np.mean([row.fit_seconds for row in done]):.1f}"
                size = f"{np.mean([row.size for row in done]) / 1e6:.1f}"
                lines.append([f"mean of {len(done)}", recipe, "", "", *values, seconds, size])
        return "".join(f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |\n" for line in lines)

    def csv(self) -> str:
        """Format a row a pair, with the ends of intervals, as shares of 1."""
        plain = (
            "recipe",
            "category",
            "layout",
            "train",
            "good",
            "defective",
            "fit_seconds",
            "evaluate_seconds",
            "size",
        )
        shown = [name for name in FIGURES if any(name in row.figures for row in self.rows)]
        ends = [f"{name}{end}" for name in shown for end in ("", "_low", "_high")]
        text = csv_row([*plain, *ends, "error"])
        for row in self.rows:
            values = [value for name in shown for value in row.figures.get(name, (None, None, None))]
            cells = ["" if value is None else repr(value) for value in values]
            own = [csv_path(row.recipe), csv_path(row.category), *(str(getattr(row, name)) for name in plain[2:])]
            text += csv_row([*own, *cells, row.error])
        return text

    def to_json(self) -> str:
        """Format all rows as JSON."""
        return json.dumps({"lit_od": __version__, "rows": msgspec.to_builtins(self.rows)}, indent=2) + "\n"

    def write(self, out: Path) -> None:
        """Write benchmark.md, benchmark.csv and benchmark.json into a folder."""
        for ending, text in (("md", self.markdown()), ("csv", self.csv()), ("json", self.to_json())):
            _write(out / f"benchmark.{ending}", text)


def benchmark(
    root: Path, recipes: Sequence[Recipe], out: Path, *, fit: Fit, load: Load
) -> Iterator[tuple[Benchmark, bool]]:
    """Fit and evaluate every recipe on every category below a folder.

    A pair whose row is in `out`, made of the same recipe, images and version, is not run again. Each pair keeps its
    bundle and metrics.json there; the table is written anew after each.

    Args:
        root: A category, or a folder of categories, at any depth.
        recipes: Recipes of different names; their data are the category's.
        out: Folder of all results.
        fit: Carries out a recipe.
        load: Loads a bundle's graph.

    Yields:
        The table so far, and True if its last row was taken from `out`.

    Raises:
        DataError: If there is no category, or two recipes have one name.
        MissingExtra: If a package is not installed.
    """
    folders = categories_below(root)
    if not folders:
        raise DataError(
            f"{root} holds no folder in the layout of MVTec AD (train/good, test), LOCO, AD 2 or VisA: name the folder "
            "of such a data set"
        )
    names = [recipe.name for recipe in recipes]
    if len(set(names)) < len(names) or any(Path(name).name != name for name in names):
        raise DataError(f"recipes need different names, that are names of folders, got {', '.join(names)}")
    table = Benchmark()
    for recipe in recipes:
        for folder in folders:
            category = folder.relative_to(root).as_posix() if folder != root else folder.resolve().name
            place = out / recipe.name / category
            key = ""
            try:
                key = _key(recipe, folder)
                kept = _kept(place, key)
                row = kept or _run(recipe, folder, category, place, fit=fit, load=load)
            except MissingExtra:
                raise
            except LitODError as error:
                kept, row = None, BenchmarkRow(recipe=recipe.name, category=category, error=first_line(error))
            table.rows.append(row)
            if not row.error and kept is None:
                _write(place / ROW, msgspec.json.format(msgspec.json.encode(_Kept(key, row))).decode() + "\n")
            table.write(out)
            yield table, kept is not None


def _run(recipe: Recipe, folder: Path, category: str, place: Path, *, fit: Fit, load: Load) -> BenchmarkRow:
    """Fit and evaluate one recipe on one category."""
    data = msgspec.structs.replace(recipe.data, root=str(folder), train=".", test=None)
    place.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    bundle = fit(msgspec.structs.replace(recipe, data=data, evaluation=EvaluationConfig()), place / "bundle")
    fitted = time.perf_counter()
    sets = sets_of_category(folder, bundle.manifest.preparation)
    assert sets is not None
    found = evaluate_defects(load(bundle), sets)
    seconds = time.perf_counter() - fitted
    _write(place / "metrics.json", json.dumps(found.to_json(), indent=2) + "\n")
    return BenchmarkRow(
        recipe=recipe.name,
        category=category,
        layout=found.name.partition(",")[0],
        train=sum(bundle.manifest.provenance.data[part]["images"] for part in ("fit", "calibration")),
        good=found.images.inliers.n,
        defective=found.together.images,
        figures={name: _ends(interval) for name, interval in _figures(found).items()},
        fit_seconds=fitted - started,
        evaluate_seconds=seconds,
        size=sum(map(len, bundle.files.values())),
    )


def _figures(found: DefectEvaluation) -> Mapping[str, Interval]:
    pixels = found.together.pixels
    return {**found.together.image, **(pixels.figures if pixels is not None else {})}


def _ends(interval: Interval) -> tuple[float, float | None, float | None]:
    known = np.isfinite([interval.low, interval.high])
    return interval.value, interval.low if known[0] else None, interval.high if known[1] else None


def _key(recipe: Recipe, folder: Path) -> str:
    """Hash a recipe, its backbone, a category's images and masks, and this version."""
    found = read_category(folder)
    assert found is not None
    truth = {} if found.truth is None else found.truth.files
    masks = [ImageFile(file, str(file)) for files in truth.values() for file in files]
    parts = [found.train, found.good, *found.defects.values(), masks]
    backbone = recipe.backbone
    file = backbone.file if isinstance(backbone, OnnxBackbone) else backbone
    model = b"" if file is None else read_packaged(file)[0]
    tree = [
        portable_tree(recipe),
        hashlib.sha256(model).hexdigest(),
        __version__,
        [fingerprint(part)["sha256"] for part in parts],
    ]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _kept(place: Path, key: str) -> BenchmarkRow | None:
    """Return the finished row of a pair, if it was made of the same."""
    try:
        kept = msgspec.json.decode((place / ROW).read_bytes(), type=_Kept)
    except (OSError, msgspec.DecodeError):
        return None
    return kept.row if kept.key == key else None


def _mean(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.2f}" if values else ""


def _write(file: Path, text: str) -> None:
    with atomic_file(file) as fresh:
        fresh.write_text(text, encoding="utf-8", errors="surrogateescape")
