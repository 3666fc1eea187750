"""Videos for tests, made by PyAV, and a server that sends one again and again."""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np


def pixels(number: int, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """A plain grey frame, the lighter the higher its number, with a white upper left quarter."""
    frame = np.full((*size, 3), 4 * number % 200, np.uint8)
    frame[: size[0] // 2, : size[1] // 2] = 255
    return frame


def write_video(file: Path | io.BytesIO, count: int, *, codec: str = "mpeg4", form: str | None = None) -> None:
    """Write a video of `count` frames, 10 a second."""
    import av

    with av.open(file if isinstance(file, io.BytesIO) else str(file), "w", format=form) as out:
        stream = out.add_stream(codec, rate=10)
        stream.height, stream.width = pixels(0).shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 5
        for number in range(count):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels(number), format="rgb24")))
        out.mux(stream.encode(None))


@contextmanager
def sent(answers: Sequence[bytes | None], *, length: bool = False, missing: int = 0) -> Iterator[str]:
    """Serve a body for each request, None for one that is refused; the last one for all that follow.

    Args:
        answers: The bodies.
        length: Whether the client is told their length, as of a file; else it looks like an endless stream.
        missing: Bytes that are told and never come.
    """
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(503 if body is None else 200)
            if length and body is not None:
                self.send_header("Content-Length", str(len(body) + missing))
            self.end_headers()
            if body is not None:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/stream"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
