"""Reference pages, written from the code when the documentation is built.

Commands come from their own parsers; recipe keys, options of detectors and threshold rules from the structures that
check them. So a page cannot lag behind.
"""

import argparse
import dataclasses
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

from lit_od.calibration.method import CalibrationOptions
from lit_od.calibration.rules import RULES
from lit_od.commands._catalogue import COMMANDS, GROUPS, load_command, parser_of
from lit_od.detectors.registry import BUILT_IN
from lit_od.images.preparation import Preparation
from lit_od.recipes.schema import Recipe

REFERENCE = Path(__file__).parents[1] / "reference"


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for them."""
    for name, page in (("commands", commands_page()), ("recipes", recipes_page()), ("detectors", detectors_page())):
        file, text = REFERENCE / f"{name}.md", page
        if not file.exists() or file.read_text(encoding="utf-8") != text:  # an unchanged page is not built again
            file.write_text(text, encoding="utf-8")
    app.connect("autodoc-process-docstring", without_types, priority=400)  # before napoleon
    return {"parallel_read_safe": True}


def without_types(app: Sphinx, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking words before a colon for a property's type.

    Args:
        app: The application; not read.
        what: Kind of the object.
        name: Its name; not read.
        of: The object; not read.
        options: Options of the directive; not read.
        lines: Its docstring, changed in place.
    """
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")


def commands_page() -> str:
    """Return the page of all commands."""
    lines = ["# Commands", "", "Written from the commands' own parsers; `lit-od COMMAND --help` prints the same.", ""]
    for group, commands in GROUPS.items():
        lines += [f"To {group}:", "", "| command | |", "|---|---|"]
        lines += [f"| [`{name}`](#lit-od-{name}) | {escaped(text)} |" for name, text in commands.items()]
        lines.append("")
    lines += [
        "`--debug`, with any command, shows the trace of an error. `lit-od --version` prints the version.",
        "[Exit statuses](errors.md#exit-statuses) are the same for all commands.",
        "",
    ]
    for name in COMMANDS:
        lines += command_section(name)
    return "\n".join(lines) + "\n"


def command_section(name: str) -> Iterator[str]:
    """Yield the lines of a command."""
    command = load_command(name)
    parser = parser_of(name, command)
    yield from (f"## lit-od {name}", "")
    for indented, lines in itertools.groupby(
        (command.__doc__ or "").strip().splitlines(), lambda line: line[:1] == " "
    ):
        if indented:
            yield from ("```text", textwrap.dedent("\n".join(lines)), "```", "")
        else:
            yield from (f"{escaped(paragraph)}\n" for paragraph in "\n".join(lines).split("\n\n"))
    usage = parser.format_usage().removeprefix("usage: ").strip()
    yield from ("```text", re.sub(r"\n\s+", "\n    ", usage), "```", "")
    actions = [each for each in parser._actions if each.help is not argparse.SUPPRESS and each.dest != "help"]
    if actions:
        yield from ("| argument | |", "|---|---|")
        yield from (f"| {argument(each)} | {escaped(each.help or '')} |" for each in actions)
        yield ""


def argument(action: argparse.Action) -> str:
    """Return an argument as it is typed."""
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    if not action.option_strings:
        return code(f"{value}{'...' if action.nargs in ('+', '*') else ''}")
    takes = "" if action.nargs == 0 else f" {value}{'...' if action.nargs in ('+', '*') else ''}"
    return ", ".join(code(f"{each}{takes}") for each in action.option_strings)


def recipes_page() -> str:
    """Return the page of recipe keys."""
    lines = [
        "# Recipe keys",
        "",
        "A recipe is a YAML file; `lit-od recipes NAME` prints one to begin with. This page is written from the",
        "structures that check recipes. Every key may be given on the command line: `--data.split.calibration 0.3`.",
        "",
    ]
    seen: dict[type, str] = {}
    waiting: list[tuple[str, type]] = [("", Recipe)]
    while waiting:
        path, struct = waiting.pop(0)
        heading = f"`{path}`" if path else "The recipe"
        lines += [f"## {heading}", ""]
        if struct in seen:
            lines += [f"The keys of `{seen[struct]}`.", ""]
            continue
        seen[struct] = path
        text = summary(struct)
        lines += [text, "", "| key | type | default | |", "|---|---|---|---|"]
        about = attributes(struct)
        hints = typing.get_type_hints(struct)
        for field in msgspec.structs.fields(struct):
            if struct is Preparation and field.name in ("mask", "mask_colour", "overlap"):
                continue  # keys of manifests
            inner = structures(hints[field.name])
            lines.append(
                f"| `{field.name}` | {type_text(hints[field.name])} | {default_text(field)} |"
                f" {escaped(about.get(field.name, ''))} |"
            )
            step = ".NAME" if "dict[" in str(hints[field.name]) else ""
            waiting += [(f"{path}.{field.name}{step}".lstrip("."), each) for each in inner if each not in seen]
        lines.append("")
    lines += calibration_section()
    return "\n".join(lines) + "\n"


def calibration_section() -> list[str]:
    """Return the keys of `calibration`: methods and rules."""
    lines = ["## `calibration`", "", "`rule` is one of these, with its options:", "", "| rule | options and defaults |"]
    lines.append("|---|---|")
    for rule, options in RULES.items():
        listed = ", ".join(code(name if value is None else f"{name}: {value}") for name, value in options.items())
        lines.append(f"| `{rule}` | {listed} |")
    lines += ["", "Besides, of the method:", "", *options_table(CalibrationOptions, leave=("rule",))]
    return lines


def detectors_page() -> str:
    """Return the page of detectors and their options."""
    lines = [
        "# Detectors and their options",
        "",
        "The keys of a recipe's `detector`, written from the classes that check them. `kind` names the detector. In",
        "Python the same options are arguments of its `fit`.",
        "[Choose a detector](../howto/detectors.md) says which is for what.",
        "",
    ]
    for detector in BUILT_IN:
        lines += [f"## `{detector.kind}`", "", summary(detector), "", f"Reads {detector.reads}.", ""]
        about = attributes(detector.accumulator) | attributes(getattr(detector, "fit", None))
        lines += [*options_table(detector.options_type, about=about), ""]
    return "\n".join(lines) + "\n"


def options_table(options: type, *, leave: tuple[str, ...] = (), about: dict[str, str] | None = None) -> list[str]:
    """Return the table of an options dataclass.

    Args:
        options: The dataclass.
        leave: Names of fields to leave out.
        about: Texts of options that the dataclass does not describe itself.
    """
    about = dict(about or {})
    for each in reversed(options.__mro__):
        about |= attributes(each)
    hints = typing.get_type_hints(options)
    fields = [each for each in dataclasses.fields(options) if each.name not in leave]
    if not fields:
        return ["It has no options."]
    lines = ["| option | type | default | |", "|---|---|---|---|"]
    for field in fields:
        lines.append(
            f"| `{field.name}` | {type_text(hints[field.name])} | {default_text(field)} |"
            f" {escaped(about.get(field.name, ''))} |"
        )
    return lines


def summary(described: type) -> str:
    """Return the text of a docstring before its sections."""
    text = (described.__doc__ or "").strip()
    return escaped(" ".join(re.split(r"\n\s*(?:Attributes|Examples?|References?|Args|Raises):", text)[0].split()))


def attributes(described: Any) -> dict[str, str]:
    """Return the text of each attribute or parameter of a Google docstring."""
    config = Config(napoleon_use_ivar=True)
    found: dict[str, str] = {}
    name = ""
    for line in GoogleDocstring(inspect.getdoc(described) or "", config).lines():
        begun = re.match(r":(?:ivar|param) \\?\**(\w+): ?(.*)", line)
        if begun:
            name, found[begun[1]] = begun[1], begun[2]
        elif name and line.startswith(" "):
            found[name] += " " + line.strip()
        elif line.startswith(":vartype") or line.strip():
            name = "" if not line.startswith(":vartype") else name
    return found


def structures(hint: Any) -> list[type]:
    """Return the structures that a type hint names."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [each for inner in typing.get_args(hint) for each in structures(inner)]


def type_text(hint: Any) -> str:
    """Return a type as a reader of YAML knows it."""
    return code(_plain(hint))


def _plain(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in (None, type(None)):
        return "null"
    if hint is Any:
        return "any"
    if origin is typing.Literal:
        return " or ".join(map(str, inner))
    if origin is dict or hint is dict or origin is Mapping:
        return "keys by name" if inner and structures(inner[1]) else "keys"
    if origin is list:
        return f"list of {_plain(inner[0])}"
    if origin is tuple:
        return f"list of {_plain(inner[0])}" if Ellipsis in inner else f"{len(inner)} {_plain(inner[0])}s"
    if inner:
        return " or ".join(dict.fromkeys(_plain(each) for each in inner if each is not msgspec.UnsetType))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return "keys"
    return {"str": "string", "int": "integer", "float": "number", "bool": "true or false"}.get(
        getattr(hint, "__name__", str(hint)), getattr(hint, "__name__", str(hint))
    )


def default_text(field: Any) -> str:
    """Return a default as it would be written."""
    missing = (msgspec.NODEFAULT, dataclasses.MISSING)
    if field.default not in missing:
        value = field.default
    elif field.default_factory not in missing:
        value = field.default_factory()
    else:
        return "needed"
    if isinstance(value, msgspec.Struct):
        return "its defaults"
    if value is msgspec.UNSET or value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict | list):
        return code(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip())
    return code(str(list(value) if isinstance(value, tuple) else value or ('""' if value == "" else value)))


def code(text: str) -> str:
    """Return text as inline code, safe in a table."""
    return "`" + text.replace("|", "\\|") + "`"


def escaped(text: str) -> str:
    """Return plain text as Markdown in one line; code in backticks stays."""
    text = re.sub(r"\bNone\b", "`null`", " ".join(text.replace("%%", "%").split()))
    parts = re.split(r"(`+[^`]*`+)", text)
    parts[::2] = [re.sub(r"([*_<>\[\]|\\$#])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [code(part.strip("`")) for part in parts[1::2]]
    return "".join(parts)
