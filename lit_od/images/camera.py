"""Frames of video files, streams and cameras, by PyAV (the extra `video`).

A video file is read at the pace of whoever takes its frames. A stream or a camera goes on by itself: a thread decodes
it, and of the frames that nobody has taken in time only the latest are kept.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from lit_od.errors import DataError, first_line, missing_extra
from lit_od.formats.text import one_line
from lit_od.images.folder_walk import Version, version_of
from lit_od.images.video_place import Chooser, Every, Frame, VideoPlace

FILE_PROTOCOLS = "file"
STREAM_PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto,data,rtp,srtp,udp"
"""Protocols that a file, or a stream, may lead to: a playlist of a stranger reads no file of this machine."""

PATIENCE = 10.0
"""Seconds without an answer or a frame after which a stream is broken off."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before each attempt to connect anew; the last one for all that follow."""

TICK = 0.2
"""Seconds between two looks at what ends the wait for a frame."""

_LOG = logging.getLogger(__name__)
"""Logger that Python prints to standard error where nothing else is set up."""


@dataclass(slots=True)
class Decoded:
    """Counts of what has been read of a video so far.

    Attributes:
        frames: Number of decoded frames.
        damaged: Number of packets that could not be decoded.
    """

    frames: int = 0
    damaged: int = 0


@contextmanager
def _opened(place: VideoPlace, threads: int | None) -> Iterator[tuple[Any, Any]]:
    """Open a video for the block, and yield its container and its first video stream.

    Raises:
        DataError: If it cannot be opened, or has no video.
    """
    av = _av()
    options = {"protocol_whitelist": FILE_PROTOCOLS if place.is_file else STREAM_PROTOCOLS}
    if place.form is not None:
        options = {}
    elif place.address.lower().startswith("rtsp"):
        options = {"rtsp_flags": "prefer_tcp"}
    try:
        container = av.open(
            f"file:{place.address}" if place.is_file else place.address,
            format=place.form,
            options=options,
            timeout=None if place.is_file else PATIENCE,
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise DataError(f"{place.name} cannot be opened as a video: {_cause(error)}") from None
    with container:
        if not container.streams.video:
            raise DataError(f"{place.name} holds no video")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads or 0
        stream.thread_type = "AUTO" if place.is_file else "SLICE"  # threads of whole frames hold some frames back
        yield container, stream


def _av() -> Any:
    """Import PyAV. Raises MissingExtra if it is not installed."""
    try:
        import av
    except ModuleNotFoundError:
        missing_extra("PyAV", "video,cpu")
    av.logging.set_level(None)  # what matters comes as an error
    return av


def _is_finite(container: Any) -> bool:
    """Return True for a stream that has an end, as a video file on a web server."""
    playlist = container.format.name in ("hls", "dash")
    return bool(container.duration) or (not playlist and container.size > 0)


def _cause(error: Exception) -> str:
    """Describe an error of FFmpeg in a line, without the address."""
    if isinstance(error, _av().error.ExitError):  # as PyAV ends it: "immediate exit requested"
        return f"nothing came for {PATIENCE:g} s"
    words = getattr(error, "strerror", None) or first_line(error)
    return one_line(words[:1].lower() + words[1:])


def _frames(container: Any, stream: Any, decoded: Decoded) -> Iterator[Any]:
    """Decode packet by packet, past those that are damaged."""
    av = _av()
    for packet in container.demux(stream):
        try:
            found = packet.decode()
        except av.error.InvalidDataError:
            decoded.damaged += 1
            continue
        for frame in found:
            decoded.frames += 1
            yield frame


def _pixels(frame: Any) -> Any:
    """Return a frame's pixels, upright, (h, w, 3) uint8."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


class VideoFile:
    """A video file, whose every chosen frame is taken.

    Attributes:
        decoded: Counts of what has been read so far.
        expected: Number of frames that it says it has; None where it does not say.
    """

    def __init__(self, place: VideoPlace, every: Every, *, threads: int | None = None) -> None:
        """Open the file once, to see that it is a video.

        Args:
            place: Its place.
            every: The choice among its frames.
            threads: Threads of the decoder; None is one a core.

        Raises:
            DataError: If it is none.
            MissingExtra: If PyAV is not installed.
        """
        self._place, self._every, self._threads = place, every, threads
        self.decoded = Decoded()
        with _opened(place, threads) as (_, stream):
            self.expected: int | None = stream.frames or None

    def frames(self, stop: threading.Event, known: Callable[[str, Version], bool]) -> Iterator[Frame]:
        """Yield the chosen frames until the end, or until stopped.

        Args:
            stop: Ends the reading.
            known: Returns True for the key and version of a frame that is left out.

        Raises:
            DataError: If reading fails.
        """
        path, chooser = Path(self._place.address), Chooser(self._every)
        key, version = str(path.resolve()), version_of(path.stat())
        with _opened(self._place, self._threads) as (container, stream):
            try:
                for frame in _frames(container, stream, self.decoded):
                    if stop.is_set():
                        return
                    number = self.decoded.frames - 1
                    seconds = _seconds(frame, stream, number)
                    if chooser.takes(number, seconds) and not known(own := f"{key}#{number}", version):
                        name = f"{self._place.name}#{number}"
                        yield Frame(_pixels(frame), name, None, number, round(seconds, 3), own, version)
            except _av().error.FFmpegError as error:
                raise DataError(f"{self._place.name} breaks off: {_cause(error)}") from None


def _seconds(frame: Any, stream: Any, number: int) -> float:
    """Return the time of a frame from the start of its file."""
    if frame.time is None:
        return number / float(stream.average_rate or 25)
    start = float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
    return float(frame.time) - start


class LiveVideo:
    """A stream or a camera, of which the latest frames are taken in a block.

    It connects again where it breaks off, after longer and longer pauses.

    Attributes:
        decoded: Counts of what has been read so far.
        dropped: Number of chosen frames that nobody took in time.
        breaks: Number of times that it broke off.
        ends: True for a stream that has an end, as a video file on a web server.
    """

    def __init__(self, place: VideoPlace, every: Every, *, most: int, threads: int | None = None) -> None:
        """Take a place.

        Args:
            place: The place.
            every: The choice among its frames.
            most: Number of frames that are kept for whoever takes them.
            threads: Threads of the decoder; None is one a core.

        Raises:
            MissingExtra: If PyAV is not installed.
        """
        _av()
        self._place, self._every, self._threads = place, every, threads
        self._kept: deque[Frame] = deque()
        self._most = most
        self._changed = threading.Condition()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._left,), name="lit_od-camera", daemon=True)
        self._over = False
        self._error: Exception | None = None
        self.decoded = Decoded()
        self.dropped = self.breaks = 0
        self.ends = False

    def __enter__(self) -> Self:
        """Connect, and wait for the first frame.

        Raises:
            DataError: If none comes.
        """
        self._thread.start()
        with self._changed:
            while not (self._kept or self._over):
                self._changed.wait(TICK)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join(TICK)  # one that waits for a server ends with the process

    def arrivals(self, stop: threading.Event) -> Iterator[list[Frame]]:
        """Yield the latest frames, until the end or until stopped.

        Raises:
            LitODError: If the thread that reads them has failed.
        """
        while not stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._kept or self._over, TICK)
                found = list(self._kept)
                self._kept.clear()
                self._changed.notify_all()
            if found:
                yield found
            elif self._error is not None:
                raise self._error
            elif self._over:
                return

    def _run(self, stop: threading.Event) -> None:
        """Read the video until the end, or until stopped, whatever breaks off."""
        try:
            failures = 0
            while not stop.is_set():
                before = self.decoded.frames
                cause = self._read(stop)
                if self.ends or stop.is_set():
                    return
                if self.decoded.frames > before:
                    failures = 0
                    self.breaks += 1
                elif not self.decoded.frames:
                    raise DataError(cause)
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                _LOG.warning("lit-od: %s; connecting again in %g s", cause, pause)
                failures += 1
                stop.wait(pause)
        except Exception as error:  # of any kind: the thread that takes the frames raises it again
            self._error = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _read(self, stop: threading.Event) -> str:
        """Read one connection to its end, and describe that end."""
        cause = f"{self._place.name} has ended"
        first, finite = True, False
        try:
            with _opened(self._place, self._threads) as (container, stream):
                finite = self._place.form is None and _is_finite(container)
                chooser = Chooser(self._every)
                for frame in _frames(container, stream, self.decoded):
                    if stop.is_set():
                        return cause
                    if first and self.breaks:
                        _LOG.warning("lit-od: %s is back", self._place.name)
                    first = False
                    number = self.decoded.frames - 1
                    seconds = _seconds(frame, stream, number) if finite else time.monotonic()
                    if chooser.takes(number, seconds):
                        self._keep(frame, number, waits=finite, stop=stop)
                self.ends = finite
        except DataError as error:  # it was not opened
            return str(error)
        except _av().error.FFmpegError as error:
            cause = f"{self._place.name} broke off: {_cause(error)}"
            if finite:  # connected again, it would begin anew
                raise DataError(f"{cause}, after {self.decoded.frames:,} frames") from None
            return cause
        return f"{self._place.name} sent no frame" if first else cause

    def _keep(self, frame: Any, number: int, *, waits: bool, stop: threading.Event) -> None:
        """Keep a frame, in place of the oldest where there is no room.

        Args:
            frame: The decoded frame.
            number: Its number.
            waits: Wait for room instead.
            stop: Ends the wait.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        kept = Frame(_pixels(frame), f"{self._place.name}#{number}", number=number, time=now)
        with self._changed:
            while waits and len(self._kept) >= self._most and not stop.is_set():
                self._changed.wait(TICK)
            if len(self._kept) >= self._most:
                self._kept.popleft()
                self.dropped += 1
            self._kept.append(kept)
            self._changed.notify_all()
