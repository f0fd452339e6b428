"""Sums over keys that do not depend on where masked keys lie: the operator, and whole quantized graphs in company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.support.graphs import VOCAB, Graph, cpu_session, exported, tiny
from tokmarg_export.graph.order_invariant_attention import make_attention_order_invariant

RNG = np.random.default_rng(3)


def attention(steady: bool) -> ort.InferenceSession:
    """softmax(scores) @ values."""
    nodes = [
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "values"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, None, None]) for name in ("scores", "values")]
    graph = helper.make_graph(
        nodes, "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, None, None])]
    )
    if steady:
        assert make_attention_order_invariant(graph) == 1
        assert "Softmax" not in {node.op_type for node in graph.node}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return cpu_session(model)


def test_equals_softmax_and_ignores_masked_keys_to_the_last_bit() -> None:
    scores = RNG.normal(0, 3, (2, 7, 300)).astype(np.float32)
    values = RNG.normal(0, 1, (2, 300, 16)).astype(np.float32)
    steady, plain = attention(True), attention(False)
    (found,) = steady.run(None, {"scores": scores, "values": values})
    wide = scores.astype(np.float64)
    weights = np.exp(wide - wide.max(-1, keepdims=True))
    expected = (weights / weights.sum(-1, keepdims=True)) @ values
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    at = np.sort(RNG.integers(0, 300, 90))  # masked keys here and there
    more = np.insert(scores, at, np.finfo(np.float32).min, axis=2), np.insert(values, at, 5, axis=1)
    np.testing.assert_array_equal(steady.run(None, {"scores": more[0], "values": more[1]})[0], found)
    np.testing.assert_allclose(plain.run(None, {"scores": scores, "values": values})[0], found, rtol=0, atol=1e-6)


def test_a_row_that_sees_nothing_is_a_mean() -> None:
    scores = np.full((2, 1, 4), np.finfo(np.float32).min)
    values = RNG.normal(0, 1, (2, 4, 3)).astype(np.float32)
    (found,) = attention(True).run(None, {"scores": scores, "values": values})
    np.testing.assert_allclose(found[:, 0], values.mean(axis=1), rtol=1e-5)


def test_casts_of_the_tracer_are_looked_through() -> None:
    nodes = [
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("Cast", ["weights"], ["same"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["same", "values"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    assert make_attention_order_invariant(graph) == 1
    assert {"Softmax", "weights", "same"}.isdisjoint(
        name for node in graph.node for name in (node.op_type, *node.input)
    )


def test_a_softmax_with_other_readers_is_left_alone() -> None:
    nodes = [
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "values"], ["y"]),
        helper.make_node("Identity", ["weights"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    assert make_attention_order_invariant(graph) == 0
    assert [node.op_type for node in graph.node] == ["Softmax", "MatMul", "Identity"]


def in_company(graph: Graph, company: int) -> np.ndarray:
    """Logits of a prompt of 40 tokens behind 150 cached ones, with another prompt before it in the same pass."""
    random = np.random.default_rng(9)
    prefix, ids, other = (random.integers(3, VOCAB, n).tolist() for n in (150, 40, company))
    _, past = graph.run(prefix, list(range(150)), np.tri(150, dtype=bool), [0], None, [])
    visible = np.zeros((company + 40, 150 + company + 40), bool)
    visible[:, :150] = True
    visible[:company, 150 : 150 + company] = np.tri(company, dtype=bool)
    visible[company:, 150 + company :] = np.tri(40, dtype=bool)
    positions = [*range(150, 150 + company), *range(150, 190)]
    rows = list(range(company, company + 40))
    return graph.run([*other, *ids], positions, visible, rows, past, list(range(150)))[0]


@pytest.mark.parametrize(("model_type", "precision"), [("llama", "int4"), ("gemma3_text", "int4"), ("llama", "int8")])
def test_company_changes_no_bit_of_a_quantized_pass(model_type: str, precision: Any, tmp_path: Path) -> None:
    graph = exported(tiny(model_type), tmp_path, precision=precision, trace=True)
    alone = in_company(graph, 0)
    for company in (1, 37, 70):
        np.testing.assert_array_equal(in_company(graph, company), alone)


def test_company_changes_little_of_a_float32_pass(tmp_path: Path) -> None:
    graph = exported(tiny("llama"), tmp_path)
    np.testing.assert_allclose(in_company(graph, 37), in_company(graph, 0), rtol=0, atol=2e-5)
