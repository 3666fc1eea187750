"""ONNX Runtime sessions and execution providers; the only import of ONNX Runtime.

ONNX Runtime reports on the machine to its maker unless `ORT_DISABLE_TELEMETRY` is set before its import, so importing
this package sets it, for this process and for those that it starts.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_od.errors import BackboneError, ConfigError, first_line, missing_extra
from lit_od.runtime.stopping import stoppable
from lit_od.runtime.threads import thread_count
from lit_od.types import Features, Images

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "dml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Short names of ONNX Runtime's execution providers; the long ones are taken too."""


_NVIDIA = (PROVIDERS["cuda"], PROVIDERS["tensorrt"])


_SILENT = 4
"""Severity of ONNX Runtime's own lines, which would stand among the rows on standard output; errors are raised too."""


os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def open_session(
    model: Path | bytes,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    device: int | None = None,
) -> tuple[Any, str, int]:
    """Open an ONNX Runtime session of any graph.

    Args:
        model: The graph's file or its bytes.
        threads: Threads of one operator; None takes one a core.
        providers: Execution providers by short or long name, the preferred one first; None takes CUDA where
            it is present, else the CPU.
        device: Number of the GPU for NVIDIA's providers; None leaves the choice to them.

    Returns:
        The session, the long name of the provider that runs it, and its number of threads.

    Raises:
        BackboneError: If ONNX Runtime cannot load the graph.
        ConfigError: If a provider is absent or does not start, or threads is below 1.
        MissingExtra: If ONNX Runtime is not installed.
    """
    runtime = onnx_runtime()
    wanted = _providers(providers, runtime.get_available_providers())
    options = runtime.SessionOptions()
    count = thread_count(threads)
    options.intra_op_num_threads = count
    options.log_severity_level = _SILENT
    chosen = [(name, {"device_id": device}) if device is not None and name in _NVIDIA else name for name in wanted]
    try:
        session = stoppable(
            lambda: runtime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=chosen
            ),
            lambda: None,
        )
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise BackboneError(f"the graph cannot be loaded: {first_line(error)}") from error
    if wanted[0] not in session.get_providers():
        raise ConfigError(f"provider {wanted[0]} did not start; it needs its drivers and libraries")
    return session, wanted[0], count


def run_session(session: Any, outputs: Sequence[str], inputs: dict[str, Images]) -> list[Features]:
    """Run a session on a batch and return its outputs in the order of their names.

    Args:
        session: An ONNX Runtime session.
        outputs: Names of the outputs to compute.
        inputs: Batches by the name of the input, uint8 (n, h, w, c).

    Raises:
        BackboneError: If the graph fails.
    """
    options = onnx_runtime().RunOptions()
    options.log_severity_level = _SILENT
    try:
        results: list[Features] = stoppable(
            lambda: session.run(list(outputs), inputs, options), lambda: setattr(options, "terminate", True)
        )
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise BackboneError(f"the graph failed: {first_line(error)}") from error
    return results


def onnx_runtime() -> Any:
    """Import onnxruntime. Raises MissingExtra where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        missing_extra("ONNX Runtime", 'cpu]" or "lit-od[gpu')
    onnxruntime.set_default_logger_severity(_SILENT)
    return onnxruntime


def _providers(wanted: Sequence[str] | None, present: Sequence[str]) -> list[str]:
    if wanted is None:
        cuda = PROVIDERS["cuda"]
        return [cuda, PROVIDERS["cpu"]] if cuda in present else [PROVIDERS["cpu"]]
    names = [PROVIDERS.get(name.lower(), name) for name in wanted]
    if not names:
        raise ConfigError("providers must name at least one execution provider, such as cpu")
    for name in names:
        if name not in present:
            here = ", ".join(short for short, long in PROVIDERS.items() if long in present)
            mend = '. Run: pip install "lit-od[gpu]"' if "CUDA" in name or "Tensorrt" in name else ""
            raise ConfigError(f"provider {name} is not in this ONNX Runtime; here are {here}{mend}")
    return names
