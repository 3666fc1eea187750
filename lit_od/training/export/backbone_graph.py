"""Export of a torch module as one ONNX file, proven to compute the same.

Scaling and normalisation belong to the module, so that they are in the graph: it takes uint8
(n, h, w, c) and gives "features" (n, d), "errors" (n, h, w, c) or "patches" (n, gh, gw, d), float32,
for any n. The file is written beside its place and moved there once ONNX Runtime has given torch's
results on real images and at several batch sizes.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lit_od.backbone.model import OUTPUT_SHAPES
from lit_od.errors import ConfigError, ExportError, missing_extra
from lit_od.formats.atomic import atomic_file
from lit_od.training.export.parity import check_images, check_parity, on_device, run_module
from lit_od.training.networks.trial import evaluating
from lit_od.training.quiet_logging import quiet_logging
from lit_od.types import Images, Output

OPSETS = range(18, 24)
"""From the oldest that the exporter writes without down-conversion to the newest that ONNX Runtime 1.20 runs."""

LIMIT_BYTES = 2**31 - 1
"""Protobuf's limit for one file."""

_AXES = ("n", "h", "w")
"""Names of the axes that may be free."""


_NOISY = ("torch.onnx", "torch.export", "torch.fx", "torch._dynamo", "onnxscript", "onnx_ir")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Facts of an exported graph and its agreement with torch.

    Attributes:
        differences: Largest relative difference between torch and ONNX Runtime by batch size.
        opset: ONNX operator set of the graph.
        nodes: Number of nodes of the graph.
        size: Bytes of the file.
        image_shape: (h, w, c) that the graph takes.
        output: Name of the output.
        output_shape: Shape of one image's output, (d,), (h, w, c) or (gh, gw, d).
    """

    differences: dict[int, float]
    opset: int
    nodes: int
    size: int
    image_shape: tuple[int, ...]
    output: str
    output_shape: tuple[int, ...]


def export_backbone(
    module: nn.Module,
    path: Path,
    images: Images,
    *,
    opset: int = 20,
    output: Output = "features",
    free_size: bool = False,
) -> ExportReport:
    """Write a module as a proven ONNX backbone; a failure leaves no file.

    The module is exported in evaluation mode on its device, and its mode is restored. Where it turns
    (n, h, w, c) into (n, c, h, w), let it call `contiguous()`: of a channels-last tensor the exporter writes
    global pooling as half a dozen nodes that copy memory strides.

    Args:
        module: Takes uint8 (n, h, w, c), returns float32 (n, d), (n, h, w, c) for "errors", or (n, gh, gw, d)
            for "patches".
        path: The file to write; an old one is replaced once the new one is proven.
        images: Real prepared images for the proof, (n, h, w, c) uint8, n at least 1; repeated where a
            batch needs more.
        opset: ONNX operator set, one of `OPSETS`.
        output: Name of the output: "features", "errors" or "patches".
        free_size: Leave height and width free in the graph. The proof is at the images' own size alone:
            prove others with `check_parity`.

    Raises:
        ConfigError: If the opset or the output's name is invalid.
        DataError: If the images are not uint8 (n, h, w, c) with n at least 1.
        ExportError: If the module returns something else, or other values for an image alone than among others, is
            larger than 2 GiB, cannot be exported, or the graph does not compute what the module computes.
        MissingExtra: If onnxscript or ONNX Runtime is not installed.
    """
    if opset not in OPSETS:
        raise ConfigError(f"opset must lie in {OPSETS[0]}..{OPSETS[-1]}, got {opset}")
    if output not in OUTPUT_SHAPES:
        raise ConfigError(f'output must be "features", "errors" or "patches", got {output!r}')
    check_images(images)
    size = sum(each.nbytes for each in chain(module.parameters(), module.buffers()))
    if size > LIMIT_BYTES:
        raise ExportError(
            f"an ONNX file holds at most {LIMIT_BYTES:,} bytes, but the module's weights are {size:,}. "
            "Choose a smaller backbone."
        )
    with evaluating(module):
        shape = _output_shape(module, images, output)
        example = images[np.arange(2) % len(images)]  # one image would be taken for a constant
        with _out_of_place(module, example):
            program = exported(module, example, opset, [output], _AXES[: 3 if free_size else 1])
        with atomic_file(path) as partial:
            save(program, partial)
            differences = check_parity(module, partial, images)
            written = partial.stat().st_size
    return ExportReport(
        differences=differences,
        opset=opset,
        nodes=sum(1 for _ in program.model.graph.all_nodes()),
        size=written,
        image_shape=images.shape[1:],
        output=output,
        output_shape=shape,
    )


def _output_shape(module: nn.Module, images: Images, output: Output) -> tuple[int, ...]:
    """Return the shape of one image's output.

    Raises ExportError if a backbone has no such output.
    """
    result = run_module(module, images[:1])
    fits = (
        result.shape == images[:1].shape if output == "errors" else result.ndim == OUTPUT_SHAPES[output].count(",") + 1
    )
    if not fits or len(result) != 1 or result.dtype != torch.float32:
        wanted = f"(n, {', '.join(map(str, images.shape[1:]))})" if output == "errors" else OUTPUT_SHAPES[output]
        raise ExportError(
            f"for {output!r} the module must return float32 {wanted}, got {result.dtype} {tuple(result.shape)} "
            "for one image"
        )
    return tuple(result.shape[1:])


def exported(
    module: nn.Module, example: Images, opset: int, outputs: Sequence[str], free: Sequence[str] = _AXES[:1]
) -> torch.onnx.ONNXProgram:
    """Export a module to a graph, unproven.

    Args:
        module: Takes uint8 (n, h, w, c), in evaluation mode.
        example: Two images or more: one would be taken for a constant.
        opset: ONNX operator set.
        outputs: Names of the module's outputs.
        free: Names of the axes, from the first, that stay free.

    Raises:
        ExportError: If the module cannot be exported.
        MissingExtra: If onnxscript is not installed.
    """
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                (on_device(module, example),),
                dynamo=True,
                input_names=["images"],
                output_names=list(outputs),
                opset_version=opset,
                dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in enumerate(free)},),
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        missing_extra(error.name or "onnxscript", "train,cpu")
    except Exception as error:  # whatever the module's own code makes the exporter raise
        raise ExportError(f"the module cannot be exported: {_reason(error)}") from error
    if program is None:
        raise ExportError("the module cannot be exported: torch.onnx gave no graph")
    got = program.model.opset_imports[""]
    if got != opset:
        raise ExportError(f"the exporter wrote opset {got} instead of {opset}. Choose opset={got}.")
    return program


def save(program: torch.onnx.ONNXProgram, path: Path) -> None:
    """Write a graph to a file, without traces of the machine that made it."""
    graph = program.model.graph
    # the exporter notes each node's stack trace, with the paths of the machine where it ran
    for node in graph.all_nodes():
        node.metadata_props.clear()
    computed = chain.from_iterable(node.outputs for node in graph.all_nodes())
    for value in chain(graph.inputs, graph.initializers.values(), computed):
        value.metadata_props.clear()
    graph.metadata_props.clear()
    program.save(path, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings and log lines; its errors come as exceptions.

    `torch.export` prints a graph that it cannot capture to standard error and has no switch for it.
    """
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), quiet_logging(_NOISY, logging.CRITICAL):
        warnings.simplefilter("ignore")
        yield


def _reason(error: BaseException) -> str:
    """Return the first line of the exception at the root of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines: list[Any] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def _out_of_place(module: nn.Module, example: Images) -> Iterator[None]:
    """Switch in-place activations off, if the module's values do not depend on it.

    The exporter takes twice as long to trace a network of in-place ReLU6, to the same graph.
    """
    parts: list[Any] = [part for part in module.modules() if getattr(part, "inplace", None) is True]
    wanted = run_module(module, example)
    try:
        for part in parts:
            part.inplace = False
        if not torch.equal(wanted, run_module(module, example)):
            for part in parts:
                part.inplace = True
        yield
    finally:
        for part in parts:
            part.inplace = True
