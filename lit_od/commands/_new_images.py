"""New normal images for a bundle's backbone, as refit and quantize take them."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lit_od.commands._arguments import add_label_argument, add_take_all_argument
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from lit_od.images.find_local import of_classes, only_inliers
from lit_od.images.normal_folders import require_normal
from lit_od.images.sources import Source


def add_new_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the new normal images, their classes and the seed of their division."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="new normal images")
    parser.add_argument("--labels", choices=("folders",), help="classes are the folders below each PATH")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the split (0)")
    add_label_argument(parser)
    add_take_all_argument(parser)


def new_inliers(
    args: argparse.Namespace, find_images: Callable[[Iterable[str | Path]], Sequence[Source]]
) -> Sequence[Source]:
    """Find the new normal images that the arguments name.

    A list's labels are classes where --labels says so.

    Args:
        args: The command's arguments.
        find_images: Finds the images of PATHs that are to be fitted.

    Raises:
        DataError: If images are missing, or some look like no normal ones.
    """
    if args.labels or not (args.label or any(path.lower().endswith(".csv") for path in args.paths)):
        found = find_images(args.paths)
        chosen: Sequence[Source] = of_classes(found, args.label) if args.label else found
    else:
        chosen = [each for path in args.paths for each in only_inliers(path, find_images([path]), args.label)]
    if isinstance(chosen, list):  # a cluster's list of tables makes its images when they are wanted
        require_normal(chosen, map(Path, args.paths), take_all=args.take_all)
    return chosen


def require_labels(spec: DetectorSpec, labels: str | None, otherwise: str = "") -> None:
    """Check that images have classes where the detector needs them.

    Args:
        spec: The detector.
        labels: Value of --labels.
        otherwise: Another mend, for the message.

    Raises:
        ConfigError: If the detector needs classes, and none are given.
    """
    if spec.needs_labels and labels is None:
        raise ConfigError(
            f"{spec.kind} is class-conditional and needs the images' classes: give class folders and "
            f"--labels folders{otherwise}"
        )
