"""Limits of the server, and refusals."""

from dataclasses import dataclass

from lit_od.images.memory import MOST_BYTES_A_PIXEL

MIB = 2**20
MILLION = 10**6

RETRY_AFTER = 1
"""Seconds after which to try again when the server is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of memory and time.

    Attributes:
        body: Bytes of one request.
        images: Images of one request.
        pixels: Pixels of one image, at most those that `lit_od.images.preparation` decodes.
        queue: Requests that wait or are being scored.
        memory: Bytes of all bodies, pictures and unread answers at once.
        connections: Open connections; many systems allow a process some 1,000 files.
        time: Seconds that a request may wait and be scored, once its body is there.
        patience: Seconds that a client may take over a request's head, be silent within its body, or read nothing of
            its answer.
        rate: Bytes a second at which a body must come, and an answer be read, in the long run.
        drain: Seconds for which an unwanted body is still read, so that its sender gets to read the answer.
        grace: Seconds that requests may go on when the server is stopped.
    """

    body: int = 64 * MIB
    images: int = 1024
    pixels: int = 50 * MILLION
    queue: int = 256
    memory: int = 512 * MIB
    connections: int = 512
    time: float = 300.0
    patience: float = 15.0
    rate: int = 64 * 1024
    drain: float = 2.0
    grace: float = 10.0

    @property
    def decoding(self) -> int:
        """Return the bytes that images may take at once while they are decoded.

        They suffice for any single one, but for very wide ones.
        """
        return MOST_BYTES_A_PIXEL * self.pixels


class Refused(Exception):
    """An answer other than 200.

    Args:
        status: The HTTP status.
        message: One line: the error, and the mend.
        retry_after: Seconds after which to try again; None if that does not help.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


class ClientGone(Exception):
    """Signal that the client has left, so that no answer is needed."""
