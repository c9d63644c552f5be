"""Our own reader of ONNX files against the onnx package, and bytes that are none."""

import hashlib

import onnx
import pytest
from onnx import TensorProto, helper

from exported import small_graph
from rotanext.export.protobuf import CHECKSUM, fields, inspect, text_entry


def test_metadata_and_operators_are_those_that_onnx_reads() -> None:
    content = small_graph() + text_entry("a", "Bär") + text_entry("b", "x" * 300)
    model = onnx.load_from_string(content)
    assert {entry.key: entry.value for entry in model.metadata_props} == inspect(content).texts == {"a": "Bär", "b": "x" * 300}
    found = inspect(content)
    assert found.operators == {(node.domain, node.op_type) for node in model.graph.node} == {("", "Cast"), ("", "Neg")}
    assert (found.foreign, found.external) == ([], False)


def nested(levels: int) -> onnx.ModelProto:
    """A model whose foreign operator is within so many graphs of an If each."""
    graph = helper.make_graph([helper.make_node("Steal", [], ["y"], domain="com.evil")], "inner", [], [])
    for _ in range(levels):
        graph = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=graph)], "outer", [], [])
    return helper.make_model(graph)


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_foreign_operators_are_found_at_any_depth(levels: int) -> None:
    assert inspect(nested(levels).SerializeToString()).foreign == ["com.evil.Steal"]


def test_graphs_within_graphs_end_somewhere() -> None:
    with pytest.raises(ValueError, match="without end"):
        inspect(nested(9).SerializeToString())


def test_foreign_operators_within_functions() -> None:
    node = helper.make_node("Steal", ["x"], ["y"], domain="com.evil")
    function = helper.make_function("ours", "f", ["x"], ["y"], [node], [helper.make_opsetid("com.evil", 1)])
    model = helper.make_model(helper.make_graph([], "g", [], []), functions=[function])
    assert inspect(model.SerializeToString()).foreign == ["com.evil.Steal"]


@pytest.mark.parametrize("place", ["weight", "constant"])
def test_weights_in_other_files_are_found(place: str) -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    tensor.data_location = TensorProto.EXTERNAL
    nodes = [helper.make_node("Constant", [], ["w"], value=tensor)] if place == "constant" else []
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [tensor] if place == "weight" else []))
    assert inspect(model.SerializeToString()).external


def test_the_digest_is_of_everything_but_itself() -> None:
    content = small_graph() + text_entry("a", "1") + text_entry("b", "2")
    digest = inspect(content).digest
    assert inspect(content + text_entry(CHECKSUM, digest)).digest == digest
    assert inspect(small_graph() + text_entry("b", "2") + text_entry("a", "1")).digest == digest  # fields may stand in any order
    for other in (small_graph() + text_entry("a", "1") + text_entry("b", "3"), small_graph(boxes="box") + content[-12:]):
        assert inspect(other).digest != digest
    bare = small_graph()
    assert inspect(bare).digest == hashlib.sha256(bare).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x08", "ends within a number"),
        (b"\x08" + b"\xff" * 11, "ends within a number"),
        (b"\x3a\x05abc", "ends within a field"),
        (b"\x3a\xff\xff\xff\xff\x0f", "ends within a field"),
        (b"\x0b", "a field of kind 3"),
        (b"\x70\x01", "a number in the place of metadata"),
        (b"\x72\x02\x08\x01", "a number in the place of a text"),
        (b"\x72\x04\x0a\x02\xff\xfe", "utf-8"),
        (text_entry("a", "1") + text_entry("a", "2"), "metadata 'a' twice"),
    ],
    ids=["cut number", "endless number", "cut field", "huge field", "group", "metadata", "text", "no UTF-8", "twice"],
)
def test_bytes_that_are_no_model(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspect(content)


@pytest.mark.parametrize("name", ["", "a", "ä" * 70], ids=len)
@pytest.mark.parametrize("text", ["", "\0", "x" * 127, "x" * 128, "ß" * 8192], ids=len)  # lengths of one, two and three bytes
def test_entries_read_back(name: str, text: str) -> None:
    entry = text_entry(name, text)
    assert inspect(entry).texts == {name: text}
    (field,) = fields(memoryview(entry))
    assert (field.number, field.start, field.end) == (14, 0, len(entry))
