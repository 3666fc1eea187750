"""What a cluster may be given, the items that it becomes, and the one line where Ray is missing. No Ray is started."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lit_od.bundle import Bundle
from lit_od.cluster import inputs
from lit_od.cluster.engine import Pool, Work
from lit_od.cluster.fitting import FirstOfCluster
from lit_od.cluster.inputs import find_images
from lit_od.cluster.items import ITEMS_A_WORKER, decode, items
from lit_od.cluster.tables import parquet_rows
from lit_od.errors import DataError
from lit_od.extraction import BATCH_SIZE
from lit_od.fit import Origin, fit_bundle
from lit_od.scorer import Scorer
from lit_od.sources import ImageArray, ImageFile, Source, Unreadable, find
from tests.conftest import GREY

pa = pytest.importorskip("pyarrow", reason="needs the extra ray")
Command = Callable[..., Any]

NO_RAY = SimpleNamespace(
    is_initialized=lambda: False, _private=SimpleNamespace(worker=SimpleNamespace(_worker_logs_enabled=True))
)


class Inline(Pool):
    """Workers that are called here, one after the other."""

    def map(
        self, make: Callable[..., Work], given: Sequence[Any], work: Iterable[bytes], *, ordered: bool = True
    ) -> Iterator[bytes]:
        workers = [make(*given) for _ in range(self.workers)]
        return (workers[number % self.workers](item) for number, item in enumerate(work))


def write_table(file: Path, columns: dict[str, Any], rows: int = 3) -> str:
    import pyarrow.parquet as parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), file, row_group_size=rows)
    return str(file)


def travelled(sources: Sequence[Source], workers: int = 1) -> list[Source]:
    """The images as workers find them."""
    return [source for item in items(sources, workers=workers) for source in decode(item).sources()]


def pixels(sources: Sequence[Source]) -> np.ndarray:
    return np.stack([source.prepare(GREY) for source in sources])


@pytest.fixture
def files(digit_files: Path) -> list[Path]:
    return sorted(digit_files.rglob("*.png"))[:8]


@pytest.mark.parametrize("column", ["bytes", "image", "struct"])
def test_parquet_holds_images_in_row_groups(tmp_path: Path, files: list[Path], column: str) -> None:
    data = [file.read_bytes() for file in files]
    if column == "struct":
        table = {"image": [{"bytes": each, "path": file.name} for each, file in zip(data, files, strict=True)]}
    else:
        table = {column: data, "path": [file.name for file in files], "other": list(range(8))}
    found = find_images([write_table(tmp_path / "t.parquet", table)])
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
    there = travelled(find_images(["t.parquet"]))
    assert [source.name for source in there] == [f"t.parquet#{row}" for row in range(4)]
    there[0].decode()
    for source, message in zip(there[1:], ("empty file", "empty file", "not an image"), strict=True):
        with pytest.raises(DataError, match=message):
            source.decode()


def test_a_table_is_few_bytes_however_many_rows_it_has(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.parquet", {"bytes": [b"x"] * 5000}, rows=1000)
    work = list(items(find_images([path]), workers=1))
    assert len(work) == ITEMS_A_WORKER
    assert max(map(len, work)) < 600


def test_a_damaged_row_group_is_an_error_a_row(tmp_path: Path, files: list[Path]) -> None:
    path = write_table(tmp_path / "t.parquet", {"bytes": [file.read_bytes() for file in files]})
    whole = bytearray(Path(path).read_bytes())
    whole[20:200] = bytes(180)
    Path(path).write_bytes(whole)
    there = travelled(find_images([path]))
    causes = [source.cause if isinstance(source, Unreadable) else "" for source in there]
    assert [cause.startswith("row group 0 cannot be read: ") for cause in causes] == [True] * 3 + [False] * 5


def test_urls_are_listed_in_the_order_of_their_names(tmp_path: Path, digit_files: Path, files: list[Path]) -> None:
    found = find_images([f"file://{digit_files}"])
    want = find([digit_files])
    assert [source.name for source in found] == [f"file://{source.name}" for source in want]
    assert [source.label for source in found] == [source.label for source in want]
    there = travelled(found)
    assert [source.name for source in there] == [source.name for source in found]
    np.testing.assert_array_equal(pixels(there), pixels(want))
    (tmp_path / "100% odd ?#.png").write_bytes(files[0].read_bytes())
    (tmp_path / ".hidden.png").touch()
    (odd,) = travelled(find_images([f"file://{tmp_path}"]))
    np.testing.assert_array_equal(odd.prepare(GREY), find(files)[0].prepare(GREY))


def test_another_file_system_than_the_local_one(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """PyArrow's file system in memory stands for an object store."""
    from pyarrow.fs import _MockFileSystem

    store = _MockFileSystem()
    store.create_dir("bucket/a/b")
    for name, data in (("a/b/1.png", files[0].read_bytes()), ("a/2.jpg", b"no image"), ("a/notes.txt", b"-")):
        with store.open_output_stream(f"bucket/{name}") as out:
            out.write(data)
    monkeypatch.setattr(inputs, "_of_bucket", lambda url: (store, url.removeprefix("s3://")))
    found = find_images(["s3://bucket/a/", "s3://bucket/a/b/1.png"])
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
            find_images([url])


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"pixels": [b""]}, "needs a column named bytes or image, its columns are pixels"), (None, "as Parquet")],
)
def test_tables_that_hold_no_images(tmp_path: Path, columns: dict[str, Any] | None, message: str) -> None:
    path = tmp_path / "t.parquet"
    if columns is None:
        path.write_bytes(b"PAR1 is not all that it takes")
    else:
        write_table(path, columns)
    with pytest.raises(DataError, match=message):
        find_images([path])


def test_a_folder_of_tables(tmp_path: Path, files: list[Path]) -> None:
    for name, part in (("b/1.parquet", files[:3]), ("a/2.parquet", files[3:])):
        write_table(tmp_path / name, {"image": [file.read_bytes() for file in part]})
    for path in (str(tmp_path), f"file://{tmp_path}"):
        np.testing.assert_array_equal(pixels(travelled(find_images([path]))), pixels(find([*files[3:], *files[:3]])))
        (tmp_path / "x.png").touch()
        with pytest.raises(DataError, match="holds image files and Parquet files: name the ones that are meant"):
            find_images([path])
        (tmp_path / "x.png").unlink()


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
    import pyarrow.parquet as parquet

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
    import pyarrow.parquet as parquet

    monkeypatch.setattr("lit_od.cluster.tables.ROWS_A_GROUP", 10)
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
    inputs._local.cache_clear()
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
    monkeypatch.setattr("lit_od.cluster.engine._ray", lambda: NO_RAY)
    words = ["score", made_bundle.path, digit_files, "--engine", "ray", "--address", address]
    status, out, err = command(*words)
    assert (status, out) == (2, "")
    assert f"lit-od: no Ray cluster at {address}: " in err
    assert err.endswith("Leave --address out to start one on this machine\n")


DETECTORS: list[dict[str, Any]] = [
    {"kind": "mahalanobis"},
    {"kind": "mahalanobis", "class_conditional": True},
    {"kind": "knn", "k": 3},
    {"kind": "gmm"},
    {"kind": "pca_residual", "components": 4},
]


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda each: "-".join(map(str, each.values())))
def test_what_workers_gather_and_score_is_what_one_process_does(
    small_graph: bytes, digits: list[Source], tmp_path: Path, detector: dict[str, Any]
) -> None:
    """The work of four workers, done here."""
    fit, calibration = digits[:700], digits[700:900]
    given: dict[str, Any] = {"model": small_graph, "preparation": GREY, "detector": detector, "fit": fit}
    given |= {"calibration": calibration}
    same: dict[str, Any] = {"rule": {"rule": "percentile", "q": 90}, "origin": Origin(name="x", seed=0), "threads": 1}
    one = fit_bundle(tmp_path / "one", **given, **same)
    many = fit_bundle(tmp_path / "many", **given, **same, group=FirstOfCluster(Inline(4, 1), **given))  # type: ignore[arg-type]
    exact = detector["kind"] == "knn"
    for name, array in one.detector.state().items():
        tolerance = 0 if exact else 1e-12
        got = many.detector.state()[name]
        np.testing.assert_allclose(got, array, rtol=tolerance, atol=tolerance * np.abs(array).max())
    np.testing.assert_allclose(many.calibration.scores, one.calibration.scores, rtol=0 if exact else 1e-11)
    assert many.calibration.threshold == pytest.approx(one.calibration.threshold, rel=1e-11)
