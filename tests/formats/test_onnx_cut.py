"""Parts cut out of ONNX graphs, against the `onnx` package."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lit_od.errors import BackboneError
from lit_od.formats import onnx_writer
from lit_od.formats.onnx_cut import cut, tensor_names


def chain(*nodes: onnx.NodeProto, sparse: bool = False) -> bytes:
    """A chain of two products with a weight each, the last of which is the output; a spare weight and further nodes."""
    weights = [numpy_helper.from_array(np.full(2, each, np.float32), f"w{each}") for each in (2, 3, 5)]
    steps = [helper.make_node("Mul", [f"t{each}", f"w{each + 1}"], [f"t{each + 1}"]) for each in (1, 2)]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["t1"], to=TensorProto.FLOAT), *steps, *nodes],
        "made",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 2])],
        [helper.make_tensor_value_info("t3", TensorProto.FLOAT, ["n", 2])],
        weights,
    )
    if sparse:
        values = numpy_helper.from_array(np.ones(1, np.float32), "s")
        places = numpy_helper.from_array(np.zeros(1, np.int64), "i")
        graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2]))
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=9,
        producer_name="maker",
    )
    helper.set_model_props(made, {"key": "value"})
    data: bytes = made.SerializeToString()
    return data


def joined(model: bytes, *tensors: str) -> onnx.ModelProto:
    part = cut(model, tensors)
    ports = [onnx_writer.text(1, name) for name in tensors]
    taken = onnx_writer.port("images", np.uint8, ("n", 2))
    data = onnx_writer.model(part.nodes, [taken], ports, initializers=part.initializers, header=part.header)
    return onnx.load_from_string(data)


def test_a_part_holds_what_it_needs_and_nothing_else() -> None:
    made = onnx.load_from_string(chain())
    part = joined(chain(), "t2")
    assert list(part.graph.node) == list(made.graph.node)[:2]
    assert list(part.graph.initializer) == list(made.graph.initializer)[:1]
    assert (part.ir_version, part.producer_name, part.opset_import) == (9, "maker", made.opset_import)
    assert not part.metadata_props
    assert list(joined(chain(), "t3").graph.node) == list(made.graph.node)


def test_nodes_in_any_order_are_sorted() -> None:
    made = onnx.load_from_string(chain())
    wanted = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend(reversed(wanted))
    part = joined(made.SerializeToString(), "t3")
    assert list(part.graph.node) == wanted
    made.graph.node[-1].input[0] = "t3"
    with pytest.raises(BackboneError, match="read one another in a circle"):
        cut(made.SerializeToString(), ["t3"])


def test_names_of_tensors_come_in_the_files_order() -> None:
    assert tensor_names(chain()) == ("t1", "t2", "t3")


def test_subgraphs_keep_the_tensors_around_them() -> None:
    """One branch reads a tensor and a weight of the graph around it, the other hands one on."""
    port = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("Mul", ["t2", "w5"], ["y"])], "then", [], [port])
    handed = helper.make_tensor_value_info("t3", TensorProto.FLOAT, None)
    other = helper.make_graph([], "other", [], [handed])
    true = helper.make_node("Constant", [], ["true"], value=numpy_helper.from_array(np.array(True)))
    branch = helper.make_node("If", ["true"], ["chosen"], then_branch=then, else_branch=other)
    part = joined(chain(true, branch), "chosen")
    assert [node.output[0] for node in part.graph.node] == ["t1", "t2", "t3", "true", "chosen"]
    assert {each.name for each in part.graph.initializer} == {"w2", "w3", "w5"}


def test_tensors_that_no_node_computes_and_sparse_weights_are_refused() -> None:
    with pytest.raises(BackboneError, match="no node of the graph computes 'w2'"):
        cut(chain(), ["t2", "w2"])
    with pytest.raises(BackboneError, match="sparse weights, and its graph cannot be cut"):
        cut(chain(sparse=True), ["t2"])
    with pytest.raises(BackboneError, match=r"no ONNX file|no graph"):
        cut(b"no graph", ["t2"])
