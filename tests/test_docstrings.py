"""Docstrings say what a thing does or is, in plain words, and describe its parameters."""

from pathlib import Path

import pytest

from tests.support.docstring_rules import offences

ROOT = Path(__file__).parents[1]
FOLDERS = ("lit_od", "scripts", "docs/extensions")

FILES = [
    name for folder in FOLDERS for name in sorted(str(file.relative_to(ROOT)) for file in (ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("name", FILES)
def test_the_docstrings_of_a_file_keep_the_rules(name):
    found = [f"{name}:{line}: {wrong}" for line, wrong in offences((ROOT / name).read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


GOOD = '''"""Arithmetic."""

LIMIT = 3
"""Largest sum."""


class Adder:
    """An adder of numbers."""

    @property
    def total(self):
        """Sum so far."""


def add(a, b, c):
    """Add three numbers.

    Args:
        a: The first.
        b: The second.
        c: The third.

    Raises:
        ValueError: If the sum is too large.
    """
    if a + b + c > LIMIT:
        raise ValueError
    return a + b + c
'''


def test_good_docstrings_have_no_offences():
    assert list(offences(GOOD)) == []


@pytest.mark.parametrize(
    ("good", "bad", "wrong"),
    [
        ("Arithmetic.", "What adds.", "module: begins with What"),
        ("Arithmetic.", f"Arithmetic {80 * '-'}.", "module: the first line has 92 characters"),
        ("Largest sum.", "How large a sum may be.", "the docstring of a name begins with How"),
        ("Largest sum.", "A limit of its own.", "the docstring of a name says 'of its own'"),
        ("An adder of numbers.", "Which adds.", "Adder: begins with Which"),
        ("An adder of numbers.", "Keeps a sum.", "Adder: begins with Keeps, which is no noun"),
        ("Sum so far.", "Whether there is a sum.", "Adder.total: begins with Whether"),
        ("Add three numbers.", "The sum.", "add: begins with The, which is no verb"),
        ("Add three numbers.", "Adds three numbers.", "add: begins with Adds, which is no verb"),
        ("Add three numbers.", "Add what is asked.", "add: says 'what is asked'"),
        ("        a: The first.\n", "", "add: its Args lack a"),
        ("        a: The first.\n", "        a: The first.\n        d: The fourth.\n", "add: its Args describe d"),
        ("a: The first.", "a: What is added.", "add: Args of a begin with What"),
        ("    Raises:\n        ValueError: If the sum is too large.\n", "", "add: has no Raises"),
        ("    Raises:\n", "    Args:\n        a: The first.\n\n    Raises:\n", "add: has Args twice"),
        ('    """An adder', '    def clear(self):\n        pass\n\n    """An adder', "Adder.clear: has no docstring"),
    ],
)
def test_each_rule_is_seen_to_be_broken(good, bad, wrong):
    assert wrong in [each for _, each in offences(GOOD.replace(good, bad, 1))]
