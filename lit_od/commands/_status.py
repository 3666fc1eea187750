"""Exit statuses, and the interface of a command."""

import argparse
from typing import Protocol

DONE, INCOMPLETE, REFUSED, INTERRUPTED = 0, 1, 2, 130


class Command(Protocol):
    """What a module of `lit_od.commands` holds."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace, overrides: list[str]) -> int:
        """Carry the command out; the exit status."""
