"""`lit-od inspect`: the card and the files, or the manifest."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lit_od.bundle.folder import CARD, MANIFEST, Bundle
from lit_od.commands import inspect as inspect_command

Command = Callable[..., Any]


def test_the_card_and_the_files(made_bundle: Bundle, command: Command) -> None:
    status, out, err = command("inspect", made_bundle.path)
    assert (status, err) == (0, "")
    assert out.startswith(made_bundle.files[CARD].decode())
    for name, entry in made_bundle.manifest.files.items():
        assert f"| {name} | {entry.size:,} | {entry.sha256[:16]}... |\n" in out


def test_a_strangers_name_is_no_command_of_the_terminal(own_bundle: Path, command: Command, seal: Any) -> None:
    def forge(tree: dict[str, Any]) -> None:
        tree["name"] = "a\x1b[2J\n| threshold | 0 |"
        tree["provenance"]["metrics"] = {"against \x1b[31ma|b": {"auroc": 0.5}}

    seal(own_bundle, forge)
    status, out, err = command("inspect", own_bundle)
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert out.startswith("# a\\x1b[2J / threshold / 0 /\n")
    assert r"| metrics | against \x1b[31ma/b (auroc 0.5) |" in out


def test_the_manifest_as_it_is(made_bundle: Bundle, command: Command) -> None:
    status, out, _ = command("inspect", made_bundle.path, "--json")
    assert status == 0
    assert out.encode() == (made_bundle.path / MANIFEST).read_bytes()
    assert json.loads(out) == json.loads(msgspec.json.encode(made_bundle.manifest))


def test_a_manifest_with_control_characters_is_shown_as_the_same_json(
    own_bundle: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.read(own_bundle)
    text = (own_bundle / MANIFEST).read_text(encoding="utf-8").replace('"digits"', '"digits\x7f\x9b2J\u202e"')
    (own_bundle / MANIFEST).write_text(text, encoding="utf-8")
    monkeypatch.setattr(inspect_command, "read_bundle", lambda folder, args: bundle)
    status, out, _ = command("inspect", own_bundle, "--json")
    assert status == 0
    assert r'"digits\u007f\u009b2J\u202e"' in out
    assert json.loads(out) == json.loads(text)


def test_a_damaged_bundle_is_refused(own_bundle: Path, command: Command) -> None:
    (own_bundle / CARD).write_text("changed")
    status, out, err = command("inspect", own_bundle)
    assert (status, out) == (2, "")
    assert err.startswith("lit-od: README.md has 7 bytes, its manifest says ")


def test_a_folder_whose_name_is_no_unicode(made_bundle: Bundle, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff")
    shutil.copytree(made_bundle.path, odd)
    for name in ("inspect", "verify", "threshold"):
        run = subprocess.run([sys.executable, "-m", "lit_od.cli", name, odd], capture_output=True, check=False)
        assert (run.returncode, run.stderr) == (0, b"")
