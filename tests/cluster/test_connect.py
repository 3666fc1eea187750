"""Connecting to a cluster: extras, providers and GPUs. No Ray is started."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_od.bundle.folder import Bundle
from lit_od.cluster.connect import cluster, provider_and_gpu
from lit_od.cluster.ray_pool import Pool
from lit_od.errors import ConfigError
from lit_od.images import object_store as stores

Command = Callable[..., Any]


NO_RAY = SimpleNamespace(
    is_initialized=lambda: False, _private=SimpleNamespace(worker=SimpleNamespace(_worker_logs_enabled=True))
)


def test_a_missing_extra_is_one_line(
    own_bundle: Path, digit_files: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    mend = 'which is not installed. Run: pip install "lit-od[ray,cpu]"\n'
    for words in (["score", own_bundle, digit_files], ["refit", own_bundle, digit_files, "--out", tmp_path / "new"]):
        status, out, err = command(*words, "--engine", "ray")
        assert (status, out, err) == (2, "", f"lit-od: this needs Ray (ray), {mend}")
    for name in {"pyarrow", *(each for each in sys.modules if each.startswith("pyarrow."))}:
        monkeypatch.setitem(sys.modules, name, None)
    stores._local.cache_clear()
    table = ["score", own_bundle, digit_files, "--format", "parquet", "--out", tmp_path / "rows"]
    for words in (["score", own_bundle, "s3://bucket/a.png", "--engine", "ray"], table):
        status, out, err = command(*words)
        assert (status, out, err) == (2, "", f"lit-od: this needs PyArrow, {mend.replace('[ray', '[parquet')}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "2"], "--workers goes with --engine ray"),
        (["--address", "auto"], "--address goes with --engine ray"),
        (["--unordered"], "--unordered goes with --engine ray"),
        (
            ["--engine", "ray", "--maps", "x"],
            "--maps, --regions and --statistics are made by this process alone: leave out --engine ray",
        ),
    ],
)
def test_options_that_do_not_go_together(
    made_bundle: Bundle, digit_files: Path, command: Command, words: list[str], message: str
) -> None:
    status, out, err = command("score", made_bundle.path, digit_files, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_no_cluster_at_an_address(
    made_bundle: Bundle, digit_files: Path, command: Command, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Ray is not even asked."""
    monkeypatch.setattr("lit_od.cluster.connect._ray", lambda: NO_RAY)
    words = ["score", made_bundle.path, digit_files, "--engine", "ray", "--address", address]
    status, out, err = command(*words)
    assert (status, out) == (2, "")
    assert f"lit-od: no Ray cluster at {address}: " in err
    assert err.endswith("Leave --address out to start one on this machine\n")


class Started(SimpleNamespace):
    """A stand-in for Ray that notes the settings with which it starts a cluster."""

    def __init__(self) -> None:
        constants = SimpleNamespace(ENABLE_RAY_CLUSTER=True, ENABLE_RAY_CLUSTERS_ENV_VAR="RAY_REACHABLE")
        worker = SimpleNamespace(_worker_logs_enabled=True)
        super().__init__(_private=SimpleNamespace(worker=worker, ray_constants=constants), settings=[], ended=0)

    def is_initialized(self) -> bool:
        return False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def init(self, **options: Any) -> None:
        names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_REACHABLE")
        reachable = self._private.ray_constants.ENABLE_RAY_CLUSTER
        self.settings.append((*(os.environ.get(name, "") for name in names), reachable, options))

    def shutdown(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("mode", [None, "disabled"])
def test_a_cluster_of_its_own_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch, mode: str | None) -> None:
    there, read = Started(), list[str]()
    monkeypatch.setattr("lit_od.cluster.connect._ray", lambda: there)
    monkeypatch.setattr(
        "lit_od.cluster.connect._read_settings_again", lambda ray: read.append(os.environ.get("RAY_AUTH_MODE", ""))
    )
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_REACHABLE"):
        monkeypatch.delenv(name, raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    for _ in range(2):
        with cluster() as pool:
            assert pool == Pool(2, 1, 0, ("cpu",))
        assert os.environ.get("RAY_AUTH_MODE") == mode
        assert not {"RAY_AUTH_TOKEN", "RAY_REACHABLE"} & os.environ.keys()
        assert there._private.ray_constants.ENABLE_RAY_CLUSTER
    assert read == ["token", mode or ""] * 2
    assert there.ended == 2
    tokens = set()
    for how, token, reachable, enabled, options in there.settings:
        assert (how, reachable, enabled) == ("token", "0", False)
        assert (options["_node_ip_address"], options["include_dashboard"]) == ("127.0.0.1", False)
        tokens.add(token)
    assert {len(token) for token in tokens} == {64}
    assert len(tokens) == 2


def test_the_token_of_a_cluster_elsewhere_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Started()
    monkeypatch.setattr("lit_od.cluster.connect._ray", lambda: there)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    with cluster("auto"):
        pass
    ((_, token, reachable, enabled, options),) = there.settings
    assert (token, reachable, enabled) == ("theirs", "", True)
    assert "_node_ip_address" not in options


@pytest.mark.parametrize("writable", [True, False])
def test_objects_lie_in_files_where_shared_memory_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, writable: bool
) -> None:
    """Ray itself would wait half a minute for its core, which has died."""
    there, shared = Started(), tmp_path / "shared"
    monkeypatch.setattr("lit_od.cluster.connect._ray", lambda: there)
    monkeypatch.setattr("lit_od.cluster.connect._read_settings_again", lambda ray: None)
    monkeypatch.setattr("lit_od.cluster.connect.SHARED_MEMORY", str(shared))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if writable:
        shared.mkdir()
    with cluster("local"):
        pass
    ((*_, options),) = there.settings
    assert options.get("_plasma_directory") == (None if writable else str(tmp_path))


def test_a_cluster_that_does_not_start_is_one_line(
    made_bundle: Bundle, digit_files: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = Started()

    def fail(**options: Any) -> None:
        raise Exception("The current node timed out during startup.")

    there.init = fail  # type: ignore[method-assign]
    monkeypatch.setattr("lit_od.cluster.connect._ray", lambda: there)
    monkeypatch.setattr("lit_od.cluster.connect._read_settings_again", lambda ray: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    status, out, err = command("score", made_bundle.path, digit_files, "--engine", "ray")
    assert (status, out) == (2, "")
    assert err == (
        "lit-od: Ray starts no cluster on this machine: Exception: The current node timed out during startup. Its "
        f"logs lie in {tmp_path}/ray/session_latest/logs; leave --engine ray out to do without\n"
    )


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("wanted", "gpu_machines", "chosen"),
    [
        (None, [], ("cpu", False)),
        (None, [[CPU]], ("cpu", False)),
        (None, [[]], ("cpu", False)),
        (None, [[CUDA, CPU]], ("cuda", True)),
        (None, [[CUDA, CPU], [CUDA, CPU]], ("cuda", True)),
        ("cpu", [[CUDA, CPU]], ("cpu", False)),
        ("CPU", [], ("CPU", False)),
        (CPU, [], (CPU, False)),
        ("openvino", [], ("openvino", False)),
        ("cuda", [], ("cuda", True)),
        ("TensorrtExecutionProvider", [], ("TensorrtExecutionProvider", True)),
    ],
)
def test_workers_are_told_their_provider(
    wanted: str | None, gpu_machines: list[list[str]], chosen: tuple[str, bool]
) -> None:
    assert provider_and_gpu(wanted, gpu_machines) == chosen


def test_machines_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match="of 3 machines with GPUs 1 have an ONNX Runtime without CUDA"):
        provider_and_gpu(None, [[CUDA, CPU], [CPU], [CUDA, CPU]])


@pytest.mark.parametrize(
    ("wanted", "present", "pool"),
    [
        (None, [CUDA, CPU], Pool(2, 1, 1, ("cuda",))),
        (None, [CPU], Pool(8, 1, 0, ("cpu",))),
        ("cpu", [CUDA, CPU], Pool(8, 1, 0, ("cpu",))),
        ("cuda", [CPU], Pool(2, 1, 1, ("cuda",))),  # whose workers refuse it
    ],
)
def test_a_cluster_with_gpus(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, present: list[str], pool: Pool
) -> None:
    """No GPU is here, nor Ray: eight cores and two GPUs are what a stand-in says."""
    there = SimpleNamespace(
        cluster_resources=lambda: {"CPU": 8.0, "GPU": 2.0},
        is_initialized=lambda: True,
        _private=NO_RAY._private,
    )
    monkeypatch.setattr("lit_od.cluster.connect._ray", lambda: there)
    monkeypatch.setattr("lit_od.cluster.connect._gpu_machine_providers", lambda ray: [present])
    with cluster(provider=wanted) as found:
        assert found == pool
    if pool.gpus:
        with (
            pytest.raises(ConfigError, match="too few for 3 workers of 1 threads and a GPU"),
            cluster(provider=wanted, workers=3),
        ):
            pass
