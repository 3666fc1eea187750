"""The commands by group, and their parsers."""

import argparse
import re
from importlib import import_module
from typing import NoReturn

from lit_od.commands._status import Command
from lit_od.errors import ConfigError
from lit_od.formats.text import did_you_mean

GROUPS = {
    "make": {
        "demo": "the quick tour on images that ship with the package",
        "fit": "the whole job: train, export, fit, calibrate, prove, write a bundle",
        "train": "only the training: a run folder with the best checkpoint",
        "export": "a bundle from a checkpoint",
        "refit": "new statistics from new normal images, same backbone",
        "quantize": "the backbone in int8, the rest fitted anew on it",
        "compile": "one ONNX file of a bundle, for any runtime",
        "recipes": "the shipped recipes",
    },
    "use": {
        "score": "score images: a row an image",
        "classify": "the bundle whose p-value is largest, one bundle a class",
        "watch": "score what arrives: new files, frames of a video, a stream, a camera",
        "serve": "a local page and an HTTP interface",
    },
    "judge": {
        "evaluate": "how well a bundle tells inliers from outliers",
        "report": "the same with pictures and galleries, on a page that opens in a browser",
        "compare": "where two bundles differ on the same images",
        "benchmark": "recipes against data sets of defects, in one table",
        "reproduce": "run a published experiment from end to end",
    },
    "operate": {
        "threshold": "show or set a bundle's threshold",
        "accept": "false alarms become normal images",
        "history": "what was changed in a bundle, when, on which images",
        "rollback": "an earlier state of a bundle, to the byte",
        "monitor": "a drift alarm on the scores of rows, with a bound on false alarms",
    },
    "look": {
        "check": "read every image once: a clean list, the refused with reasons, duplicates",
        "inspect": "what a bundle is",
        "verify": "check a bundle's files and score its golden images again",
        "bench": "how fast a bundle scores here, beside the bare graph",
        "doctor": "what is installed here, and what is missing for which command",
        "completion": "completion of commands and options for a shell",
    },
}
"""Commands by their purpose, each with its line of help."""

COMMANDS = {name: text for commands in GROUPS.values() for name, text in commands.items()}
"""Every command with its line of help."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of printing usage."""
        unknown = re.findall(r"(?<=\s)(--[\w-]+)", message) if message.startswith("unrecognized arguments") else []
        hints = [hint for word in unknown if (hint := did_you_mean(word, self._option_string_actions))]
        raise ConfigError(f"{message}{hints[0] if hints else '.'} See {self.prog} --help")


def load_command(name: str) -> Command:
    """Import a command.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f": wanted one of {', '.join(COMMANDS)}"
        raise ConfigError(f"no command {name!r}{hint}")
    command: Command = import_module(f"lit_od.commands.{name}")
    return command


def parser_of(name: str, command: Command) -> Parser:
    """Return the parser of a command."""
    parser = Parser(
        prog=f"lit-od {name}",
        description=command.__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    return parser
