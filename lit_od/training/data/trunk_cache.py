"""Activations of a frozen trunk, computed once an image, in half precision."""

import hashlib
import json
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.errors import DataError
from lit_od.images.batching import batches, load
from lit_od.images.identity import identity
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.training.data.image_data import evaluation_batch
from lit_od.training.data.loaders import Rows
from lit_od.training.export.backbone_graph import export_backbone
from lit_od.training.networks.trunk import Trunk
from lit_od.types import Features

PARITY_IMAGES = 64
"""Real images on which the exported trunk must agree with torch."""


class TrunkCache:
    """Activations of images, in a file that vanishes with the process.

    The system keeps in memory what fits. One cache serves several runs, so that a trunk sees an image once
    for all of them: an entry is identified by the trunk's operations and weights, the preparation and the
    image. On a CPU the trunk runs in ONNX Runtime, as a graph that is exported and proven against torch
    once; elsewhere in torch.
    """

    def __init__(self) -> None:
        self._tables: dict[str, _Table] = {}

    def rows(self, trunk: Trunk, sources: Sequence[Source], preparation: Preparation, device: torch.device) -> Rows:
        """Return the activations of images, computing those that are missing.

        Args:
            trunk: The trunk.
            sources: The images.
            preparation: Their preparation.
            device: Device of the trunk.

        Raises:
            DataError: If an image cannot be read, an activation overflows half precision, or the disk is full.
        """
        key = _key(trunk, preparation)
        if key not in self._tables:
            self._tables[key] = _Table(int(np.prod(trunk.shape)))
        table = self._tables[key]
        names = [identity(source) for source in sources]
        missing = {name: source for name, source in zip(names, sources, strict=True) if name not in table.places}
        if missing:
            rows = _activations(trunk, list(missing.values()), preparation, device, table.graphs)
            table.append(list(missing), rows, len(missing))
        return Rows(table.tensor(), torch.tensor([table.places[name] for name in names]))


class _Table:
    """Rows of one width in an unnamed file, with their images and their graphs."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.places: dict[str, int] = {}
        self.graphs: dict[int, Backbone] = {}  # by number of threads
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="lit_od-trunk-")  # noqa: SIM115  # closed with the table
        weakref.finalize(self, self._file.close)

    def append(self, names: Sequence[str], rows: Iterator[Features], count: int) -> None:
        """Append rows to the file."""
        start = len(self.places)
        self._file.seek(start * self.width * 2)
        try:
            with tqdm(total=count, desc="frozen layers", unit="img", disable=None, leave=False) as bar:
                for block in rows:
                    with np.errstate(over="ignore"):
                        half = block.astype(np.float16)
                    if not np.isfinite(half).all():
                        raise DataError(
                            "what the frozen layers give is beyond what half precision holds (65,504), or no number: "
                            "set cache_trunk: false"
                        )
                    self._file.write(half.tobytes())
                    bar.update(len(half))
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"no room for {count:,} images' activations in {tempfile.gettempdir()}: {error.strerror}. "
                "Name another folder with TMPDIR, or set cache_trunk: false"
            ) from error
        self.places |= {name: start + row for row, name in enumerate(names)}

    def tensor(self) -> Tensor:
        """Return all rows, (n, width), read from the file on demand."""
        if not self.places:
            return torch.empty(0, self.width, dtype=torch.float16)
        # "c": torch wants memory that it could write to, and nothing is written
        shape = (len(self.places), self.width)
        return torch.from_numpy(np.memmap(self._file, dtype=np.float16, mode="c", shape=shape))


def _activations(
    trunk: Trunk, sources: Sequence[Source], preparation: Preparation, device: torch.device, graphs: dict[int, Backbone]
) -> Iterator[Features]:
    """Compute the trunk's activations; a graph made for it is added to `graphs`."""
    if device.type != "cpu":
        network = trunk.trunk.to(device)
        for batch in batches(sources, preparation, batch_size=evaluation_batch(preparation.shape)):
            batch.require_readable()
            with torch.no_grad():
                yield network(torch.from_numpy(batch.images).to(device)).float().cpu().numpy()
        return
    threads = torch.get_num_threads()
    if threads not in graphs:
        graphs[threads] = _graph(trunk, sources, preparation, threads)
    for found in Extractor(graphs[threads], preparation, threads).outputs(sources):
        found.batch.require_readable()
        yield found.outputs


def _graph(trunk: Trunk, sources: Sequence[Source], preparation: Preparation, threads: int) -> Backbone:
    """Export the trunk to ONNX Runtime, proven on some of the images."""
    with tempfile.TemporaryDirectory(prefix="lit_od-trunk-") as folder:
        path = Path(folder) / "trunk.onnx"
        export_backbone(trunk.trunk, path, load(evenly(sources, PARITY_IMAGES), preparation, threads=threads))
        return Backbone.load(path.read_bytes(), threads=threads, providers=["cpu"])


def _key(trunk: Trunk, preparation: Preparation) -> str:
    digest = hashlib.sha256(json.dumps([trunk.passed, trunk.shape]).encode() + msgspec.json.encode(preparation))
    digest.update(trunk.operations.encode())
    for name, tensor in trunk.trunk.state_dict().items():
        if name in ("scale", "shift") or any(name.startswith(f"body.body.{part}.") for part in trunk.passed):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
