"""Search a folder for images: which endings are read, and what is left out."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lit_od.formats.text import one_line
from lit_od.images import heif
from lit_od.images.folder_walk import visible_files
from lit_od.images.saying import say_once
from lit_od.images.sources import ImageFile, Source, Unreadable

EXTENSIONS = frozenset(
    (
        ".apng .avif .bmp .dib .gif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm "
        ".tga .tif .tiff .webp"
    ).split()
)
"""Endings, in any case, of the files that are found in a folder. A file that is named itself may have any ending."""

NOT_READ = frozenset(
    (
        ".arw .avifs .cr2 .cr3 .crw .dcm .dds .dng .dpx .emf .eps .exr .fit .fits .hdr .icns .ico .jls .jxl .jxr .mrw "
        ".ndpi .nef .nrw .orf .pam .pcx .pef .pfm .psb .psd .qoi .raf .ras .raw .rgb .rgba .rw2 .sgi .sr2 .srf .srw "
        ".svg .svgz .svs .wbmp .wdp .wmf .x3f .xbm .xcf .xpm"
    ).split()
)
"""Endings of images in formats that are not read, which a folder's search reports."""

PARQUET = ".parquet"
"""Ending of tables of images."""

SHOWN = 6
"""Most folders and endings that a line names."""


def endings() -> frozenset[str]:
    """Return the endings, in lower case, of the files that are found in a folder."""
    return EXTENSIONS | heif.ENDINGS if heif.is_readable() else EXTENSIONS


@dataclass(frozen=True, slots=True)
class FolderSearch:
    """Files below a folder.

    Attributes:
        folder: The folder.
        images: Its images, in order; folders that cannot be listed are unreadable images, at the end.
        tables: Parquet files, sorted.
        kinds: Number of the images by ending.
        folders: Number of the images by folder.
        left_out: Number of other visible files by ending; "" is that of files without one.
    """

    folder: Path
    images: list[Source]
    tables: list[Path]
    kinds: "Counter[str]"
    folders: "Counter[str]"
    left_out: "Counter[str]"

    @property
    def unread(self) -> "Counter[str]":
        """Files left out that are images, in formats that cannot be read."""
        known = NOT_READ | heif.ENDINGS
        return Counter({ending: count for ending, count in self.left_out.items() if ending in known})

    def say_unread(self) -> None:
        """Log a line about images in formats that cannot be read, if there are any."""
        if self.unread:
            say_once(f"{one_line(self.folder)}: left out {_counts(self.unread)}, which cannot be read. {self._mend()}")

    def say_read(self) -> None:
        """Log a line about the folders that were read and the files that were left out."""
        images = sum(self.kinds.values())
        line = f"{one_line(self.folder)}: read {images:,} image{'s' * (images != 1)} ({_counts(self.kinds)})"
        places = Counter({os.path.relpath(place, self.folder): count for place, count in self.folders.items()})
        if set(places) - {"."}:
            line += f" of {len(places):,} folder{'s' * (len(places) > 1)}: {_counts(places, count_first=False)}"
        if self.left_out:
            line += f"; left out {_counts(self.left_out)}"
        if self.unread:
            line += f". {', '.join(self.unread)} cannot be read. {self._mend()}"
        say_once(line)

    def nothing(self) -> str:
        """Describe a folder without an image."""
        there = f"it holds {_counts(self.left_out)}. " if self.left_out else "it holds no file. "
        mend = f"{self._mend()}. " if self.unread else ""
        return f"no image found in {self.folder}: {there}{mend}Looked for {' '.join(sorted(endings()))}"

    def _mend(self) -> str:
        if self.unread.keys() & heif.ENDINGS:
            return 'Convert them to PNG, or for HEIC run: pip install "lit-od[heif]"'
        return "Convert them to PNG"


def search_folder(folder: Path) -> FolderSearch:
    """Find the images below a folder, sorted; each linked folder is searched once.

    Hidden files and folders are left out. A folder that cannot be listed becomes an unreadable image.
    """
    wanted = endings()
    images: list[Source] = []
    tables: list[Path] = []
    kinds: Counter[str] = Counter()
    in_folders: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    closed: list[OSError] = []
    inside = folder
    label: str | None = None
    for path in visible_files(folder, closed.append):
        ending = path.suffix.lower()
        if ending not in wanted:
            left_out[ending] += 1
            tables += [path] if ending == PARQUET else []
            continue
        if path.parent != inside:
            inside = path.parent
            label = inside.relative_to(folder).parts[0]
        images.append(ImageFile(path, str(path), label))
        kinds[ending] += 1
        in_folders[str(inside)] += 1
    images += [
        Unreadable(str(error.filename), f"the folder cannot be listed: {str(error.strerror).lower()}")
        for error in closed
    ]
    return FolderSearch(folder, images, tables, kinds, in_folders, left_out)


def _counts(counted: "Counter[str]", *, count_first: bool = True) -> str:
    """Format counts, the largest first, as "3 .jpg, 1 .png" or "a (3), b (1)"."""
    shown: Iterable[tuple[str, int]] = counted.most_common(SHOWN)
    if count_first:
        parts = [f"{count:,} {one_line(name, most=40) or 'without ending'}" for name, count in shown]
    else:
        parts = [f"{one_line(name, most=60)} ({count:,})" for name, count in shown]
    more = len(counted) - SHOWN
    return ", ".join(parts) + (f", and {more:,} more" if more > 0 else "")
