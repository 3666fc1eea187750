"""HEIC and HEIF images, which the extra `heif` reads."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

ENDINGS = frozenset([".heic", ".heif", ".hif"])
"""Endings, in lower case, of HEIF files."""


@cache
def is_readable() -> bool:
    """Return True if HEIF files can be read; Pillow then knows their format."""
    if find_spec("pillow_heif") is None:
        return False
    import_module("pillow_heif").register_heif_opener()
    return True


def formats() -> tuple[str, ...]:
    """Return Pillow's name of the format, if it is readable."""
    return ("HEIF",) if is_readable() else ()
