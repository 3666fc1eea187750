"""Run a published experiment from end to end and print its figures.

NAME is one of: mnist-digits (the Mahalanobis notebook). The data are looked for under --data.root or
LIT_OD_DATA; where they are missing torchvision downloads them.
"""

import argparse
import json
from importlib import import_module
from pathlib import Path

from lit_od.cli import DONE
from lit_od.commands import no_overrides
from lit_od.commands.score import positive
from lit_od.errors import missing_extra
from lit_od.recipe import folder, parse_overrides

EXPERIMENTS = {"mnist-digits": "lit_od.evaluation.experiments.mnist_digits"}
"""Every experiment and the module that runs it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", choices=EXPERIMENTS, help=f"one of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--out", metavar="DIR", help="folder for bundles, tables and pictures (runs/NAME)")
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", default=[0, 1, 2], help="a run each (0 1 2)")
    parser.add_argument("--quick", action="store_true", help="a smoke run whose figures prove nothing")
    parser.add_argument("--threads", metavar="N", type=positive, help="threads of decoding and ONNX Runtime")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Run the experiment, print its tables, keep them beside its bundles."""
    values = dict(parse_overrides(overrides))
    root = folder("data.root", values.pop("data.root", None))
    no_overrides([f"--{path}" for path in values])
    try:
        from lit_od.evaluation.experiments import Options

        experiment = import_module(EXPERIMENTS[args.name])
    except ModuleNotFoundError as error:
        missing_extra(str(error.name), "train,cpu")
    out = Path(args.out or Path("runs") / args.name)
    out.mkdir(parents=True, exist_ok=True)
    options = Options(root=root, out=out, seeds=tuple(args.seeds), quick=args.quick, threads=args.threads)
    report = experiment.run(options)
    (out / "report.txt").write_text(report.text + "\n", encoding="utf-8")
    (out / "report.json").write_text(json.dumps(report.figures, indent=2) + "\n", encoding="utf-8")
    print(report.text)
    print(f"{out}: report.txt, report.json")
    return DONE
