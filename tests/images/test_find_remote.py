"""Images by URL, and in tables: found in order, and refused in one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od.errors import DataError, ImageError
from lit_od.images import object_store as stores
from lit_od.images import parquet as packed
from lit_od.images.find_local import find
from lit_od.images.find_remote import find_with_urls, require_listed_once, require_parts_apart
from lit_od.images.object_store import StoredImage
from lit_od.images.sources import Unreadable
from lit_od.images.split import Subset
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


def test_urls_are_listed_in_the_order_of_their_names(tmp_path: Path, digit_files: Path, files: list[Path]) -> None:
    arrow()
    found = find_with_urls([f"file://{digit_files}"])
    want = find([digit_files])
    assert [source.name for source in found] == [f"file://{source.name}" for source in want]
    assert [source.label for source in found] == [source.label for source in want]
    there = travelled(found)
    assert [source.name for source in there] == [source.name for source in found]
    np.testing.assert_array_equal(pixels(there), pixels(want))
    (tmp_path / "100% odd ?#.png").write_bytes(files[0].read_bytes())
    (tmp_path / ".hidden.png").touch()
    (odd,) = travelled(find_with_urls([f"file://{tmp_path}"]))
    np.testing.assert_array_equal(odd.prepare(GREY), find(files)[0].prepare(GREY))


def test_another_file_system_than_the_local_one(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """PyArrow's file system in memory stands for an object store."""
    store = arrow("pyarrow.fs")._MockFileSystem()
    store.create_dir("bucket/a/b")
    for name, data in (("a/b/1.png", files[0].read_bytes()), ("a/2.jpg", b"no image"), ("a/notes.txt", b"-")):
        with store.open_output_stream(f"bucket/{name}") as out:
            out.write(data)
    monkeypatch.setattr(stores, "_of_bucket", lambda url: (store, url.removeprefix("s3://")))
    found = find_with_urls(["s3://bucket/a/", "s3://bucket/a/b/1.png"])
    assert [source.name for source in found] == [
        "s3://bucket/a/2.jpg",
        "s3://bucket/a/b/1.png",
        "s3://bucket/a/b/1.png",
    ]
    assert [source.label for source in found] == [None, "b", None]
    np.testing.assert_array_equal(travelled(found)[1].prepare(GREY), find(files)[0].prepare(GREY))
    store.delete_file("bucket/a/b/1.png")
    gone = travelled(found)[1]
    assert isinstance(gone, Unreadable)
    assert gone.cause == "no such file"
    for url, message in (("s3://bucket/none", "does not exist"), ("s3://bucket/a/b", "no image found")):
        with pytest.raises(DataError, match=message):
            find_with_urls([url])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"pixels": [b""]}, "needs a column named bytes or image, its columns are pixels"),
        (None, "as Parquet"),
        ({"image": ["a.png", "b.png"]}, "a column image of type string: wanted the bytes of image files, as binary or"),
        ({"image": [1, 2]}, "a column image of type int64: wanted the bytes of image files"),
        ({"bytes": [[1, 2], [3]]}, r"a column bytes of type list<.*>: wanted the bytes of image files"),
        ({"bytes": [None, None]}, "a column bytes of type null: wanted the bytes of image files"),
        ({"image": [{"path": "x", "height": 3}]}, r"a column image of type struct<.*>: wanted the bytes of image"),
        ({"image": [{"bytes": "x"}]}, r"a column image of type struct<bytes: string>: wanted the bytes of image files"),
        (
            {"image": [{"a": {f"{row:09}": 1 for row in range(30)}}]},
            r"struct<a: struct<0{9}: int64.{50,70}\.\.\.: wanted",
        ),
        ({"bytes": [b"x"], "path": [7]}, "a column path of type int64: wanted names, as string or binary"),
        ({"image": [{"bytes": b"x", "path": 7}]}, "a field path of column image of type int64: wanted names"),
    ],
)
def test_tables_that_hold_no_images(tmp_path: Path, columns: dict[str, Any] | None, message: str) -> None:
    arrow()
    path = tmp_path / "t.parquet"
    if columns is None:
        path.write_bytes(b"PAR1 is not all that it takes")
    else:
        write_table(path, columns)
    for where in (path, f"file://{path}"):
        with pytest.raises(DataError, match=message) as refused:
            find_with_urls([where])
        assert "\n" not in str(refused.value)


def test_a_folder_of_tables(tmp_path: Path, files: list[Path]) -> None:
    for name, part in (("b/1.parquet", files[:3]), ("a/2.parquet", files[3:])):
        write_table(tmp_path / name, {"image": [file.read_bytes() for file in part]})
    for path in (str(tmp_path), f"file://{tmp_path}"):
        np.testing.assert_array_equal(pixels(travelled(find_with_urls([path]))), pixels(find([*files[3:], *files[:3]])))
        (tmp_path / "x.png").touch()
        with pytest.raises(DataError, match="holds image files and Parquet files: name the ones that are meant"):
            find_with_urls([path])
        (tmp_path / "x.png").unlink()


def test_credentials_of_a_url_are_not_repeated() -> None:
    for url in ("nope://KEY:SECRET@bucket/a.png", "s3://KEY:SEC/RET@bucket/a.png"):
        with pytest.raises(DataError) as refusal:
            find_with_urls([url])
        assert "***@bucket/a.png cannot be listed: " in str(refusal.value)
        with pytest.raises(ImageError) as error:
            StoredImage(url).decode()
        for message in (str(refusal.value), str(error.value)):
            assert "KEY" not in message
            assert "SEC" not in message


def test_what_is_hidden_is_nobodys_image(tmp_path: Path, files: list[Path]) -> None:
    """As for the local engine; a folder may be called as a table is."""
    write_table(tmp_path / "images/.cache/t.parquet", {"x": [1]})
    (tmp_path / "images/a.png").write_bytes(files[0].read_bytes())
    found = find_with_urls([tmp_path / "images"])
    assert [source.name for source in found] == [source.name for source in find([tmp_path / "images"])]
    write_table(tmp_path / "t.parquet/part-0.parquet", {"bytes": [files[0].read_bytes()]})
    write_table(tmp_path / "t.parquet/.part-0.parquet", {"x": [1]})
    (tmp_path / "images").rename(tmp_path / "images.parquet")
    assert [source.name for source in find_with_urls([tmp_path / "images.parquet"])] == [
        f"{tmp_path}/images.parquet/a.png"
    ]
    (tmp_path / "t.parquet/.thumbs").mkdir()
    (tmp_path / "t.parquet/.thumbs/a.png").touch()
    assert [source.name for source in find_with_urls([tmp_path / "t.parquet"])] == [
        f"{tmp_path}/t.parquet/part-0.parquet#0"
    ]


def test_an_image_is_in_one_part_of_a_list(tmp_path: Path, digit_files: Path, files: list[Path]) -> None:
    """Whatever the seed: images of tables are not made for it, and none is read."""
    rows = {"bytes": [file.read_bytes() for file in files]}
    table, other = (write_table(tmp_path / name, rows) for name in ("a.parquet", "b.parquet"))
    (tmp_path / "link.parquet").symlink_to(table)
    for paths in ([table, other], [table, digit_files, f"file://{files[0]}"], [files[0]] * 2 + files[1:]):
        found = find_with_urls(paths)
        for row in range(2, len(found)):
            parts = Subset(found, np.arange(row)), Subset(found, np.arange(row, len(found)))
            require_parts_apart(*parts, "fit and calibration image")
    for paths, error in (
        ([table, other, table], r"a\.parquet is named twice: name each table once"),
        ([other, table, tmp_path / "link.parquet"], r"link\.parquet is named twice"),
        ([table, files[0], files[0]], r"\.png serves as both fit and calibration image: name each image once"),
        ([f"file://{files[0]}", table, f"file://{files[0]}"], r"file://.*\.png serves as both fit and calib"),
    ):
        found = find_with_urls(paths)
        parts = Subset(found, np.arange(len(found) - 1)), Subset(found, np.array([len(found) - 1]))
        with pytest.raises(DataError, match=error):
            require_parts_apart(*parts, "fit and calibration image")
        with pytest.raises(DataError, match=r"is named twice: name each (table|image) once"):
            require_listed_once(found)
    require_listed_once(find_with_urls([table, other, digit_files]))
