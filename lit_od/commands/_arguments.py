"""Arguments that commands share."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from lit_od.backbone.extractor import BATCH_SIZE
from lit_od.bundle.folder import Bundle
from lit_od.bundle.model_file import MODEL, open_bundle
from lit_od.errors import ConfigError, missing_extra
from lit_od.import_paths import import_beside
from lit_od.recipes.load import read
from lit_od.recipes.overrides import parse_overrides
from lit_od.recipes.schema import Recipe

if TYPE_CHECKING:
    from lit_od.cluster.ray_pool import Pool


def no_overrides(overrides: list[str]) -> None:
    """Raise ConfigError if there are overrides, in a command that takes no recipe."""
    if overrides:
        raise ConfigError(f"unknown option {overrides[0]}: overrides go with recipes (fit, train, export)")


def only_overrides(overrides: list[str], *names: str, why: str) -> None:
    """Check that overrides change only some keys.

    Args:
        overrides: Overrides of the command line.
        names: Keys that may change, with all keys within them.
        why: Predicate of the message, for any other key.

    Raises:
        ConfigError: If another key is changed.
    """
    for path, _ in parse_overrides(overrides):
        if not any(path == name or path.startswith(f"{name}.") for name in names):
            raise ConfigError(f"--{path} {why}: leave it out. What can be changed is {', '.join(names)}")


def add_row_arguments(parser: argparse.ArgumentParser, *, forms: Sequence[str] = ("csv", "jsonl")) -> None:
    """Declare file and form of a command's rows."""
    parser.add_argument("--out", metavar="FILE", help="write the rows there instead of standard output")
    parser.add_argument("--format", choices=forms, help="form of the rows (that of the file's ending, else csv)")


def row_form(args: argparse.Namespace, *, forms: Sequence[str] = ("csv", "jsonl")) -> str:
    """Return the form of a command's rows.

    It is the one named, else that of the file's ending, else CSV.

    Raises:
        ConfigError: If the file's ending is that of a form in which the command writes no rows.
    """
    ending = Path(args.out or "").suffix.lower().removeprefix(".")
    if ending == "parquet" and ending not in forms and not args.format:
        raise ConfigError(
            f"--out {args.out}: rows of this command are {' or '.join(forms)}: name a file of such a form"
        )
    return args.format or (ending if ending in forms else "csv")


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the form of what a command prints as a table."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def print_json(tree: object) -> None:
    """Print what --json asks for."""
    print(json.dumps(tree, indent=2))


def add_batch_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the batch size of a command whose user may choose it."""
    parser.add_argument("--batch-size", metavar="N", type=positive, default=BATCH_SIZE, help="images a run")


def add_session_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of every command that opens a bundle's graph."""
    add_runtime_arguments(parser)
    add_trust_argument(parser)


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of every command that runs a backbone."""
    parser.add_argument("--threads", metavar="N", type=positive, help="threads (one a core)")
    parser.add_argument("--provider", metavar="NAME", help="execution provider: cpu, cuda, ...")


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the import paths that a bundle, a checkpoint or a recipe may name."""
    parser.add_argument(
        "--trust",
        metavar="NAME",
        action="append",
        default=[],
        help="import path, package.module:Class, whose code may run; may be repeated",
    )


def add_note_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the note of every command that adds to a bundle's history."""
    parser.add_argument("--note", metavar="TEXT", help="free text for the bundle's history")


def read_bundle(folder: str | Path, args: argparse.Namespace, *, whole: bool = False) -> Bundle:
    """Read a bundle; report on standard error if its detector is imported.

    Args:
        folder: The bundle's folder, or a model file.
        args: The command's arguments.
        whole: As `Bundle.read` takes it.
    """
    bundle = open_bundle(folder, trust=args.trust, whole=whole)
    say_imported(args, bundle.detector.kind)
    return bundle


def read_bundle_folder(folder: str | Path, args: argparse.Namespace) -> Bundle:
    """Read a bundle whose backbone or detector is wanted: no model file.

    Raises:
        ConfigError: If it is a model file.
    """
    bundle = read_bundle(folder, args)
    if MODEL in bundle.files:
        raise ConfigError(f"{folder} is a model file: give the folder of the bundle that it was compiled from")
    return bundle


def say_imported(args: argparse.Namespace, *names: str) -> None:
    """Report on standard error each of some names whose code `--trust` allows."""
    for name in names:
        if name in args.trust:
            print(f"lit-od: {name} is imported, which --trust allows", file=sys.stderr)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of every command that can do its work on a cluster."""
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="where the work is done (local)")
    parser.add_argument("--address", metavar="ADDRESS", help="--engine ray: a running cluster (this machine)")
    parser.add_argument("--workers", metavar="N", type=positive, help="--engine ray: workers (one a core or GPU)")


def open_cluster(args: argparse.Namespace) -> "AbstractContextManager[Pool]":
    """Open the cluster that the arguments of engine and session name."""
    from lit_od.cluster.connect import cluster

    return cluster(args.address, workers=args.workers, threads=args.threads, provider=args.provider)


def require_engine(args: argparse.Namespace, *options: str) -> None:
    """Raise ConfigError where an option of a cluster is given to the local engine."""
    for option in options:
        if args.engine == "local" and getattr(args, option):
            raise ConfigError(f"--{option} goes with --engine ray: leave it out, or give both")


class Session(TypedDict):
    """Options of a backbone's session, as `Scorer.of` takes them."""

    threads: int | None
    providers: list[str] | None


def session_options(args: argparse.Namespace) -> Session:
    """Return the options that `add_runtime_arguments` declares."""
    return {"threads": args.threads, "providers": [args.provider] if args.provider else None}


@contextmanager
def extra(name: str = "train,cpu") -> Iterator[None]:
    """Raise MissingExtra where an import inside the block finds no module.

    Args:
        name: Extra to install, for the message.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing_extra(str(error.name), name)


def named_folder(word: str) -> tuple[str, str]:
    """Split `NAME=FOLDER`; a word that is a folder goes by the folder's name."""
    name, equals, folder = word.partition("=")
    return (name, folder) if equals and not Path(word).is_dir() else (Path(word).resolve().name, word)


def positive(text: str) -> int:
    """Parse a whole number of at least 1 from the command line.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of every command that takes a recipe."""
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped recipe's name or a YAML file")
    add_trust_argument(parser)
    add_take_all_argument(parser)
    parser.add_argument("--seed", metavar="N", type=int, help="seed of every split, draw and weight")
    parser.add_argument(
        "--early-stopping",
        "--early_stopping",
        metavar="EPOCHS",
        help="epochs without a better validation loss after which a training stops; null never stops",
    )


def add_take_all_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the flag of every command that takes normal images alone."""
    parser.add_argument(
        "--take-all",
        action="store_true",
        help="take all images of a folder, also those below test/ or defect/, and what looks like masks",
    )


def add_label_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the labels of inliers, of every command that takes inliers."""
    parser.add_argument(
        "--label",
        metavar="VALUE",
        action="append",
        default=[],
        help="label of inliers, others left out; may be repeated",
    )


def read_recipe(args: argparse.Namespace, overrides: list[str]) -> Recipe:
    """Read the recipe with the command line's overrides."""
    options = {
        "seed": args.seed,
        "early_stopping": args.early_stopping,
        "data.take_all": "true" if args.take_all else None,
    }
    if args.trust and (file := Path(args.recipe)).is_file():
        import_beside(file)
    return read(args.recipe, [*overrides, *(f"--{key}={value}" for key, value in options.items() if value is not None)])


def add_outliers_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the outliers of every command that carries out a rule."""
    parser.add_argument(
        "--outliers",
        metavar="PATH",
        action="extend",
        nargs="+",
        default=[],
        help="max_f1: labelled outliers; may be repeated",
    )
