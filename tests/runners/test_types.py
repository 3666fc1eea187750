"""The runner of Node.js keeps the types that it declares."""

import subprocess

import pytest

from tests.support.runtimes import RUNNERS, require_node, require_packages


def test_types() -> None:
    node, compiler = require_node(), require_packages("node") / "typescript" / "bin" / "tsc"
    if not compiler.is_file():
        pytest.skip("no TypeScript here")
    words = [node, str(compiler), "--noEmit", "-p", "."]
    done = subprocess.run(words, cwd=RUNNERS / "node", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
