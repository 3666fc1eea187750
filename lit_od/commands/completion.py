"""Print a script that completes commands and options, for bash, zsh or fish.

lit-od completion bash > ~/.local/share/bash-completion/completions/lit-od
lit-od completion zsh > ~/.zfunc/_lit-od        a folder of $fpath; then start a new shell
lit-od completion fish > ~/.config/fish/completions/lit-od.fish
"""

import argparse

from lit_od.commands._arguments import extra, no_overrides
from lit_od.commands._catalogue import COMMANDS, Parser, load_command
from lit_od.commands._status import DONE
from lit_od.recipes.load import shipped

SHELLS = ("bash", "zsh", "fish")

FOLDERS = ("BUNDLE", "BUNDLE2", "DIR", "RUN", "ROOT", "A", "B")
"""Metavars of arguments that name folders."""


FILES = ("PATH", "FILE", "ROWS", "SOURCE", "CHECKPOINT", ".onnx")
"""Parts of the metavars of arguments that name files, or files and folders."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Print the script."""
    no_overrides(overrides)
    with extra("completion,cpu"):
        import shtab
    program = Parser(prog="lit-od", description="Detect outlier images.")
    commands = program.add_subparsers()
    for name, text in COMMANDS.items():
        parser = commands.add_parser(name, help=text)
        load_command(name).add_arguments(parser)
        for action in parser._actions:
            metavar = str(action.metavar)
            if metavar == "RECIPE":
                action.choices = list(shipped())
            elif metavar in FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif any(each in metavar for each in FILES):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(program, shell=args.shell))
    return DONE
