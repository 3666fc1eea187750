"""Bundles that are replaced on disk: taken up without a lost request, or refused with the old one kept."""

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lit_od.bundle.folder import GOLDEN, golden_arrays, golden_bytes
from lit_od.bundle.model_file import open_bundle
from lit_od.errors import BundleError
from lit_od.serving.log import Log
from lit_od.serving.models import Model
from lit_od.serving.normal_images import NormalImages
from lit_od.serving.reload import Reloader, identity, signature
from tests.support.sealing import seal
from tests.support.site import Site, running

Command = Callable[..., Any]


def load(name: str, path: str, normal: NormalImages | None) -> Model:
    return Model.load(name, open_bundle(path), normal=normal, threads=1)


@contextmanager
def served(path: Path) -> Iterator[tuple[Site, Reloader]]:
    """A server of what lies at a path, and its reloader, which looks when it is told to."""
    with running([]) as site:
        reloader = Reloader(site.shelf, {"mine": str(path)}, load, metrics=site.metrics, log=Log())
        reloader.begin()
        yield site, reloader


def looked(reloader: Reloader) -> None:
    """Look often enough for a change to have settled."""
    reloader.look()
    reloader.look()


def verdict(site: Site, picture: bytes) -> bool:
    found: bool = site.ask("/score", picture).json["is_outlier"]
    return found


def told(site: Site) -> dict[str, float]:
    """Reloads by result, and if the bundle is stale."""
    lines = site.ask("/metrics").body.decode().splitlines()
    found = {name: value for name, _, value in (line.rpartition(" ") for line in lines)}
    return {
        "done": float(found['lit_od_bundle_reloads_total{model="mine",result="done"}']),
        "refused": float(found['lit_od_bundle_reloads_total{model="mine",result="refused"}']),
        "stale": float(found['lit_od_bundle_stale{model="mine"}']),
    }


def test_a_replaced_bundle_answers(
    own_bundle: Path, command: Command, pictures: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    with served(own_bundle) as (site, reloader):
        looked(reloader)
        assert (verdict(site, pictures[0]), told(site)) == (False, {"done": 0, "refused": 0, "stale": 0})
        assert command("threshold", own_bundle, "--value", "0").status == 0
        reloader.look()
        assert verdict(site, pictures[0]) is False  # it may still be written
        reloader.look()
        assert (verdict(site, pictures[0]), told(site)) == (True, {"done": 1, "refused": 0, "stale": 0})
        assert "lit-od: mine was replaced on disk: " in capsys.readouterr().err
        assert site.ask("/models").json["models"][0]["threshold"] == 0
        looked(reloader)
        (own_bundle / "manifest.json").touch()  # the same bundle: nothing to do
        looked(reloader)
        assert told(site)["done"] == 1
        assert capsys.readouterr().err == ""


def test_a_model_file_too(own_bundle: Path, command: Command, pictures: list[bytes], tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    assert command("compile", own_bundle, "--out", file).status == 0
    with served(file) as (site, reloader):
        assert verdict(site, pictures[0]) is False
        assert command("threshold", file, "--value", "0").status == 0
        looked(reloader)
        assert (verdict(site, pictures[0]), told(site)["done"]) == (True, 1)
        file.write_bytes(b"no model")
        looked(reloader)
        assert (verdict(site, pictures[0]), told(site)["stale"]) == (True, 1)


def damaged(folder: Path) -> None:
    data = bytearray((folder / "detector.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "detector.safetensors").write_bytes(data)


def other_scores(folder: Path) -> None:
    """Golden images that want other scores: hashes are right, the model is not what it was."""
    golden = golden_arrays(open_bundle(folder))
    (folder / GOLDEN).write_bytes(golden_bytes({**golden, "scores": golden["scores"] * 2}))
    seal(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damaged, "detector.safetensors does not match its sha256"),
        (other_scores, "golden scores differ by 0.5 relative"),
        (lambda folder: shutil.rmtree(folder), "there is no such folder"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "notes.txt"),
    ],
    ids=["damaged", "other scores", "gone", "more files"],
)
def test_a_bad_bundle_is_refused_until_it_is_mended(
    own_bundle: Path,
    tmp_path: Path,
    command: Command,
    pictures: list[bytes],
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    good = Path(shutil.copytree(own_bundle, tmp_path / "good"))
    assert command("threshold", good, "--value", "0").status == 0
    with served(own_bundle) as (site, reloader):
        spoil(own_bundle)
        looked(reloader)
        assert (verdict(site, pictures[0]), told(site)) == (False, {"done": 0, "refused": 1, "stale": 1})
        line = capsys.readouterr().err
        assert line.startswith("lit-od: mine was replaced on disk, and is refused; the one before goes on answering: ")
        assert message in line
        assert line.count("\n") == 1
        looked(reloader)  # it is said once
        assert (told(site)["refused"], capsys.readouterr().err) == (1, "")
        shutil.rmtree(own_bundle, ignore_errors=True)
        good.rename(own_bundle)
        looked(reloader)
        assert (verdict(site, pictures[0]), told(site)) == (True, {"done": 1, "refused": 1, "stale": 0})


def test_no_request_is_lost_while_it_is_replaced(own_bundle: Path, command: Command, pictures: list[bytes]) -> None:
    with served(own_bundle) as (site, reloader), ThreadPoolExecutor(3) as clients:
        ended = threading.Event()

        def ask() -> list[int]:
            found = []
            while not ended.is_set():
                found.append(site.ask("/score", pictures[0]).status)
            return found

        asked = [clients.submit(ask) for _ in range(3)]
        try:
            for value in range(5):
                assert command("threshold", own_bundle, "--value", value).status == 0
                looked(reloader)
        finally:
            ended.set()
        statuses = [status for each in asked for status in each.result()]
        assert len(statuses) > 5
        assert set(statuses) == {200}
        assert told(site) == {"done": 5, "refused": 0, "stale": 0}


def test_the_thread_looks_by_itself_and_ends(
    own_bundle: Path, command: Command, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_od.serving.reload.EVERY", 0.01)
    with served(own_bundle) as (site, reloader):
        reloader.watch()
        assert command("threshold", own_bundle, "--value", "0").status == 0
        deadline = threading.Event()
        for _ in range(1000):
            if told(site)["done"]:
                break
            deadline.wait(0.01)
        reloader.close()
        assert verdict(site, pictures[0]) is True
        assert "lit_od-reload" not in {thread.name for thread in threading.enumerate()}


def test_a_bundle_that_cannot_be_loaded_at_first_is_an_error(own_bundle: Path) -> None:
    damaged(own_bundle)
    with pytest.raises(BundleError, match="does not match its sha256"), served(own_bundle):
        pass


def test_signatures_and_identities(own_bundle: Path, tmp_path: Path) -> None:
    before = signature(str(own_bundle))
    assert before == signature(str(own_bundle)) is not None
    (own_bundle / "manifest.json").touch()
    assert signature(str(own_bundle)) != before
    assert signature(str(tmp_path / "none")) is None
    link = tmp_path / "link"
    link.symlink_to(own_bundle)
    assert signature(str(link)) == signature(str(own_bundle))
    assert identity(open_bundle(own_bundle)) == open_bundle(own_bundle).manifest.sha256
