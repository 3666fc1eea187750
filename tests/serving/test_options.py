"""The limits that `lit-od serve` takes."""

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from lit_od.bundle.folder import Bundle
from lit_od.commands import serve
from lit_od.commands._status import REFUSED
from lit_od.serving.limits import MIB, Limits


def limits(*words: str) -> Limits:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return serve._limits(parser.parse_args(["bundle", *words]))


def test_without_options_they_are_the_usual_ones() -> None:
    assert limits() == Limits()


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--max-body", "3"], "body", 3 * MIB),
        (["--max-images", "5"], "images", 5),
        (["--max-pixels", "12"], "pixels", 12_000_000),
        (["--max-time", "7"], "time", 7),
        (["--queue", "4"], "queue", 4),
        (["--patience", "9"], "patience", 9),
    ],
)
def test_each_option_sets_its_own(words: list[str], name: str, value: float) -> None:
    assert getattr(limits(*words), name) == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-pixels", "90"], "must be at most 89"),
        (["--max-pixels", "0"], "at least 1"),
        (["--max-time", "0"], "at least 1"),
    ],
)
def test_what_is_wrong_is_said(
    command: Callable[..., Any], made_bundle: Bundle, words: list[str], message: str
) -> None:
    told = command("serve", made_bundle.path, "--port", "0", *words)
    assert told.status == REFUSED
    assert message in told.err
    assert told.err.count("\n") == 1
