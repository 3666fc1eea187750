"""A folder of heat maps: a picture an image, a mask where pixels have verdicts, and a table of whose they are."""

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
    """Writes pictures as scoring goes on, one in memory at a time; a context that closes the table.

    Attributes:
        folder: Where they go.
    """

    def __init__(self, folder: Path, maps: HeatMaps, *, total: int) -> None:
        """Make the folder for the pictures of so many images.

        Raises:
            ConfigError: If there is a file at its place, or something in it.
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
        """Draw the next batch; images that cannot be read, or of which the graph makes no number, have no picture.

        Where the detector reads errors, a mask of the prepared image's size is white at the pixels that it calls
        outliers, and black elsewhere.

        Args:
            batch: Of any images, in their order.
            outputs: What the backbone gives of those that could be read: squared errors (m, h, w, c) or
                features (m, d).
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
    """A file name for the picture of the row-th of so many images.

    The number alone keeps any two apart, on any file system; the rest is to know the image by.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePath(name).name).strip("_")[:_NAME_LENGTH]
    number = f"{row:0{len(str(max(total - 1, 0)))}}"
    return f"{number}-{stem}.png" if stem else f"{number}.png"
