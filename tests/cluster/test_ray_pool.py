"""Scoring and fitting on a Ray cluster of two workers, started once: the same results as one process gives."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od.bundle.folder import Bundle
from lit_od.cluster.connect import _gpu_machine_providers, cluster
from lit_od.cluster.ray_pool import Pool
from lit_od.cluster.scoring import score_images
from lit_od.cluster.work_items import items
from lit_od.errors import ConfigError, LitODError
from lit_od.images.sources import Source
from lit_od.scoring.result import Result
from lit_od.scoring.scorer import Scorer
from tests.support.images import ASSETS

if find_spec("ray") is None:
    pytest.skip("needs the extra ray", allow_module_level=True)

Command = Callable[..., Any]

INLIERS = f"{ASSETS}/digits.npz:test_images:0,1,2,3,4,5,6,7"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with cluster(workers=2) as found:
        yield found


def test_a_cluster_of_its_own_is_for_this_process_alone(pool: Pool) -> None:
    """It listens on the loopback, to whoever has its token."""
    import ray

    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
    assert ray._raylet.get_authentication_mode() == ray._raylet.AuthenticationMode.TOKEN
    port = int(address.rpartition(":")[2])
    with pytest.raises(OSError, match="refused"):  # all of 127.0.0.0/8 is this machine
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def joined(results: list[Result]) -> tuple[list[str], list[str | None], np.ndarray, np.ndarray, np.ndarray]:
    names = [name for result in results for name in result.name]
    errors = [error for result in results for error in result.error]
    arrays = [np.concatenate([getattr(result, part) for result in results]) for part in ("score", "p_value")]
    return names, errors, *arrays, np.concatenate([result.is_outlier for result in results])


def spied_on(folder: Path) -> Callable[..., Callable[[bytes], bytes]]:
    """The scorer's work, which notes its process and what that has imported, and dies of an item if told to."""

    def make(manifest: bytes, files: dict[str, bytes], *rest: Any) -> Callable[[bytes], bytes]:
        from lit_od.cluster.scoring import VerdictWorker

        work = VerdictWorker(manifest, files, *rest)
        with (folder / f"{os.getpid()}.loaded").open("x"):
            pass

        def spy(item: bytes) -> bytes:
            answer = work(item)
            (folder / f"{os.getpid()}.modules").write_text("\n".join(sys.modules))
            dying, deadline = folder / "dying", time.monotonic() + 60
            while dying.exists() and len(list(folder.glob("*.loaded"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)  # until both workers are there
            try:
                dying.unlink()
            except FileNotFoundError:
                return answer
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("killed")

        return spy

    return make


def test_a_worker_that_is_killed_costs_no_row_and_workers_load_no_torch(
    pool: Pool,
    made_bundle: Bundle,
    digit_files: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [INLIERS, digit_files, tmp_path / "broken.png", tmp_path / "gone.png"]
    alone = command("score", made_bundle.path, *paths)
    assert alone.status == 1
    monkeypatch.setattr("lit_od.cluster.scoring.VerdictWorker", spied_on(tmp_path))
    (tmp_path / "dying").touch()
    assert command("score", made_bundle.path, *paths, "--engine", "ray") == alone
    assert not (tmp_path / "dying").exists(), "no worker was killed"
    assert len(list(tmp_path.glob("*.loaded"))) == 3  # two workers and the one in the place of the killed one
    for file in tmp_path.glob("*.modules"):
        modules = set(file.read_text().split())
        assert {"onnxruntime", "ray", "lit_od.scoring.scorer"} <= modules
        assert not modules & {"torch", "torchvision", "lightning", "timm", "torchmetrics", "sklearn", "matplotlib"}


def test_onnx_runtime_sends_no_telemetry_from_workers(pool: Pool) -> None:
    """A worker of a cluster elsewhere has not the environment of this process."""

    def make() -> Callable[[bytes], bytes]:
        os.environ.pop("ORT_DISABLE_TELEMETRY", None)
        for name in [name for name in sys.modules if name.partition(".")[0] == "lit_od"]:
            del sys.modules[name]  # what has come with the work; this process had set the variable before
        assert "onnxruntime" not in sys.modules
        seen: list[str | None] = []
        sys.addaudithook(
            lambda event, args: (
                seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
                if event == "import" and args[0] == "onnxruntime"
                else None
            )
        )
        importlib.import_module("lit_od.cluster.connect")._providers()
        return lambda item: repr(seen[:1]).encode()

    assert list(pool.map(make, (), [b""])) == [b"['1']"]


def test_rows_may_come_as_they_are_ready(pool: Pool, made_bundle: Bundle, digits: list[Source]) -> None:
    found = joined(list(score_images(pool, made_bundle, digits[:300], ordered=False)))
    want = joined(list(Scorer.of(made_bundle, threads=1).stream(digits[:300])))
    assert sorted(zip(found[0], found[2], strict=True)) == sorted(zip(want[0], want[2], strict=True))


def test_a_refit_is_that_of_one_process(pool: Pool, made_bundle: Bundle, tmp_path: Path, command: Command) -> None:
    words = [made_bundle.path, INLIERS, "--detector", "mahalanobis", "--labels", "folders"]
    words += ["--detector.class_conditional", "true", "--out"]
    for name, engine in (("one", []), ("many", ["--engine", "ray"])):
        status, _, err = command("refit", *words, tmp_path / name, *engine)
        assert (status, err) == (0, "")
    one, many = (Bundle.read(tmp_path / name) for name in ("one", "many"))
    for name, array in one.detector.state().items():
        np.testing.assert_allclose(many.detector.state()[name], array, rtol=1e-12, atol=1e-12 * np.abs(array).max())
    np.testing.assert_allclose(many.calibration.scores, one.calibration.scores, rtol=1e-12)
    assert many.calibration.threshold == pytest.approx(one.calibration.threshold, rel=1e-12)
    assert many.manifest.provenance.data == one.manifest.provenance.data


def test_refusals_of_workers_are_ours(
    pool: Pool, made_bundle: Bundle, digit_files: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    words = ["refit", made_bundle.path, digit_files, tmp_path / "broken.png", "--out", tmp_path / "new"]
    alone = command(*words)
    assert alone.status == 2
    assert "broken.png: " in alone.err
    assert command(*words, "--engine", "ray") == alone
    status, _, err = command("score", made_bundle.path, digit_files, "--engine", "ray", "--provider", "cuda")
    assert status == 2
    assert "0 GPUs: too few for 1 workers of 1 threads and a GPU" in err
    assert err.count("\n") == 1


def test_machines_tell_what_their_onnx_runtime_can_do(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine, said to have a GPU, twice; then one that is gone, and one that is too slow."""
    import onnxruntime
    import ray

    (here,) = ray.nodes()
    machines = [{**here, "Resources": {"CPU": 2.0, "GPU": 1.0}}] * 2
    monkeypatch.setattr(ray, "nodes", lambda: [here, *machines, {**machines[0], "Alive": False}])
    assert _gpu_machine_providers(ray) == [onnxruntime.get_available_providers()] * 2
    monkeypatch.setattr(ray, "nodes", lambda: [{**machines[0], "NodeID": "0" * 56}])
    with pytest.raises(ConfigError, match=r"does not tell what its ONNX Runtime can do: .*Give --provider cuda or"):
        _gpu_machine_providers(ray)
    monkeypatch.setattr("lit_od.cluster.connect.PROBE_TIMEOUT", 0.5)
    monkeypatch.setattr("lit_od.cluster.connect._providers", lambda: time.sleep(60))
    monkeypatch.setattr(ray, "nodes", lambda: machines)
    with pytest.raises(ConfigError, match=r"does not tell what its ONNX Runtime can do: .*Give --provider cuda or"):
        _gpu_machine_providers(ray)


def test_a_worker_without_a_gpu_sees_none(pool: Pool) -> None:
    def make() -> Callable[[bytes], bytes]:
        return lambda item: os.environ.get("CUDA_VISIBLE_DEVICES", "all").encode()

    assert list(pool.map(make, (), [b""])) == [b""]


WITH_GPUS = """
import os, tempfile, time
from lit_od.cluster import connect

def make(folder, workers):
    # items are held until so many workers have begun, so that each has one
    def work(item):
        device = os.environ["CUDA_VISIBLE_DEVICES"]
        open(f"{folder}/{device or 'none'}", "w").close()
        deadline = time.monotonic() + 60
        while len(os.listdir(folder)) < workers and time.monotonic() < deadline:
            time.sleep(0.01)
        return device.encode()
    return work

ray = connect._ray()
with connect._no_stderr():
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
for provider in (None, "cuda"):
    with connect.cluster(provider=provider) as pool, tempfile.TemporaryDirectory() as folder:
        found = pool.map(make, (folder, 2 if pool.gpus else 1), [b"item"] * 8)
        print(pool.gpus, *pool.providers, *sorted(set(found)))
"""


def test_workers_with_gpus_see_one_each() -> None:
    """Two GPUs that Ray takes our word for; those who asked for none take them if ONNX Runtime could use them."""
    import onnxruntime

    done = subprocess.run([sys.executable, "-c", WITH_GPUS], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    unasked, asked = done.stdout.splitlines()
    assert asked == "1 cuda b'0' b'1'"
    assert unasked == (asked if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "0 cpu b''")


def test_an_item_that_kills_every_worker_ends_the_job(
    pool: Pool, digits: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_od.cluster.ray_pool.RETRIES", 1)

    def make() -> Callable[[bytes], bytes]:
        return lambda item: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[func-returns-value,return-value]

    with pytest.raises(LitODError, match="the cluster gave the job up: "):
        list(pool.map(make, (), items(digits[:40], workers=1)))


def test_no_work_needs_no_worker(pool: Pool) -> None:
    assert list(pool.map(spied_on, (), [])) == []
