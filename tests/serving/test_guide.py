"""The guide: its commands are run as they stand, against a server on this machine."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from lit_od.bundle.folder import Bundle
from lit_od.images.sources import Source
from tests.support.bundles import mapped_bundle

GUIDE = Path(__file__).parents[2] / "docs" / "serve.md"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


def blocks(kind: str) -> list[str]:
    """Blocks of commands in the guide that begin with ```KIND."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def starts() -> list[list[str]]:
    """Words of the lines that start a server."""
    return [
        shlex.split(line) for line in re.findall(r"^    lit-od (serve .*)$", GUIDE.read_text("utf-8"), re.MULTILINE)
    ]


@pytest.fixture(scope="module")
def place(made_bundle: Bundle, digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles, images and token that the guide names."""
    place = tmp_path_factory.mktemp("guide")
    shutil.copytree(made_bundle.path, place / "mine")
    mapped_bundle(place / "other", digits)
    digits[900].decode().save(place / "image.jpg")
    Image.new("L", (40, 30), 200).save(place / "other.png")
    (place / "token").write_text("0123abcd\n")
    return place


@contextmanager
def serving(place: Path, words: list[str]) -> Iterator[None]:
    """A server started by a line of the guide, but at a free port; curl is told to go there."""
    command = [sys.executable, "-m", "lit_od.cli", *words, "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            port = None
            for line in process.stderr:
                if found := re.search(r"serving .* at http://127\.0\.0\.1:(\d+)/", line):
                    port = found[1]
                    break
            assert port
            (place / ".curlrc").write_text(
                f'connect-to = "127.0.0.1:8000:127.0.0.1:{port}"\nsilent\nshow-error\nfail\n'
            )
            yield
        finally:
            process.kill()


def run(place: Path, block: str) -> str:
    env = {**os.environ, "CURL_HOME": str(place)}
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=place, env=env, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, ""), block
    return ended.stdout


def test_its_commands_run_as_they_stand(place: Path) -> None:
    plain, guarded = starts()
    with serving(place, plain):
        told = [run(place, block) for block in blocks("bash")]
    assert len(told) == 7
    whole = "\n".join(told)
    assert '{"ready":true}' in whole
    assert whole.count('"error":null') == 4
    assert '"regions":[' in whole
    assert "lit_od_images_total" in whole
    with serving(place, guarded):
        (block,) = blocks("bash token")
        assert '"error":null' in run(place, block)
        with pytest.raises(AssertionError):
            run(place, block.replace("Bearer $", "Bearer x$"))
