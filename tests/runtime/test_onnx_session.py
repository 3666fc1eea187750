"""The home of ONNX Runtime: nothing is reported to its maker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.graphs import features_graph

_SEEN = """
import os, sys
seen = []
sys.addaudithook(lambda event, args: seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
                 if event == "import" and args[0] == "onnxruntime" else None)
"""

_RUN = """
from lit_od.backbone.model import Backbone
import numpy as np
Backbone.load(sys.stdin.buffer.read(), threads=1)(np.zeros((1, 28, 28, 1), np.uint8))
"""


def _printed(code: str, home: Path, **settings: str) -> str:
    """Run code without CI in the environment, where telemetry would be off by itself."""
    hidden = ("CI", "ORT_DISABLE_TELEMETRY", "GITHUB_ACTIONS", "TF_BUILD")
    kept = {name: value for name, value in os.environ.items() if name not in hidden and not name.startswith("XDG_")}
    environment = {**kept, "HOME": str(home), **settings}
    done = subprocess.run([sys.executable, "-c", code], env=environment, input=features_graph(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@pytest.mark.parametrize("first", ["", "import lit_od, onnxruntime", "import lit_od.errors, onnxruntime"])
def test_telemetry_is_off_before_the_import_of_onnx_runtime(first: str, tmp_path: Path) -> None:
    assert _printed(f"{_SEEN}{first}{_RUN}print(*set(seen))", tmp_path) == "1"
    assert list(tmp_path.rglob("*")) == []


def test_a_users_own_setting_of_telemetry_holds(tmp_path: Path) -> None:
    code = "import os, lit_od; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert _printed(code, tmp_path, ORT_DISABLE_TELEMETRY="0") == "0"
