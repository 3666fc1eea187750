"""ONNX Runtime sessions and execution providers; the only import of ONNX Runtime.

ONNX Runtime reports on the machine to its maker unless `ORT_DISABLE_TELEMETRY` is set before its import, so importing
this package sets it, for this process and for those that it starts.
"""

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

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


class Device(NamedTuple):
    """A device whose memory holds a graph's tensors.

    Attributes:
        provider: Execution provider that computes there, by its short name: "cpu" or "cuda".
        number: Number of the GPU.
    """

    provider: str
    number: int = 0


CPU = Device("cpu")

_HERE = threading.local()
"""Holds `device`, on threads that have set one."""


def current_device() -> Device:
    """Return the device on which the calling thread searches memory banks."""
    device: Device = getattr(_HERE, "device", CPU)
    return device


@contextmanager
def on_device(device: Device) -> Iterator[None]:
    """Run searches of memory banks by the calling thread on a device."""
    before, _HERE.device = current_device(), device
    try:
        yield
    finally:
        _HERE.device = before


def value_on(array: NDArray[Any], device: Device) -> Any:
    """Return an array as an OrtValue, which on the CPU shares its memory."""
    return onnx_runtime().OrtValue.ortvalue_from_numpy(array, device.provider, device.number)


class Session:
    """A graph that ONNX Runtime runs.

    Pickled, it is the graph alone, which the other process opens when it first runs it.

    Args:
        model: The graph's file or its bytes.
        threads: Threads of one operator; None takes one a core.
        providers: Execution providers by short or long name, the preferred one first; None takes CUDA where
            it is present and starts, else the CPU.
        device: Number of the GPU for NVIDIA's providers; None leaves the choice to them.
        exact: Multiply float32 in float32, where NVIDIA's providers would round to TF32.

    Attributes:
        provider: Long name of the execution provider that runs it.
        threads: Its number of threads.

    Raises:
        BackboneError: If ONNX Runtime cannot load the graph.
        ConfigError: If a provider is absent or does not start, or threads is below 1.
        MissingExtra: If ONNX Runtime is not installed.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        device: int | None = None,
        exact: bool = False,
    ) -> None:
        self.threads = thread_count(threads)
        self._model = model
        self._nvidia = ({} if device is None else {"device_id": device}) | ({"use_tf32": 0} if exact else {})
        wanted = _providers(providers, onnx_runtime().get_available_providers())
        try:
            self._opened: Any = self._open(wanted)
        except BackboneError:
            if providers is not None or len(wanted) == 1:
                raise
            wanted = wanted[1:]
            self._opened = self._open(wanted)
        if wanted[0] not in self._opened.get_providers():
            if providers is not None:
                raise ConfigError(f"provider {wanted[0]} did not start; it needs its drivers and libraries")
            wanted = wanted[1:]
        self.provider = wanted[0]
        self._wanted = wanted

    @property
    def device(self) -> Device:
        """The device that also searches memory banks for what the graph computes."""
        return Device("cuda", self._nvidia.get("device_id", 0)) if self.provider in _NVIDIA else CPU

    @property
    def opened(self) -> Any:
        """The onnxruntime.InferenceSession of this process."""
        if self._opened is None:
            self._opened = self._open(self._wanted)
        return self._opened

    def _open(self, providers: Sequence[str]) -> Any:
        runtime = onnx_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = _SILENT
        # Threads that spin for a while after a run would take the cores from what comes next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # without VNNI, x64 processors saturate sums of int8 products: weights beyond 7 bits are run as uint8 there
        options.add_session_config_entry("session.x64quantprecision", "1")
        cancel = getattr(options, "set_load_cancellation_flag", lambda stop: None)  # older releases lack it
        chosen = [(name, self._nvidia) if self._nvidia and name in _NVIDIA else name for name in providers]
        model = self._model if isinstance(self._model, bytes) else str(self._model)
        try:
            opened = stoppable(
                lambda: runtime.InferenceSession(model, options, providers=chosen, enable_fallback=0),
                lambda: cancel(True),
            )
            for port in (*opened.get_inputs(), *opened.get_outputs()):
                _ = port.name, port.type, port.shape
            return opened
        except UnicodeDecodeError as error:
            raise BackboneError(
                "the graph cannot be loaded: it has a name that is not Unicode. Export it anew with plain names"
            ) from error
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise BackboneError(f"the graph cannot be loaded: {first_line(error)}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def run_session(session: Session, outputs: Sequence[str], inputs: dict[str, Images]) -> list[Features]:
    """Run a session on a batch and return its outputs in the order of their names.

    Args:
        session: The graph.
        outputs: Names of the outputs to compute.
        inputs: Batches by the name of the input, uint8 (n, h, w, c).

    Raises:
        BackboneError: If the graph fails.
    """
    options = onnx_runtime().RunOptions()
    options.log_severity_level = _SILENT
    opened = session.opened
    try:
        results: list[Features] = stoppable(
            lambda: opened.run(list(outputs), inputs, options), lambda: setattr(options, "terminate", True)
        )
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise BackboneError(f"the graph failed: {first_line(error)}") from error
    return results


def fold_constants(model: bytes) -> bytes:
    """Compute the constant parts of a graph, and return the rest.

    Batch normalisations are merged into convolutions.

    Raises:
        BackboneError: If ONNX Runtime cannot load the graph.
    """
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="lit_od-graph-") as folder:
        file = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(file)
        try:
            runtime.InferenceSession(model, options, providers=[PROVIDERS["cpu"]])
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise BackboneError(f"the graph cannot be loaded: {first_line(error)}") from error
        return file.read_bytes()


def run_unoptimised(model: bytes, output: str, inputs: dict[str, Images]) -> Features:
    """Run a graph operator by operator, as its file has them, and return an output.

    Args:
        model: The graph.
        output: Name of the output.
        inputs: Batches by the name of the input, uint8 (n, h, w, c).
    """
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    result: Features = runtime.InferenceSession(model, options, providers=[PROVIDERS["cpu"]]).run([output], inputs)[0]
    return result


def onnx_quantization() -> Any:
    """Import onnxruntime.quantization. Raises MissingExtra where onnx is missing."""
    onnx_runtime()
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization
        import onnxruntime.quantization.qdq_loss_debug  # hands nothing on
    except ImportError:
        missing_extra("onnx", "quantize,cpu")
    return onnxruntime.quantization


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
