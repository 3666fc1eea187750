"""Places that frames come from, and the choice among frames; no decoder."""

import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lit_od.errors import ConfigError, without_credentials
from lit_od.images.folder_search import endings
from lit_od.images.folder_walk import Version
from lit_od.images.sources import ImageArray

SCHEMES = ("rtsp", "rtsps", "http", "https")
"""Schemes of the streams' URLs."""

DEVICES = ("v4l2", "avfoundation", "dshow")
"""FFmpeg's names of cameras on Linux, macOS and Windows."""


@dataclass(frozen=True, slots=True)
class Frame(ImageArray):
    """A frame of a video.

    Attributes:
        number: Its number among the decoded frames, from 0.
        time: Seconds from the start of a video file; of a stream the time at which it came, in ISO 8601, UTC.
        key: Name by which it is remembered; empty in a stream, where no frame comes twice.
        version: Size and time of change of the video file.
    """

    number: int = 0
    time: float | str | None = None
    key: str = ""
    version: Version = (0, 0)


@dataclass(frozen=True, slots=True)
class Every:
    """A choice among the frames of a video.

    Attributes:
        frames: One of so many frames is taken.
        seconds: Seconds at least from one taken frame to the next; None without such a limit.
    """

    frames: int = 1
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `10`, one frame of ten, or `0.5s`, one frame in half a second.

        Raises:
            ConfigError: If it is neither.
        """
        found = re.fullmatch(r"(\d+)|(\d*\.?\d+) ?s", text)
        if found is None or not float(found[1] or found[2]):
            raise ConfigError(f"--every takes a number of frames, such as 10, or seconds, such as 0.5s; got {text!r}")
        return cls(frames=int(found[1])) if found[1] else cls(seconds=float(found[2]))


class Chooser:
    """The choice among frames that come one after the other."""

    def __init__(self, every: Every) -> None:
        """Begin before the first frame."""
        self._every, self._next = every, -math.inf

    def takes(self, number: int, seconds: float) -> bool:
        """Return True for a frame, by number and time, that is taken."""
        if self._every.seconds is None:
            return number % self._every.frames == 0
        if seconds < self._next - 1e-6:
            return False
        # in step with the first frame, whatever the distance of frames; anew after a gap
        later = self._next + self._every.seconds
        self._next = later if later > seconds else seconds + self._every.seconds
        return True


@dataclass(frozen=True, slots=True)
class VideoPlace:
    """The place that frames come from.

    Attributes:
        address: Address for FFmpeg.
        name: Name of the place in rows and messages, without credentials.
        form: FFmpeg's name of a kind of device; None for files and streams.
        is_file: True for a file of this machine.
    """

    address: str
    name: str
    form: str | None = None
    is_file: bool = False

    @classmethod
    def of(cls, source: str) -> Self:
        """Recognise a video file, the URL of a stream or a camera.

        Raises:
            ConfigError: If it is none.
        """
        scheme, slashes, rest = source.partition("://")
        path = Path(source)
        if slashes and not path.exists():
            if scheme.lower() not in SCHEMES or not rest.strip("/"):
                raise ConfigError(f"{source} is no stream that can be watched: wanted rtsp:// or http://")
            return cls(source, without_credentials(source))
        kind, _, device = source.partition(":")
        if kind in DEVICES and device and not path.exists():
            return cls(device, source, kind)
        if not path.exists():
            raise ConfigError(
                f"{source} does not exist: wanted a folder, a video file, a camera such as /dev/video0, or a stream, "
                "rtsp:// or http://"
            )
        if stat.S_ISCHR(path.stat().st_mode):
            return cls(source, source, "v4l2")
        if path.suffix.lower() in endings():
            raise ConfigError(f"{source} is an image: lit-od score takes it, watch wants a folder, a video or a stream")
        return cls(str(path), source, is_file=True)
