"""Connect to a Ray cluster, or start one on this machine."""

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from lit_od.cluster.ray_pool import Pool, cause
from lit_od.errors import ConfigError, MissingExtra, missing_extra
from lit_od.runtime.onnx_session import PROVIDERS, onnx_runtime
from lit_od.runtime.threads import available_threads

PATIENCE = 10.0
"""Seconds in which a cluster must answer at its address."""


TELLING = 60.0
"""Seconds in which a machine of the cluster must tell what its ONNX Runtime can do: it starts a process to do so."""


_SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # who takes no GPU sees none; unset, Ray warns or shows them all
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else the core prints to the driver's terminal
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_worker_niceness": "0",  # workers started here have the priority that one process would have, not the lowest
}


_WITHOUT_GPU = (PROVIDERS["cpu"], PROVIDERS["coreml"], PROVIDERS["openvino"])
"""Providers that run on what Ray counts no GPU for."""


@contextlib.contextmanager
def cluster(
    address: str | None = None, *, workers: int | None = None, threads: int | None = None, provider: str | None = None
) -> Iterator[Pool]:
    """Connect to a cluster, or start one on this machine for the duration of the block.

    Args:
        address: Of a running cluster, as `ray.init` takes it. None is that of RAY_ADDRESS, else this machine.
            A connection that the process has already is used and kept.
        workers: None is as many as the cluster has cores for, or GPUs.
        threads: Threads of each worker; None is one.
        provider: Execution provider of each worker. None takes CUDA, and a GPU a worker, where the cluster has
            GPUs and the ONNX Runtime beside them can use them, else the CPU.

    Raises:
        ConfigError: If there is no cluster at the address, it has no room for a worker, or only some of its
            machines with GPUs can use them.
        MissingExtra: If Ray is not installed.
    """
    ray = _ray()
    own = not ray.is_initialized()
    inside = ray._private.worker
    told, inside._worker_logs_enabled = (
        inside._worker_logs_enabled,
        False,
    )  # Ray tells of dead workers on standard output, where our rows go
    if own:
        _connect(ray, address or os.environ.get("RAY_ADDRESS") or "local")
    try:
        there = ray.cluster_resources()
        beside_gpus = _on_gpu_machines(ray) if provider is None and there.get("GPU", 0) >= 1 else []
        chosen, gpu = provider_and_gpu(provider, beside_gpus)
        each = threads or 1
        room = int(there.get("CPU", 0)) // each
        room = min(room, int(there.get("GPU", 0))) if gpu else room
        if room < (workers or 1):
            raise ConfigError(
                f"the cluster has {there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs: too few for "
                f"{workers or 1} workers of {each} threads{' and a GPU' if gpu else ''}. Ask for less"
                f"{', or give --provider cpu' if gpu else ''}"
            )
        yield Pool(workers or room, each, int(gpu), (chosen,))
    finally:
        if own:
            ray.shutdown()
        inside._worker_logs_enabled = told


def provider_and_gpu(wanted: str | None, beside_gpus: Sequence[Sequence[str]]) -> tuple[str, bool]:
    """The execution provider of all workers, by name, and whether each takes a GPU.

    It is never left to a worker: one that takes no GPU would open the first one of its machine, as all others do.

    Args:
        wanted: What the user asked for, if anything.
        beside_gpus: For each machine with a GPU, the providers that its ONNX Runtime has; looked at if nothing
            was asked for.

    Raises:
        ConfigError: If some of these machines can use their GPUs, and some cannot.
    """
    if wanted is not None:
        return wanted, PROVIDERS.get(wanted.lower(), wanted) not in _WITHOUT_GPU
    able = sum(PROVIDERS["cuda"] in present for present in beside_gpus)
    if 0 < able < len(beside_gpus):
        raise ConfigError(
            f"of {len(beside_gpus)} machines with GPUs {len(beside_gpus) - able} have an ONNX Runtime without CUDA. "
            'Run there: pip install "lit-od[ray,gpu]", or give --provider cpu'
        )
    return ("cuda", True) if able else ("cpu", False)


def _on_gpu_machines(ray: Any) -> list[list[str]]:
    """The providers that ONNX Runtime has on each machine of the cluster that has a GPU."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    machines = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # they take neither core nor GPU: all may be taken by others
            ask = ray.remote(num_cpus=0)(_present)
            there = [NodeAffinitySchedulingStrategy(node_id=node, soft=False) for node in machines]
            told: list[list[str]] = ray.get(
                [ask.options(scheduling_strategy=where).remote() for where in there], timeout=TELLING
            )
    except Exception as error:  # Ray's own, of several kinds
        raise ConfigError(
            f"a machine with a GPU does not tell what its ONNX Runtime can do: {cause(error)}. "
            "Give --provider cuda or --provider cpu"
        ) from error
    return told


def _present() -> list[str]:
    """The execution providers of the ONNX Runtime on this machine."""
    try:
        return list(onnx_runtime().get_available_providers())
    except MissingExtra:
        return []


def _ray() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Ray does on import is not the user's concern
            import ray
            import ray.data
    except ModuleNotFoundError as error:
        missing_extra(f"Ray ({error.name})", "ray,cpu")
    return ray


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == "local":
        # reachable from this machine alone
        options |= {"num_cpus": available_threads(), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        if ":" in address:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), PATIENCE).close()  # Ray itself tries for minutes
        with _silent(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster at {address}: {cause(error)}. Leave --address out to start one on this machine"
        ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing reaches standard error inside the block: Ray's core tells there that it was told to be quiet."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
