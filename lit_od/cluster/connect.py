"""Connect to a Ray cluster, or start one on this machine."""

import contextlib
import logging
import os
import secrets
import socket
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from lit_od.cluster.ray_pool import Pool, cause
from lit_od.errors import ConfigError, MissingExtra, missing_extra
from lit_od.runtime.onnx_session import PROVIDERS, onnx_runtime
from lit_od.runtime.threads import available_threads

CONNECT_TIMEOUT = 10.0
"""Seconds in which a cluster must answer at its address."""

PROBE_TIMEOUT = 60.0
"""Seconds in which a machine of the cluster must list its execution providers: it starts a process to do so."""

SHARED_MEMORY = "/dev/shm"
"""Folder that Ray keeps objects in where there is room; they are files elsewhere if it cannot be written."""

_SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker without a GPU sees none; unset, Ray warns or shows all
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else the core prints to the driver's terminal
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_worker_niceness": "0",  # workers started here have the priority that one process would have, not the lowest
}


_WITHOUT_GPU = (PROVIDERS["cpu"], PROVIDERS["coreml"], PROVIDERS["openvino"])
"""Providers that need nothing that Ray counts as a GPU."""


@contextlib.contextmanager
def cluster(
    address: str | None = None, *, workers: int | None = None, threads: int | None = None, provider: str | None = None
) -> Iterator[Pool]:
    """Connect to a cluster for the block, or start one on this machine.

    Args:
        address: Address of a running cluster, as `ray.init` takes it. None takes RAY_ADDRESS, else this machine.
            A connection that the process has already is used and kept.
        workers: Number of workers. None is as many as the cluster has cores for, or GPUs.
        threads: Threads of each worker; None is one.
        provider: Execution provider of each worker. None takes CUDA, and a GPU a worker, where the cluster has
            GPUs and its machines' ONNX Runtime can use them, else the CPU.

    Yields:
        The workers.

    Raises:
        ConfigError: If there is no cluster at the address, none starts, it has no room for a worker, or only some of
            its machines with GPUs can use them.
        MissingExtra: If Ray is not installed.
    """
    ray = _ray()
    inside = ray._private.worker
    # Ray reports dead workers on standard output, where our rows go
    logs_enabled, inside._worker_logs_enabled = inside._worker_logs_enabled, False
    try:
        with contextlib.nullcontext() if ray.is_initialized() else _connected(ray, address):
            yield _pool(ray, workers, threads, provider)
    finally:
        inside._worker_logs_enabled = logs_enabled


def _pool(ray: Any, workers: int | None, threads: int | None, provider: str | None) -> Pool:
    """Choose the workers of a cluster, as `cluster` says."""
    resources = ray.cluster_resources()
    cores, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    present = _gpu_machine_providers(ray) if provider is None and gpus >= 1 else []
    chosen, gpu = provider_and_gpu(provider, present)
    each = threads or 1
    room = int(cores) // each
    room = min(room, int(gpus)) if gpu else room
    if room < (workers or 1):
        raise ConfigError(
            f"the cluster has {cores:g} cores and {gpus:g} GPUs: too few for "
            f"{workers or 1} workers of {each} threads{' and a GPU' if gpu else ''}. Ask for less"
            f"{', or give --provider cpu' if gpu else ''}"
        )
    return Pool(workers or room, each, int(gpu), (chosen,))


def provider_and_gpu(wanted: str | None, gpu_machines: Sequence[Sequence[str]]) -> tuple[str, bool]:
    """Choose the execution provider of all workers, and decide if each takes a GPU.

    No worker chooses for itself: without a GPU assigned to it, it would open the first of its machine, as would all
    others there.

    Args:
        wanted: Name of the provider that the user asked for, if any.
        gpu_machines: Providers of the ONNX Runtime on each machine with a GPU; used where `wanted` is None.

    Returns:
        Name of the provider, and True if each worker takes a GPU.

    Raises:
        ConfigError: If some of these machines can use their GPUs, and some cannot.
    """
    if wanted is not None:
        return wanted, PROVIDERS.get(wanted.lower(), wanted) not in _WITHOUT_GPU
    able = sum(PROVIDERS["cuda"] in present for present in gpu_machines)
    if 0 < able < len(gpu_machines):
        raise ConfigError(
            f"of {len(gpu_machines)} machines with GPUs {len(gpu_machines) - able} have an ONNX Runtime without CUDA. "
            'Run there: pip install "lit-od[ray,gpu]", or give --provider cpu'
        )
    return ("cuda", True) if able else ("cpu", False)


def _gpu_machine_providers(ray: Any) -> list[list[str]]:
    """Ask each machine of the cluster with a GPU for the execution providers it has."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    machines = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # the probes take neither core nor GPU: all may be taken by others
            probe = ray.remote(num_cpus=0)(_providers)
            nodes = [NodeAffinitySchedulingStrategy(node_id=node, soft=False) for node in machines]
            providers: list[list[str]] = ray.get(
                [probe.options(scheduling_strategy=node).remote() for node in nodes], timeout=PROBE_TIMEOUT
            )
    except Exception as error:  # Ray's own, of several kinds
        raise ConfigError(
            f"a machine with a GPU does not tell what its ONNX Runtime can do: {cause(error)}. "
            "Give --provider cuda or --provider cpu"
        ) from error
    return providers


def _providers() -> list[str]:
    """Return the execution providers of the ONNX Runtime on this machine."""
    try:
        return list(onnx_runtime().get_available_providers())
    except MissingExtra:
        return []


def _ray() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of Ray's import do not concern the user
            import ray
            import ray.data
    except ModuleNotFoundError as error:
        missing_extra(f"Ray ({error.name})", "ray,cpu")
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster for the block, or start one on this machine."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    with _private(ray) if address == "local" else contextlib.nullcontext():
        _connect(ray, address)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _private(ray: Any) -> Iterator[None]:
    """Make a cluster that is started in the block private to this process.

    It listens on the loopback alone, and to whoever has its token: whoever else reaches a cluster runs code as its
    user, and other users of this machine reach the loopback too.
    """
    constants = ray._private.ray_constants
    reachable = constants.ENABLE_RAY_CLUSTER
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    constants.ENABLE_RAY_CLUSTER = False  # else Ray takes the machine's address, even if it is given the loopback's
    try:
        _read_settings_again(ray)
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = reachable
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        _read_settings_again(ray)


def _read_settings_again(ray: Any) -> None:
    """Have Ray's core read authentication's settings, which it read at its import."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _connect(ray: Any, address: str) -> None:
    temporary = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == "local":
        options |= {"num_cpus": available_threads(), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        if not os.access(SHARED_MEMORY, os.W_OK):  # Ray finds out if it is too small, and dies of one that is read-only
            options["_plasma_directory"] = temporary
    try:
        if ":" in address:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT).close()  # Ray itself tries for minutes
        with _no_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(**options)
    except Exception as error:  # Ray raises a bare one where a cluster does not start
        if address == "local":
            raise ConfigError(
                f"Ray starts no cluster on this machine: {cause(error)}. Its logs lie in "
                f"{temporary}/ray/session_latest/logs; leave --engine ray out to do without"
            ) from error
        raise ConfigError(
            f"no Ray cluster at {address}: {cause(error)}. Leave --address out to start one on this machine"
        ) from error


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Discard standard error inside the block.

    Ray's core reports there that its log is off.
    """
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
