"""Items of work: where they begin and end, and what they tell."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lit_od.backbone.extractor import BATCH_SIZE
from lit_od.cluster.work_items import _sources, decode, items
from lit_od.images import parquet as packed
from lit_od.images.augment import Augment
from lit_od.images.batching import load
from lit_od.images.find_remote import ImageList, find_with_urls
from lit_od.images.sources import ImageArray, ImageFile, Source, Unreadable
from lit_od.images.split import fit_and_calibration_parts
from lit_od.images.views import Views
from tests.support.images import GREY
from tests.support.tables import travelled, write_table


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    while packed._open:
        packed._open.pop().close()


@pytest.fixture
def files(digit_files: Path) -> list[Path]:
    return sorted(digit_files.rglob("*.png"))[:8]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("rows", [100, 700])
def test_items_begin_where_row_groups_do(tmp_path: Path, rows: int, split: bool) -> None:
    """And at no other places than those where one process cuts its batches."""
    path = write_table(tmp_path / "t.parquet", {"bytes": [b"%d" % row for row in range(20_000)]}, rows)
    found = find_with_urls([path])
    sources: Sequence[Source] = fit_and_calibration_parts(found, seed=0)[0] if split else found
    work = [decode(item) for item in items(sources, workers=1)]
    assert [item.first for item in work[1:]] == [item.first + item.count for item in work[:-1]]
    assert all(item.first % BATCH_SIZE == 0 for item in work)
    touched: dict[int, list[int]] = {}
    for number, item in enumerate(work):
        for place in item.places:
            touched.setdefault(place.group, []).append(number)  # type: ignore[union-attr]
    if rows == 100:  # the last rows before a batch ends go with the item before
        assert max(map(len, touched.values())) <= 2
        starts = [item.places[0] for item in work[1:]]
        assert all(place.row < BATCH_SIZE * (2 if split else 1) for place in starts)  # type: ignore[union-attr]
    else:
        assert all(b - a == 1 for each in touched.values() for a, b in pairwise(each))
    assert [source.data for source in travelled(sources)] == [source.data for source in sources]  # type: ignore[union-attr]


def test_a_part_of_a_table_is_told_in_a_bit_a_row(tmp_path: Path) -> None:
    groups = [packed.RowGroup("s3://bucket/t.parquet", group, 1000 * group, 1000) for group in range(100)]
    files = [ImageFile(Path(f"/{row}.png"), f"/{row}.png") for row in range(500)]
    fit, calibration = fit_and_calibration_parts(ImageList([files, *groups, files]), seed=3)
    for part in (fit, calibration):
        work = list(items(part, workers=1))
        assert sum(map(len, work)) < 100_000 / 8 + 25_000 + 100 * 200
        names = [source.name for item in work for place in decode(item).places for source in _sources(place)]
        assert names == [source.name for source in part]


def test_items_begin_and_end_where_one_process_cuts_its_batches(digits: list[Source], garments: list[Source]) -> None:
    sources = [*digits[:700], Unreadable("gone", "a cause"), ImageFile(Path("x.png"), "another name"), *garments[:100]]
    work = [decode(item) for item in items(sources, workers=3, labels=np.arange(802))]
    assert [item.first % BATCH_SIZE for item in work] == [0] * len(work)
    assert [item.first for item in work[1:]] == [item.first + item.count for item in work[:-1]]
    np.testing.assert_array_equal(np.concatenate([np.frombuffer(item.labels, np.int64) for item in work]), range(802))
    there = travelled(sources, workers=3)
    assert [source.name for source in there] == [source.name for source in sources]
    for source, mine in zip(there, sources, strict=True):
        if isinstance(source, ImageArray) and isinstance(mine, ImageArray):
            np.testing.assert_array_equal(source.pixels, mine.pixels)
    assert there[700] == sources[700]
    assert isinstance(there[701], ImageFile)
    assert there[701].path == Path("x.png").absolute()


def test_a_run_of_images_counts_and_can_be_asked(digits: list[Source]) -> None:
    (item,) = items(digits[:40], workers=1)
    run = decode(item).sources()
    assert len(run) == 40
    assert run[3].name == digits[3].name
    assert [source.name for source in run[5:7]] == [source.name for source in digits[5:7]]


def test_views_travel_as_their_images_and_a_few_numbers(digits: list[Source]) -> None:
    """Items end where batches do, within the views of an image, and each image is sent once an item."""
    views = Views.of(digits[:100], Augment(turns=True, shift=0.1, views=3), seed=4)[7:290]
    work = [decode(item) for item in items(views, workers=2)]
    assert len(work) > 2
    assert all(len(item.places) <= -(-item.count // 3) + 1 for item in work)
    came = [source for item in work for source in item.sources()]
    assert [source.name for source in came] == [source.name for source in views]
    np.testing.assert_array_equal(load(came, GREY), load(views, GREY))
    with pytest.raises(TypeError, match="a view alone, cannot be sent"):
        list(items([views[1]], workers=1))
