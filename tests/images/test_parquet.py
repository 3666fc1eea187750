"""Images in Parquet files: row groups, names, and memory that stays bounded."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od.cluster.work_items import ITEMS_A_WORKER, decode, items
from lit_od.errors import DataError
from lit_od.images import parquet as packed
from lit_od.images.batching import batches
from lit_od.images.find_local import find
from lit_od.images.find_remote import find_with_urls
from lit_od.images.identity import require_once
from lit_od.images.sources import EncodedImage, Unreadable
from tests.support.images import GREY
from tests.support.tables import arrow, pixels, travelled, write_table


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    while packed._open:
        packed._open.pop().close()


@pytest.fixture
def files(digit_files: Path) -> list[Path]:
    return sorted(digit_files.rglob("*.png"))[:8]


COLUMNS = "bytes image struct names-first other-bytes large names-in-bytes views categories".split()


@pytest.mark.parametrize("column", COLUMNS)
def test_parquet_holds_images_in_row_groups(tmp_path: Path, files: list[Path], column: str) -> None:
    pa, names = arrow(), [file.name for file in files]
    data = [file.read_bytes() for file in files]
    struct = [{"bytes": each, "path": name} for each, name in zip(data, names, strict=True)]
    table: dict[str, Any] = {
        "struct": {"image": struct},
        "names-first": {"image": [{"height": 28, "path": each["path"], "bytes": each["bytes"]} for each in struct]},
        "other-bytes": {"bytes": [28 * 28] * 8, "image": struct},
        "large": {"bytes": pa.array(data, pa.large_binary()), "path": pa.array(names, pa.large_string())},
        "names-in-bytes": {"bytes": data, "path": [name.encode() for name in names]},
        "views": {"bytes": pa.array(data, pa.binary_view()), "path": pa.array(names, pa.string_view())},
        "categories": {"bytes": data, "path": pa.array(names).dictionary_encode()},
    }.get(column, {column: data, "path": names, "other": list(range(8))})
    try:
        file = write_table(tmp_path / "t.parquet", table)
    except pa.ArrowNotImplementedError:  # of PyArrow 17
        pytest.skip("this PyArrow writes no views")
    found = find_with_urls([file])
    assert len(found) == 8
    assert [source.name for source in found] == [f"{tmp_path}/t.parquet#{row}" for row in range(8)]
    there = travelled(found)
    assert [source.name for source in there] == [file.name for file in files]
    want = pixels(find(files))
    np.testing.assert_array_equal(pixels(there), want)
    np.testing.assert_array_equal(pixels([found[row] for row in (7, 0, 3)]), want[[7, 0, 3]])


def test_tables_are_found_by_their_ending_and_read_in_order(tmp_path: Path, files: list[Path]) -> None:
    """As a cluster's workers read them."""
    data = [file.read_bytes() for file in files]
    names = [file.name for file in files]
    table = write_table(tmp_path / "tables" / "t.parquet", {"bytes": data, "path": names})
    found = find([table])
    assert [source.name for source in found] == [f"{table}#{row}" for row in range(8)]
    assert find([tmp_path / "tables"]) == find([table])
    batched = list(batches(found, GREY, batch_size=4, threads=2))
    assert [source.name for batch in batched for source in batch.sources] == [file.name for file in files]
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batched]), pixels(find(files)))
    require_once(found)
    with pytest.raises(DataError, match=r"t\.parquet#0 is named twice"):
        require_once([*found, *find([tmp_path / "tables"])])
    (tmp_path / "tables" / "a.png").write_bytes(data[0])
    assert [Path(source.name).name for source in find([tmp_path / "tables"])] == ["a.png"]


def test_rows_without_names_and_rows_that_hold_nothing(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "t.parquet", {"bytes": [files[0].read_bytes(), None, b"", b"no image"]})
    there = travelled(find_with_urls(["t.parquet"]))
    assert [source.name for source in there] == [f"t.parquet#{row}" for row in range(4)]
    there[0].decode()
    for source, message in zip(
        there[1:], ("holds null in the place of its bytes", "empty file", "not an"), strict=True
    ):
        with pytest.raises(DataError, match=message):
            source.decode()
    with pytest.raises(DataError, match="holds null in the place of its bytes"):
        find_with_urls(["t.parquet"])[1].decode()


def test_names_without_bytes_and_names_that_are_not_unicode(tmp_path: Path, files: list[Path]) -> None:
    """As others write images that lie beside the table: null, and a path that means something to them alone."""
    data = files[0].read_bytes()
    images = [{"bytes": None, "path": str(files[0])}, None, {"bytes": data, "path": None}]
    there = travelled(find_with_urls([write_table(tmp_path / "t.parquet", {"image": images})]))
    assert [source.name for source in there] == [
        str(files[0]),
        f"{tmp_path}/t.parquet#1",
        f"{tmp_path}/t.parquet#2",
    ]
    causes = [source.cause if isinstance(source, Unreadable) else None for source in there]
    assert causes == ["the table holds null in the place of its bytes"] * 2 + [None]
    path = write_table(tmp_path / "odd.parquet", {"bytes": [data, data], "path": [b"\xff.png", b"a.png"]})
    assert [source.name for source in travelled(find_with_urls([path]))] == ["\udcff.png", "a.png"]


def test_a_table_is_few_bytes_however_many_rows_it_has(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.parquet", {"bytes": [b"x"] * 5000}, rows=1000)
    work = list(items(find_with_urls([path]), workers=1))
    assert len(work) == ITEMS_A_WORKER
    assert max(map(len, work)) < 600


class Counted:
    """A local file system that counts the bytes it is asked for."""

    def __init__(self) -> None:
        fs, count = arrow("pyarrow.fs"), self
        self.bytes = 0

        class File(io.FileIO):
            def read(self, size: int | None = -1) -> bytes:
                data: bytes = super().read(size)
                count.bytes += len(data)
                return data

        class Handler(fs.FSSpecHandler):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                pass

            def get_type_name(self) -> str:
                return "counted"

            def open_input_file(self, path: str) -> Any:
                return arrow().PythonFile(File(path), mode="r")

        self.files = fs.PyFileSystem(Handler())


LARGE_GROUP = 1600


@pytest.fixture
def large_group(tmp_path: Path) -> str:
    """One row group of 32 MB in pages of 320 kB."""
    rows = np.random.default_rng(0).integers(0, 256, (LARGE_GROUP, 20_000), np.uint8)
    data = [row.tobytes() for row in rows]
    return write_table(tmp_path / "t.parquet", {"bytes": data}, LARGE_GROUP, write_batch_size=16)


def test_of_a_large_row_group_a_worker_holds_a_few_pages(large_group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BUFFER", 1 << 16)
    pa, work = arrow(), list(items(find_with_urls([large_group]), workers=1))
    before, most, count = pa.total_allocated_bytes(), 0, 0
    for source in (source for item in work for source in decode(item).sources()):
        assert isinstance(source, EncodedImage)  # it is read
        most, count = max(most, pa.total_allocated_bytes() - before), count + 1
    assert count == LARGE_GROUP
    assert most < Path(large_group).stat().st_size / 4


def test_a_large_row_group_is_read_once_and_no_further_than_asked(
    large_group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, counted = Path(large_group).stat().st_size, Counted()
    work = list(items(find_with_urls([large_group]), workers=1))
    assert len(work) == 25
    monkeypatch.setattr(packed, "filesystem", lambda url: (counted.files, url))
    monkeypatch.setattr(packed, "BUFFER", 1 << 16)
    next(iter(decode(work[0]).sources()))
    assert counted.bytes < size / 10
    for item in work[:5]:
        list(decode(item).sources())
    assert counted.bytes < size * 0.4
    for item in work[5:]:
        list(decode(item).sources())
    assert counted.bytes < size * 1.2


def test_a_damaged_row_group_is_an_error_a_row(tmp_path: Path, files: list[Path]) -> None:
    path = write_table(tmp_path / "t.parquet", {"bytes": [file.read_bytes() for file in files]})
    whole = bytearray(Path(path).read_bytes())
    whole[20:200] = bytes(180)
    Path(path).write_bytes(whole)
    there = travelled(find_with_urls([path]))
    causes = [source.cause if isinstance(source, Unreadable) else "" for source in there]
    assert [cause.startswith("row group 0 cannot be read: ") for cause in causes] == [True] * 3 + [False] * 5


@pytest.mark.parametrize(("always", "unreadable"), [(False, 0), (True, 800)])
def test_a_row_group_that_fails_is_read_once_more_and_not_over_and_over(
    large_group: str, monkeypatch: pytest.MonkeyPatch, always: bool, unreadable: int
) -> None:
    opened: list[int] = []

    class Failing(packed._Reading):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            opened.append(self.tried)
            self.fails = always or self.tried == 1

        def _next(self) -> None:
            if self.first + 16 >= 800 and self.fails:
                self.fails = False
                raise OSError("the store is tired")
            super()._next()

    monkeypatch.setattr(packed, "_Reading", Failing)
    causes = [source.cause for source in travelled(find_with_urls([large_group])) if isinstance(source, Unreadable)]
    assert causes == ["row group 0 cannot be read: the store is tired"] * unreadable
    assert opened == [1, 2]
