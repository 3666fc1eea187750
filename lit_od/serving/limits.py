"""What a server takes at most, and how it refuses the rest."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of memory and time. An image's pixels are bounded where it is decoded, in `lit_od.images`.

    Attributes:
        body: Bytes of one request.
        images: Images of one request.
        queue: Requests that wait or are being scored.
        memory: Bytes of all bodies at once.
        connections: Open connections; many systems allow a process some 1,000 files.
        patience: Seconds that a client may take over a request's head, and over its body before `rate` counts.
        rate: Bytes a second at which a body must come in the long run.
        drain: Seconds for which an unwanted body is still read, so that its sender gets to read the answer.
        grace: Seconds that requests may go on when the server is stopped.
    """

    body: int = 64 * MIB
    images: int = 1024
    queue: int = 256
    memory: int = 512 * MIB
    connections: int = 512
    patience: float = 15.0
    rate: int = 64 * 1024
    drain: float = 2.0
    grace: float = 10.0


class Refused(Exception):
    """An answer other than 200.

    Attributes:
        status: The HTTP status.
        message: One line: what is wrong, and the mend.
        retry_after: Seconds after which to try again, where that may help.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


class ClientGone(Exception):
    """Nobody waits for the answer any more."""
