"""Features of sets of images, kept on disk between runs.

An entry of the cache is KEY.npy, float32, one row an image, and KEY.json, which is written after it and
holds its SHA-256. KEY stands for the backbone's bytes, the images' own bytes in their order, their
preparation and the execution provider: a change of any of them gives another entry.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.errors import DataError
from lit_od.images.identity import content_digest
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.runtime.threads import limited
from lit_od.types import Features

FORMAT = 1
"""Version of the cache's files; those of another are not read."""

BATCH_SIZE = 256
"""Images a batch of the extraction."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Contents of KEY.json, which describes KEY.npy.

    Attributes:
        key: The key, as in the file's name.
        sha256: SHA-256 of KEY.npy.
        process_seconds: CPU time of the extraction, all threads together.
    """

    key: str
    sha256: str
    process_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class CachedFeatures:
    """The features of a set of images.

    Attributes:
        features: Shape (n, ...), float32, read from disk as they are used.
        process_seconds: CPU time of their extraction, in this or an earlier run.
        kept: True if they were found in the cache.
    """

    features: Features
    process_seconds: float
    kept: bool

    @property
    def seconds_an_image(self) -> float:
        """CPU time of the extraction for one image."""
        return self.process_seconds / len(self.features)


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """A cache of features, keyed by backbone, images and preparation.

    Attributes:
        folder: Folder of the entries, made with the first one.
    """

    folder: Path

    def features(
        self,
        model: bytes,
        sources: Sequence[Source],
        preparation: Preparation,
        *,
        threads: int | None = None,
        title: str = "features",
    ) -> CachedFeatures:
        """Return the features of readable images, computed unless a sound entry exists.

        Args:
            model: The backbone's ONNX file.
            sources: At least one image.
            preparation: Their preparation.
            threads: Threads of decoding and of the session; None is one a core.
            title: Title of the progress bar.

        Raises:
            BackboneError: If the graph is no backbone, or does not take such images.
            DataError: If there is no image, or one cannot be read.
        """
        if not sources:
            raise DataError("no images to extract features from: name a folder or a set that holds some")
        backbone = Backbone.load(model, threads=threads)
        key = _key(model, sources, preparation, backbone.provider)
        extractor = Extractor(backbone, preparation, threads)
        return self._kept(key, len(sources)) or self._computed(key, extractor, sources, title)

    def _kept(self, key: str, count: int) -> CachedFeatures | None:
        """Read an entry; None if there is none, or it was changed."""
        rows, note = self._paths(key)
        try:
            entry = msgspec.json.decode(note.read_bytes(), type=Entry)
            if entry.key != key or entry.sha256 != _sha256(rows):
                return None
            features: NDArray[np.float32] = np.load(rows, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError, msgspec.MsgspecError):
            return None
        if features.dtype != np.float32 or len(features) != count:
            return None
        return CachedFeatures(features, entry.process_seconds, kept=True)

    def _computed(self, key: str, extractor: Extractor, sources: Sequence[Source], title: str) -> CachedFeatures:
        self.folder.mkdir(parents=True, exist_ok=True)
        rows, note = self._paths(key)
        partial = rows.with_name(f".{rows.name}.{os.getpid()}.partial")
        try:
            started = time.process_time()
            _write(partial, extractor, sources, title)
            seconds = time.process_time() - started
            entry = Entry(key=key, sha256=_sha256(partial), process_seconds=seconds)
            partial.replace(rows)
            partial.write_bytes(msgspec.json.encode(entry))
            partial.replace(note)
        finally:
            partial.unlink(missing_ok=True)
        return CachedFeatures(np.load(rows, mmap_mode="r", allow_pickle=False), seconds, kept=False)

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}.npy", self.folder / f"{key}.json"


def _write(path: Path, extractor: Extractor, sources: Sequence[Source], title: str) -> None:
    """Extract into a file, batch by batch: the rows need not fit into memory."""
    table: np.memmap[Any, np.dtype[np.float32]] | None = None
    done = 0
    with limited(extractor.threads), tqdm(total=len(sources), desc=title, unit="img", disable=None, leave=False) as bar:
        for found in extractor.outputs(sources, batch_size=BATCH_SIZE):
            found.batch.require_readable()
            outputs = found.outputs
            if table is None:
                shape = (len(sources), *outputs.shape[1:])
                table = open_memmap(path, mode="w+", dtype=np.dtype(np.float32), shape=shape)
            table[done : done + len(outputs)] = outputs
            done += len(outputs)
            bar.update(len(outputs))
    if table is not None:
        table.flush()


def _key(model: bytes, sources: Sequence[Source], preparation: Preparation, provider: str) -> str:
    parts = [str(FORMAT).encode(), hashlib.sha256(model).digest(), msgspec.json.encode(preparation), provider.encode()]
    digest = hashlib.sha256()
    for part in (*parts, *map(content_digest, sources)):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
