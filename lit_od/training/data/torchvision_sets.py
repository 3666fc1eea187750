"""torchvision's sets by name: `mnist`, `fashion-mnist`, `cifar10`.

A path is `NAME[:SPLIT[:CLASSES]]`. SPLIT is train, test or all (the default). CLASSES are indices or
names with commas between them: `mnist:test:8,9`, `fashion-mnist:all:sneaker,ankle-boot`. Labels are the
class indices, as text. A folder of the same name is reached as `./mnist`.
"""

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import DataError
from lit_od.images.sources import ImageArray, SetOpener, Source
from lit_od.types import Images, Labels


@dataclass(frozen=True, slots=True)
class TorchvisionSet:
    """A set that torchvision reads.

    Attributes:
        loader: Name of the class in torchvision.datasets.
        classes: Names of the classes, by index.
        archive: File below the data root that is read in torchvision's place where it exists: an
            .npz with train_images, train_labels, test_images and test_labels.
    """

    loader: str
    classes: tuple[str, ...]
    archive: str | None = None


SETS = {
    "mnist": TorchvisionSet("MNIST", tuple("zero one two three four five six seven eight nine".split())),
    "fashion-mnist": TorchvisionSet(
        "FashionMNIST",
        tuple("t-shirt trouser pullover dress coat sandal shirt sneaker bag ankle-boot".split()),
    ),
    "cifar10": TorchvisionSet(
        "CIFAR10",
        tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
        archive="cifar10.npz",
    ),
}
SPLITS = {"train": ("train",), "test": ("test",), "all": ("train", "test")}


def open_set(root: Path, *, download: bool = True) -> SetOpener:
    """Return an opener of the sets below a data root, for `images.find_local.find`.

    Args:
        root: Folder that torchvision's classes read.
        download: True lets them download missing files into it.
    """

    def opener(path: str) -> list[Source] | None:
        name, *rest = path.split(":")
        known = SETS.get(name)
        if known is None:
            return None
        if len(rest) > 2:
            raise DataError(f"{path}: wanted {name}[:SPLIT[:CLASSES]], as in {name}:test:0,1")
        split = rest[0] if rest else "all"
        if split not in SPLITS:
            raise DataError(f"{path}: no split {split!r}, the splits are {', '.join(SPLITS)}")
        wanted = _class_indices(path, known, rest[1]) if len(rest) == 2 else None
        sources: list[Source] = []
        for part in SPLITS[split]:
            images, labels = _read(name, known, root, part, download)
            rows = np.arange(len(labels)) if wanted is None else np.flatnonzero(np.isin(labels, wanted))
            sources += [ImageArray(images[row], f"{name}:{part}#{row}", str(labels[row])) for row in rows.tolist()]
        return sources

    return opener


def _class_indices(path: str, known: TorchvisionSet, text: str) -> list[int]:
    """Return indices of classes that are given by index or by name, in any case."""
    indices = []
    for word in text.split(","):
        name = re.sub(r"[^a-z0-9]+", "-", word.strip().lower())
        if name in known.classes:
            indices.append(known.classes.index(name))
        elif name.isdecimal() and int(name) < len(known.classes):
            indices.append(int(name))
        else:
            named = ", ".join(f"{index} {title}" for index, title in enumerate(known.classes))
            raise DataError(f"{path}: no class {word!r}, the classes are {named}")
    return indices


def _read(name: str, known: TorchvisionSet, root: Path, part: str, download: bool) -> tuple[Images, Labels]:
    """Read all images of a split, (n, h, w, c) uint8, and class indices, (n,)."""
    archive = root / known.archive if known.archive else None
    if archive is not None and archive.is_file():
        images, labels = _read_archive(archive, part)
    else:
        images, labels = _read_torchvision(name, known.loader, root, part, download)
    labels = labels.reshape(-1).astype(np.int64)
    return images if images.ndim == 4 else images[..., None], labels


def _read_archive(archive: Path, part: str) -> tuple[NDArray[np.uint8], Labels]:
    try:
        with np.load(archive, allow_pickle=False) as arrays:
            return arrays[f"{part}_images"], arrays[f"{part}_labels"]
    except Exception as error:  # zipfile, zlib and numpy each raise another for a damaged archive
        raise DataError(
            f"{archive} cannot be read: {' '.join(str(error).split())}. "
            "Wanted train_images, train_labels, test_images, test_labels"
        ) from error


def _read_torchvision(
    name: str, loader: str, root: Path, part: str, download: bool
) -> tuple[NDArray[np.uint8], Labels]:
    # takes over a second to import, and most runs need none of these sets
    from torchvision import datasets  # type: ignore[import-untyped]

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints every address that it tries
            data = getattr(datasets, loader)(str(root), train=part == "train", download=download)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(
            f"{name} is not below {root.absolute()}{' and could not be downloaded' if download else ''} "
            f"({' '.join(str(error).split())}). Name the folder that holds it with --data.root or LIT_OD_DATA"
        ) from error
    return np.asarray(data.data), np.asarray(data.targets)
