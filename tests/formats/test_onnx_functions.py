"""Functions of an ONNX file: what would grow without end is refused, and what exporters write is not."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, NodeProto, TensorProto, helper

from lit_od.backbone.model import Backbone
from lit_od.errors import BackboneError
from lit_od.formats.onnx_file import read_graph
from lit_od.formats.onnx_functions import MAX_SUBGRAPHS, check_expansion

IMPORTS = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
IMAGES = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)


def call(name: str, given: str = "x", made: str = "y", *, domain: str = "own", **more: Any) -> NodeProto:
    return helper.make_node(name, [given], [made], domain=domain, **more)


def function(name: str, *nodes: NodeProto, domain: str = "own", **more: Any) -> FunctionProto:
    return helper.make_function(domain, name, ["x"], ["y"], list(nodes), IMPORTS, **more)


def identity(name: str = "f0") -> FunctionProto:
    return function(name, helper.make_node("Identity", ["x"], ["y"]))


def backbone(*functions: FunctionProto, node: NodeProto | None = None) -> bytes:
    """A backbone for 2x2 grey images that calls the last function."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            node or call(functions[-1].name, "flat", "features", domain=functions[-1].domain),
        ],
        "made",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 2, 2, 1])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4])],
    )
    made = helper.make_model(graph, opset_imports=IMPORTS, functions=functions, ir_version=10)
    data: bytes = made.SerializeToString()
    return data


def doubling(levels: int) -> bytes:
    """A backbone with 2 ** levels nodes in some functions of two calls."""
    twice = [
        function(f"f{level}", call(f"f{level - 1}", "x", "m"), call(f"f{level - 1}", "m", "y"))
        for level in range(1, levels + 1)
    ]
    return backbone(identity(), *twice)


def branch(*nodes: NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])


def choice(*nodes: NodeProto) -> NodeProto:
    """An If with the same nodes in both of its branches."""
    return helper.make_node("If", ["c"], ["y"], then_branch=branch(*nodes), else_branch=branch(*nodes))


def refused(data: bytes, message: str) -> None:
    for check in (read_graph, check_expansion):
        with pytest.raises(BackboneError, match=message) as caught:
            check(data)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


TOO_MANY = "more than 100,000 nodes once its functions are expanded: export it without"


def test_functions_that_double_are_refused_before_the_runtime_opens_them(tmp_path: Path) -> None:
    data = doubling(25)
    refused(data, TOO_MANY)
    file = tmp_path / "doubling.onnx"
    file.write_bytes(data)
    begun = time.monotonic()
    for model in (data, file):
        with pytest.raises(BackboneError, match=f"^the graph cannot be loaded: the ONNX file has {TOO_MANY}$"):
            Backbone.load(model, providers=["cpu"])
    assert time.monotonic() - begun < 5


def test_the_number_of_levels_costs_nothing() -> None:
    refused(doubling(3000), TOO_MANY)


def test_functions_are_counted_in_the_branches_of_others() -> None:
    twice = [function(f"f{level}", choice(call(f"f{level - 1}"))) for level in range(1, 25)]
    refused(backbone(identity(), *twice), TOO_MANY)


def test_calls_count_though_there_is_nothing_in_the_function() -> None:
    twice = [function(f"f{level}", *[call(f"f{level - 1}")] * 2) for level in range(1, 25)]
    refused(backbone(function("f0"), *twice), TOO_MANY)


def test_functions_are_told_apart_as_the_runtime_does() -> None:
    """It joins the names with colons, so that the calls below are of the function."""
    for domain, name in (("own", "f:g"), ("own:f", "g")):
        made = onnx.load_model_from_string(doubling(17))
        for body in made.functions:
            for node in body.node:
                if node.op_type == "f16":
                    node.domain, node.op_type = domain, name
            if body.name == "f16":
                body.name, body.overload = "f", "g"
        refused(made.SerializeToString(), TOO_MANY)


@pytest.mark.parametrize(
    "functions",
    [
        (function("f0", call("f0")),),
        (function("f0", choice(call("f0"))),),
        (function("f1", call("f0")), function("f0", call("f1"))),
        (function("Abs", helper.make_node("Abs", ["x"], ["y"]), domain="ai.onnx"),),
    ],
)
def test_functions_that_call_themselves_are_refused(functions: tuple[FunctionProto, ...]) -> None:
    refused(backbone(*functions), "function '(own:f[01]|:Abs)' of the ONNX file calls itself, directly or by others")


def test_two_functions_of_one_name_are_refused() -> None:
    refused(backbone(identity("f1"), identity(), identity()), "the ONNX file has two functions 'own:f0'")


def test_subgraphs_that_are_handed_to_functions_are_refused() -> None:
    handed = "hands a subgraph to its function 'own:f0': export it without"
    node = call("f0", "flat", "features", body=branch(helper.make_node("Identity", ["flat"], ["y"])))
    refused(backbone(identity(), node=node), handed)
    default = helper.make_attribute("body", branch())
    refused(backbone(function("f0", choice(), attribute_protos=[default])), handed)


def test_subgraphs_without_end_are_refused() -> None:
    """`read_graph` knows their depth by itself; in front of the runtime there is only this check."""
    node = helper.make_node("Identity", ["x"], ["y"])
    for _ in range(MAX_SUBGRAPHS + 1):
        node = helper.make_node("Loop", [], ["y"], body=branch(node))
    with pytest.raises(BackboneError, match="nests more than 30 subgraphs"):
        check_expansion(backbone(identity(), node=node))


def test_ordinary_functions_run(tmp_path: Path) -> None:
    data = doubling(5)
    read_graph(data)
    file = tmp_path / "ordinary.onnx"
    file.write_bytes(data)
    for model in (data, file):
        assert np.array_equal(Backbone.load(model, providers=["cpu"])(IMAGES), IMAGES.reshape(2, 4))


def test_a_file_without_functions_is_not_read() -> None:
    """Beyond its outermost fields: nothing is said of a node that is no node."""
    check_expansion(b"\x3a\x03\x0a\x01\xff")


@pytest.mark.parametrize("content", [None, b"", b"\0\0\0\0ORTM"])
def test_what_is_no_onnx_file_is_left_to_the_runtime(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
        check_expansion(content)
    check_expansion(file)
