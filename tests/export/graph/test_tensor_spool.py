"""Tensors on disk: what is stored is read, copied and referred to as it was, at any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tokmarg_export.graph.tensor_spool import TensorSpool, append_to, read_model, size_of, values_of

SMALL = np.arange(6, dtype=np.int64)


def entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int64])
def test_values_come_back(dtype: Any, tmp_path: Path) -> None:
    spool = TensorSpool(tmp_path / "spool")
    large = (np.arange(560_000).reshape(700, 800) % 100).astype(dtype)
    small = np.arange(6).reshape(2, 3).astype(dtype)
    stored = {"t": large.T, "a": large, "b": small}  # of which one does not lie in one piece
    tensors = {name: spool.store(value, name) for name, value in stored.items()}
    for name, value in stored.items():
        assert size_of(tensors[name]) == value.nbytes
        np.testing.assert_array_equal(values_of(tensors[name]), value)
    assert tensors["a"].data_location == TensorProto.EXTERNAL
    assert tensors["b"] == numpy_helper.from_array(small, "b")


def test_tensors_are_appended_to_a_file_of_weights(tmp_path: Path) -> None:
    spool = TensorSpool(tmp_path / "spool")
    values = [np.random.default_rng(i).normal(size=(300, 100)).astype(np.float32) for i in range(2)]
    tensors = [spool.store(values[0], "a"), numpy_helper.from_array(values[1], "b")]
    for tensor in tensors:
        with (tmp_path / "weights").open("ab") as stream:
            append_to(stream, tensor, "weights")
    assert (tmp_path / "weights").read_bytes() == b"".join(value.tobytes() for value in values)
    assert entries(tensors[1]) == {"location": "weights", "offset": "120000", "length": "120000"}
    assert not any(tensor.raw_data for tensor in tensors)


@pytest.mark.parametrize("external", [False, True])
def test_a_model_is_read_without_its_weights(external: bool, tmp_path: Path) -> None:
    """Of initializers and of constants, in the model's file or in one beside it."""
    values = {f"w{i}": np.random.default_rng(i).normal(size=(300, 100)).astype(np.float32) for i in range(3)}
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(values["w2"], "w2"))
    initializers = [
        *(numpy_helper.from_array(values[name], name) for name in ("w0", "w1")),
        numpy_helper.from_array(SMALL, "s"),
    ]
    model = helper.make_model(helper.make_graph([constant], "g", [], [], initializers))
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=external, convert_attribute=True)
    read = read_model(tmp_path / "m.onnx", TensorSpool(tmp_path / "spool").store)
    for tensor in read.graph.initializer:
        assert (tensor.data_location == TensorProto.EXTERNAL) == (tensor.name != "s")
        np.testing.assert_array_equal(values_of(tensor), {**values, "s": SMALL}[tensor.name])
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.node[0].attribute[0].t), values["w2"])
    assert (tmp_path / "spool").stat().st_size == (0 if external else 240_000)


def test_a_spool_that_lost_its_end_is_an_error(tmp_path: Path) -> None:
    spool = TensorSpool(tmp_path / "spool")
    tensor = spool.store(np.zeros((300, 100), np.float32), "a")
    (tmp_path / "spool").write_bytes(b"\0" * 1000)
    with pytest.raises(EOFError, match="has lost values of a"), (tmp_path / "weights").open("wb") as stream:
        append_to(stream, tensor, "weights")


@pytest.mark.slow
def test_a_tensor_beyond_2_gib(tmp_path: Path) -> None:
    """A protocol buffer does not hold it: an embedding of 8 B models in float32."""
    rows = 131_073
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(rows * 4096 * 4)
    table = np.memmap(tmp_path / "sparse", np.float32, "r+", shape=(rows, 4096))
    table[-1, -3:] = [1, 2, 3]
    tensor = TensorSpool(tmp_path / "spool").store(table, "embedding")
    assert size_of(tensor) > 2**31
    with (tmp_path / "weights").open("wb") as stream:
        stream.write(b"before")
        append_to(stream, tensor, "weights")
    assert entries(tensor) == {"location": "weights", "offset": "6", "length": str(table.nbytes)}
    with (tmp_path / "weights").open("rb") as stream:
        stream.seek(-12, 2)
        assert np.frombuffer(stream.read(), np.float32).tolist() == [1, 2, 3]
