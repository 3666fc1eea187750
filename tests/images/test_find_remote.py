"""What a cluster may be given, the items that it becomes, and the one line where Ray is missing. No Ray is started."""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lit_od.backbone.extractor import BATCH_SIZE
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import Bundle
from lit_od.cluster.connect import cluster, provider_and_gpu
from lit_od.cluster.engine import RayEngine
from lit_od.cluster.ray_pool import Pool
from lit_od.cluster.work_items import ITEMS_A_WORKER, _found, decode, items
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.images import object_store as stores
from lit_od.images import parquet as packed
from lit_od.images.find_local import find
from lit_od.images.find_remote import ImageList, find_with_urls
from lit_od.images.sources import EncodedImage, ImageArray, ImageFile, Source, Unreadable
from lit_od.images.split import Subset, fit_and_calibration_parts
from lit_od.scoring.rows import parquet_rows
from lit_od.scoring.scorer import Scorer
from tests.support.bundles import local_engine, make_bundle
from tests.support.graphs import graph_of
from tests.support.images import GREY
from tests.support.pools import Inline

Command = Callable[..., Any]

NO_RAY = SimpleNamespace(
    is_initialized=lambda: False, _private=SimpleNamespace(worker=SimpleNamespace(_worker_logs_enabled=True))
)


def arrow(module: str = "pyarrow") -> Any:
    """A module of PyArrow; without it the test that asks is skipped."""
    return pytest.importorskip(module, reason="needs the extra ray")


def write_table(file: Path, columns: dict[str, Any], rows: int = 3, **options: Any) -> str:
    pa, parquet = arrow(), arrow("pyarrow.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), file, row_group_size=rows, **options)
    return str(file)


def travelled(sources: Sequence[Source], workers: int = 1) -> list[Source]:
    """The images as workers find them."""
    return [source for item in items(sources, workers=workers) for source in decode(item).sources()]


def pixels(sources: Sequence[Source]) -> np.ndarray:
    return np.stack([source.prepare(GREY) for source in sources])


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
        names = [source.name for item in work for place in decode(item).places for source in _found(place)]
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


def test_rows_as_parquet(made_bundle: Bundle, digit_files: Path, tmp_path: Path, command: Command) -> None:
    parquet = arrow("pyarrow.parquet")
    odd = "not unicode \udcff.png"
    (tmp_path / "list.txt").write_bytes(f"{digit_files}/0\n".encode())
    files = [str(file) for file in sorted(digit_files.rglob("*.png"))]
    paths = [*files, str(tmp_path / "gone.png"), str(tmp_path / odd)]
    status, out, err = command("score", made_bundle.path, *paths, "--format", "parquet", "--out", tmp_path / "rows")
    assert (status, out) == (1, "")
    assert "2 of 42 images could not be read" in err
    rows = parquet.read_table(tmp_path / "rows").to_pydict()
    assert rows["path"] == [*paths[:-1], str(tmp_path / "not unicode \\udcff.png")]
    want = Scorer.load(made_bundle.path).score(files)
    assert rows["score"] == [*want.score, None, None]
    assert rows["p_value"] == [*want.p_value, None, None]
    assert rows["is_outlier"] == [*want.is_outlier, None, None]
    assert rows["error"] == [None] * 40 + ["no such file"] * 2
    status, _, err = command("score", made_bundle.path, files[0], "--format", "parquet")
    assert (status, err) == (2, "lit-od: --format parquet needs a file: give --out FILE\n")
    for place, message in ((tmp_path, "is a folder, wanted a file"), (tmp_path / "no" / "rows", "no such folder")):
        status, _, err = command("score", made_bundle.path, files[0], "--format", "parquet", "--out", place)
        assert status == 2
        assert message in err


def test_a_parquet_file_is_there_whole_or_not_at_all(
    tmp_path: Path, made_bundle: Bundle, digits: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = arrow("pyarrow.parquet")
    monkeypatch.setattr("lit_od.scoring.rows.ROWS_A_GROUP", 10)
    results = list(Scorer.of(made_bundle).stream(digits[:25], batch_size=5))
    with parquet_rows(tmp_path / "rows") as write:
        for result in results:
            write(result)
    about = parquet.read_metadata(tmp_path / "rows")
    assert [about.row_group(group).num_rows for group in range(3)] == [10, 10, 5]
    before = (tmp_path / "rows").read_bytes()

    def interrupted() -> None:
        with parquet_rows(tmp_path / "rows") as write:
            write(results[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "rows").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["rows"]


def test_a_missing_extra_is_one_line(
    own_bundle: Path, digit_files: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    mend = 'which is not installed. Run: pip install "lit-od[ray,cpu]"\n'
    for words in (["score", own_bundle, digit_files], ["refit", own_bundle, digit_files, "--out", tmp_path / "new"]):
        status, out, err = command(*words, "--engine", "ray")
        assert (status, out, err) == (2, "", f"lit-od: this needs Ray (ray), {mend}")
    for name in [each for each in sys.modules if each.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    stores._local.cache_clear()
    table = ["score", own_bundle, digit_files, "--format", "parquet", "--out", tmp_path / "rows"]
    for words in (["score", own_bundle, "s3://bucket/a.png", "--engine", "ray"], table):
        status, out, err = command(*words)
        assert (status, out, err) == (2, "", f"lit-od: this needs PyArrow, {mend}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "2"], "--workers goes with --engine ray"),
        (["--address", "auto"], "--address goes with --engine ray"),
        (["--unordered"], "--unordered goes with --engine ray"),
        (["--engine", "ray", "--maps", "x"], "--maps are drawn by this process alone: leave out --engine ray"),
    ],
)
def test_options_that_do_not_go_together(
    made_bundle: Bundle, digit_files: Path, command: Command, words: list[str], message: str
) -> None:
    status, out, err = command("score", made_bundle.path, digit_files, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_no_cluster_at_an_address(
    made_bundle: Bundle, digit_files: Path, command: Command, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Ray is not even asked."""
    monkeypatch.setattr("lit_od.cluster.connect._ray", lambda: NO_RAY)
    words = ["score", made_bundle.path, digit_files, "--engine", "ray", "--address", address]
    status, out, err = command(*words)
    assert (status, out) == (2, "")
    assert f"lit-od: no Ray cluster at {address}: " in err
    assert err.endswith("Leave --address out to start one on this machine\n")


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("wanted", "beside_gpus", "chosen"),
    [
        (None, [], ("cpu", False)),
        (None, [[CPU]], ("cpu", False)),
        (None, [[]], ("cpu", False)),
        (None, [[CUDA, CPU]], ("cuda", True)),
        (None, [[CUDA, CPU], [CUDA, CPU]], ("cuda", True)),
        ("cpu", [[CUDA, CPU]], ("cpu", False)),
        ("CPU", [], ("CPU", False)),
        (CPU, [], (CPU, False)),
        ("openvino", [], ("openvino", False)),
        ("cuda", [], ("cuda", True)),
        ("TensorrtExecutionProvider", [], ("TensorrtExecutionProvider", True)),
    ],
)
def test_workers_are_told_their_provider(
    wanted: str | None, beside_gpus: list[list[str]], chosen: tuple[str, bool]
) -> None:
    assert provider_and_gpu(wanted, beside_gpus) == chosen


def test_machines_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match="of 3 machines with GPUs 1 have an ONNX Runtime without CUDA"):
        provider_and_gpu(None, [[CUDA, CPU], [CPU], [CUDA, CPU]])


@pytest.mark.parametrize(
    ("wanted", "present", "pool"),
    [
        (None, [CUDA, CPU], Pool(2, 1, 1, ("cuda",))),
        (None, [CPU], Pool(8, 1, 0, ("cpu",))),
        ("cpu", [CUDA, CPU], Pool(8, 1, 0, ("cpu",))),
        ("cuda", [CPU], Pool(2, 1, 1, ("cuda",))),  # whose workers refuse it
    ],
)
def test_a_cluster_with_gpus(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, present: list[str], pool: Pool
) -> None:
    """No GPU is here, nor Ray: eight cores and two GPUs are what a stand-in says."""
    there = SimpleNamespace(
        cluster_resources=lambda: {"CPU": 8.0, "GPU": 2.0},
        is_initialized=lambda: True,
        _private=NO_RAY._private,
    )
    monkeypatch.setattr("lit_od.cluster.connect._ray", lambda: there)
    monkeypatch.setattr("lit_od.cluster.connect._on_gpu_machines", lambda ray: [present])
    with cluster(provider=wanted) as found:
        assert found == pool
    if pool.gpus:
        with (
            pytest.raises(ConfigError, match="too few for 3 workers of 1 threads and a GPU"),
            cluster(provider=wanted, workers=3),
        ):
            pass


def test_the_gpus_are_the_workers_own(
    own_bundle: Path, digit_files: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are given the pool's provider; the driver of a refit, which runs golden images alone, the CPU."""
    asked: list[Any] = []
    load = Backbone.load

    def spied_on(model: bytes, *, providers: Sequence[str], **options: Any) -> Backbone:
        asked.append(tuple(providers))
        return load(model, **options, providers=["cpu"])

    monkeypatch.setattr(Backbone, "load", spied_on)
    for name in ("score", "refit"):
        pool = Inline(2, 1, 1, ("cuda",))
        monkeypatch.setattr(f"lit_od.commands.{name}.cluster_of", lambda args, pool=pool: nullcontext(pool))
    words = ["--engine", "ray", "--provider", "cuda"]
    assert command("refit", own_bundle, digit_files, "--out", tmp_path / "new", *words).status == 0
    assert asked == [("cpu",), *[("cuda",)] * 4]  # two workers that fit, two that calibrate
    asked.clear()
    assert command("score", own_bundle, digit_files, *words).status == 0
    assert asked == [("cuda",)] * 2


def test_a_refit_of_a_table_is_that_of_the_same_files_and_makes_no_list_of_them(
    own_bundle: Path, digit_files: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, given = sorted(digit_files.rglob("*.png")), {}

    def spied_on(out: Path, engine: RayEngine, graph: GraphFile, images: FitImages, *rest: Any) -> Bundle:
        given.update(fit=images.fit, calibration=images.calibration)
        return fit_bundle(out, engine, graph, images, *rest)

    monkeypatch.setattr("lit_od.commands.refit.cluster_of", lambda args: nullcontext(Inline(2, 1)))
    table = write_table(tmp_path / "t.parquet", {"bytes": [file.read_bytes() for file in files]}, 7)
    assert command("refit", own_bundle, *files, "--out", tmp_path / "one", "--threads", 1).status == 0
    monkeypatch.setattr("lit_od.commands.refit.fit_bundle", spied_on)
    assert command("refit", own_bundle, table, "--out", tmp_path / "many", "--engine", "ray").status == 0
    for part in ("fit", "calibration"):
        assert isinstance(given[part], Subset)
        assert isinstance(given[part].whole, ImageList)
    one, many = Bundle.read(tmp_path / "one"), Bundle.read(tmp_path / "many")
    np.testing.assert_allclose(many.calibration.scores, one.calibration.scores, rtol=1e-11)
    assert many.manifest.detector.images == one.manifest.detector.images == 32


DETECTORS: list[dict[str, Any]] = [
    {"kind": "mahalanobis"},
    {"kind": "mahalanobis", "class_conditional": True},
    {"kind": "knn", "k": 3},
    {"kind": "knn", "coreset": 100, "coreset_method": "sample"},
    {"kind": "lof", "k": 5},
    {"kind": "gmm"},
    {"kind": "gmm", "components": 2, "reservoir": 300},
    {"kind": "pca_residual", "components": 4},
    {"kind": "reconstruction", "outlier_perc": 20},
]


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda each: "-".join(map(str, each.values())))
def test_what_workers_gather_and_score_is_what_one_process_does(
    small_graph: bytes, digits: list[Source], tmp_path: Path, detector: dict[str, Any]
) -> None:
    """The work of four workers, done here."""
    fit, calibration = digits[:700], digits[700:900]
    model = graph_of(["errors"], (28, 28, 1)) if detector["kind"] == "reconstruction" else small_graph
    given: dict[str, Any] = {"model": model, "preparation": GREY, "detector": detector, "fit": fit}
    given |= {"calibration": calibration}
    same: dict[str, Any] = {"rule": {"rule": "percentile", "q": 90}, "origin": Origin(name="x", seed=0), "threads": 1}
    one = make_bundle(tmp_path / "one", **given, **same)
    engine = RayEngine(local_engine(model).extractor, Inline(4, 1))
    spec, rule, images = DetectorSpec.parse(detector), same["rule"], FitImages(fit, calibration)
    many = fit_bundle(tmp_path / "many", engine, GraphFile(model), images, spec, rule, same["origin"])
    exact = detector["kind"] in ("knn", "lof", "reconstruction") or "reservoir" in detector
    for name, array in one.detector.state().items():
        tolerance = 0 if exact else 1e-12
        got = many.detector.state()[name]
        np.testing.assert_allclose(got, array, rtol=tolerance, atol=tolerance * np.abs(array).max())
    np.testing.assert_allclose(many.calibration.scores, one.calibration.scores, rtol=0 if exact else 1e-11)
    assert many.calibration.threshold == pytest.approx(one.calibration.threshold, rel=1e-11)
