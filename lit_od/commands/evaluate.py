"""How well a bundle tells inliers from outliers: AUROC, AUPR, FPR at 95 % TPR with confidence intervals.

Without --inliers and --outliers, the sets of the bundle's own recipe. PATHs as in lit-od score, and
torchvision's sets: mnist:test:8,9, fashion-mnist:test, cifar10:all (under --data.root or LIT_OD_DATA).
"""

import argparse
import json
from pathlib import Path

from lit_od.bundle import Bundle
from lit_od.cli import DONE
from lit_od.commands import no_overrides
from lit_od.commands.score import add_session_arguments
from lit_od.errors import ConfigError, missing_extra
from lit_od.recipe import folder, override, parse_overrides
from lit_od.roots import data_root
from lit_od.scorer import Scorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--inliers", metavar="PATH", action="append", default=[], help="inliers; may be repeated")
    parser.add_argument(
        "--outliers", metavar="NAME=PATH", action="append", default=[], help="outliers under a name; may be repeated"
    )
    parser.add_argument("--out", metavar="DIR", help="write metrics.json, table.txt and histogram.png there")
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Score the sets and print the table."""
    try:
        from lit_od.evaluation import plots, sets
        from lit_od.evaluation.evaluate import evaluate
    except ModuleNotFoundError as error:
        missing_extra(str(error.name), "train,cpu")
    bundle = Bundle.read(args.bundle)
    scorer = Scorer.of(bundle, threads=args.threads, providers=[args.provider] if args.provider else None)
    if bool(args.inliers) != bool(args.outliers):
        raise ConfigError("--inliers and --outliers go together: give both, or neither for the recipe's own sets")
    if args.inliers:
        values = dict(parse_overrides(overrides))
        where = data_root(folder("data.root", values.pop("data.root", None)))
        no_overrides([f"--{path}" for path in values])
        images = sets.sets_of_paths(args.inliers, _by_name(args.outliers), where, scorer.preparation)
    else:
        recipe = override(sets.recipe_of(bundle), overrides)
        images = sets.sets_of_recipe(recipe, scorer.preparation)
    inliers = sets.score_set(scorer, images.inliers)
    scores = {each.name: sets.score_set(scorer, each) for each in images.outliers}
    found = evaluate(inliers, scores, threshold=bundle.calibration.threshold)
    print(found.table())
    if args.out:
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps(found.to_json(), indent=2) + "\n", encoding="utf-8")
        (out / "table.txt").write_text(found.table() + "\n", encoding="utf-8")
        figure = plots.score_histograms({"inliers": inliers, **scores}, bundle.calibration.threshold)
        plots.save(figure, out / "histogram.png")
        print(f"{out}: metrics.json, table.txt, histogram.png")
    return DONE


def _by_name(words: list[str]) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"--outliers takes NAME=PATH, got {word!r}")
        sets.setdefault(name, []).append(path)
    return sets
