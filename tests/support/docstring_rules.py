"""Rules of docstrings, checked in the source of one file."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef | ast.Module

MOST_CHARACTERS = 79
"""Longest first line of a docstring."""

FEW_PARAMETERS = 2
"""A public function with more parameters describes each of them."""

QUESTION = re.compile(r"(What|Whether|How|Where|Which|Who)\b")

RIDDLE = re.compile(
    r"\bas (?:it is|they are)(?=[.,;:]|$)|\bof (?:its|their|his|one's) own\b|\bwhat is (?:asked|to be)\b|\b[Bb]y what\b"
    r"|\b[Ff]rom what\b|\b[Tt]o what\b|\bcannot be\.",
    re.MULTILINE,
)

NO_VERB = set(
    "A All Also An Area Around As At Average Away Both By Class Density Detector Each Either Every Exact Few For From "
    "Golden Heat Height If In Input Integer Into It Kind Left Local Lower Many Max Mean More Most Negative No None Not "
    "Nothing Number Of On One Only Opset Outlier Over Part Penalised Percent Percentile Pixel Room Row Same Share So "
    "Some Squared Standard Such That The Their This Three To True Two Under Until Upper Weight When While Whole Width "
    "With Within Without".split()
)
"""Words that no function's docstring begins with, besides all that end in s: plurals and the third person."""

NO_NOUN = set(
    "Accumulates Answers Checks Finds Gathers Holds Keeps Logs Makes Nobody Passes Reads Runs Some Stops Takes Those "
    "Watches Writes".split()
)
"""Words that no class' docstring begins with."""

SECTIONS = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$", re.MULTILINE)

GIVEN = re.compile(
    r"\.(on_\w+|configure_\w+|(training|validation|test)_step|forward|save_checkpoint|log_hyperparams|log_metrics)$"
)
"""Methods whose parameters a library has named and documented."""


def offences(source: str) -> Iterator[tuple[int, str]]:
    """Find what is wrong with the docstrings of a file.

    Args:
        source: Text of a Python file.

    Yields:
        The line, and the name with the rule that it breaks.
    """
    tree = ast.parse(source)
    yield from _text(tree, "module")
    yield from _attributes(tree)
    yield from _members(tree, "", public=True)


def _members(node: ast.AST, prefix: str, *, public: bool) -> Iterator[tuple[int, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            name = prefix + child.name
            yield from _text(child, name)
            yield from _members(child, f"{name}.", public=public and not child.name.startswith("_"))
        elif isinstance(child, Function):
            name = prefix + child.name
            if "overload" not in _decorators(child):
                yield from _text(child, name)
                if public and not child.name.startswith("_"):
                    yield from _sections(child, name)
                elif public and child.name == "__init__" and isinstance(node, ast.ClassDef):
                    yield from _arguments(child, name, f"{_section(node, 'Args')}{_section(child, 'Args')}")
            yield from _members(child, f"{name}.", public=False)
        elif isinstance(child, ast.stmt):
            yield from _members(child, prefix, public=public)


def _text(node: Documented, name: str) -> Iterator[tuple[int, str]]:
    doc = ast.get_docstring(node)
    line = getattr(node, "lineno", 1)
    if not doc:
        return
    first = doc.splitlines()[0]
    word = first.split()[0].rstrip(",;:.")
    if len(first) > MOST_CHARACTERS:
        yield line, f"{name}: the first line has {len(first)} characters"
    if QUESTION.match(first):
        yield line, f"{name}: begins with {word}"
    elif isinstance(node, ast.ClassDef):
        if word in NO_NOUN:
            yield line, f"{name}: begins with {word}, which is no noun"
    elif isinstance(node, Function) and not _is_property(node) and not _is_verb(word):
        yield line, f"{name}: begins with {word}, which is no verb"
    for riddle in RIDDLE.finditer(doc):
        yield line, f"{name}: says {riddle[0]!r}"
    for section in sorted(set(SECTIONS.findall(doc))):
        if SECTIONS.findall(doc).count(section) > 1:
            yield line, f"{name}: has {section} twice"
    for section in ("Args", "Attributes", "Returns", "Yields"):
        for entry in re.finditer(r"^ {4}(?:(\w+): )?(\w+)", _section(node, section), re.MULTILINE):
            if QUESTION.match(entry[2]) and (entry[1] or entry[2] in ("What", "Whether", "Who")):
                yield line, f"{name}: {section} of {entry[1] or 'it'} begin with {entry[2]}"


def _attributes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        for before, after in pairwise(body) if isinstance(body, list) else ():
            if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                doc = after.value.value if isinstance(after.value, ast.Constant) else None
                if isinstance(doc, str) and QUESTION.match(doc):
                    yield after.lineno, f"the docstring of a name begins with {doc.split()[0]}"
                for riddle in RIDDLE.finditer(doc) if isinstance(doc, str) else ():
                    yield after.lineno, f"the docstring of a name says {riddle[0]!r}"


def _sections(function: Function, name: str) -> Iterator[tuple[int, str]]:
    if GIVEN.search(name):
        return
    doc = ast.get_docstring(function)
    if not doc:
        if function.name != "main":
            yield function.lineno, f"{name}: has no docstring"
        return
    yield from _arguments(function, name, _section(function, "Args"))
    named = _section(function, "Raises") or (
        len(_parameters(function)) <= FEW_PARAMETERS and re.search(r"\bRaises? [A-Z]", doc)
    )
    if _raises(function) and not named:
        yield function.lineno, f"{name}: has no Raises"


def _arguments(function: Function, name: str, section: str) -> Iterator[tuple[int, str]]:
    parameters = _parameters(function)
    if section or len(parameters) > FEW_PARAMETERS:
        listed = set(re.findall(r"^ {4}(\w+):", section, re.MULTILINE))
        for parameter in sorted(parameters ^ listed):
            wrong = "lack" if parameter in parameters else "describe"
            if not (wrong == "lack" and len(parameters) <= FEW_PARAMETERS):
                yield function.lineno, f"{name}: its Args {wrong} {parameter}"


def _section(node: Documented, name: str) -> str:
    found = re.search(rf"^{name}:\n((?:[ \t]+.*\n?|\n)+)", ast.get_docstring(node) or "", re.MULTILINE)
    return found[1] if found else ""


def _parameters(function: Function) -> set[str]:
    given = function.args
    names = {
        each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if each
    }
    return names - {"self", "cls"}


def _decorators(function: Function) -> list[str]:
    return [ast.unparse(each) for each in function.decorator_list]


def _is_property(function: Function) -> bool:
    return any(each.endswith("property") for each in _decorators(function))


def _is_verb(word: str) -> bool:
    return word.isalpha() and word not in NO_VERB and re.search(r"[^s]s$", word) is None


def _raises(function: Function) -> bool:
    """Return True if the function itself raises an exception that it names."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            return True
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))
    return False
