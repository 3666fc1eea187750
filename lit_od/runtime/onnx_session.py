"""ONNX Runtime sessions and their execution providers. The only home of ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_od.errors import BackboneError, ConfigError, missing_extra
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


_SEVERITY_ERROR = 3


def open_session(
    model: Path | bytes,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    device: int | None = None,
) -> tuple[Any, str, int]:
    """A session of any graph, the provider that runs it, and its threads; arguments and errors as `Backbone.load`."""
    runtime = onnx_runtime()
    wanted = _providers(providers, runtime.get_available_providers())
    options = runtime.SessionOptions()
    count = thread_count(threads)
    options.intra_op_num_threads = count
    options.log_severity_level = _SEVERITY_ERROR
    chosen = [(name, {"device_id": device}) if device is not None and name in _NVIDIA else name for name in wanted]
    try:
        session = runtime.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=chosen)
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise BackboneError(f"the graph cannot be loaded: {_first_line(error)}") from error
    if wanted[0] not in session.get_providers():
        raise ConfigError(f"provider {wanted[0]} did not start; it needs its drivers and libraries")
    return session, wanted[0], count


def run_session(session: Any, outputs: Sequence[str], given: dict[str, Images]) -> list[Features]:
    """What a session computes, in the order of the outputs. Raises BackboneError where it fails."""
    try:
        results: list[Features] = session.run(list(outputs), given)
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise BackboneError(f"the graph failed: {_first_line(error)}") from error
    return results


def onnx_runtime() -> Any:
    """The module onnxruntime. Raises MissingExtra where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        missing_extra("ONNX Runtime", 'cpu]" or "lit-od[gpu')
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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
