"""Format lines of text: rows of CSV tables and messages."""

from collections.abc import Iterable, Sequence
from typing import Any

FOREIGN_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))
"""Characters by which Python stands for bytes of names that are no Unicode."""


def csv_row(fields: Sequence[str]) -> str:
    """Format a row of CSV (RFC 4180, but ending in a line feed).

    csv.writer of Python 3.12 leaves carriage returns unquoted.
    """
    quoted = ('"' + each.replace('"', '""') + '"' if set(each) & set(',"\r\n') else each for each in fields)
    return ",".join(quoted) + "\n"


def csv_cell(value: object) -> str:
    """Return a value as a cell of CSV: None is empty, truth is in small letters."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def csv_path(name: str) -> str:
    """Return a path as a cell that no spreadsheet takes for a formula.

    A name that begins with = + - or @ gets "./" before it, which names the same file. Labels and errors stay.
    """
    return f"./{name}" if name.startswith(("=", "+", "-", "@")) else name


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the known word nearest to a wrong one.

    Empty where none is near.
    """
    from difflib import get_close_matches  # only for messages

    close = get_close_matches(word, list(known), n=1, cutoff=0.65)
    return f": did you mean {close[0]}?" if close else ""


def printable(text: str, keep: str = "") -> str:
    r"""Replace what a terminal could take for a command by escapes such as \x1b.

    Bytes of names that are no Unicode are shown as \udcff.

    Args:
        text: Untrusted text.
        keep: Characters to keep, such as line feeds.
    """
    return "".join(each if each.isprintable() or each in keep else ascii(each)[1:-1] for each in text)


def unicode_text(text: str) -> str:
    """Replace bytes of names that are no Unicode by backslash escapes."""
    return text.encode(errors="backslashreplace").decode()


def one_line(words: object, most: int = 300) -> str:
    """Format untrusted text as one line of printable characters.

    Longer text is cut to `most` characters, followed by "...".
    """
    text = str(words)
    shown = printable(text[:most])
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
