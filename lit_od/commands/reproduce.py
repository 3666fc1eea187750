"""Run a published experiment from end to end and print its figures.

NAME is one of:
  mnist-digits  the Mahalanobis notebook
  vgg16-gmm     the deep hybrid notebook: VGG16 and one Gaussian, each digit of MNIST against the rest
  one-class     any recipe with a frozen backbone, each class against the rest
  cifar10-autoencoder  an autoencoder of photographs, and patches of noise of growing size
  cats-autoencoder     an autoencoder of cats; dogs; and a classifier made of two of them

The data are looked for under --data.root or LIT_OD_DATA; where they are missing torchvision downloads
them. vgg16-gmm and one-class take overrides of their recipe, as fit does: a file with weights, for
instance, by --model.init_args.checkpoint_path FILE.
"""

import argparse
import json
from importlib import import_module
from pathlib import Path

from lit_od.cli import DONE
from lit_od.commands import no_overrides
from lit_od.commands.score import positive
from lit_od.errors import ConfigError, missing_extra
from lit_od.recipe import folder, parse_overrides

EXPERIMENTS = {
    "mnist-digits": "lit_od.evaluation.experiments.mnist_digits",
    "vgg16-gmm": "lit_od.evaluation.experiments.vgg16_gmm",
    "one-class": "lit_od.evaluation.experiments.one_class",
    "cifar10-autoencoder": "lit_od.evaluation.experiments.cifar10_autoencoder",
    "cats-autoencoder": "lit_od.evaluation.experiments.cats_autoencoder",
}
"""Every experiment and the module that runs it."""

TAKES = {
    "mnist-digits": frozenset[str](),
    "vgg16-gmm": frozenset({"overrides", "cache"}),
    "one-class": frozenset({"overrides", "cache", "recipe", "data", "contamination"}),
    "cifar10-autoencoder": frozenset({"budget"}),
    "cats-autoencoder": frozenset({"budget"}),
}
"""What an experiment takes besides the data root and what all take."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", choices=EXPERIMENTS, help=f"one of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--out", metavar="DIR", help="folder for bundles, tables and pictures (runs/NAME, runs/RECIPE)")
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", default=[0, 1, 2], help="a run each (0 1 2)")
    parser.add_argument("--quick", action="store_true", help="a smoke run whose figures prove nothing")
    parser.add_argument("--threads", metavar="N", type=positive, help="threads of decoding and ONNX Runtime")
    parser.add_argument("--recipe", metavar="NAME", help="one-class: a shipped recipe or a YAML file")
    parser.add_argument(
        "--data",
        metavar="SET",
        help="one-class: mnist, fashion-mnist, cifar10, or a folder below the data root that holds train and test, in "
        "place of the recipe's own images",
    )
    parser.add_argument(
        "--contamination",
        metavar="RATE",
        type=float,
        help="one-class: measure also on the normal test images with this share of outliers, ten draws",
    )
    parser.add_argument("--cache", metavar="DIR", type=Path, help="keeps features between runs (OUT/features)")
    parser.add_argument(
        "--budget", choices=("small", "full"), help="the autoencoders: small takes some 20 minutes on two cores (full)"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Run the experiment, print its tables, keep them beside its bundles."""
    takes = TAKES[args.name]
    for name in sorted({"budget", "cache", "recipe", "data", "contamination"} - takes):
        if getattr(args, name) is not None:
            raise ConfigError(f"{args.name} takes no --{name}: leave it out")
    values = dict(parse_overrides(overrides))
    root = folder("data.root", values.pop("data.root", None))
    if "overrides" not in takes:
        no_overrides([f"--{path}" for path in values])
    try:
        from lit_od.evaluation.experiments import Options

        experiment = import_module(EXPERIMENTS[args.name])
    except ModuleNotFoundError as error:
        missing_extra(str(error.name), "train,cpu")
    out = Path(args.out or Path("runs") / _title(args))
    out.mkdir(parents=True, exist_ok=True)
    options = Options(
        root=root,
        out=out,
        seeds=tuple(args.seeds),
        quick=args.quick,
        threads=args.threads,
        overrides=tuple(overrides),
        recipe=args.recipe,
        data=args.data,
        contamination=args.contamination,
        cache=args.cache,
        budget=args.budget or "full",
    )
    report = experiment.run(options)
    (out / "report.txt").write_text(report.text + "\n", encoding="utf-8")
    (out / "report.json").write_text(json.dumps(report.figures, indent=2) + "\n", encoding="utf-8")
    print(report.text)
    print(f"{out}: report.txt, report.json")
    return DONE


def _title(args: argparse.Namespace) -> str:
    """The experiment, or the recipe and the set that it is carried out on."""
    recipe = Path(args.recipe or args.name).stem
    return f"{recipe}-on-{Path(args.data).name}" if args.data else recipe
