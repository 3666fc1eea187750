"""One class against the rest, for every class in turn, without training.

Any recipe whose backbone is not trained serves, on any set. The images are the recipe's `data.train` and
`data.test`, or those of `--data`: a set of torchvision's, or a folder below the data root that holds
`train` and `test`. All training images of the class fit the detector, since AUROC needs no threshold and
so no calibration; `data.limit` draws some of them.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError
from lit_od.evaluation.intervals import Interval
from lit_od.experiments.feature_cache import CachedFeatures, FeatureCache
from lit_od.experiments.one_vs_rest import ClassResult, Contamination, Labelled, one_class
from lit_od.experiments.results import ExperimentOptions, ExperimentResult, ResultRow, in_percent, middle
from lit_od.fitting.from_recipe import onnx_backbone
from lit_od.images.batching import load
from lit_od.images.find_local import find, of_classes
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.import_paths import accepted, check_accepted
from lit_od.recipes.load import portable_tree, read
from lit_od.recipes.roots import data_root
from lit_od.recipes.schema import OnnxBackbone, Recipe
from lit_od.runtime.threads import limited
from lit_od.training.data.torchvision_sets import SETS, open_set
from lit_od.training.export.backbone_graph import export_backbone
from lit_od.training.export.outputs import output_of
from lit_od.training.frozen import is_frozen
from lit_od.training.loop.trainer import make_module, seeded
from lit_od.training.networks.pretrained import trusted_class
from lit_od.training.pipeline import PARITY_IMAGES
from lit_od.versions import versions

QUICK = (40, 20)
"""Training and test images of each class in a smoke run."""

QUICK_DRAWS = 2

COLUMNS = 10
"""Classes in a line of a table."""

_PATCHES = "recipe {name} gives patches, and this protocol takes features: name another recipe"


@dataclass(frozen=True, slots=True)
class Measured:
    """Results of the protocol for a recipe.

    Attributes:
        recipe: The recipe, overrides applied.
        results: One a class.
        seeds: The repetitions.
        train: Features of the training images.
        test: Features of the test images.
    """

    recipe: Recipe
    results: list[ClassResult]
    seeds: tuple[int, ...]
    train: CachedFeatures
    test: CachedFeatures

    def fit_seconds(self, result: ClassResult) -> float:
        """Return the CPU time from prepared training images of a class to its detector."""
        return result.images * self.train.seconds_an_image + result.fit_seconds

    def score_seconds(self, result: ClassResult) -> float:
        """Return the CPU time from the whole test set's images to their scores."""
        return self.test.process_seconds + result.score_seconds


def run(options: ExperimentOptions) -> ExperimentResult:
    """Measure the recipe and report the results.

    Raises:
        ConfigError: If no recipe is named.
    """
    if options.recipe is None:
        raise ConfigError("one-class needs a recipe: give --recipe NAME, such as one-class-mnist, or a YAML file")
    recipe = read(options.recipe, [*_of_set(options.data), *options.overrides])
    contamination = None if options.contamination is None else Contamination(rate=options.contamination)
    measured = measure(recipe, options, contamination)
    interval = mean_interval(measured)
    row = ResultRow(
        f"{recipe.name} on {recipe.data.test}, one class against the rest, mean AUROC %",
        "none of this method",
        in_percent(interval, repetitions=len(measured.seeds)) if interval else "a class has one test image",
        "ours alone",
    )
    return ExperimentResult("\n\n".join([*tables(measured), seconds(measured)]), figures(measured), (row,))


def _of_set(data: str | None) -> list[str]:
    if data is None:
        return []
    between = ":" if data in SETS else "/"
    return [f"--data.{part}={data}{between}{part}" for part in ("train", "test")]


def measure(recipe: Recipe, options: ExperimentOptions, contamination: Contamination | None) -> Measured:
    """Extract features once, and carry out the protocol on them.

    Args:
        recipe: A recipe whose backbone is not trained, with test images.
        options: Options of the run.
        contamination: Also measure on contaminated test sets.

    Raises:
        ConfigError: If the recipe trains its backbone, names no test images, or is invalid.
        DataError: If images are missing, or one cannot be read.
    """
    spec = DetectorSpec.parse(recipe.detector, options.trust)
    spec.check()
    root = data_root(recipe.data.root)
    if recipe.data.test is None:
        raise ConfigError(f"recipe {recipe.name} names no data.test: give --data SET or --data.test PATH")
    sets = open_set(root)
    train, test = (
        _labelled(find([path], root=root, sets=sets), path) for path in (recipe.data.train, recipe.data.test)
    )
    seeds = options.seeds
    if options.quick:
        train, test, seeds = _few(train, QUICK[0]), _few(test, QUICK[1]), seeds[:1]
        contamination = contamination and Contamination(rate=contamination.rate, draws=QUICK_DRAWS)
    model = graph(recipe, train, options.threads, options.trust)
    cache = FeatureCache(options.cache or options.out / "features")
    of_train, of_test = (
        cache.features(model, sources, recipe.data.prepare, threads=options.threads, title=title)
        for sources, title in ((train, "training images"), (test, "test images"))
    )
    with limited(options.threads):
        results = one_class(
            Labelled(of_train.features, _labels(train)),
            Labelled(of_test.features, _labels(test)),
            spec,
            classes=_classes(train),
            seeds=seeds,
            limit=recipe.data.limit,
            contamination=contamination,
        )
    return Measured(recipe, results, seeds, of_train, of_test)


def graph(recipe: Recipe, sources: Sequence[Source], threads: int | None, trust: Collection[str] = ()) -> bytes:
    """Return the ONNX file of a recipe's frozen backbone, proven on some images.

    Args:
        recipe: The recipe.
        sources: Images of the proof, at least one.
        threads: Threads of decoding; None is one a core.
        trust: Import paths and names of hubs' models that the recipe may name.

    Raises:
        ConfigError: If the recipe's backbone is trained: one graph must serve every class.
    """
    if isinstance(recipe.backbone, OnnxBackbone) and recipe.backbone.output == "patches":
        raise ConfigError(_PATCHES.format(name=recipe.name))
    if recipe.model is None:
        return onnx_backbone(recipe)[0]
    model = recipe.model
    kind = trusted_class(model.class_path, model.init_args, trust, key="model.")
    if not is_frozen(kind):
        raise ConfigError(
            f"{model.class_path} is trained, and this protocol takes one graph for all classes: name a recipe with a "
            "frozen backbone or an ONNX file"
        )
    check_accepted(kind, model.init_args, "model.init_args")
    known = {"channels": recipe.data.prepare.channels, "image_size": list(recipe.data.prepare.size)}
    names, _ = accepted(kind)
    with seeded(recipe.seed):  # weights may be random
        module: Any = make_module(kind, {name: known[name] for name in known if name in names} | model.init_args)
    output = output_of(module)
    if output == "patches":
        raise ConfigError(_PATCHES.format(name=recipe.name))
    images = load(evenly(sources, PARITY_IMAGES), recipe.data.prepare, threads=threads)
    with TemporaryDirectory(prefix="lit_od-export-") as folder:
        path = Path(folder) / "backbone.onnx"
        export_backbone(module.backbone(), path, images, opset=recipe.export.opset, output=output)
        return path.read_bytes()


def figures(measured: Measured) -> dict[str, Any]:
    """Return all figures as plain JSON values, AUROC as shares of 1."""
    return {
        "recipe": portable_tree(measured.recipe),
        "seeds": list(measured.seeds),
        "versions": versions(),
        "training_images": len(measured.train.features),
        "test_images": len(measured.test.features),
        "extraction_process_seconds": {
            "training": measured.train.process_seconds,
            "test": measured.test.process_seconds,
        },
        "classes": [
            {
                "normal": each.normal,
                "images": each.images,
                "auroc": list(each.aurocs),
                "auroc_intervals": [dataclasses.asdict(interval) for interval in each.intervals],
                "contaminated_auroc": list(each.contaminated),
                "fit_process_seconds": measured.fit_seconds(each),
                "score_process_seconds": measured.score_seconds(each),
            }
            for each in measured.results
        ],
        "mean_auroc": [float(np.mean(each)) for each in zip(*(each.aurocs for each in measured.results), strict=True)],
    }


def mean_interval(measured: Measured) -> Interval | None:
    """Return the mean AUROC over the classes with an interval, median of the seeds.

    Its ends are the means of the classes' ends; None where a class has a single test image, and so no interval.
    The classes share their test images, so that their errors go together; the interval is right if they go
    together wholly, and too wide otherwise.
    """
    if not all(result.intervals for result in measured.results):
        return None
    each = [middle(result.intervals) for result in measured.results]
    return Interval(*(float(np.mean([getattr(one, end) for one in each])) for end in ("value", "low", "high")))


def tables(measured: Measured) -> list[str]:
    """Write AUROC in percent by normal class, also of contaminated sets if any."""
    names, results = [each.normal for each in measured.results], measured.results
    repeated = list(zip(*(each.aurocs for each in results), strict=True))
    lines = {f"seed {seed}": values for seed, values in zip(measured.seeds, repeated, strict=True)}
    if len(set(repeated)) == 1 and len(repeated) > 1:
        lines = {f"{len(repeated)} seeds, all the same": repeated[0]}
    elif len(repeated) > 1:
        lines["median"] = tuple(float(np.median(each.aurocs)) for each in results)
    parts = [table(f"{measured.recipe.name}, {measured.recipe.data.test}: AUROC %, all test images", names, lines)]
    if results[0].contaminated:
        draws = len(results[0].contaminated)
        rows = {
            "mean": tuple(float(np.mean(each.contaminated)) for each in results),
            "sd": tuple(float(np.std(each.contaminated)) for each in results),
        }
        parts.append(table(f"Contaminated test sets: AUROC %, {draws} draws", names, rows))
    return parts


def table(title: str, names: Sequence[str], rows: Mapping[str, Sequence[float]]) -> str:
    """Write shares of 1 in percent, a column a class, and their mean.

    Args:
        title: First line.
        names: The classes.
        rows: Shares by the name of the row, one a class.
    """
    first = max(12, *(len(name) for name in rows))
    lines = [title]
    shown = {name: [*values, float(np.mean(values))] for name, values in rows.items()}
    heads = [*names, "mean"]
    for start in range(0, len(heads), COLUMNS + 1):
        block = slice(start, start + COLUMNS + 1)
        widths = [max(8, len(head) + 2) for head in heads[block]]
        lines.append(
            " " * first + "".join(f"{head:>{width}}" for head, width in zip(heads[block], widths, strict=True))
        )
        for name, values in shown.items():
            cells = zip(values[block], widths, strict=True)
            lines.append(f"{name:{first}}" + "".join(f"{100 * value:>{width}.2f}" for value, width in cells))
    return "\n".join(lines)


def seconds(measured: Measured) -> str:
    """Write the CPU seconds of a fit and of scoring the test set."""
    fit, score = mean_seconds(measured)
    return (
        f"CPU seconds, extraction of features included, means over the classes: fit {fit:.1f} "
        f"({np.mean([each.images for each in measured.results]):,.0f} images), "
        f"score {score:.1f} ({len(measured.test.features):,} images)"
    )


def mean_seconds(measured: Measured) -> tuple[float, float]:
    """Return CPU seconds of a fit and of scoring the test set, means over classes."""
    fits = [measured.fit_seconds(each) for each in measured.results]
    return float(np.mean(fits)), float(np.mean([measured.score_seconds(each) for each in measured.results]))


def _labelled(sources: list[Source], path: str) -> list[Source]:
    for source in sources:
        if source.label is None:
            raise DataError(f"{path}: {source.name} has no class: wanted class folders, or a .csv with labels")
    return sources


def _labels(sources: Sequence[Source]) -> NDArray[np.str_]:
    return np.array([str(source.label) for source in sources], dtype=np.str_)


def _classes(sources: Sequence[Source]) -> list[str]:
    """Return the classes: numbers in ascending order, then names alphabetically."""
    labels = {str(source.label) for source in sources}
    return sorted(labels, key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label))


def _few(sources: Sequence[Source], count: int) -> list[Source]:
    return [source for label in _classes(sources) for source in of_classes(sources, [label])[:count]]
