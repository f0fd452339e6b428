"""Roofline: the products that a graph needs, the machine's peak, and models of one operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tokmarg.engine.onnx_builder import one_operator
from tokmarg.engine.roofline import Products, matrix_peak, read_products
from tokmarg.errors import BundleError


def graph_file(tmp_path: Path, nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]]) -> Path:
    tensors = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("x", "logit_positions", "verdict_positions")
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "verdict_logits")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)
    return path


def test_products_count_weights_per_token_and_after_the_gathered_rows_per_row(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),  # 4 x 6
        helper.make_node("MatMul", ["h", "h"], ["scores"]),  # attention: no weights
        helper.make_node("Add", ["scores", "w"], ["sum"]),  # no product
        helper.make_node("MatMulNBits", ["sum", "packed"], ["n"], domain="com.microsoft", K=6, N=10, bits=4),
        helper.make_node("Gather", ["n", "logit_positions"], ["rows"]),
        helper.make_node("Transpose", ["embedding"], ["head"]),  # 100 x 6, tied
        helper.make_node("MatMul", ["rows", "head"], ["logits"]),
    ]
    path = graph_file(tmp_path, nodes, {"w": (4, 6), "packed": (10, 1, 3), "embedding": (100, 6)})
    products = read_products(path)
    assert products == Products(per_token=4 * 6 + 6 * 10, per_row=100 * 6)
    assert products.operations(3, 2) == 2 * (3 * 84 + 2 * 600)


def test_products_of_a_second_output_layer(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Concat", ["logit_positions", "verdict_positions"], ["wanted"], axis=0),
        helper.make_node("Gather", ["x", "wanted"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["h"]),  # 4 x 6, for both
        helper.make_node("Shape", ["logit_positions"], ["whole"]),
        helper.make_node("Slice", ["h", "start", "whole"], ["first"]),
        helper.make_node("Slice", ["h", "whole", "end"], ["second"]),
        helper.make_node("MatMul", ["first", "head"], ["logits"]),  # 6 x 100
        helper.make_node("MatMul", ["second", "few"], ["verdict_logits"]),  # 6 x 7
    ]
    path = graph_file(tmp_path, nodes, {"w": (4, 6), "head": (6, 100), "few": (6, 7), "start": (1,), "end": (1,)})
    products = read_products(path)
    assert products == Products(per_token=0, per_row=24 + 600, per_verdict_row=24 + 42)
    assert products.operations(9, 1, 2) == 2 * (624 + 2 * 66)


def test_products_of_an_exported_bundle(tiny_bundle: Path) -> None:
    # The tiny model: hidden 32, MLP 64, two layers, keys and values of 2 heads of 8, 128,256 tokens.
    products = read_products(tiny_bundle / "model.onnx")
    attention, mlp = 32 * (32 + 2 * 16) + 32 * 32, 3 * 32 * 64
    assert products.per_token + products.per_row == 2 * (attention + mlp) + 32 * 128_256
    assert products.per_row >= 32 * 128_256 + mlp


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"no graph"])
def test_a_broken_graph_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        read_products(path)


@pytest.mark.parametrize(("precision", "operator"), [("fp32", "MatMul"), ("int8", "MatMulIntegerToFloat")])
def test_the_peak_is_measured_in_a_model_of_one_operator(precision: str, operator: str) -> None:
    peak = matrix_peak(precision, "cpu", 1, 0.001)
    assert peak.operator == operator
    assert peak.per_second > 0


def test_the_model_of_one_operator_is_valid_onnx() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = onnx.load_from_string(one_operator("MatMul", (1, 1), {"b": (1, weight)}))
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    assert np.array_equal(numpy_helper.to_array(model.graph.initializer[0]), weight)
