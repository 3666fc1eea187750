"""Write a folder of heat maps: pictures, masks, raw values, and a table."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.backbone.extractor import Extracted
from lit_od.errors import ConfigError
from lit_od.formats.text import csv_path, csv_row
from lit_od.scoring.maps import HeatMaps

INDEX = "maps.csv"
"""The table: `path,map,mask,raw`, a row a picture, in the order of the images."""

_NAME_LENGTH = 80


class Draw(Protocol):
    """A function that draws the next batch."""

    def __call__(self, found: Extracted, chosen: NDArray[np.bool_] | None = None) -> None:
        """Draw the images of a batch.

        Args:
            found: The batch.
            chosen: True for each of its images that is drawn, readable or not; None draws all.
        """


@contextmanager
def map_folder(folder: Path, maps: HeatMaps, *, total: int, goes_on: bool = False) -> Iterator[Draw]:
    """Make a folder for pictures, and yield a function that draws the next batch.

    Images that cannot be read, or whose outputs are not finite, have no picture. Beside each lie the values of its
    map, float32 (h, w) in an .npy file. Where the detector has maps, a mask of the prepared image's size is white at
    outlying pixels, and black elsewhere. One picture is in memory at a time; the table is closed when the block ends.

    Args:
        folder: Its place, free or an empty folder.
        maps: Draws the pictures.
        total: Number of images.
        goes_on: Let the folder hold pictures of an earlier call, which stay.

    Raises:
        ConfigError: If there is a file at its place, or something in it.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--maps {folder} is a file, wanted a folder")
    index = folder / INDEX
    goes_on = goes_on and index.is_file()
    if not goes_on and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"--maps {folder} holds files already: name a folder that is free or empty")
    folder.mkdir(parents=True, exist_ok=True)
    first = _next_number(folder) if goes_on else 0
    with index.open("a", encoding="utf-8", errors="surrogateescape", newline="") as table:
        if not table.tell():  # also where an earlier writer was killed before its first picture
            table.write(csv_row(("path", "map", "mask", "raw")))

        def add(found: Extracted, chosen: NDArray[np.bool_] | None = None) -> None:
            nonlocal first
            batch = found.batch
            drawable = found.finite if chosen is None else found.finite & chosen[batch.rows]
            sound = np.flatnonzero(drawable)
            pictures = maps.pictures(batch.images[sound], None if found.maps is None else found.maps[sound])
            for row, drawn in zip(sound.tolist(), pictures, strict=True):
                place = int(batch.rows[row])
                name = batch.sources[place].name
                file = file_name(first + place, total, name)
                stem = file.removesuffix(".png")
                raw, mask = f"{stem}.npy", ""
                drawn.picture.save(folder / file)
                np.save(folder / raw, drawn.map, allow_pickle=False)
                if drawn.outlying is not None:
                    mask = f"{stem}.mask.png"
                    Image.fromarray(drawn.outlying).save(folder / mask)
                table.write(csv_row((csv_path(name), file, mask, raw)))
            table.flush()
            first += len(batch.sources)

        yield add


def _next_number(folder: Path) -> int:
    """Return the number behind those of the pictures in a folder."""
    numbers = (re.match(r"\d+", path.name) for path in folder.glob("*.png"))
    return max((int(found[0]) + 1 for found in numbers if found), default=0)


def file_name(row: int, total: int, name: str) -> str:
    """Return the file name of an image's picture.

    The number alone makes names unique, on any file system; the rest helps to recognise the image.

    Args:
        row: Number of the image, from 0.
        total: Number of images, which sets the width of the number.
        name: Name of the image.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePath(name).name).strip("_")[:_NAME_LENGTH]
    number = f"{row:0{len(str(max(total - 1, 0)))}}"
    return f"{number}-{stem}.png" if stem else f"{number}.png"
