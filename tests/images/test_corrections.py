"""Files that Pillow alone decodes wrongly, against the samples that were written into them."""

import io
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from lit_od.errors import ImageError
from lit_od.images.corrections import MAX_SCANS
from lit_od.images.preparation import Preparation, open_image, prepare
from lit_od.images.sources import OpenImage
from tests.support.image_files import png, tiff
from tests.support.images import encoded


def samples(channels: int, most: int, kind: str = "u1") -> NDArray[Any]:
    """Random samples up to `most`, (6, 9, channels): an odd width, and no symmetry."""
    return np.random.default_rng(channels).integers(0, most + 1, (6, 9, channels)).astype(kind)


def prepared(file: bytes, mode: str = "rgb") -> NDArray[np.uint8]:
    """The file's pixels, (6, 9, 3 or 1)."""
    return prepare(open_image(file), Preparation(size=(6, 9), mode=mode))  # type: ignore[arg-type]  # grey or rgb


# JPEG


def jpeg(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are so many."""
    data = encoded(Image.fromarray(samples(3, 255)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


def test_a_jpeg_of_many_scans_is_refused_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_image(jpeg(MAX_SCANS)).size == (9, 6)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match=r"^a JPEG of more than 100 scans, wanted at most 100: save it anew$"):
        open_image(jpeg(MAX_SCANS + 1))
    with Image.open(io.BytesIO(jpeg(5000))) as image, pytest.raises(ImageError, match="more than 100 scans"):
        OpenImage(image, "open").decode()


def test_what_only_looks_like_a_scan_is_none() -> None:
    """A preview within the metadata, and a film behind the picture."""
    plain = encoded(Image.fromarray(samples(3, 255)), "JPEG")
    looks = b"\xff\xda" * 500
    inside = plain[:2] + b"\xff\xe5" + struct.pack(">H", len(looks) + 2) + looks + plain[2:]
    for file in (inside, plain + looks):
        np.testing.assert_array_equal(prepared(file), prepared(plain))


# JPEG 2000


@pytest.mark.parametrize(("order", "read"), [((1, 2, 3), True), ((3, 2, 1), False)])
def test_permuted_channels_of_jpeg_2000_are_refused(order: tuple[int, ...], read: bool) -> None:
    plain = encoded(Image.fromarray(samples(3, 255)), "JPEG2000", irreversible=False)
    entries = b"".join(struct.pack(">HHH", channel, 0, colour) for channel, colour in enumerate(order))
    box = struct.pack(">I", 10 + len(entries)) + b"cdef" + struct.pack(">H", 3) + entries
    begin = plain.index(b"jp2h") - 4
    (length,) = struct.unpack(">I", plain[begin : begin + 4])
    end = begin + length
    file = plain[:begin] + struct.pack(">I", length + len(box)) + plain[begin + 4 : end] + box + plain[end:]
    if read:
        np.testing.assert_array_equal(prepared(file), samples(3, 255))
    else:
        with pytest.raises(ImageError, match=r"^a JPEG 2000 with its channels in another order, wanted grey or red"):
            open_image(file)


# PNG


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_is_white_at_every_depth(bits: int) -> None:
    most, width = 2**bits - 1, 16
    greys = np.arange(width, dtype=np.uint16) & most
    key = most // 3 if bits < 16 else 3
    packed = np.packbits(((greys[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)).tobytes()
    image = open_image(png([packed], width=width, depth=bits, colour=0, transparent=(key,)))
    want = np.where(greys == key, 255, np.floor(greys * (255 / most) + 0.5))
    for _ in range(2):  # an image that is prepared twice is the same twice
        came = prepare(OpenImage(image, "open").decode(), Preparation(size=(1, width), mode="grey"))
        np.testing.assert_array_equal(came[0, :, 0], want)


def test_a_transparent_colour_of_sixteen_bits_is_refused() -> None:
    row = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x1299, 0x5678, 0x9ABC)
    assert open_image(png([row], width=2, depth=16, colour=2)).size == (2, 1)
    with pytest.raises(ImageError, match=r"^a transparent colour in a PNG of 16-bit colours is not read: save it"):
        open_image(png([row], width=2, depth=16, colour=2, transparent=(0x1234, 0x5678, 0x9ABC)))


# TIFF

LAYOUTS = [(planar, zipped, order) for planar in (False, True) for zipped in (False, True) for order in "<>"]


@pytest.mark.parametrize(("planar", "zipped", "order"), LAYOUTS)
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_rgb_is_the_same_in_every_layout(planar: bool, zipped: bool, order: str, kind: str) -> None:
    values = samples(3, np.iinfo(kind).max, kind)
    want = values if kind == "u1" else values >> 8  # the high byte, as Pillow decodes 16-bit colours
    file = tiff(values, photometric=2, planar=planar, zipped=zipped, order=order)
    np.testing.assert_array_equal(prepared(file), want)


@pytest.mark.parametrize(("planar", "zipped", "order"), LAYOUTS)
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_white_is_zero_is_inverted(planar: bool, zipped: bool, order: str, photometric: int, kind: str) -> None:
    if kind == "u2" and photometric == 0 and order == ">":
        pytest.skip("Pillow reads no such file")
    values = samples(1, np.iinfo(kind).max, kind) if kind[0] == "u" else samples(1, 255).astype("f4") / 255
    most = np.iinfo(kind).max if kind[0] == "u" else 1
    black_is_zero = values.astype(float) if photometric else most - values.astype(float)
    tags = {339: (3,)} if kind == "f4" else {}
    file = tiff(values, photometric=photometric, planar=planar, zipped=zipped, order=order, tags=tags)
    np.testing.assert_array_equal(prepared(file, "grey"), np.floor(black_is_zero * (255 / most) + 0.5))


@pytest.mark.parametrize(("planar", "zipped", "order"), LAYOUTS)
@pytest.mark.parametrize("kind", ["i2", "i4"])
def test_signed_integers_are_the_same_in_every_layout(planar: bool, zipped: bool, order: str, kind: str) -> None:
    values = samples(1, 32_767, kind)
    file = tiff(values, photometric=1, planar=planar, zipped=zipped, order=order, tags={339: (2,)})
    np.testing.assert_array_equal(prepared(file, "grey"), np.floor(values / 257 + 0.5))


@pytest.mark.parametrize("zipped", [False, True])
def test_twelve_bits_fill_the_range(zipped: bool) -> None:
    values = samples(1, 4095, "u2")
    values[0, :2] = [[0], [4095]]
    file = tiff(values, photometric=1, bits=12, zipped=zipped)
    np.testing.assert_array_equal(prepared(file, "grey"), np.floor(values * (255 / 4095) + 0.5))
    with pytest.raises(ImageError, match=r"^a TIFF of 12-bit differences \(a predictor\), wanted plain values"):
        open_image(tiff(values, photometric=1, bits=12, tags={317: (2,)}))


@pytest.mark.parametrize("zipped", [False, True])
def test_grey_with_alpha_in_separate_planes_is_refused(zipped: bool) -> None:
    values = samples(2, 255)
    tags = {338: (2,)}
    share = values[..., 1:] / 255
    came = prepared(tiff(values, photometric=1, zipped=zipped, tags=tags), "grey")
    np.testing.assert_allclose(came, share * values[..., :1] + (1 - share) * 255, atol=1)
    with pytest.raises(ImageError, match=r"^a TIFF of 2 separate planes \(LA\), wanted interleaved channels: save it"):
        open_image(tiff(values, photometric=1, planar=True, zipped=zipped, tags=tags))


@pytest.mark.parametrize(
    ("channels", "photometric", "kind", "extra", "zipped"),
    [(4, 2, "u1", 1, True), (4, 5, "u2", None, False), (4, 2, "u2", 0, False)],
    ids=["premultiplied alpha", "16-bit CMYK", "16-bit RGB with a plane unnamed"],
)
def test_other_planes_that_pillow_takes_for_others_are_refused(
    channels: int, photometric: int, kind: str, extra: int | None, zipped: bool
) -> None:
    tags = {} if extra is None else {338: (extra,)}
    values = samples(channels, np.iinfo(kind).max, kind)
    with pytest.raises(ImageError, match=r"^a TIFF of 4 separate planes"):
        open_image(tiff(values, photometric=photometric, planar=True, zipped=zipped, tags=tags))


def test_signed_bytes_are_refused() -> None:
    with pytest.raises(ImageError, match=r"^a TIFF of signed 8-bit values, wanted unsigned ones: save it anew$"):
        open_image(tiff(samples(1, 100), photometric=1, tags={339: (2,)}))


@pytest.mark.parametrize(("planar", "zipped", "order"), LAYOUTS)
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_bigtiff_is_read_in_both_byte_orders(planar: bool, zipped: bool, order: str, kind: str, tmp_path: Path) -> None:
    values = samples(3, np.iinfo(kind).max, kind)
    file = tiff(values, photometric=2, planar=planar, zipped=zipped, order=order, big=True)
    np.testing.assert_array_equal(prepared(file), values if kind == "u1" else values >> 8)
    (tmp_path / "big.tif").write_bytes(file)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "big.tif")), prepared(file))


def test_a_damaged_bigtiff_is_an_image_error() -> None:
    file = tiff(samples(3, 255), photometric=2, order=">", big=True)
    for length in range(4, len(file) - 20, 7):  # its last bytes are padding
        with pytest.raises(ImageError):
            open_image(file[:length])
    for at in range(8, len(file)):
        for value in (0, 127, 255):
            try:
                open_image(file[:at] + bytes([value]) + file[at + 1 :])
            except ImageError as error:
                assert str(error)  # noqa: PT017  # one that is read is fine too


def test_a_bigtiff_whose_values_overlap_takes_no_more_memory_than_its_file() -> None:
    entry = struct.pack(">HHQQ", 65_000, 1, 4000, 8)
    file = b"MM\0+\0\x08\0\0" + struct.pack(">QQ", 16, 1000) + entry * 1000
    with pytest.raises(ImageError, match=r"^damaged image: the directory of its BigTIFF is not within the file$"):
        open_image(file)


def test_a_bigtiff_of_many_values_is_read_in_linear_time() -> None:
    """Each value behind the data is copied once, not with every later one; more entries than a TIFF has are refused."""
    for count in (65_535, 65_536):
        entries = b"".join(struct.pack(">HHQQ", 65_000, 1, 200, 8) for _ in range(count))
        file = b"MM\0+\0\x08\0\0" + struct.pack(">QQ", 16, count) + entries + bytes(200 * 65_536)
        begin = time.process_time()
        with pytest.raises(ImageError, match="BigTIFF|TIFF" if count == 65_535 else r"^damaged image: 65,536 entries"):
            open_image(file)
        assert time.process_time() - begin < 5


# Metadata

TURNED = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"]


@pytest.mark.parametrize("form", FORMATS)
def test_xmp_turns_no_image(form: str) -> None:
    picture = Image.fromarray(samples(3, 255))
    options: dict[str, Any] = {"xmp": TURNED}
    if form == "PNG":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", TURNED.decode())
    if form == "TIFF":
        options = {"tiffinfo": {700: TURNED}}
    file = encoded(picture, form, **options)
    assert open_image(file).size == (9, 6)
    with Image.open(io.BytesIO(file)) as image:
        assert OpenImage(image, "open").decode().size == (9, 6)
        assert {"xmp", "XML:com.adobe.xmp"} & set(image.info)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_turns_nothing(form: str) -> None:
    picture = Image.fromarray(samples(3, 255))
    for broken in (b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0what it is nobody knows", b"Exif\0\0MM"):
        came = open_image(encoded(picture, form, exif=broken))
        np.testing.assert_array_equal(np.asarray(came), np.asarray(open_image(encoded(picture, form))))


def test_broken_exif_prints_nothing_and_other_warnings_are_printed(tmp_path: Path) -> None:
    """In a process of its own: pytest has its own filters."""
    broken = {"cut.jpg": b"Exif\0\0II*\0\x08\0\0\0\xff\xff", "far.jpg": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0"}
    broken["far.jpg"] += struct.pack("<III", 999, 26, 0)  # a text of 999 bytes, in a file of fewer
    for name, exif in broken.items():
        (tmp_path / name).write_bytes(encoded(Image.fromarray(samples(3, 255)), "JPEG", exif=exif))
    script = (
        "import sys; from concurrent.futures import ThreadPoolExecutor; from pathlib import Path\n"
        "from lit_od.images.preparation import open_image\n"
        "print([image.size for image in ThreadPoolExecutor(2).map(open_image, map(Path, sys.argv[1:]))])"
    )

    def run(*names: str) -> tuple[str, str]:
        words = [sys.executable, "-W", "always", "-c", script, *(str(tmp_path / name) for name in names)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return done.stdout.strip(), done.stderr

    assert run("cut.jpg", "cut.jpg") == ("[(9, 6), (9, 6)]", "")
    assert "UserWarning: Tag data larger than file" in run("far.jpg")[1]


def test_an_image_is_turned_once() -> None:
    for form in FORMATS:
        exif = Image.Exif()
        exif[0x0112] = 6
        once = open_image(encoded(Image.fromarray(samples(3, 255)), form, exif=exif))
        assert once.size == (6, 9), form
        assert OpenImage(once, "decoded").decode().size == (6, 9)
