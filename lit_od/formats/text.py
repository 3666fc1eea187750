"""Format lines of text: rows of CSV tables and messages."""

from collections.abc import Sequence
from typing import Any


def csv_row(fields: Sequence[str]) -> str:
    """Format a row of CSV (RFC 4180, but ending in a line feed).

    csv.writer of Python 3.12 leaves carriage returns unquoted.
    """
    quoted = ('"' + each.replace('"', '""') + '"' if set(each) & set(',"\r\n') else each for each in fields)
    return ",".join(quoted) + "\n"


def one_line(words: object, most: int = 300) -> str:
    """Format untrusted text as one line of printable characters.

    Longer text is cut to `most` characters, followed by "...".
    """
    text = str(words)
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:most])
    return shown if len(text) <= most else f"{shown}..."


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object from its pairs, as an `object_pairs_hook` does.

    Raises:
        ValueError: If a key stands twice.
    """
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key stands twice")
    return tree
