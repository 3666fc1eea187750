"""Take up bundles that are replaced on disk.

A new one is checked as `lit-od verify` does; a bad one is refused, and the old one goes on answering.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lit_od.bundle.folder import Bundle
from lit_od.bundle.model_file import MODEL
from lit_od.errors import BundleError
from lit_od.runtime.stopping import Stopper, stop_with
from lit_od.scoring.verification import golden_differences
from lit_od.serving.log import Log
from lit_od.serving.map_answers import has_maps
from lit_od.serving.metrics import Metrics
from lit_od.serving.models import Model
from lit_od.serving.normal_images import NormalImages
from lit_od.serving.shelf import Shelf

EVERY = 1.0
"""Seconds between two looks at the bundles; a changed one is read once two looks find the same."""

Signature: TypeAlias = tuple[tuple[object, ...], ...] | None
"""Numbers, sizes and times of a bundle's files; None where there is none."""

Open: TypeAlias = Callable[[str, str, NormalImages | None], Model]
"""Loads a model: from its name, the path of its bundle, and the normal images."""


@dataclass(slots=True)
class _Place:
    """A bundle on disk.

    Attributes:
        path: Its folder, or model file.
        seen: Its signature at the last look.
        taken: Its signature when it was last read, and taken up or refused.
    """

    path: str
    seen: Signature = None
    taken: Signature = None


class Reloader:
    """Loads the bundles that are served, and again where they are replaced.

    Args:
        shelf: Models that answer.
        paths: Bundles by the names of their models.
        load: Loads one.
        metrics: Told of each model that answers or is refused.
        log: Told as well.
    """

    def __init__(self, shelf: Shelf, paths: Mapping[str, str], load: Open, *, metrics: Metrics, log: Log) -> None:
        self._shelf, self._load, self._metrics, self._log = shelf, load, metrics, log
        self._places = {name: _Place(path) for name, path in paths.items()}
        self._stopper, self._ended = Stopper(), threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, normal: NormalImages | None = None) -> None:
        """Load all bundles and have them answer.

        Raises:
            LitODError: If one cannot be served.
        """
        models = {}
        for name, place in self._places.items():
            place.seen = place.taken = signature(place.path)  # before it is read: what changes meanwhile is read again
            models[name] = self._loaded(name, place, normal)
        for model in models.values():
            self._metrics.serves(model)
        self._shelf.fill(models, normal)

    def watch(self) -> None:
        """Look for replaced bundles from now on, on a thread."""
        self._thread = threading.Thread(target=self._watch, name="lit_od-reload", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking, and the graph that is being checked; wait for the thread."""
        self._ended.set()
        self._stopper.stop()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Look at each bundle once, and take up those that were replaced."""
        for name, place in self._places.items():
            now = signature(place.path)
            settled, place.seen = now == place.seen, now
            if settled and now != place.taken:
                place.taken = now
                self._take_up(name, place)

    def _watch(self) -> None:
        stop_with(self._stopper)
        while not self._ended.wait(EVERY):
            self.look()

    def _loaded(self, name: str, place: _Place, normal: NormalImages | None) -> Model:
        """Load a model, and what is computed of it only once."""
        model = self._load(name, place.path, normal)
        if has_maps(model.whole):
            model.maps()
        return model

    def _take_up(self, name: str, place: _Place) -> None:
        """Have a bundle answer that has changed, unless it is bad."""
        old = self._shelf.named(name)
        try:
            model = self._loaded(name, place, self._shelf.normal)
            if identity(model.bundle) == identity(old.bundle):
                self._metrics.stale(name, False)
                return
            if found := golden_differences(model.bundle, model.whole):
                raise BundleError("; ".join(found))
        except Exception as error:  # of any kind: the old one must go on answering
            if not self._ended.is_set():
                self._metrics.stale(name, True, refused=True)
                self._refused(name, place.path, error)
            return
        self._shelf.replace(model)
        self._metrics.serves(model, reloaded=True)
        now, before = identity(model.bundle)[:12], identity(old.bundle)[:12]
        fields = {"model": name, "path": place.path, "sha256": now, "before": before}
        self._log.say("reload", f"{name} was replaced on disk: {now} answers from now on, after {before}", fields)

    def _refused(self, name: str, path: str, error: Exception) -> None:
        cause = " ".join(str(error).split()) or type(error).__name__
        self._log.say(
            "reload_refused",
            f"{name} was replaced on disk, and is refused; the one before goes on answering: {cause}",
            {"model": name, "path": path, "error": cause},
            level="error",
        )


def identity(bundle: Bundle) -> str:
    """Return a hash of all that a bundle or a model file holds."""
    return hashlib.sha256(bundle.files[MODEL]).hexdigest() if MODEL in bundle.files else bundle.manifest.sha256


def signature(path: str) -> Signature:
    """Return numbers that tell a bundle from the one before, without reading it."""
    try:
        top = Path(path).stat()
        if not stat.S_ISDIR(top.st_mode):
            return (_signed("", top),)
        with os.scandir(path) as entries:
            inner = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    except OSError:
        return None
    return tuple(_signed(name, found) for name, found in [("", top), *inner])


def _signed(name: str, found: os.stat_result) -> tuple[object, ...]:
    return name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
