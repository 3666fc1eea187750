"""Access by a token, where the server has one."""

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from starlette.datastructures import Headers

from lit_od.errors import ConfigError
from lit_od.serving.limits import Refused

HEALTH = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
"""Addresses that tell if the server lives and is ready."""

OPEN = HEALTH | {"/", "/docs", "/openapi.json"}
"""Addresses that need no token: health, and files of the package, which tell nothing of bundles and images."""

MOST_BYTES = 4096
"""Largest file of a token: a header line that holds it must be taken by clients and proxies."""


@dataclass(frozen=True, slots=True)
class Token:
    """A secret that requests must carry.

    Attributes:
        digest: Its hash: to compare hashes takes the same time whatever is given, and however long.
    """

    digest: bytes = field(repr=False)

    @classmethod
    def read(cls, file: str) -> Self:
        """Read a token from a file of one line.

        Raises:
            ConfigError: If the file cannot be read, or holds anything else than one line of visible ASCII.
        """
        try:
            with Path(file).open("rb") as opened:
                text = opened.read(MOST_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"cannot read --token-file {file}: {error.strerror or error}") from None
        token = text.removesuffix(b"\n").removesuffix(b"\r")
        if not token or len(text) > MOST_BYTES or not all(0x21 <= each <= 0x7E for each in token):
            raise ConfigError(
                f"--token-file {file} must hold one line of 1 to {MOST_BYTES} ASCII characters without spaces. "
                "Make one with: openssl rand -hex 32"
            )
        return cls(_hash(token))

    def require(self, path: str, headers: Headers) -> None:
        """Check that a request may go on.

        Raises:
            Refused: 401 if its address is not open and it does not carry the token.
        """
        if path in OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Refused(401, "this server wants a token: send the header Authorization: Bearer TOKEN")
        if not hmac.compare_digest(_hash(given.strip().encode("latin-1")), self.digest):
            raise Refused(401, "the token is not this server's")


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
