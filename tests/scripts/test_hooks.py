"""The hooks before a commit run what scripts/test runs for lint and types, and fetch nothing."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_hooks_are_the_lines_of_the_script() -> None:
    tree = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = tree["repos"]
    assert local["repo"] == "local"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    lines = (ROOT / "scripts" / "test").read_text(encoding="utf-8").splitlines()
    checks = [line for line in lines if line.startswith((".venv/bin/ruff", ".venv/bin/mypy"))]
    assert [hook["entry"] for hook in local["hooks"]] == checks
