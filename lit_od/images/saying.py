"""Tell the user about images, a line at a time."""

import logging
from functools import cache

from lit_od.runtime.processes import is_first

_LOG = logging.getLogger(__name__)
"""Logger that Python prints to standard error where nothing else is set up."""


def say_once(line: str) -> None:
    """Log a line, in the first process of a job alone; the same line only once."""
    if is_first():
        _say(line)


@cache
def _say(line: str) -> None:
    _LOG.warning("lit-od: %s", line)
