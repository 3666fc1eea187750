"""Places that frames come from, and the choice among frames; no decoder is needed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.errors import ConfigError
from lit_od.images.video_place import Chooser, Every, VideoPlace


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("1", Every(1)),
        ("10", Every(10)),
        ("2s", Every(seconds=2)),
        ("0.5s", Every(seconds=0.5)),
        (".5 s", Every(1, 0.5)),
    ],
)
def test_every_is_frames_or_seconds(text: str, every: Every) -> None:
    assert Every.parse(text) == every


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1.5", "s", "1m", "nan", "1e3s"])
def test_any_other_every_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"such as 10, or seconds, such as 0\.5s"):
        Every.parse(text)


@given(st.integers(1, 20), st.integers(1, 100))
def test_one_frame_of_so_many_is_taken(frames: int, count: int) -> None:
    chooser = Chooser(Every(frames))
    assert [n for n in range(count) if chooser.takes(n, 0.0)] == list(range(0, count, frames))


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 200))
def test_frames_keep_step_with_the_seconds(rate: int, tenths: int, count: int) -> None:
    """The first frame is taken, and from then on the first in each span of so many seconds."""
    chooser, seconds = Chooser(Every(seconds=tenths / 10)), tenths / 10
    taken = [n for n in range(count) if chooser.takes(n, n / rate)]
    spans = np.floor(np.arange(count) / rate / seconds + 1e-4)
    first = [n for n in range(count) if n == 0 or spans[n] > spans[n - 1]]
    assert taken == first


def test_after_a_gap_the_choice_begins_anew() -> None:
    chooser = Chooser(Every(seconds=1))
    times = [0, 0.5, 1, 7.3, 7.9, 8.2, 8.3, 9.3]
    assert [t for n, t in enumerate(times) if chooser.takes(n, t)] == [0, 1, 7.3, 8.3, 9.3]


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("rtsp://h/s", VideoPlace("rtsp://h/s", "rtsp://h/s")),
        ("http://me:secret@h/s", VideoPlace("http://me:secret@h/s", "http://***@h/s")),
        ("v4l2:/dev/video7", VideoPlace("/dev/video7", "v4l2:/dev/video7", "v4l2")),
        ("dshow:video=A B", VideoPlace("video=A B", "dshow:video=A B", "dshow")),
        ("/dev/null", VideoPlace("/dev/null", "/dev/null", "v4l2")),
    ],
)
def test_streams_and_cameras_are_recognised(source: str, place: VideoPlace) -> None:
    assert VideoPlace.of(source) == place


def test_a_file_goes_before_what_its_name_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("v4l2:film").touch()
    assert VideoPlace.of("v4l2:film") == VideoPlace("v4l2:film", "v4l2:film", is_file=True)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("ftp://h/s", "wanted rtsp:// or http://"),
        ("http://", "wanted rtsp:// or http://"),
        ("none.mp4", "does not exist"),
        ("a.png", "is an image: lit-od score"),
    ],
)
def test_any_other_source_is_refused(source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").touch()
    with pytest.raises(ConfigError, match=words):
        VideoPlace.of(source)
