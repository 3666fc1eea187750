"""Rows of text tables, as commands write them."""

from collections.abc import Sequence


def csv_row(fields: Sequence[str]) -> str:
    """A line of CSV (RFC 4180, but ending in a line feed): csv.writer of Python 3.12 leaves carriage returns bare."""
    quoted = ('"' + each.replace('"', '""') + '"' if set(each) & set(',"\r\n') else each for each in fields)
    return ",".join(quoted) + "\n"
