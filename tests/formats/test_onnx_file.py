"""What an ONNX file says of itself, against the `onnx` package, and what is refused."""

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from lit_od.errors import BackboneError
from lit_od.formats.onnx_file import FLOAT, MAX_DEPTH, UINT8, Graph, Port, read_graph

EXPORTED = Path(__file__).parents[2] / "exported" / "mnist-digits" / "backbone.onnx"
WEIGHTS = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "weights")


def model(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = (WEIGHTS,), **more: Any) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["features"], to=TensorProto.FLOAT), *nodes],
        "made",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 2, 2, 1])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4])],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], **more)


def subgraph(*initializers: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> GraphProto:
    return helper.make_graph(list(nodes), "below", [], [], list(initializers))


def external(name: str = "weights", *, entries: bool = True, location: int = TensorProto.EXTERNAL) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2, 3], data_location=location)
    if entries:
        tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def check_printable(error: BackboneError) -> None:
    assert str(error).isprintable()
    assert len(str(error)) < 300


def refused(made: ModelProto | bytes, message: str) -> None:
    data = made if isinstance(made, bytes) else made.SerializeToString()
    with pytest.raises(BackboneError, match=message) as caught:
        read_graph(data)
    check_printable(caught.value)


# What it says


def test_a_shipped_backbone() -> None:
    assert read_graph(EXPORTED.read_bytes()) == Graph(
        20, (Port("images", UINT8, (None, 28, 28, 1)),), (Port("features", FLOAT, (None, 288)),)
    )


def test_shapes_may_be_missing_or_free() -> None:
    made = model()
    made.graph.output[0].type.tensor_type.ClearField("shape")
    made.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    graph = read_graph(made.SerializeToString())
    assert graph.inputs[0].shape == (None, None, 2, 1)
    assert graph.outputs[0].shape is None


def test_initializers_that_are_listed_as_inputs_are_none() -> None:
    made = model()
    made.graph.input.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [2, 3]))
    assert [port.name for port in read_graph(made.SerializeToString()).inputs] == ["images"]
    made.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [2, 3]))
    assert [port.name for port in read_graph(made.SerializeToString()).inputs] == ["images", "more"]


def test_the_opset_is_that_of_onnx_itself() -> None:
    made = model()
    made.opset_import.add(domain="com.microsoft", version=1)
    assert read_graph(made.SerializeToString()).opset == 20
    made.opset_import[0].domain = "ai.onnx"
    assert read_graph(made.SerializeToString()).opset == 20
    made.opset_import.add(domain="", version=21)
    refused(made, r"imports ONNX' own operators twice: versions \[20, 21\]")
    del made.opset_import[:]
    assert read_graph(made.SerializeToString()).opset is None


def test_weights_are_measured_and_never_read() -> None:
    data = model(initializers=(numpy_helper.from_array(np.zeros((5_000_000,), np.float32), "w"),)).SerializeToString()
    tracemalloc.start()
    read_graph(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


# Data outside the file

HIDDEN: dict[str, Callable[[TensorProto], ModelProto]] = {
    "initializer": lambda tensor: model(initializers=(tensor,)),
    "attribute": lambda tensor: model(helper.make_node("Constant", [], ["c"], value=tensor)),
    "list of tensors": lambda tensor: model(
        onnx.NodeProto(
            op_type="X",
            attribute=[AttributeProto(name="v", type=AttributeProto.TENSORS, tensors=[WEIGHTS, tensor])],
        )
    ),
    "subgraph": lambda tensor: model(helper.make_node("If", ["c"], ["d"], then_branch=subgraph(tensor))),
    "attribute in a subgraph": lambda tensor: model(
        helper.make_node(
            "If", ["c"], ["d"], then_branch=subgraph(nodes=(helper.make_node("Constant", [], ["e"], value=tensor),))
        )
    ),
    "list of graphs": lambda tensor: model(
        onnx.NodeProto(
            op_type="X",
            attribute=[AttributeProto(name="v", type=AttributeProto.GRAPHS, graphs=[subgraph(), subgraph(tensor)])],
        )
    ),
    "function": lambda tensor: model(
        functions=[
            helper.make_function(
                "own",
                "f",
                [],
                ["e"],
                [helper.make_node("Constant", [], ["e"], value=tensor)],
                [helper.make_opsetid("", 20)],
            )
        ]
    ),
    "default of a function's attribute": lambda tensor: model(
        functions=[onnx.FunctionProto(name="f", attribute_proto=[helper.make_attribute("v", tensor)])]
    ),
    "sparse values": lambda tensor: _with_sparse(values=tensor),
    "sparse indices": lambda tensor: _with_sparse(indices=tensor),
    "sparse attribute": lambda tensor: model(
        onnx.NodeProto(
            op_type="Constant",
            attribute=[
                AttributeProto(
                    name="sparse_value",
                    type=AttributeProto.SPARSE_TENSOR,
                    sparse_tensor=onnx.SparseTensorProto(values=tensor, dims=[2]),
                )
            ],
        )
    ),
    "training graph": lambda tensor: _with_training(tensor),
}


def _with_training(tensor: TensorProto) -> ModelProto:
    made = model()
    made.training_info.append(onnx.TrainingInfoProto(initialization=subgraph(), algorithm=subgraph(tensor)))
    return made


def _with_sparse(**parts: TensorProto) -> ModelProto:
    made = model()
    made.graph.sparse_initializer.append(onnx.SparseTensorProto(dims=[2, 3], **parts))
    return made


@pytest.mark.parametrize("place", HIDDEN)
def test_data_outside_the_file_are_found_wherever_they_hide(place: str) -> None:
    read_graph(HIDDEN[place](WEIGHTS).SerializeToString())
    for tensor in (external(), external(entries=False), external(location=TensorProto.DEFAULT)):
        refused(HIDDEN[place](tensor), r"tensor 'weights' of the ONNX file keeps its data in another file: save")


def test_a_location_that_only_looks_harmless_is_refused() -> None:
    """Readers cut an enumeration to 32 bits: 2^32 + 1 is 1, and 1 is outside."""
    harmless = external(entries=False, location=TensorProto.DEFAULT).SerializeToString()
    assert harmless.endswith(b"\x70\x00")
    for location in (b"\x70\x81\x80\x80\x80\x10", b"\x70\x00\x70\x01", b"\x70\x02", b"\x72\x01\x00"):
        tensor = harmless[:-2] + location
        refused(graph_with_tensor(tensor), "keeps its data in another file")


def test_a_compiled_context_is_refused() -> None:
    node = helper.make_node("EPContext", [], ["e"], domain="com.microsoft", embed_mode=0, ep_cache_context="../x.bin")
    refused(model(node), r"loads a compiled context \(EPContext\)")


# Shapes and bytes


def graph_with_tensor(tensor: bytes) -> bytes:
    """A model's bytes around those of an initializer."""
    graph = field(5, tensor) + model(initializers=()).graph.SerializeToString()
    return field(7, graph)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes(digits) + bytes([value])


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            TensorProto(name="w", data_type=1, dims=[2, -3], raw_data=bytes(24)),
            r"'w' .* has a negative side: \[2, -3\]",
        ),
        (TensorProto(name="w", data_type=1, dims=[2**62, 4], raw_data=bytes(24)), "'w' .* is larger than the file"),
        (TensorProto(name="w", data_type=1, dims=[2**31, 2**31, 4]), "is larger than the file"),
        (TensorProto(name="w", data_type=1, dims=[0, 2**62, 2**62]), "is larger than the file"),
        (TensorProto(name="w", data_type=1, dims=[7], raw_data=bytes(24)), r"does not hold the 7 elements .*\[7\]"),
        (TensorProto(name="w", data_type=1, dims=[6], raw_data=bytes(25)), "does not hold the 6 elements"),
        (TensorProto(name="w", data_type=1, dims=[6]), "does not hold the 6 elements"),
        (TensorProto(name="w", data_type=1, dims=[2], float_data=[1.0]), "does not hold the 2 elements"),
        (TensorProto(name="w", data_type=1, dims=[2], raw_data=bytes(8), float_data=[1, 2]), "does not hold the 2"),
        (TensorProto(name="w", data_type=1, dims=[2], int32_data=[1, 2]), "does not hold the 2 elements"),
        (TensorProto(name="w", data_type=8, dims=[2], string_data=[b"a"]), "does not hold the 2 elements"),
        (TensorProto(name="w", data_type=8, dims=[1], raw_data=b"a"), "does not hold the 1 elements"),
        (TensorProto(name="w", data_type=99, dims=[1], raw_data=b"a"), "element type that ONNX does not know: 99"),
        (TensorProto(name="w", dims=[1], raw_data=b"a"), "element type that ONNX does not know: 0"),
        (TensorProto(name="w", data_type=1, dims=[1] * 65, raw_data=bytes(4)), "more than 64 dimensions"),
    ],
)
def test_shapes_must_be_those_of_the_bytes(tensor: TensorProto, message: str) -> None:
    refused(model(initializers=(tensor,)), message)


@pytest.mark.parametrize("number", [1, 5, 10])
def test_runs_of_numbers_are_measured_without_being_listed(number: int) -> None:
    """Sides, 32-bit integers and doubles, a million bytes of them in one field."""
    run = field(number, bytes(1_000_001) if number == 10 else b"\x01" * 1_000_000)
    message = {1: "more than 64 dimensions", 5: "does not hold the 1 elements", 10: "damaged near byte"}[number]
    tracemalloc.start()
    refused(graph_with_tensor(TensorProto(data_type=6).SerializeToString() + run), message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    if number == 5:
        whole = TensorProto(data_type=6, dims=[1_000_000]).SerializeToString() + run
        read_graph(graph_with_tensor(whole))
        refused(graph_with_tensor(whole[:-1] + b"\x81"), "damaged near byte")


def test_a_sparse_tensor_must_not_grow_beyond_measure() -> None:
    made = _with_sparse(values=WEIGHTS)
    made.graph.sparse_initializer[0].dims[:] = [2**40]
    refused(made, "a sparse tensor of the ONNX file is larger than the file")
    made.graph.sparse_initializer[0].dims[:] = [-1]
    refused(made, "a sparse tensor of the ONNX file has a negative side")


@pytest.mark.parametrize("kind", sorted(set(helper.get_all_tensor_dtypes())))
@pytest.mark.parametrize("raw", [False, True])
def test_every_kind_of_element_is_measured_as_onnx_writes_it(kind: int, raw: bool) -> None:
    """Also packed and unpacked; complex numbers and halves of bytes among them."""
    if kind == TensorProto.STRING:
        if raw:
            return
        tensor = helper.make_tensor("w", kind, [5], [b"a", b"", b"c", b"d", b"e"])
    else:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        values = np.arange(5).astype(np.float32).astype(dtype)
        tensor = numpy_helper.from_array(values, "w")
        if not raw:
            tensor = helper.make_tensor("w", kind, [5], values.astype(values.dtype))
    read_graph(model(initializers=(tensor,)).SerializeToString())
    tensor.dims[:] = [13]
    refused(model(initializers=(tensor,)), "does not hold the 13 elements")


# The wire format


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no graph"),
        (b"not an ONNX file at all", "is damaged near byte|holds no graph"),
        (b"\x3a", "is damaged near byte"),
        (b"\x3a\x05", "is damaged near byte"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "is damaged near byte"),
        (b"\x08" + b"\xff" * 10, "is damaged near byte"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", "is damaged near byte"),
        (b"\x00\x00", "is damaged near byte"),
        (b"\x3b\x3c", "is damaged near byte"),
        (b"\x3e\x00", "is damaged near byte"),
        (b"\x0d\x00", "is damaged near byte"),
        (b"\x38\x01", "is damaged near byte"),
        (b"\xff\xff\xff\xff\x7f\x00", "is damaged near byte"),
        (b"\x3a\x00\x3a\x00", "model holds two of what may stand once"),
    ],
)
def test_a_broken_wire_format_is_refused(data: bytes, message: str) -> None:
    refused(data, message)


def test_another_format_in_the_same_bytes_is_refused() -> None:
    """ONNX Runtime takes these for its own format, though they are an ONNX file as well."""
    polyglot = field(6, b"\0\0ORTM" + bytes(40)) + model().SerializeToString()
    onnx.load_model_from_string(polyglot)
    refused(polyglot, r"in ONNX Runtime's own format: give the ONNX file")


def test_no_more_than_protocol_buffers_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_od.formats.onnx_file.MAX_BYTES", 20)
    refused(model(), r"an ONNX file holds at most 20 bytes, got \d+")


def test_fields_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_od.formats.protobuf.MAX_FIELDS", 1000)
    refused(field(7, b"") + b"\x08\x01" * 1000, "more than 1,000 fields")


def test_nesting_without_end_is_refused() -> None:
    def nested(depth: int) -> bytes:
        data = b""
        for _ in range(depth):
            data = field(1, field(5, field(6, data)))
        return field(7, data)

    read_graph(nested((MAX_DEPTH - 2) // 3))
    for depth in (MAX_DEPTH // 3 + 1, 5000):
        refused(nested(depth), "nests more than 100 messages")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.graph.input[0].ClearField("name"), "must have one name"),
        (lambda made: made.graph.input[0].type.ClearField("tensor_type"), "'images' .* is no plain tensor"),
        (lambda made: made.graph.input[0].ClearField("type"), "'images' .* is no plain tensor"),
        (lambda made: made.graph.input[0].type.tensor_type.ClearField("elem_type"), "must have one element type"),
        (lambda made: made.graph.input[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", -1), "is no length"),
        (lambda made: made.graph.output[0].type.sequence_type.SetInParent(), "'features' .* is no plain tensor"),
    ],
)
def test_inputs_and_outputs_must_be_plain_tensors(change: Callable[[ModelProto], None], message: str) -> None:
    made = model()
    change(made)
    refused(made, message)


# Against the onnx package


def said(made: ModelProto) -> Graph:
    """The same from the onnx package."""

    def port(info: onnx.ValueInfoProto) -> Port:
        kind = info.type.tensor_type
        sides = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
        return Port(info.name, kind.elem_type, sides if kind.HasField("shape") else None)

    known = {tensor.name for tensor in made.graph.initializer} | {
        tensor.values.name for tensor in made.graph.sparse_initializer
    }
    opsets = [each.version for each in made.opset_import if each.domain in ("", "ai.onnx")]
    return Graph(
        opsets[0] if opsets else None,
        tuple(port(info) for info in made.graph.input if info.name not in known),
        tuple(port(info) for info in made.graph.output),
    )


def tensors(message: Any) -> Iterator[TensorProto]:
    """Every tensor anywhere below a message, by protobuf's own reflection."""
    if isinstance(message, TensorProto):
        yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from tensors(inner)


def outside(made: ModelProto) -> bool:
    return any(tensor.external_data or tensor.data_location == TensorProto.EXTERNAL for tensor in tensors(made))


SHAPES = st.lists(st.none() | st.just("n") | st.integers(0, 2**40), max_size=5)
NAMES = st.text(min_size=1, max_size=8)
PORTS = st.builds(
    helper.make_tensor_value_info, NAMES, st.sampled_from([1, 2, 7, 10]), SHAPES | st.none()
)  # fmt: skip
TENSORS = st.builds(
    lambda shape, dtype, name: numpy_helper.from_array(np.zeros(shape, dtype), name),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([np.float32, np.float16, np.int64, np.uint8, np.bool_, np.complex64]),
    NAMES,
) | st.builds(external, NAMES, entries=st.booleans())
GRAPHS = st.recursive(
    st.builds(lambda tensors: subgraph(*tensors), st.lists(TENSORS, max_size=2)),
    lambda inner: st.builds(
        lambda graphs, tensors: subgraph(
            *tensors, nodes=tuple(helper.make_node("If", ["c"], ["d"], then_branch=each) for each in graphs)
        ),
        st.lists(inner, max_size=2),
        st.lists(TENSORS, max_size=1),
    ),
    max_leaves=4,
)
MODELS = st.builds(
    lambda graph, inputs, outputs, opset: (
        graph.input.extend(inputs),
        graph.output.extend(outputs),
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]),
    )[-1],
    GRAPHS,
    st.lists(PORTS, max_size=3),
    st.lists(PORTS, max_size=3),
    st.integers(1, 30),
)


@settings(max_examples=300)
@given(made=MODELS)
def test_any_model_reads_as_the_onnx_package_reads_it(made: ModelProto) -> None:
    if outside(made):
        refused(made, "keeps its data in another file")
    else:
        assert read_graph(made.SerializeToString()) == said(made)


@settings(max_examples=1500)
@given(
    place=st.sampled_from(sorted(HIDDEN)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    how=st.sampled_from(["overwrite", "insert", "delete", "cut"]),
)
def test_changed_bytes_never_hide_what_the_onnx_package_finds(
    place: str, changes: list[tuple[float, int]], how: str
) -> None:
    """Whatever is taken here is an ONNX file there too, says the same, and keeps no data elsewhere."""
    raw = bytearray(HIDDEN[place](WEIGHTS).SerializeToString())
    for where, byte in changes:
        at = int(where * len(raw))
        if how == "overwrite":
            raw[at] = byte
        elif how == "insert":
            raw.insert(at, byte)
        elif raw:
            del raw[at : at + 1 if how == "delete" else len(raw)]
    try:
        graph = read_graph(bytes(raw))
    except BackboneError as error:
        check_printable(error)
        return
    try:
        there = onnx.load_model_from_string(bytes(raw))
    except DecodeError:
        return  # a part that holds no tensor and is not walked; ONNX Runtime will refuse it
    assert graph == said(there)
    assert not outside(there)
