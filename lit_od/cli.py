"""The program `lit-od`: parse, call, print.

Each command is a module of `lit_od.commands`. Only the command that is called is imported, so that scoring starts
without waiting for training.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from lit_od.commands._catalogue import COMMANDS, GROUPS, load_command, parser_of
from lit_od.commands._status import DONE, INTERRUPTED, REFUSED
from lit_od.errors import ConfigError, LitODError, LitODWarning
from lit_od.formats.text import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lit-od` and return its exit status.

    Args:
        argv: Words of the command line; None takes those of this process.
    """
    _open_closed_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    if hasattr(sys.stdout, "reconfigure"):  # as --out writes; names that are not Unicode go out as the bytes they are
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        status = _run(words, debug=debug)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone: no message at exit
        return DONE
    except KeyboardInterrupt as stop:
        if debug:
            raise
        return _complain(str(stop) or "interrupted", INTERRUPTED)
    except LitODError as error:
        if debug:
            raise
        return _complain(str(error), REFUSED)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", REFUSED)
    except Exception as error:  # a defect of ours: the user gets a line, --debug the traceback
        if debug:
            raise
        return _complain(f"unexpected {type(error).__name__}: {error}. Run again with --debug for the trace", REFUSED)


def _open_closed_streams() -> None:
    """Let standard streams that the caller closed lead nowhere.

    Else Python has none of them, and the next file that is opened takes their place.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning of ours as errors are printed, and any other as Python does."""
    if issubclass(category, LitODWarning):
        return f"lit-od: {printable(str(message))}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _run(words: list[str], *, debug: bool) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE
    if words[0] in ("-V", "--version", "version"):
        from lit_od.versions import __version__

        print(__version__)
        return DONE
    name = words[0]
    command = load_command(name)
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own limit says it
    warnings.formatwarning = _one_line
    parser = parser_of(name, command)
    plain, overrides = split_overrides(words[1:])
    try:
        _require_values(name, plain)
        args = parser.parse_args(plain)
    except ConfigError:
        from lit_od.runtime.processes import is_first

        if not is_first():  # every process of a job finds the same, and the first one reports it
            return REFUSED
        raise
    args.debug = debug  # for the processes that a command starts
    for place in filter(None, (getattr(args, name, None) for name in ("out", "maps", "regions"))):
        from lit_od.bundle.plain_files import require_outside

        require_outside(Path(place))
    return command.run(args, overrides)


def _require_values(name: str, words: list[str]) -> None:
    """Raise ConfigError for an empty argument.

    It would be taken for none, or for this folder.
    """
    for before, word in pairwise([name, *words]):
        if not word or (word.startswith("--") and word.endswith("=")):
            place = f"the value of {word}" if word else f"the argument after {before}"
            raise ConfigError(f"{place} is empty: leave it out, or see that its variable is set")


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate overrides of a recipe from all other words.

    An override is `--part.key VALUE` or `--part.key=VALUE`.
    """
    plain: list[str] = []
    overrides: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":  # what follows are paths, whatever they look like
            return [*plain, word, *rest], overrides
        if word.startswith("--") and "." in word.partition("=")[0]:
            overrides.append(word)
            if "=" not in word and rest and not rest[0].startswith("--"):
                overrides.append(rest.pop(0))
        else:
            plain.append(word)
    return plain, overrides


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines: list[str] = []
    for group, commands in GROUPS.items():
        lines += [f"{group}:", *(f"  {name:{width}}  {text}" for name, text in commands.items()), ""]
    return "\n".join(
        [
            "usage: lit-od COMMAND [arguments]",
            "",
            "Detect outlier images: train with Lightning, export to ONNX, score anywhere without torch.",
            "",
            *lines,
            "lit-od COMMAND --help tells more; --debug shows the trace of an error.",
            "Exit status: 0 done, 1 some images could not be read (or verify found a difference), 2 refused,",
            "3 monitor raised its alarm.",
        ]
    )


def _complain(message: str, status: int) -> int:
    with contextlib.suppress(OSError):  # nobody reads standard error
        print(printable(f"lit-od: {' '.join(message.split())}"), file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
