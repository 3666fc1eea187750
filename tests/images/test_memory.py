"""The bytes that images take at once."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.images.batching import batches
from lit_od.images.memory import MOST, MemoryBudget, bytes_needed
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
    budget, decoding, most = MemoryBudget(9 * 6 * 4), 0, 0
    take, returned, lock = budget.take, budget.returned, threading.Lock()

    def taken(amount: int) -> None:
        nonlocal decoding, most
        take(amount)
        assert amount == 9 * 6 * 4
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


@pytest.mark.parametrize(
    ("mode", "bytes_a_pixel"), [("L", 1), ("RGB", 4), ("RGBA", 8), ("P", 5), ("I;16", 6), ("F", 8)]
)
def test_bytes_are_counted_by_the_mode(mode: str, bytes_a_pixel: int) -> None:
    assert bytes_needed(Image.new(mode, (9, 6))) == 9 * 6 * bytes_a_pixel  # type: ignore[arg-type]  # a mode
    assert MAX_PIXELS * (bytes_a_pixel + 6) < MOST


def test_a_progressive_jpeg_takes_its_coefficients_too(tmp_path: Path) -> None:
    Image.new("RGB", (9, 6)).save(tmp_path / "a.jpg", progressive=True)
    with Image.open(tmp_path / "a.jpg") as image:
        assert bytes_needed(image) == 9 * 6 * 10
