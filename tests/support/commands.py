"""A command that was run in this process."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """Exit status of a command, and the text that it printed."""

    status: int
    out: str
    err: str
