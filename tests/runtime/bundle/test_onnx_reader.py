"""What a graph file refers to, read without the onnx package; compared with what that package writes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tokmarg.bundle import onnx_reader as graphfile
from tokmarg.bundle.onnx_reader import read_references
from tokmarg.errors import BundleError


def tensor(location: str | None, name: str = "w") -> TensorProto:
    found = numpy_helper.from_array(np.zeros(2, dtype=np.float32), name)
    if location is not None:
        found.ClearField("raw_data")
        found.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "8")):
            entry = found.external_data.add()
            entry.key, entry.value = key, value
    return found


def graph(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> onnx.GraphProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    return helper.make_graph(list(nodes), "g", [value], [value], list(initializers))


def sparse(location: str) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor(location, "v"), indices=tensor(f"{location}.indices", "i"), dims=[2])


def write(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_every_place_where_a_tensor_can_stand(tmp_path: Path) -> None:
    inner = graph(initializers=(tensor("inside-a-graph"),))
    node = helper.make_node(
        "If",
        ["c"],
        ["y"],
        t=tensor("attribute"),
        ts=[tensor("attributes")],
        g=inner,
        gs=[graph(initializers=(tensor("inside-graphs"),))],
        s=sparse("sparse-attribute"),
        ss=[sparse("sparse-attributes")],
    )
    whole = graph(node, initializers=(tensor(None, "inline"), tensor("../../etc/passwd")))
    whole.sparse_initializer.append(sparse("sparse"))
    model = helper.make_model(whole)
    function = model.functions.add()
    function.node.append(helper.make_node("Constant", [], ["z"], value=tensor("function")))
    function.attribute_proto.append(helper.make_attribute("a", tensor("default")))
    training = model.training_info.add()
    training.initialization.CopyFrom(graph(initializers=(tensor("initialization"),)))
    training.algorithm.CopyFrom(graph(initializers=(tensor("/absolute"),)))
    found = read_references(write(tmp_path / "m", model))
    plain = {"../../etc/passwd", "/absolute", "attribute", "attributes", "default", "function", "initialization"}
    plain |= {"inside-a-graph", "inside-graphs"}
    sparse_ones = {"sparse", "sparse-attribute", "sparse-attributes"}
    assert found.files == plain | sparse_ones | {f"{name}.indices" for name in sparse_ones}
    assert found.loops == set()


def test_field_numbers_are_those_of_onnx() -> None:
    """Every field of ONNX that leads to a tensor, a node or a graph is followed, and under its own number."""
    for message, known in graphfile._MESSAGES.items():
        fields = getattr(onnx, message).DESCRIPTOR.fields
        wanted = {
            f.number: f.message_type.name
            for f in fields
            if f.message_type
            and f.message_type.name in graphfile._MESSAGES
            # Other pairs of texts describe a part: bindings, properties, quantization parameters.
            and (f.message_type.name != "StringStringEntryProto" or f.name == "external_data")
        }
        assert known == wanted, message
    names = {f.name: f.number for f in onnx.NodeProto.DESCRIPTOR.fields}
    assert names["op_type"] == graphfile._OP_TYPE


@pytest.mark.parametrize("operator", ["Loop", "Scan"])
def test_loops_are_found_inside_a_branch(tmp_path: Path, operator: str) -> None:
    loop = helper.make_node(operator, ["n", "c"], ["y"], body=graph())
    outer = helper.make_node("If", ["c"], ["y"], then_branch=graph(loop), else_branch=graph())
    found = read_references(write(tmp_path / "m", helper.make_model(graph(outer))))
    assert found.loops == {operator}
    assert not read_references(write(tmp_path / "m", helper.make_model(graph()))).loops


def test_a_location_that_is_there_twice_counts_twice(tmp_path: Path) -> None:
    """Readers differ in which of two they take."""
    weights = tensor("first")
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "second"
    assert read_references(write(tmp_path / "m", helper.make_model(graph(initializers=(weights,))))).files == {
        "first",
        "second",
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it holds none"),
        (b"\x08\x08", "it holds none"),
        (b"\x3a", "ends in the middle of a number"),
        (b"\x3a\x05ab", "ends in the middle of a field"),
        (b"\x3a" + b"\xff" * 11, "longer than ten bytes"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "ends in the middle of a field"),
        (b"\x00\x00", "field has number 0"),
        (b"\x3b\x3c", "wire type 3"),
        (b"ORTM", "wire type 7"),
    ],
)
def test_what_is_no_graph(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=rf"model\.onnx: not an ONNX graph: .*{message}"):
        read_references(tmp_path / "model.onnx")


def test_graphs_inside_graphs_without_end(tmp_path: Path) -> None:
    data = b""
    for _ in range(2000):  # each an attribute g of a node of a graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            size, length = b"", len(data)
            while length > 0x7F:
                size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
            data = tag + size + bytes([length]) + data
    (tmp_path / "m").write_bytes(b"\x3a" + _size(len(data)) + data)
    with pytest.raises(BundleError, match="messages inside each other, more than 64 deep"):
        read_references(tmp_path / "m")


def _size(length: int) -> bytes:
    found = b""
    while length > 0x7F:
        found, length = found + bytes([length & 0x7F | 0x80]), length >> 7
    return found + bytes([length])


@settings(max_examples=300)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.onnx"
    path.write_bytes(data)
    with suppress(BundleError):
        read_references(path)
