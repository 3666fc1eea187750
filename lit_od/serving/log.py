"""Lines of the log: text for people, or an object of JSON a line for programs."""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from lit_od.formats.text import printable, unicode_text

TEXT, JSON = FORMS = ("text", "json")
"""Forms of the log."""


@dataclass(frozen=True, slots=True)
class Log:
    """A log on standard error.

    Attributes:
        form: "text" or "json".
    """

    form: str = TEXT

    def say(self, event: str, message: str, fields: Mapping[str, object] | None = None, *, level: str = "info") -> None:
        """Write a line.

        Args:
            event: Short name of what happened, for programs.
            message: The line for people.
            fields: Further values for programs.
            level: "info", "warning" or "error", for programs.
        """
        if self.form == TEXT:
            _write(f"lit-od: {printable(message)}")
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        head = {"time": time, "level": level, "event": event, "message": unicode_text(message)}
        _write(json.dumps({**head, **(fields or {})}, default=str))

    def note(self, event: str, message: str, fields: Mapping[str, object]) -> None:
        """Write a line that only programs read, such as one a request.

        Args:
            event: As `say`.
            message: As `say`.
            fields: As `say`.
        """
        if self.form == JSON:
            self.say(event, message, fields)


def _write(line: str) -> None:
    """Write a whole line at once; who reads the log may have left."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
