"""The bytes that images take at once."""

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_od.images.batching import batches
from lit_od.images.memory import MOST, MOST_BYTES_A_PIXEL, MemoryBudget, bytes_needed
from lit_od.images.preparation import MAX_PIXELS, Preparation
from lit_od.images.sources import ImageFile


def test_a_thread_waits_until_enough_is_free() -> None:
    budget, done, taken = MemoryBudget(10), threading.Event(), threading.Event()

    def take() -> None:
        with budget.returned():
            budget.take(5)
            taken.set()
        done.set()

    with budget.returned():
        budget.take(99)  # alone it gets whatever it needs
        other = threading.Thread(target=take)
        other.start()
        assert not taken.wait(0.05)
    assert taken.wait(10)
    assert done.wait(10)
    other.join()
    budget.take(99)  # nobody would give it back


def test_the_images_of_a_batch_share_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight images on four threads never two are decoded at once where the budget holds one."""
    files = []
    for row in range(8):
        files.append(ImageFile(tmp_path / f"{row}.png", f"{row}"))
        Image.new("RGB", (9, 6), (row, 0, 0)).save(files[-1].path)
    budget, decoding, most = MemoryBudget(bytes_needed(Image.new("RGB", (9, 6)))), 0, 0
    take, returned, lock = budget.take, budget.returned, threading.Lock()

    def taken(amount: int) -> None:
        nonlocal decoding, most
        take(amount)
        assert amount == budget._most
        with lock:
            decoding += 1
            most = max(most, decoding)

    class Counting:
        """The budget, with a count of the threads that hold some of it."""

        def __enter__(self) -> None:
            self.inner = returned()
            self.inner.__enter__()

        def __exit__(self, *error: object) -> None:
            nonlocal decoding
            with lock:
                decoding -= 1
            self.inner.__exit__(None, None, None)

    monkeypatch.setattr(budget, "take", taken)
    monkeypatch.setattr(budget, "returned", Counting)
    monkeypatch.setattr("lit_od.images.preparation.BUDGET", budget)
    monkeypatch.setattr("lit_od.images.sources.BUDGET", budget)
    (batch,) = batches(files, Preparation(size=(6, 9)), batch_size=8, threads=4)
    assert most == 1
    np.testing.assert_array_equal(batch.images[:, 0, 0, 0], np.arange(8))


TALL, WIDE = 2500, 2000
"""Sides of images that are larger than a band."""

PICTURE = np.indices((TALL, WIDE, 3)).sum(0).astype(np.uint8)


def saved(file: Path, mode: str, **options: Any) -> ImageFile:
    image = Image.fromarray(PICTURE[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(PICTURE)
    turn = Image.Exif()
    turn[0x0112] = 6
    (image if mode in ("RGB", "I;16") else image.convert(mode)).save(file, exif=turn, **options)
    return ImageFile(file, file.name)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is measured by Linux")
@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("turned.jpg", "RGB", {}),
        ("progressive.jpg", "RGB", {"progressive": True, "subsampling": 0}),
        ("cmyk.jpg", "CMYK", {"progressive": True}),
        ("a.png", "L", {"compress_level": 1}),
        ("b.png", "RGBA", {"compress_level": 1}),
        ("c.png", "I;16", {"compress_level": 1}),
        ("d.png", "P", {"compress_level": 1}),
        ("a.webp", "RGBA", {"method": 0}),
        ("a.avif", "RGB", {"speed": 10}),
        ("a.jp2", "RGB", {}),
        ("a.tif", "RGBA", {"compression": "tiff_lzw", "strip_size": 2**31 - 1}),
    ],
)
def test_no_image_takes_more_than_was_counted(
    name: str, mode: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path / name, mode, **options)
    counted: list[int] = []
    monkeypatch.setattr("lit_od.images.preparation.BUDGET.take", counted.append)
    for colours in ("rgb", "grey"):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = status("VmRSS")
        source.prepare(Preparation(size=(9, 9), mode=colours))  # type: ignore[arg-type]  # one of the modes
        taken = status("VmHWM") - before - source.path.stat().st_size
        assert taken < counted[-1] + SLACK  # memory that the process has kept is not seen


SLACK = 25 * 10**6
"""Bytes that are not counted: those of a band, and a decoder's that do not grow with the image."""


def status(key: str) -> int:
    """Bytes of this process by their name in /proc."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def test_the_largest_image_fits_and_a_very_wide_one_counts_its_weights() -> None:
    assert MAX_PIXELS * MOST_BYTES_A_PIXEL <= MOST
    assert bytes_needed(Image.new("L", (10**6, 1))) > 40 * 10**6
