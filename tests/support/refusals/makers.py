"""What makes something wrong in the folder of a case."""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
import torch

from tests.support.refusals.case import Make
from tests.support.refusals.odd_images import digit, saved
from tests.support.sealing import seal


@contextlib.contextmanager
def full(folder: Path, room: int, *, bundle: bool = False) -> Iterator[None]:
    """A folder `full` with room for so many bytes, beside the bundle in it if it is to hold one.

    Where nothing may be mounted, no file may grow larger than that.
    """
    place, held = folder / "full", 0
    place.mkdir()
    if bundle:
        held = sum(-(-file.stat().st_size // 4096) * 4096 for file in (folder / "bundle").iterdir())
    mounted = _mount("-t", "tmpfs", "-o", f"size={held + room}", "tmpfs", str(place))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if bundle:
            shutil.copytree(folder / "bundle", place / "bundle")
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if mounted:
            subprocess.run(["umount", place], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder `ro` that cannot be written, with the bundle in it if there is one."""
    place = folder / "ro"
    place.mkdir()
    if (folder / "bundle").exists():
        shutil.copytree(folder / "bundle", place / "bundle")
    mounted = _mount("--bind", str(place), str(place)) and _mount("-o", "remount,bind,ro", str(place))
    place.chmod(0o555) if not mounted else None
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", place], check=True)
        place.chmod(0o755)


def _mount(*words: str) -> bool:
    return os.geteuid() == 0 and subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0


def nothing(folder: Path) -> None:
    """All is as it was made."""


def files(**contents: str) -> Make:
    """What writes files; a double underscore in a name is a dot, after `bundle` a slash."""

    def make(folder: Path) -> None:
        for name, text in contents.items():
            (folder / name.replace("bundle__", "bundle/").replace("__", ".")).write_text(text)

    return make


def without(name: str) -> Make:
    """What removes a file of the bundle."""
    return lambda folder: (folder / "bundle" / name).unlink()


def writing(name: str, write: Callable[[Path], None]) -> Make:
    """What writes one image."""
    return lambda folder: write(folder / name)


def folder_with_a_note(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "note.txt").write_text("precious")


def one_a_class(folder: Path) -> None:
    for name in ("cats", "dogs"):
        (folder / "few" / name).mkdir(parents=True)
        saved(digit())(folder / "few" / name / "1.png")


def an_empty_class(folder: Path) -> None:
    (folder / "images" / "birds").mkdir()


def equal_images(folder: Path) -> None:
    (folder / "equal").mkdir()
    for number in range(30):
        saved(digit())(folder / "equal" / f"{number}.png")


def other_architecture(folder: Path) -> None:
    """The run's checkpoint, of a class that has changed since."""
    stored = torch.load(folder / "run" / "last.ckpt", weights_only=True)
    stored["lit_od"]["init_args"]["classes"] = 5
    torch.save(stored, folder / "run" / "last.ckpt")


def cut_checkpoint(folder: Path) -> None:
    checkpoint = folder / "run" / "best.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])


def foreign_checkpoint(folder: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, folder / "x.ckpt")


def one_broken(folder: Path) -> None:
    (folder / "images" / "0" / "broken.png").touch()


def sealed(folder: Path, change: Callable[[dict[str, Any]], None] = lambda tree: None) -> None:
    seal(folder / "bundle", change)


def flipped(folder: Path) -> None:
    file = folder / "bundle" / "backbone.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncated(folder: Path) -> None:
    os.truncate(folder / "bundle" / "detector.safetensors", 100)


def linked(folder: Path) -> None:
    (folder / "bundle" / "backbone.onnx").rename(folder / "elsewhere.onnx")
    (folder / "bundle" / "backbone.onnx").symlink_to("../elsewhere.onnx")


def not_a_number(folder: Path) -> None:
    file = folder / "bundle" / "detector.safetensors"
    arrays = safetensors.numpy.load_file(file)
    arrays["detector.means"] = arrays["detector.means"] * np.nan
    safetensors.numpy.save_file(arrays, file)
    sealed(folder)


def external_data(folder: Path) -> None:
    file = folder / "bundle" / "backbone.onnx"
    graph = onnx.load(file)
    weights = next(each for each in graph.graph.initializer if len(each.raw_data) > 1000)
    onnx.external_data_helper.set_external_data(weights, "../r.yaml")
    weights.ClearField("raw_data")
    onnx.save(graph, file)
    sealed(folder)
