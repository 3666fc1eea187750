"""Every form of PATH: what is found, in which order, under which name and label; and what is refused."""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.errors import DataError, ImageError
from lit_od.images import heif
from lit_od.images.find_local import find, of_classes
from lit_od.images.sources import EncodedImage, ImageArray, ImageFile, OpenImage, Source, Unreadable
from tests.support.images import GREY

ODD_NAMES = [" spaced  out .png", 'quote"d.png', "it's.png", "comma,semi;.png", "日本語.png", "русский ё.png", "#7.png"]


def names(sources: list[Source]) -> list[str]:
    return [source.name for source in sources]


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


# Files and folders


def test_an_image_file_is_itself_whatever_its_ending(tmp_path: Path) -> None:
    touch(tmp_path / "image.dat")
    assert find([tmp_path / "image.dat"]) == [ImageFile(tmp_path / "image.dat", str(tmp_path / "image.dat"))]


def test_paths_keep_their_order(tmp_path: Path) -> None:
    touch(tmp_path / "b.png", tmp_path / "a.png", tmp_path / "c" / "z.png")
    found = find([tmp_path / "c", tmp_path / "b.png", tmp_path / "a.png", tmp_path / "b.png"])
    assert names(found) == [str(tmp_path / name) for name in ("c/z.png", "b.png", "a.png", "b.png")]


def test_a_folder_is_searched_through_in_the_order_of_names(tmp_path: Path) -> None:
    below = ["b/2.JPG", "b/10.jpeg", "a/deep/er/1.webp", "a/0.tif", "z.png", "A.bmp"]
    touch(*(tmp_path / name for name in below))
    touch(tmp_path / "notes.md", tmp_path / "b" / "noending", tmp_path / "list.txt")
    found = find([tmp_path])
    wanted = ["A.bmp", "z.png", "a/0.tif", "a/deep/er/1.webp", "b/10.jpeg", "b/2.JPG"]
    assert names(found) == [str(tmp_path / name) for name in wanted]
    assert [source.label for source in found] == [None, None, "a", "a", "b", "b"]


def test_images_of_formats_that_are_not_read_are_counted_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heif, "is_readable", lambda: False)
    touch(
        tmp_path / "a.apng", tmp_path / "sub" / "b.mpo", tmp_path / "c.j2c", tmp_path / "notes.txt", tmp_path / ".x.jxl"
    )
    assert len(find([tmp_path])) == 3
    assert caplog.messages == []
    touch(tmp_path / "1.HEIC", tmp_path / "2.heic", tmp_path / "sub" / "3.jxl")
    assert len(find([tmp_path])) == 3
    (line,) = caplog.messages
    assert line.startswith(
        f"lit-od: {tmp_path}: left out 2 .heic, 1 .jxl, which cannot be read. Convert them to PNG, or"
    )
    assert 'pip install "lit-od[heif]"' in line
    caplog.clear()
    (tmp_path / "sub" / "3.jxl").rename(tmp_path / "sub" / "3.nef")
    assert len(find([tmp_path / "sub"])) == 1
    assert "left out 1 .nef, which cannot be read. Convert them to PNG" in caplog.text


def test_a_heic_image_is_found_and_read(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    assert heif.is_readable()
    Image.new("RGB", (8, 6), (200, 30, 40)).save(tmp_path / "a.heic")
    (source,) = find([tmp_path])
    assert source.decode().size == (8, 6)


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path / ".hidden.png", tmp_path / ".thumbnails" / "a.png", tmp_path / "seen" / "a.png")
    assert names(find([tmp_path])) == [str(tmp_path / "seen" / "a.png")]
    assert names(find([tmp_path / ".hidden.png"])) == [str(tmp_path / ".hidden.png")]


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "real" / "a.png")
    outside = tmp_path / "outside"
    touch(outside / "b.png")
    root = tmp_path / "root"
    touch(root / "own.png")
    (root / "loop").symlink_to(root)
    (root / "twin1").symlink_to(outside)
    (root / "twin2").symlink_to(outside)
    (root / "up").symlink_to(tmp_path / "real")
    (root / "broken").symlink_to(tmp_path / "nowhere")
    (root / "broken.png").symlink_to(tmp_path / "nowhere.png")
    found = find([root])
    assert names(found) == [str(root / name) for name in ("broken.png", "own.png", "twin1/b.png", "up/a.png")]
    with pytest.raises(ImageError, match="no such file"):
        found[0].decode()


def test_odd_names_in_a_folder(tmp_path: Path) -> None:
    odd = sorted([*ODD_NAMES, "new\nline.png", os.fsdecode(b"\xff\xfe.png")])
    touch(*(tmp_path / name for name in odd))
    assert names(find([tmp_path])) == [str(tmp_path / name) for name in odd]


def test_a_folder_that_cannot_be_listed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a" / "1.png", tmp_path / "closed" / "2.png", tmp_path / "z" / "3.png")
    scandir = os.scandir

    def guarded(path: str) -> "Iterator[os.DirEntry[str]]":
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = find([tmp_path])
    cause = "the folder cannot be listed: permission denied"
    assert names(found) == [str(tmp_path / name) for name in ("a/1.png", "z/3.png", "closed")]
    assert found[-1] == Unreadable(str(tmp_path / "closed"), cause)
    for read in (found[-1].decode, lambda: found[-1].prepare(GREY)):
        with pytest.raises(ImageError, match=cause):
            read()


def test_paths_start_from_the_root(tmp_path: Path) -> None:
    touch(tmp_path / "set" / "a.png", tmp_path / "b.png")
    assert names(find(["set", "b.png"], root=tmp_path)) == [str(tmp_path / "set" / "a.png"), str(tmp_path / "b.png")]
    assert names(find([str(tmp_path / "b.png")], root=Path("/nowhere"))) == [str(tmp_path / "b.png")]


def test_what_exists_on_disk_wins_over_a_set_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "mnist" / "a.png", tmp_path / "CIFAR10" / "b.png")
    known: list[Source] = [Unreadable("a", "b")]
    assert names(find(["mnist"], root=tmp_path, sets=lambda path: known)) == [str(tmp_path / "mnist" / "a.png")]
    monkeypatch.chdir(tmp_path)
    assert names(find(["mnist"], sets=lambda path: known)) == ["mnist/a.png"]
    assert find(["mnist:test"], sets=lambda path: known) == known
    assert find(["cifar10"], sets=lambda path: known) == known  # CIFAR10 is another name, whatever the file system


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(DataError, match=r"an empty PATH was given.*name an image"):
        find([""])


def test_sets_are_asked_where_nothing_has_their_name(tmp_path: Path) -> None:
    touch(tmp_path / "mnist.png")
    known: list[Source] = [Unreadable("a", "b")]
    found = find(["mnist:test", tmp_path / "mnist.png"], sets=lambda path: known if path == "mnist:test" else None)
    assert names(found) == ["a", str(tmp_path / "mnist.png")]


def test_a_missing_image_is_found_and_cannot_be_read(tmp_path: Path) -> None:
    [missing] = find([tmp_path / "missing.png"])
    with pytest.raises(ImageError, match="no such file"):
        missing.decode()


def test_what_does_not_exist_or_holds_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(DataError, match=r"missing does not exist: wanted an image, a folder, a list"):
        find([tmp_path / "missing"])
    with pytest.raises(DataError, match=r"no image found in .*empty: it holds no file\. Looked for \.apng"):
        find([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"no image found in .*empty\.txt"):
        find([tmp_path / "empty.txt"])
    with pytest.raises(DataError, match="no PATH given"):
        find([])


# Lists


def test_a_text_list(tmp_path: Path) -> None:
    lines = ["a.png", "", "   ", "# a comment", "  # another", "sub/b.png", "/abs/c.png", "trailing .png "]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    wanted = [str(tmp_path / "a.png"), str(tmp_path / "sub/b.png"), "/abs/c.png", str(tmp_path / "trailing .png ")]
    assert names(find([tmp_path / "list.txt"])) == wanted


def test_a_text_list_with_a_byte_order_mark_and_other_line_ends(tmp_path: Path) -> None:
    (tmp_path / "LIST.TXT").write_bytes(b"\xef\xbb\xbfa.png\r\nb.png\r\n")
    assert names(find([tmp_path / "LIST.TXT"])) == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_names_in_a_text_list_are_taken_as_the_bytes_they_are(tmp_path: Path) -> None:
    listed = [name for name in ODD_NAMES if not name.startswith("#")]
    raw = b"\n".join([*(name.encode() for name in listed), b"\xff\xfe.png"])
    (tmp_path / "list.txt").write_bytes(raw)
    wanted = [*listed, os.fsdecode(b"\xff\xfe.png")]
    assert names(find([tmp_path / "list.txt"])) == [str(tmp_path / name) for name in wanted]


def test_a_missing_file_in_a_list_is_found_out_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("missing.png\n")
    (found,) = find([tmp_path / "list.txt"])
    with pytest.raises(ImageError, match="no such file"):
        found.prepare(GREY)


def test_a_csv_list(tmp_path: Path) -> None:
    table = 'label,path,more\ncat,a.png,1\n,"b ""q"", c\nd.png",2\n"dog, wet",/abs/#e.png,3\n\n,,\n'
    (tmp_path / "list.csv").write_text(table, encoding="utf-8-sig", newline="")
    found = find([tmp_path / "list.csv"])
    wanted = [str(tmp_path / "a.png"), str(tmp_path / 'b "q", c\nd.png'), "/abs/#e.png"]
    assert names(found) == wanted
    assert [source.label for source in found] == ["cat", None, "dog, wet"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\na.png,1\n", r"list\.csv needs a column named path, its columns are \['file', 'label'\]"),
        ("", r"needs a column named path, its columns are None"),
        ('path\n"a.png\nb.png\n', r"list\.csv line 3 is not CSV: unexpected end of data"),
        ("path,label\na.png,1\n,cat\n", r"list\.csv line 3 has no path"),
        ("path\n" + "x" * 200_000, r"list\.csv line 2 is not CSV: field larger than field limit"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        find([tmp_path / "list.csv"])


def test_standard_input_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = "\ufeffa.png\n# comment\n\nsub/日本 .png\r\n".encode() + b"\xff.png\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
    assert names(find(["-"])) == ["a.png", "sub/日本 .png", os.fsdecode(b"\xff.png")]


def test_standard_input_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lines() -> Iterator[str]:
        yield b"\xff".decode()

    monkeypatch.setattr(sys, "stdin", lines())  # a stream that cannot be told to take any bytes
    with pytest.raises(DataError, match="standard input is not a text list of paths: invalid start byte"):
        find(["-"])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_lists_in_utf_16(tmp_path: Path, encoding: str) -> None:
    mark = "" if encoding == "utf-16" else "\ufeff"
    (tmp_path / "list.txt").write_bytes(f"{mark}a.png\r\n日本.png\r\n".encode(encoding))
    (tmp_path / "list.csv").write_bytes(f"{mark}path,label\r\na.png,good\r\n".encode(encoding))
    assert names(find([tmp_path / "list.txt"])) == [str(tmp_path / "a.png"), str(tmp_path / "日本.png")]
    assert [source.label for source in find([tmp_path / "list.csv"])] == ["good"]
    (tmp_path / "bare.txt").write_bytes("a.png\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"bare\.txt is not a text list of paths: wanted UTF-8 or UTF-16"):
        find([tmp_path / "bare.txt"])
    (tmp_path / "cut.txt").write_bytes("\ufeffab".encode("utf-16-le")[:-1])
    with pytest.raises(DataError, match=r"cut\.txt is not a text list of paths: truncated data"):
        find([tmp_path / "cut.txt"])


def test_lines_of_a_list_end_where_lines_of_a_file_end(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\x0b\u2028b.png\rc.png\n", newline="")
    assert names(find([tmp_path / "list.txt"])) == [str(tmp_path / "a\x0b\u2028b.png"), str(tmp_path / "c.png")]


def test_backslashes_separate_where_only_so_a_file_exists(tmp_path: Path) -> None:
    touch(tmp_path / "sub" / "a.png", tmp_path / "sub" / "b.png", tmp_path / "sub\\b.png")
    (tmp_path / "list.txt").write_text("sub\\a.png\nsub\\b.png\nsub\\gone.png\n")
    (tmp_path / "list.csv").write_text("path\nsub\\a.png\n")
    wanted = [str(tmp_path / name) for name in ("sub/a.png", "sub\\b.png", "sub\\gone.png")]
    assert names(find([tmp_path / "list.txt"])) == wanted
    assert names(find([tmp_path / "list.csv"])) == wanted[:1]


def test_blanks_around_columns_and_labels_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path , label\na.png, good\n b.png,\n")
    found = find([tmp_path / "list.csv"])
    assert names(found) == [str(tmp_path / "a.png"), str(tmp_path / " b.png")]
    assert [source.label for source in found] == ["good", None]


# Arrays


def test_an_array_of_numpys_own_file(tmp_path: Path) -> None:
    stack = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    np.save(tmp_path / "a.npy", stack)
    found = find([tmp_path / "a.npy"])
    assert names(found) == [f"{tmp_path / 'a.npy'}#{row}" for row in range(3)]
    np.testing.assert_array_equal([np.asarray(source.decode()) for source in found], stack)
    np.save(tmp_path / "harm.npy", np.array([{}], dtype=object))
    (tmp_path / "text.npy").write_text("no array")
    for name in ("harm", "text"):
        with pytest.raises(DataError, match=rf"{name}\.npy cannot be read as \.npy: .*Write it with numpy\.save"):
            find([tmp_path / f"{name}.npy"])
    with pytest.raises(DataError, match=r"gone\.npy does not exist"):
        find([tmp_path / "gone.npy"])


@pytest.mark.parametrize("name", ["x.npz", "UP.NPZ", "x.npz.v2.npz"])
def test_an_archive_whatever_its_name(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as out:
        np.savez(out, a=np.zeros((2, 4, 4), np.uint8))
    assert names(find([tmp_path / name])) == [f"{tmp_path / name}#{row}" for row in range(2)]
    assert len(find([f"{tmp_path / name}:a"])) == 2


def test_an_array_of_one_image_in_colour_is_one_image(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", picture=picture)
    np.save(tmp_path / "one.npy", picture)
    for name in ("one.npz", "one.npy"):
        (source,) = find([tmp_path / name])
        assert source.name == f"{tmp_path / name}#0"
        np.testing.assert_array_equal(np.asarray(source.decode()), picture)


@pytest.fixture
def archive(tmp_path: Path, digits: list[Source]) -> Path:
    stack = np.stack([np.asarray(source.decode()) for source in digits[:6]])
    labels = np.array([3, 1, 3, 0, 1, 3])
    np.savez(
        tmp_path / "a.npz", train_images=stack, train_labels=labels, test_images=stack[:2], colour=stack[..., None]
    )
    return tmp_path / "a.npz"


def test_an_array_of_an_archive(archive: Path, digits: list[Source]) -> None:
    found = find([f"{archive}:train_images"])
    assert names(found) == [f"{archive}#{row}" for row in range(6)]
    assert [source.label for source in found] == ["3", "1", "3", "0", "1", "3"]
    for source, digit in zip(found, digits, strict=False):
        np.testing.assert_array_equal(source.prepare(GREY), digit.prepare(GREY))
        assert source.decode().size == (28, 28)
    assert [source.label for source in find([f"{archive}:test_images"])] == [None, None]
    assert find([f"{archive}:colour"])[0].prepare(GREY).shape == (28, 28, 1)


def test_classes_of_an_array(archive: Path) -> None:
    assert names(find([f"{archive}:train_images:1,0"])) == [f"{archive}#{row}" for row in (1, 3, 4)]
    with pytest.raises(DataError, match=r"no image of class '7': the labels here are 0, 1, 3"):
        find([f"{archive}:train_images:7"])
    with pytest.raises(DataError, match=r"no image of class '0': the labels here are none at all"):
        find([f"{archive}:test_images:0"])


def test_the_only_images_need_no_name(tmp_path: Path) -> None:
    pixels = np.zeros((2, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", anything=pixels)
    np.savez(tmp_path / "named.npz", images=pixels, labels=np.array([[5], [6]]), more=pixels)
    assert len(find([tmp_path / "one.npz"])) == 2
    assert [source.label for source in find([tmp_path / "named.npz"])] == ["5", "6"]


def test_a_folder_named_like_an_archive(tmp_path: Path) -> None:
    touch(tmp_path / "odd.npz" / "a.png", tmp_path / "b.npz.png")
    assert names(find([tmp_path / "odd.npz"])) == [str(tmp_path / "odd.npz" / "a.png")]
    assert names(find([tmp_path / "b.npz.png"])) == [str(tmp_path / "b.npz.png")]


@pytest.mark.parametrize(
    ("arrays", "path", "message"),
    [
        ({"a_images": 1, "b_images": 1}, "", r"holds several arrays: name one, as .*x\.npz:a_images"),
        ({"a": 1, "b": 1}, "", r"holds several arrays: name one, as .*x\.npz:a$"),
        ({}, "", r"x\.npz holds no array"),
        ({"a": np.zeros((2, 4, 4), np.uint8)}, ":b", r"holds no array 'b', it holds a"),
        ({"a": np.zeros((2, 4, 4))}, "", r"x\.npz:a must be uint8 \(n, h, w\) or .* got float64 \(2, 4, 4\)"),
        ({"a": np.zeros((4, 4), np.uint8)}, "", r"must be uint8 \(n, h, w\) or .* got uint8 \(4, 4\)"),
        ({"a": np.zeros((2, 3, 8, 8), np.uint8)}, "", r"must have 1, 3 or 4 channels, last .* shape \(2, 3, 8, 8\)"),
        ({"a": np.zeros((0, 4, 4), np.uint8)}, "", "no image found in"),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3)},
            "",
            r"x\.npz: labels has 3 rows for 2 images",
        ),
        ({"a": np.array([{}], dtype=object)}, "", r"cannot be read as \.npz: Object arrays cannot be loaded"),
        (
            {"images": np.zeros((1, 4, 4), np.uint8), "labels": np.array([{}], dtype=object)},
            "",
            r"cannot be read as \.npz: Object arrays cannot be loaded",
        ),
    ],
)
def test_archives_that_cannot_serve_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], path: str, message: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        find([f"{tmp_path / 'x.npz'}{path}"])


def test_files_that_are_no_archive_are_refused(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "none.npz").touch()
    (tmp_path / "cut.npz").write_bytes(archive.read_bytes()[:-40])
    with (tmp_path / "single.npz").open("wb") as out:
        np.save(out, np.zeros((2, 4, 4), np.uint8))
    for name in ("text", "none", "cut", "single"):
        with pytest.raises(DataError, match=rf"{name}\.npz cannot be read as \.npz: "):
            find([tmp_path / f"{name}.npz"])
    with pytest.raises(DataError, match=r"missing\.npz does not exist"):
        find([f"{tmp_path}/missing.npz:images"])


def test_nothing_in_an_archive_is_ever_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    np.savez(tmp_path / "harm.npz", images=np.array([Harm()], dtype=object))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        find([tmp_path / "harm.npz"])
    assert not (tmp_path / "harm").exists()


# Sources


def test_all_sources_of_one_image_give_the_same_pixels(digits: list[Source], tmp_path: Path) -> None:
    image = digits[0].decode()
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    want = digits[0].prepare(GREY)
    for source in (
        ImageFile(tmp_path / "a.png", "a"),
        ImageArray(np.asarray(image), "b"),
        OpenImage(Image.open(io.BytesIO(data)), "c"),
        EncodedImage(data, "d"),
    ):
        np.testing.assert_array_equal(source.prepare(GREY), want)
        np.testing.assert_array_equal(np.asarray(source.decode()), want[..., 0])
        assert len(repr(source)) < 300  # no pixels, no bytes


def test_of_classes_keeps_the_order_and_refuses_what_is_not_there(digits: list[Source]) -> None:
    chosen = of_classes(digits[:50], ["7", "1"])
    assert chosen == [source for source in digits[:50] if source.label in ("1", "7")]
    with pytest.raises(DataError, match=r"no image of class 'cat'"):
        of_classes(digits[:50], ["1", "cat"])
