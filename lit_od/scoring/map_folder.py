"""Write a folder of heat maps: pictures, masks of outlying pixels, and a table."""

import re
from pathlib import Path, PurePath
from typing import Self, TextIO

import numpy as np
from PIL import Image

from lit_od.errors import ConfigError
from lit_od.formats.text import csv_row
from lit_od.images.batching import Batch
from lit_od.scoring.maps import HeatMaps
from lit_od.types import Features

INDEX = "maps.csv"
"""The table: `path,map,mask`, a row a picture, in the order of the images."""

_NAME_LENGTH = 80


class MapFolder:
    """Writer of pictures, one in memory at a time; a context that closes the table.

    Attributes:
        folder: The folder for the pictures.
    """

    def __init__(self, folder: Path, maps: HeatMaps, *, total: int) -> None:
        """Make the folder.

        Args:
            folder: The folder; it must be empty or not exist.
            maps: Draws the pictures.
            total: Number of images, which sets the width of numbers in file names.

        Raises:
            ConfigError: If the folder is a file, or not empty.
        """
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--maps {folder} is a file, wanted a folder")
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"--maps {folder} holds files already: name a folder that is free or empty")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._maps, self._total = folder, maps, total
        self._row = 0
        self._table: TextIO | None = None

    def __enter__(self) -> Self:
        self._table = (self.folder / INDEX).open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._table.write(csv_row(("path", "map", "mask")))
        return self

    def __exit__(self, *exception: object) -> None:
        if self._table is not None:
            self._table.close()

    def add(self, batch: Batch, outputs: Features) -> None:
        """Draw the next batch.

        Images that cannot be read, and images with non-finite outputs, have no picture. Where the detector reads
        errors, a mask of the prepared image's size is white at outlying pixels, and black elsewhere.

        Args:
            batch: The next images, in their order.
            outputs: The backbone's outputs of the readable ones: squared errors (m, h, w, c) or features (m, d).
        """
        sound = np.array([row for row, each in enumerate(outputs) if np.isfinite(each).all()], dtype=np.intp)
        pictures = self._maps.pictures(batch.images[sound], outputs[sound])
        for row, picture in zip(sound.tolist(), pictures, strict=True):
            place = int(batch.rows[row])
            name = batch.sources[place].name
            file = file_name(self._row + place, self._total, name)
            picture.save(self.folder / file)
            verdicts, mask = self._maps.verdicts(outputs[row : row + 1]), ""
            if verdicts is not None:
                mask = f"{file.removesuffix('.png')}.mask.png"
                Image.fromarray(verdicts[0]).save(self.folder / mask)
            if self._table is not None:
                self._table.write(csv_row((name, file, mask)))
        self._row += len(batch.sources)


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
