"""Messages that the troubleshooting page explains are messages of lit_od."""

import re

import pytest

from tests.support.documents import ROOT

PAGE = (ROOT / "docs" / "howto" / "trouble.md").read_text(encoding="utf-8")
SOURCE = re.sub(r'"\s+f?"', "", "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "lit_od").rglob("*.py")))
"""Source in which strings that follow each other are one."""

VARIES = re.compile(r"[A-Z][A-Z]+|\b[A-Z]\b|'NAME'|[\d,]*\d|\.\.\.")
OF_THE_SYSTEM = ("no space left on device", "permission denied")


def messages() -> list[str]:
    rows = re.findall(r"^\| (`.*?) \| ", PAGE, re.MULTILINE)
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def missing(message: str) -> list[str]:
    """Return the parts of a message that no string of lit_od holds."""
    parts = [part.strip(" ':%") for part in VARIES.split(message)]
    return [part for part in parts if len(part) > 3 and part not in SOURCE]


@pytest.mark.parametrize("message", messages())
def test_a_message_is_one_of_ours(message: str) -> None:
    assert message in OF_THE_SYSTEM or not missing(message)


def test_a_made_up_message_is_seen() -> None:
    assert missing("no unicorn found in DIR")
    assert len(messages()) > 20
