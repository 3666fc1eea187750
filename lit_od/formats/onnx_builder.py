"""Build an ONNX graph node by node: names are given, constants kept once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from lit_od.formats import onnx_writer
from lit_od.formats.onnx_writer import Attribute


class GraphBuilder:
    """Nodes and constants of a graph that is being built.

    Attributes:
        nodes: Encoded nodes so far, of the graph or of the inner graph that is being built.
        initializers: Encoded constants so far.
    """

    def __init__(self, prefix: str) -> None:
        """Begin with nothing.

        Args:
            prefix: First part of all names that are given.
        """
        self.nodes: list[bytes] = []
        self.initializers: list[bytes] = []
        self._prefix, self._count = prefix, 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def name(self, role: str) -> str:
        """Return a name that is not used yet."""
        self._count += 1
        return f"{self._prefix}{role}_{self._count}"

    def op(self, operator: str, *inputs: str, to: str | None = None, **attributes: Attribute) -> str:
        """Add a node with one output, and return the output's name.

        Args:
            operator: Name of an operator of ONNX' own domain.
            inputs: Names of its inputs.
            to: Name of the output; None gives one.
            attributes: Values by name.
        """
        output = to or self.name(operator)
        self.nodes.append(onnx_writer.node(operator, inputs, [output], **attributes))
        return output

    def ops(self, operator: str, count: int, *inputs: str, **attributes: Attribute) -> list[str]:
        """Add a node with several outputs, and return their names.

        Args:
            operator: Name of an operator of ONNX' own domain.
            count: Number of its outputs.
            inputs: Names of its inputs.
            attributes: Values by name.
        """
        outputs = [self.name(operator) for _ in range(count)]
        self.nodes.append(onnx_writer.node(operator, inputs, outputs, **attributes))
        return outputs

    def constant(self, value: ArrayLike, dtype: DTypeLike = np.float64, *, to: str | None = None) -> str:
        """Add a constant, and return its name; equal ones are kept once.

        Args:
            value: Its value.
            dtype: Its element type.
            to: Its name; None gives one.
        """
        array = np.asarray(value, dtype)
        key = (array.dtype.name, array.shape, array.tobytes() if array.size <= 64 else b"")
        if to is None and key[2] and key in self._constants:
            return self._constants[key]
        name = to or self.name("constant")
        self.initializers.append(onnx_writer.tensor(name, array))
        self._constants.setdefault(key, name)
        return name

    def cast(self, tensor: str, dtype: DTypeLike) -> str:
        """Convert a tensor to another element type."""
        number = onnx_writer.ELEMENT_TYPES[np.dtype(dtype).name]
        output = self.name("Cast")
        self.nodes.append(onnx_writer.node("Cast", [tensor], [output], to=number))
        return output

    def integers(self, *values: int) -> str:
        """Return the name of a constant of int64, shape (k,)."""
        return self.constant(values, np.int64)

    def reshape(self, tensor: str, *sides: int) -> str:
        """Bring a tensor to another shape.

        Args:
            tensor: Its name.
            sides: The new sides; -1 takes what is left, 0 keeps the old side of its place.
        """
        return self.op("Reshape", tensor, self.integers(*sides))

    def sum(self, tensor: str, axis: int, *, keep: bool = False) -> str:
        """Sum over an axis.

        Args:
            tensor: Its name.
            axis: The axis.
            keep: Keep it, with one place.
        """
        return self.op("ReduceSum", tensor, self.integers(axis), keepdims=int(keep))

    def mean(self, tensor: str, axis: int) -> str:
        """Return the mean over an axis."""
        return self.op("ReduceMean", tensor, self.integers(axis), keepdims=0)

    def column(self, tensor: str, place: int, axis: int) -> str:
        """Take one place along an axis; the axis stays, with one place.

        Args:
            tensor: Its name.
            place: The place, from 0; -1 is the last.
            axis: The axis.
        """
        return self.op("Gather", tensor, self.integers(place), axis=axis)

    def squared_norms(self, tensor: str, *, keep: bool = False) -> str:
        """Return the squared length of the last axis."""
        return self.op("ReduceSumSquare", tensor, self.integers(-1), keepdims=int(keep))

    @contextmanager
    def inner(self) -> Iterator[list[bytes]]:
        """Build the nodes of an inner graph; constants go to the outer one."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer

    def branches(
        self, condition: str, outputs: Sequence[Any], then: Sequence[bytes], other: Sequence[bytes]
    ) -> list[str]:
        """Add a choice between two inner graphs.

        Args:
            condition: Name of a bool, shape ().
            outputs: For each output the names in both branches, its element type and its shape.
            then: Nodes of the branch that runs where the condition is true.
            other: Nodes of the other.
        """
        graphs = {
            key: onnx_writer.graph(nodes, [], [onnx_writer.port(each[at], each[2], each[3]) for each in outputs])
            for at, (key, nodes) in enumerate((("then_branch", then), ("else_branch", other)))
        }
        return self.ops("If", len(outputs), condition, **graphs)
