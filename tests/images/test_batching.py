"""Images prepared ahead on threads: order, positions of errors, laziness, and an orderly end."""

import gc
import itertools
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_od.errors import ConfigError, DataError, ImageError
from lit_od.images.batching import BATCHES_AHEAD, batches, load
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation
from lit_od.images.sources import ImageArray, OpenImage, Source, Unreadable
from lit_od.runtime.threads import available_threads, thread_count
from lit_od.types import Features, Images
from tests.support.images import GREY

TINY = Preparation(size=(1, 1), mode="grey")


def numbered(row: int) -> Source:
    """An image whose one pixel is its number."""
    return ImageArray(np.full((1, 1), row % 256, dtype=np.uint8), f"#{row}")


@settings(max_examples=60)
@given(
    readable=st.lists(st.booleans(), max_size=40),
    batch_size=st.integers(1, 50),
    threads=st.integers(1, 4),
)
def test_order_positions_and_errors(readable: list[bool], batch_size: int, threads: int) -> None:
    sources = [numbered(row) if fine else Unreadable(f"#{row}", f"cause {row}") for row, fine in enumerate(readable)]
    came = list(batches(sources, TINY, batch_size=batch_size, threads=threads))
    assert [source for batch in came for source in batch.sources] == sources
    assert all(len(batch.sources) == batch_size for batch in came[:-1])
    start = 0
    for batch in came:
        here = range(start, start + len(batch.sources))
        assert [start + row for row in batch.rows] == [row for row in here if readable[row]]
        assert batch.images.shape == (len(batch.rows), 1, 1, 1)
        assert [int(pixel) for pixel in batch.images.ravel()] == [row for row in here if readable[row]]
        causes = {start + row: str(error) for row, error in batch.errors.items()}
        assert causes == {row: f"cause {row}" for row in here if not readable[row]}
        start += len(batch.sources)
    assert start == len(readable)


def test_real_files_come_in_their_order(digit_files: Path) -> None:
    sources = find([digit_files])
    came = list(batches(sources, GREY, batch_size=7, threads=2))
    want = np.stack([source.prepare(GREY) for source in sources])
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in came]), want)
    np.testing.assert_array_equal(load(sources, GREY, threads=2), want)


def test_an_endless_stream_is_taken_as_it_is_needed() -> None:
    taken = itertools.count()
    stream = (numbered(next(taken)) for _ in itertools.count())
    came = batches(stream, TINY, batch_size=4, threads=2)
    for step in range(10):
        assert [source.name for source in next(came).sources] == [f"#{4 * step + row}" for row in range(4)]
    came.close()  # type: ignore[attr-defined]  # a generator
    assert next(taken) == 4 * (9 + BATCHES_AHEAD)


def test_a_consumer_that_raises_leaves_no_thread_behind() -> None:
    before = threading.active_count()

    def consume() -> None:
        for _ in batches(map(numbered, itertools.count()), TINY, batch_size=4, threads=2):
            raise KeyError("the consumer's own")

    with pytest.raises(KeyError, match="the consumer's own"):
        consume()
    assert threading.active_count() == before


def test_a_stream_may_be_closed_on_one_of_its_own_threads() -> None:
    """As garbage collection does that happens to run there."""
    begun, raised = threading.Event(), []

    def close_when_begun(images: Images) -> Features:
        if images[0, 0, 0, 0] > 0:  # not in the first batch, which the consumer must have
            begun.wait(10)
            try:
                came.close()  # type: ignore[attr-defined]  # a generator
            except BaseException as error:
                raised.append(error)
            closed.set()
        return images.reshape(len(images), -1).astype(np.float32)

    closed = threading.Event()
    came = batches(map(numbered, range(2)), TINY, batch_size=1, threads=1, compute=close_when_begun)
    next(came)
    begun.set()
    assert closed.wait(10)
    assert not raised
    assert list(came) == []


def test_a_stream_that_raises_is_heard() -> None:
    def stream() -> Iterator[Source]:
        yield numbered(0)
        raise OSError("the stream's own")

    with pytest.raises(OSError, match="the stream's own"):
        list(batches(stream(), TINY, batch_size=1, threads=2))


def test_an_array_that_is_no_image_ends_the_run() -> None:
    wrong = ImageArray(np.zeros((2, 2, 2), dtype=np.uint8), "wrong")
    with pytest.raises(DataError, match=r"must have shape \(h, w\)"):
        list(batches([numbered(0), wrong, numbered(1)], TINY, batch_size=2, threads=2))


def test_one_open_image_may_stand_in_a_list_many_times(digit_files: Path) -> None:
    file = next(digit_files.rglob("*.png"))
    want = np.asarray(Image.open(file).resize((28, 28)))
    for _ in range(20):
        with Image.open(file) as image:
            sources = [OpenImage(image, f"#{row}") for row in range(8)]
            (batch,) = batches(sources, GREY, batch_size=8, threads=8)
        assert not batch.errors
        assert all(np.array_equal(pixels[..., 0], want) for pixels in batch.images)


def test_an_unreadable_image_is_freed_at_once() -> None:
    """Without the garbage collector: it may not run before memory is spent."""
    freed: list[weakref.ref[Image.Image]] = []

    class Cut(Unreadable):
        def decode(self) -> Image.Image:
            image = Image.new("L", (8, 8))
            freed.append(weakref.ref(image))
            try:
                raise OSError(f"cut after {image.width} columns")
            except OSError as error:
                raise ImageError(str(error)) from error

    gc.disable()
    try:
        (batch,) = batches([Cut("a", ""), Cut("b", "")], TINY, batch_size=2, threads=1)
        assert [image() for image in freed] == [None, None]
    finally:
        gc.enable()
    assert [str(error) for error in batch.errors.values()] == ["cut after 8 columns"] * 2
    assert all(error.__traceback__ is error.__cause__ is error.__context__ is None for error in batch.errors.values())


def test_load_names_the_first_image_that_cannot_be_read() -> None:
    sources = [numbered(0), Unreadable("b.png", "empty file"), Unreadable("c.png", "no such file")]
    with pytest.raises(DataError, match=r"^b\.png: empty file\. Take it out"):
        load(sources, TINY)
    (batch,) = batches(sources, TINY, batch_size=3)
    assert isinstance(batch.errors[1], ImageError)
    batch.errors.clear()
    batch.require_readable()


def test_an_image_below_the_crop_gets_advice_that_helps() -> None:
    with pytest.raises(DataError, match=r"needs a larger image than 1x1\. Take it out, or crop less$"):
        load([numbered(0)], Preparation(size=(1, 1), mode="grey", crop=(2, 2)))


def test_an_image_of_more_bits_gets_advice_that_helps() -> None:
    bright = OpenImage(Image.fromarray(np.full((1, 1), 5000, np.uint16)), "bright")
    with pytest.raises(DataError, match=r"got 5000\. Take it out, or give more data\.prepare\.bits$"):
        load([bright], Preparation(size=(1, 1), mode="grey", bits=12))


def test_no_image_at_all() -> None:
    assert load([], GREY).shape == (0, 28, 28, 1)
    assert list(batches([], GREY, batch_size=4)) == []


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        next(batches([numbered(0)], TINY, batch_size=0))
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        next(batches([numbered(0)], TINY, batch_size=1, threads=0))
    assert thread_count(None) == available_threads() >= 1
    assert thread_count(3) == 3
