"""Frames of files and of streams, decoded by PyAV."""

import io
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from lit_od.errors import DataError
from lit_od.images import camera
from lit_od.images.camera import LiveVideo, VideoFile
from lit_od.images.video_place import Every, Frame, VideoPlace
from tests.support.videos import pixels, sent, write_video

GO_ON = threading.Event()


def nothing(key: str, version: tuple[int, int]) -> bool:
    return False


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("films") / "film.mp4"
    write_video(file, 30)
    return file


@pytest.fixture(scope="module")
def stream() -> bytes:
    """Thirty frames in a form that has no end: its length is not known in advance."""
    data = io.BytesIO()
    write_video(data, 30, codec="mpeg2video", form="mpegts")
    return data.getvalue()


def frames(file: Path, every: Every = Every()) -> list[Frame]:  # noqa: B008  # frozen
    return list(VideoFile(VideoPlace.of(str(file)), every, threads=1).frames(GO_ON, nothing))


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_all_frames_of_a_file_in_their_order(tmp_path: Path, codec: str) -> None:
    write_video(tmp_path / "a.mp4", 12, codec=codec)
    video = VideoFile(VideoPlace.of(str(tmp_path / "a.mp4")), Every(), threads=1)
    assert video.expected == 12
    found = list(video.frames(GO_ON, nothing))
    assert (video.decoded.frames, video.decoded.damaged) == (12, 0)
    assert [frame.name for frame in found] == [f"{tmp_path / 'a.mp4'}#{number}" for number in range(12)]
    assert [(frame.number, frame.time) for frame in found] == [(n, round(n / 10, 3)) for n in range(12)]
    for frame in found:
        assert np.abs(frame.pixels.astype(int) - pixels(frame.number)).mean() < 8


def test_chosen_frames_and_those_that_are_done(film: Path) -> None:
    assert [frame.number for frame in frames(film, Every(7))] == [0, 7, 14, 21, 28]
    assert [frame.number for frame in frames(film, Every(seconds=1))] == [0, 10, 20]
    key = frames(film)[10].key
    video = VideoFile(VideoPlace.of(str(film)), Every(10))
    left = video.frames(GO_ON, lambda name, version: name == key and version[0] == film.stat().st_size)
    assert [frame.number for frame in left] == [0, 20]


def test_a_file_is_read_as_its_frames_are_taken(film: Path) -> None:
    stop = threading.Event()
    video = VideoFile(VideoPlace.of(str(film)), Every(), threads=1)
    found = video.frames(stop, nothing)
    next(found)
    assert video.decoded.frames < 10
    stop.set()
    assert list(found) == []


def test_a_turned_video_is_upright(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A display matrix that turns by a quarter, counter-clockwise, as a telephone writes it."""
    data = film.read_bytes()
    unit = (0x00010000).to_bytes(4, "big")
    zero, minus = bytes(4), (-0x00010000).to_bytes(4, "big", signed=True)
    w = (0x40000000).to_bytes(4, "big")
    upright = unit + zero * 3 + unit + zero * 3 + w
    turned = zero + minus + zero + unit + zero * 4 + w
    place = data.rfind(upright)  # of the track, behind that of the film
    turned_film = film.with_name("turned.mp4")
    turned_film.write_bytes(data[:place] + turned + data[place + len(turned) :])
    (frame, *_) = frames(turned_film)
    assert frame.pixels.shape == (48, 32, 3)
    assert np.abs(frame.pixels.astype(int) - np.rot90(pixels(0))).mean() < 8


def test_damaged_packets_are_left_out_and_counted(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 30, codec="libx264")
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    middle = (data.find(b"mdat") + data.find(b"moov")) // 2
    data[middle : middle + 200] = b"\xff" * 200
    (tmp_path / "a.mp4").write_bytes(data)
    video = VideoFile(VideoPlace.of(str(tmp_path / "a.mp4")), Every(), threads=1)
    found = list(video.frames(GO_ON, nothing))
    assert video.decoded.damaged >= 1
    assert 10 < len(found) < 30


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(DataError, match="cannot be opened as a video: invalid data"):
        VideoFile(VideoPlace.of(str(tmp_path / "a.mp4")), Every())


def test_a_playlist_leads_to_no_other_place(tmp_path: Path, film: Path) -> None:
    with sent([film.read_bytes()], length=True) as url:
        (tmp_path / "list.m3u8").write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{url}.mp4\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(DataError, match=r"list\.m3u8"):
            frames(tmp_path / "list.m3u8")


def live(url: str, *, every: Every = Every(), most: int = 4) -> LiveVideo:  # noqa: B008  # frozen
    return LiveVideo(VideoPlace.of(url), every, most=most, threads=1)


def test_a_stream_that_breaks_off_comes_back(
    stream: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(camera, "PAUSES", (0.02, 0.04))
    stop, found = threading.Event(), list[Frame]()
    with sent([stream, stream[: len(stream) // 2], None, b"", stream]) as url, live(url, most=500) as video:
        for some in video.arrivals(stop):
            found += some
            if len(found) > 90:
                stop.set()
    assert [frame.number for frame in found] == list(range(len(found)))
    assert video.breaks >= 3
    assert video.dropped == 0
    assert any("503" in text or "server" in text.lower() for text in caplog.messages)
    assert any(text.endswith("connecting again in 0.04 s") for text in caplog.messages)
    assert any(text.endswith("is back") for text in caplog.messages)


def test_frames_that_nobody_takes_are_dropped_and_counted(
    stream: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(camera, "PAUSES", (30.0,))
    with sent([stream]) as url, live(url) as video:
        end = time.monotonic() + 5
        while not caplog.messages and time.monotonic() < end:
            time.sleep(0.01)
        found = next(video.arrivals(GO_ON))
    last = video.decoded.frames
    assert last > 25
    assert [frame.number for frame in found] == list(range(last - 4, last))
    assert video.dropped == last - 4
    assert found[0].key == ""
    assert str(found[0].time).endswith("Z")


def test_a_file_on_a_web_server_waits_and_ends(film: Path) -> None:
    with sent([film.read_bytes()], length=True) as url, live(url, every=Every(2), most=2) as video:
        found = [frame.number for some in video.arrivals(GO_ON) for frame in some]
        assert found == list(range(0, 30, 2))
    with sent([film.read_bytes()], length=True) as url, live(url, every=Every(seconds=1)) as by_seconds:
        assert [frame.number for some in by_seconds.arrivals(GO_ON) for frame in some] == [0, 10, 20]
    assert (video.dropped, video.breaks, video.ends) == (0, 0, True)


def test_a_file_on_a_web_server_that_breaks_off_is_not_begun_anew(stream: bytes) -> None:
    with (
        sent([stream], length=True, missing=10_000) as url,
        live(url, most=100) as video,
        pytest.raises(DataError, match=r"broke off: .*, after \d+ frames"),
    ):
        list(video.arrivals(GO_ON))
    assert 25 < video.decoded.frames <= 30


def test_a_camera_is_opened_by_its_kind() -> None:
    """FFmpeg's own test picture stands for a camera."""
    place = VideoPlace("testsrc=size=64x48:rate=50", "camera", "lavfi")
    with LiveVideo(place, Every(), most=4, threads=1) as video:
        (frame, *_) = next(video.arrivals(GO_ON))
    assert frame.pixels.shape == (48, 64, 3)
    assert frame.name.startswith("camera#")


def test_a_server_without_an_answer_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = f"http://127.0.0.1:{silent.getsockname()[1]}/stream"
        with pytest.raises(DataError, match=r"cannot be opened as a video: nothing came for 0\.3 s"), live(source):
            pass


@pytest.mark.parametrize("source", ["v4l2:/dev/no-such-camera", "http://127.0.0.1:9/stream"])
def test_a_first_connection_that_fails_is_an_error(source: str) -> None:
    with pytest.raises(DataError, match="cannot be opened as a video"), live(source):
        pass
