"""Keep the log lines of libraries off the terminal for a while."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def quiet_logging(names: Iterable[str], level: int) -> Iterator[None]:
    """Let Python's loggers pass nothing below a level until the block ends."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
