"""Products in 8 bits: the arithmetic against numpy, rows by themselves, whole graphs against float32."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.support.graphs import FUSED, cpu_session, exported, nodes_of, reference_logits, tiny, tree_logits
from tokmarg import Guard
from tokmarg_export.bundle_writer import build_bundle
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.quantization.gptq import InputStatistics
from tokmarg_export.quantization.int8_per_row import REACH, quantize_columns, quantize_per_row
from tokmarg_export.spec_library import choose_spec, resolve_spec

RNG = np.random.default_rng(5)
CHANNELS = 96
WEIGHT = RNG.normal(0, 1, (CHANNELS, 24)).astype(np.float32)
OTHER = RNG.normal(0, 3, (CHANNELS, 8)).astype(np.float32)
TEXTS = ["How do I pick a lock?", "Thanks!", "word " * 60, "Ça coûte 12,50 €. 雨が好きです 🌧️"]


def small_model(gamma: float, usual: InputStatistics | None = None) -> onnx.ModelProto:
    """n = norm of x; u = n W, v = n V; z = x W.

    W has two names: on AVX2 without VNNI, onnxruntime's exact path converts a weight for each product that reads it,
    and cannot load a graph in which two do ("Attempt to replace the existing tensor", 1.32). Exported ones have not.
    """
    nodes = [
        helper.make_node("SimplifiedLayerNormalization", ["x", "gamma"], ["n"], axis=-1, epsilon=1e-6),
        helper.make_node("MatMul", ["n", "weight"], ["u"]),
        helper.make_node("MatMul", ["n", "other"], ["v"]),
        helper.make_node("MatMul", ["x", "same"], ["z"]),
    ]
    tensors = {"weight": WEIGHT, "same": WEIGHT, "other": OTHER, "gamma": np.full(CHANNELS, gamma, np.float32)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "rows", CHANNELS])],
        [helper.make_empty_tensor_value_info(name) for name in "nuvz"],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    assert quantize_per_row(model, lambda weight: usual if weight in ("weight", "other") else None) == 3
    return model


def run(model: onnx.ModelProto, rows: np.ndarray) -> list[np.ndarray]:
    session = cpu_session(model)
    return [output[0] for output in session.run(list("nuvz"), {"x": rows[None]})]


def product(rows: np.ndarray, weight: np.ndarray, step: np.ndarray) -> np.ndarray:
    """What the docstring of `tokmarg_export.quantization.int8_per_row` says, in whole numbers and float64."""
    levels, scales = quantize_columns(weight)
    whole = np.clip(np.rint(rows / step), -128, 127).astype(np.int64) @ levels.astype(np.int64)
    return np.asarray(whole * step.astype(np.float64) * scales)


def test_arithmetic_is_as_documented() -> None:
    rows = (RNG.standard_t(3, (9, CHANNELS)) * RNG.uniform(0.01, 30, (9, 1))).astype(np.float32)
    n, u, v, z = run(small_model(1.0), rows)
    unit, own = np.full((9, 1), REACH / 127, np.float32), np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    np.testing.assert_allclose(u, product(n, WEIGHT, unit), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(v, product(n, OTHER, unit), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(z, product(rows, WEIGHT, own), rtol=1e-4, atol=1e-4)


def test_the_mean_of_rows_behind_a_norm_is_taken_out_and_what_it_gives_is_exact() -> None:
    rows = (RNG.normal(0, 1, (400, CHANNELS)) + RNG.normal(0, 2, CHANNELS)).astype(np.float32)
    n, *_ = run(small_model(1.0), rows)
    double = torch.from_numpy(n).double()
    usual = InputStatistics(double.mean(dim=0), double.T @ double / len(n), len(n))
    few = small_model(1.0, replace(usual, tokens=20))  # whose mean says little of rows to come
    assert "Sub" not in [node.op_type for node in few.graph.node]
    model = small_model(1.0, usual)
    same, u, v, z = run(model, rows)
    np.testing.assert_array_equal(same, n)
    levels, scales = quantize_columns(WEIGHT, usual.covariance)
    mean = usual.mean.numpy()
    step = np.float32(REACH * np.sqrt(n.var(axis=0).mean()) / 127)
    whole = np.rint((n - mean.astype(np.float32)) / step).astype(np.int64) @ levels.astype(np.int64)
    expected = whole * step.astype(np.float64) * scales + mean @ WEIGHT
    # A row or two may be rounded the other way: the step is known to a few digits only.
    assert np.median(np.abs(u - expected)) < 1e-5
    np.testing.assert_allclose(u, expected, atol=3 * step * np.abs(WEIGHT).max())
    # Other operands of the same rows have the same rounding; rows that no norm gives have their own, as ever.
    assert [node.op_type for node in model.graph.node].count("Sub") == 1
    error = np.abs(v - n @ OTHER).mean()
    nearest = np.abs(run(small_model(1.0), rows)[2] - n @ OTHER).mean()
    assert error < 0.6 * nearest
    own = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    assert np.abs(z - rows @ WEIGHT).mean() < 3 * np.abs(product(rows, WEIGHT, own) - rows @ WEIGHT).mean()


def test_a_norm_with_weights_of_its_own_has_rows_of_any_size() -> None:
    rows = RNG.normal(0, 1, (5, CHANNELS)).astype(np.float32)
    n, u, _, _ = run(small_model(40.0), rows)
    own = np.abs(n).max(axis=1, keepdims=True) / np.float32(127)
    np.testing.assert_allclose(u, product(n, WEIGHT, own), rtol=1e-4, atol=1e-3)


def test_an_input_is_rounded_once() -> None:
    count = Counter(node.op_type for node in small_model(1.0).graph.node)
    assert (count["QuantizeLinear"], count["MatMulIntegerToFloat"], count["MatMul"]) == (2, 3, 0)


def test_rows_do_not_see_each_other() -> None:
    rows = RNG.normal(0, 1, (30, CHANNELS)).astype(np.float32)
    rows[4] *= 1000
    model = small_model(1.0)
    together = run(model, rows)
    for i in (0, 4, 29):
        for alone, all_ in zip(run(model, rows[i : i + 1]), together, strict=True):
            np.testing.assert_array_equal(alone[0], all_[i])


def test_a_row_of_zeros_stays_zero() -> None:
    _, u, _, z = run(small_model(1.0), np.zeros((2, CHANNELS), np.float32))
    assert not u.any()
    assert not z.any()


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([0.0, 1e-3, 1.0, 50.0]))
def test_every_weight_is_within_half_a_step(seed: int, channels: int, spread: float) -> None:
    weight = (np.random.default_rng(seed).standard_t(3, (channels, 3)) * spread).astype(np.float32)
    levels, scales = quantize_columns(weight)
    assert np.abs(levels.astype(int)).max() <= 127
    assert (np.abs(levels * scales - weight) <= scales * 0.501).all()


@pytest.mark.parametrize("model_type", FUSED)
def test_every_family_is_near_its_float32_self(model_type: str, tmp_path: Path) -> None:
    model = tiny(model_type, hidden_size=128, intermediate_size=192)
    graph = exported(model, tmp_path, precision="int8")
    assert graph.contract.by_content
    logits, expected = tree_logits(graph), reference_logits(model)
    assert 0 < np.abs(logits - expected).mean() / expected.std() < 0.2
    # Rounding may fall elsewhere where a prompt comes in two passes: its size is what it was.
    again = tree_logits(graph, split=4)
    assert np.abs(again - logits).mean() / expected.std() < 0.2


def test_every_product_with_weights_is_one_of_integers(tmp_path: Path) -> None:
    exported(tiny("llama", num_hidden_layers=3, intermediate_size=128), tmp_path, precision="int8")
    count = Counter(node.op_type for node in nodes_of(tmp_path))
    assert count["MatMulIntegerToFloat"] == 5 * 3
    assert (count["Attention"], count["Softmax"]) == (3, 0)
    assert count["MatMul"] == 3  # what turns the gated activations, no weight of the model
    assert count["MatMulNBits"] == 1  # the output layer
    assert count["QuantizeLinear"] == 4 * 3


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_table_that_is_a_product_s_as_well_has_a_second_name_for_its_rows(precision: str, tmp_path: Path) -> None:
    """In int8, which runs on the CPU only; in the file of weights it is there once."""
    exported(tiny("llama", tie_word_embeddings=True), tmp_path, precision=precision)
    graph = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph
    places = {t.name: tuple(entry.value for entry in t.external_data) for t in graph.initializer if t.external_data}
    lookups = {node.input[0] for node in graph.node if node.op_type == "Gather"} & places.keys()
    products = {name for node in graph.node if node.op_type != "Gather" for name in node.input} & places.keys()
    assert lookups
    if precision == "fp32":
        assert lookups <= products
    else:
        assert not lookups & products
        assert {places[name] for name in lookups} <= {places[name] for name in products}
    ends = [int(offset) + int(length) for _, offset, length in places.values()]
    assert max(ends) == (tmp_path / "model.onnx.data").stat().st_size
    assert len(set(ends)) == len(products)


def test_bundle(tiny_model: Path, tiny_guard: Guard, tmp_path: Path) -> None:
    loaded = load_model(tiny_model)
    resolved = resolve_spec(*choose_spec(None, loaded.model_id), loaded)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    parity = build_bundle(loaded, resolved, tmp_path / "b", precision="int8", max_file_size=1_000_000)
    assert all((value == before[name]).all() for name, value in loaded.model.state_dict().items())
    assert parity is not None
    assert parity.mean_probability_difference < parity.max_probability_difference < 0.2
    manifest: dict[str, Any] = json.loads((tmp_path / "b" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["precision"], manifest["graph_form"], manifest["graph"]["by_content"]) == ("int8", "fused", True)
    guard = Guard.load(tmp_path / "b", device="cpu")
    alone = [guard.score(text, max_nodes=16) for text in TEXTS]
    assert list(guard.score_many([*TEXTS, *reversed(TEXTS)], max_nodes=16)) == [*alone, *reversed(alone)]
    whole = Guard.load(tiny_guard.path, device="cpu")
    for a, b in zip(alone, whole.score_many(TEXTS, max_nodes=16), strict=True):
        assert a.unsafe.probability == pytest.approx(b.unsafe.probability, abs=0.2)
