"""Run a published experiment, or all, from end to end and print its figures.

NAME is one of:
  mnist-digits         the Mahalanobis notebook, and the recipe mnist-digits beside it
  vgg16-gmm            the deep hybrid notebook: VGG16 and one Gaussian, each digit of MNIST against the rest
  one-class            any recipe with a frozen backbone, each class against the rest
  cifar10-autoencoder  an autoencoder of photographs, and patches of noise of growing size
  cats-autoencoder     an autoencoder of cats; dogs; and a classifier made of two of them
  doc-sneakers         deep one-class features (DOC): sneakers against ankle boots
  all                  every one but one-class: published figures and ours, what differs, how long it took

The data are looked for under --data.root or LIT_OD_DATA; where they are missing torchvision downloads
them. vgg16-gmm, one-class and doc-sneakers take overrides of their recipe, as fit does: a file with weights, for
instance, by --model.init_args.checkpoint_path FILE. With all, such an override begins with the experiment:
--vgg16-gmm.model.init_args.checkpoint_path FILE; and what came to its end in --out before is not run again.
A smoke run (--quick) is kept in another folder, runs/NAME-quick; in one folder neither replaces the other.

  lit-od reproduce mnist-digits --data.root DATA
  lit-od reproduce all --quick --data.root DATA
"""

import argparse
import dataclasses
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from lit_od.commands._arguments import (
    add_json_argument,
    add_trust_argument,
    extra,
    no_overrides,
    positive,
    print_json,
    say_imported,
)
from lit_od.commands._status import DONE, INCOMPLETE
from lit_od.errors import ConfigError, LitODError
from lit_od.experiments import summary_table as together
from lit_od.experiments.results import ExperimentOptions, ExperimentResult
from lit_od.experiments.summary_table import Finished
from lit_od.recipes.overrides import parse_overrides

EXPERIMENTS = {
    "mnist-digits": frozenset[str](),
    "vgg16-gmm": frozenset({"overrides", "cache", "trust"}),
    "one-class": frozenset({"overrides", "cache", "recipe", "data", "contamination", "trust"}),
    "cifar10-autoencoder": frozenset({"budget"}),
    "cats-autoencoder": frozenset({"budget"}),
    "doc-sneakers": frozenset({"budget", "overrides", "trust"}),
}
"""Options of each experiment besides those of all; its module is `lit_od.experiments.NAME`."""

ALL = "all"
UNPUBLISHED = frozenset({"one-class"})
"""Experiments that `all` leaves out: no source has their figures."""

NOT_ALL = ("cache", "recipe", "data", "contamination", "trust")
"""Options that `all` does not take."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    names = [*EXPERIMENTS, ALL]
    parser.add_argument("name", metavar="NAME", choices=names, help=f"one of {', '.join(names)}")
    parser.add_argument("--out", metavar="DIR", help="folder for bundles, tables and pictures (runs/NAME, runs/RECIPE)")
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", default=[0, 1, 2], help="a run each (0 1 2)")
    parser.add_argument("--quick", action="store_true", help="a smoke run whose figures prove nothing")
    add_json_argument(parser)
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
    add_trust_argument(parser)
    parser.add_argument("--cache", metavar="DIR", type=Path, help="keeps features between runs (OUT/features)")
    parser.add_argument(
        "--budget",
        choices=("small", "full"),
        help="autoencoders, doc-sneakers: small takes some 20 minutes on two cores (full)",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Run the experiment, print its tables and keep them with its bundles."""
    if args.name == ALL:
        return _run_all(args, overrides)
    options = _options(args, overrides, _out(args, _title(args)))
    together.require_own_folder(args.name, options)
    report, _ = _carried_out(args.name, options)
    if args.trust:
        say_imported(args, report.figures["recipe"]["detector"]["kind"])
    if args.json:
        print_json(report.figures)
    else:
        print(report.text)
        print(f"{options.out}: report.txt, report.json")
    return DONE


def _run_all(args: argparse.Namespace, overrides: list[str]) -> int:
    """Run every published experiment in turn; return INCOMPLETE if one was refused."""
    for name in NOT_ALL:
        if getattr(args, name) not in (None, []):
            raise ConfigError(f"{ALL} takes no --{name}: leave it out")
    out = _out(args, ALL)
    experiments = {}
    for name, words in _by_experiment(overrides).items():
        budget = args.budget if "budget" in EXPERIMENTS[name] else None
        arguments = argparse.Namespace(**{**vars(args), "name": name, "budget": budget})
        experiments[name] = _options(arguments, words, out / name)
    for name, options in experiments.items():
        together.require_own_folder(name, options)
    finished, refused = [], 0
    for name, options in experiments.items():
        ended = together.take_up(name, options)
        if ended is None:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                _, ended = _carried_out(name, options)
            except LitODError as error:
                print(f"{name}: {error}", file=sys.stderr)
                refused += 1
                continue
        finished.append(ended)
    text = together.table_of(finished)
    together.keep(text, out / "table.md")
    if args.json:
        print_json([dataclasses.asdict(each) for each in finished])
    else:
        print(f"{text}\n{out}: table.md, and a folder for each experiment")
    return INCOMPLETE if refused else DONE


def _out(args: argparse.Namespace, title: str) -> Path:
    """Return the named folder, else that of this title; smoke runs have another."""
    return Path(args.out or Path("runs") / (f"{title}-quick" if args.quick else title))


def _carried_out(name: str, options: ExperimentOptions) -> tuple[ExperimentResult, Finished]:
    """Run an experiment and keep its result in its folder."""
    started = time.perf_counter()
    report = _experiment(name).run(options)
    together.keep_report(report, options.out)
    return report, together.keep_summary(name, options, report, time.perf_counter() - started)


def _by_experiment(overrides: list[str]) -> dict[str, list[str]]:
    """Divide overrides between the published experiments.

    Each gets those that begin with its name, and the data root.
    """
    words: dict[str, list[str]] = {name: [] for name in EXPERIMENTS if name not in UNPUBLISHED}
    for path, value in parse_overrides(overrides):
        name, _, rest = path.partition(".")
        if path == "data.root":
            for each in words.values():
                each += ["--data.root", str(value)]
        elif name in words and rest and "overrides" in EXPERIMENTS[name]:
            words[name] += [f"--{rest}", str(value)]
        else:
            takers = ", ".join(each for each in words if "overrides" in EXPERIMENTS[each])
            raise ConfigError(f"--{path}: {ALL} takes --data.root, and overrides that begin with one of {takers}")
    return words


def _options(args: argparse.Namespace, overrides: list[str], out: Path) -> ExperimentOptions:
    """Return the options of an experiment; make its folder.

    Raises:
        ConfigError: If the experiment does not take an option.
    """
    takes = EXPERIMENTS[args.name]
    for name in sorted({"budget", *NOT_ALL} - takes):
        if getattr(args, name) not in (None, []):
            raise ConfigError(f"{args.name} takes no --{name}: leave it out")
    values = dict(parse_overrides(overrides))
    root = values.pop("data.root", None)
    if "overrides" not in takes:
        no_overrides([f"--{path}" for path in values])
    out.mkdir(parents=True, exist_ok=True)
    return ExperimentOptions(
        root=root,
        out=out,
        seeds=tuple(args.seeds),
        overrides=tuple(overrides),
        budget=args.budget or "full",
        **{name: getattr(args, name) for name in ("quick", "threads", *NOT_ALL)},
    )


def _experiment(name: str) -> Any:
    with extra():
        return import_module(f"lit_od.experiments.{name.replace('-', '_')}")


def _title(args: argparse.Namespace) -> str:
    """Return the name of the experiment, or of its recipe and set."""
    recipe = Path(args.recipe or args.name).stem
    return f"{recipe}-on-{Path(args.data).name}" if args.data else recipe
