"""Find images that a set holds twice, or that stand in several sets.

Exact duplicates have the same pixels once they are decoded, upright, as 8-bit RGB. Near duplicates look alike: by a
perceptual hash, which recognises what was resized, recompressed, mirrored or turned. Groups are what is connected by
duplicates, directly or by way of others.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ImageError
from lit_od.images.layouts import layout_of
from lit_od.images.preparation import Preparation, frame
from lit_od.images.sources import Source
from lit_od.operations.near_rows import connected, near_pairs
from lit_od.operations.perceptual_hash import MOST, SIDE, allowed_distance, look_distance, perceptual_hash
from lit_od.runtime.threads import thread_count, threads_of_a_generator
from lit_od.types import Images, Stats

LOOK = Preparation(size=(SIDE, SIDE), mode="grey")
"""Preparation of the small copies by which images are compared."""

TRUTH = ("ground_truth", "masks")
"""Folders of masks in a category of defects, in small letters."""


@dataclass(frozen=True, slots=True, eq=False)
class Duplicates:
    """Images by group.

    Attributes:
        first: First image of each image's group, (n,); its own number where it has no duplicate.
        exact: True for images with the pixels of an earlier one, (n,).
        distance: Root mean square between the small copies of each image and of the first of its group, in grey levels,
            (n,).
    """

    first: NDArray[np.intp]
    exact: NDArray[np.bool_]
    distance: Stats

    @property
    def groups(self) -> list[list[int]]:
        """Groups of two images and more, in order."""
        found: dict[int, list[int]] = {}
        repeated = np.flatnonzero(self.first != np.arange(len(self.first)))
        for row in repeated.tolist():
            found.setdefault(int(self.first[row]), []).append(row)
        return [[first, *rows] for first, rows in sorted(found.items())]

    def kind(self, row: int) -> str:
        """Return "first", "exact" or "near"."""
        if self.first[row] == row:
            return "first"
        return "exact" if self.exact[row] else "near"

    def between(self, sets: Sequence[str]) -> list[dict[str, Any]]:
        """Count the images that have duplicates, by pairs of sets, most first.

        Args:
            sets: Name of each image's set.

        Returns:
            `sets`: two names, or one for duplicates within a set; `images`: images of the second set with a duplicate
            in the first, and within a set images with an earlier one.
        """
        order = {name: place for place, name in reversed(list(enumerate(sets)))}
        counts: Counter[tuple[str, ...]] = Counter()
        for rows in self.groups:
            inside = Counter(sets[row] for row in rows)
            names = sorted(inside, key=order.__getitem__)
            for place, name in enumerate(names):
                counts[(name,)] += inside[name] - 1
                for later in names[place + 1 :]:
                    counts[(name, later)] += inside[later]
        counts = +counts
        return [{"sets": list(names), "images": count} for names, count in counts.most_common()]


def find_duplicates(
    images: Sequence[Source],
    small: Images,
    shortest: NDArray[np.int64],
    *,
    most: float = MOST,
    threads: int | None = None,
) -> Duplicates:
    """Find exact and near duplicates.

    Args:
        images: The images; all could be read.
        small: The images in the preparation `LOOK`, (n, SIDE, SIDE, 1): those that agree in it are decoded again, and
            all their pixels compared.
        shortest: Shortest side of each image as it was given, (n,).
        most: Root mean square of small copies up to which large images count as near duplicates, in grey levels.
        threads: Decoding threads; None takes one a core.
    """
    same = _same_pixels(images, small, threads)
    leaders = np.flatnonzero(same == np.arange(len(images)))
    copies, allowed = small[leaders, :, :, 0], allowed_distance(shortest[leaders], most)

    def alike(one: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = look_distance(copies[one], copies[other]) <= np.maximum(allowed[one], allowed[other])
        return found

    joined = connected(len(leaders), near_pairs(perceptual_hash(copies), SIDE * allowed), alike)
    first = np.arange(len(images))
    first[leaders] = leaders[joined]
    first = first[same]
    distance = np.zeros(len(images))
    repeated = np.flatnonzero(first != np.arange(len(images)))
    distance[repeated] = look_distance(small[repeated, :, :, 0], small[first[repeated], :, :, 0])
    return Duplicates(first, same != np.arange(len(images)), distance)


def _same_pixels(images: Sequence[Source], small: Images, threads: int | None) -> NDArray[np.intp]:
    """Return the first image with the same pixels as each image, (n,)."""
    by_look: dict[bytes, list[int]] = {}
    for row, copy in enumerate(small):
        by_look.setdefault(copy.tobytes(), []).append(row)
    asked = [row for rows in by_look.values() if len(rows) > 1 for row in rows]
    same = np.arange(len(images))
    known: dict[bytes, int] = {}
    with threads_of_a_generator(thread_count(threads), "lit_od-digest") as pool:
        for row, digest in zip(asked, pool.map(lambda row: _pixels(images[row]), asked), strict=True):
            if digest is not None:
                same[row] = known.setdefault(digest, row)
    return same


def _pixels(image: Source) -> bytes | None:
    """Hash an image's pixels; None where it can no longer be read."""
    try:
        pixels = frame(image.decode(), Preparation(size=(1, 1)))
    except ImageError:
        return None
    return hashlib.sha256(f"{pixels.shape} ".encode() + pixels.tobytes()).digest()


def set_names(path: str, images: Sequence[Source]) -> list[str | None]:
    """Return the name of each image's set: its class or folder, else the PATH.

    Args:
        path: The PATH by which the images were found.
        images: The images.

    Returns:
        None for the masks of a category of defects, which are no images to compare.
    """
    if layout_of(Path(path)) is None:
        return [path if each.label is None else str(Path(path, each.label)) for each in images]
    names: list[str | None] = []
    for each in images:
        folder = Path(each.name).parent
        masks = {part.lower() for part in folder.relative_to(path).parts} & set(TRUTH)
        names.append(None if masks else str(folder))
    return names
