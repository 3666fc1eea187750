"""Fit and evaluate recipes on data sets of defects, and print one table.

Every folder at or below ROOT in the layout of MVTec AD, LOCO, AD 2 or VisA is a category. A recipe is fitted on its
normal training images and evaluated on its test images, as by lit-od fit and lit-od evaluate. Overrides change all
recipes: --data.prepare.size '[256, 256]'.

--out DIR keeps each bundle with its figures, and the table as benchmark.md, benchmark.csv and benchmark.json. What is
there already, of the same recipe, images and version, is not run again.

  lit-od benchmark mvtec/ --recipe defects --out table
  lit-od benchmark mvtec/pill --recipe defects --recipe folder --data.prepare.size '[256, 256]'
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from lit_od.bundle.folder import Bundle
from lit_od.commands._arguments import add_json_argument, add_session_arguments, extra, say_imported, session_options
from lit_od.commands._status import DONE, INCOMPLETE
from lit_od.errors import ConfigError, DataError
from lit_od.fitting.from_recipe import fit_onnx
from lit_od.formats.atomic import require_writable
from lit_od.formats.text import printable
from lit_od.recipes.load import read
from lit_od.recipes.named_code import code_of_training
from lit_od.recipes.overrides import parse_overrides
from lit_od.recipes.schema import Recipe
from lit_od.scoring.scorer import Scorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("root", metavar="ROOT", help="a category, or a folder of categories at any depth")
    parser.add_argument(
        "--recipe",
        metavar="R",
        action="extend",
        nargs="+",
        default=[],
        help="a shipped recipe's name or a YAML file; may be repeated",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="keep bundles, figures and the table there, and take up what is there"
    )
    add_json_argument(parser)
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Run what is missing, and print the table.

    Raises:
        ConfigError: If no recipe is named, or an override changes the data.
        DataError: If there is no category below the root.
    """
    with extra("evaluate,cpu"):
        from lit_od.evaluation.benchmark import Benchmark, benchmark
    if not args.recipe:
        raise ConfigError("--recipe names what is compared: a shipped recipe (lit-od recipes) or a YAML file")
    for path, _ in parse_overrides(overrides):
        if path in ("data.root", "data.train", "data.test") or path.startswith("evaluation"):
            raise ConfigError(f"--{path} is each category's own here: leave it out")
    if not Path(args.root).is_dir():
        raise DataError(f"{args.root} is not a folder")
    recipes = [read(name, overrides) for name in args.recipe]

    def fit(recipe: Recipe, out: Path) -> Bundle:
        if recipe.backbone is not None:
            bundle = fit_onnx(recipe, out, **session_options(args), trust=args.trust)
        else:
            say_imported(args, *code_of_training(recipe))
            with extra("train,cpu"):
                from lit_od.training import pipeline
            bundle = pipeline.fit(recipe, out, **session_options(args), trust=args.trust)
        say_imported(args, bundle.detector.kind)
        return bundle

    def load(bundle: Bundle) -> Scorer:
        return Scorer.of(bundle, **session_options(args))

    table = Benchmark()
    with ExitStack() as stack:
        if args.out:
            require_writable(Path(args.out))
            out = Path(args.out)
            out.mkdir(parents=True, exist_ok=True)
        else:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for table, kept in benchmark(Path(args.root), recipes, out, fit=fit, load=load):
            row = table.rows[-1]
            done = row.error or f"image AUROC {100 * row.figures['auroc'][0]:.2f}{', taken up' if kept else ''}"
            told = sys.stderr if args.json else sys.stdout
            print(printable(f"{row.recipe} on {row.category}: {done}"), file=told, flush=True)
    if args.json:
        print(table.to_json(), end="")
    else:
        print(printable(f"\n{table.markdown()}", keep="\n"), end="")
        if args.out:
            print(f"\n{out}: benchmark.md, benchmark.csv, benchmark.json")
    return INCOMPLETE if any(row.error for row in table.rows) else DONE
