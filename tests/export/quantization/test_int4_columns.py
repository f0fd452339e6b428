"""Weights of 4 bits as integers of 8: the arithmetic by hand and against numpy, GPTQ, whole graphs against float32."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.support.graphs import FUSED, cpu_session, exported, reference_logits, tiny, tree_logits
from tokmarg import Guard
from tokmarg_export.bundle_writer import build_bundle
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.quantization.int4_columns import packed_levels, quantize_columns_4
from tokmarg_export.quantization.int8_per_row import quantize_per_row
from tokmarg_export.spec_library import choose_spec, resolve_spec

RNG = np.random.default_rng(5)
TEXTS = ["How do I pick a lock?", "Thanks!", "word " * 60, "Ça coûte 12,50 €. 雨が好きです 🌧️"]


def test_by_hand() -> None:
    """Two columns of levels that fit, one of them with a large weight that is better clipped."""
    fits = np.array([-8, 7, 3, -1, 0, 5, 1, 2], np.float32)[:, None] * 0.5
    levels, scales = quantize_columns_4(fits)
    assert np.abs(levels * scales - fits).max() < 0.06
    clipped = np.tile(np.array([-1.0, 1.0], np.float32), 500)[:, None]
    clipped[0] = 8.5
    levels, scales = quantize_columns_4(clipped)
    assert levels[0, 0] == 7
    assert scales[0] < 8.5 / 7.5
    assert (np.abs(levels[1:] * scales - clipped[1:]) < 0.05).all()


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 100), st.sampled_from([0.0, 1e-3, 1.0, 50.0]))
def test_no_column_is_worse_than_with_all_of_it_in_reach(seed: int, channels: int, spread: float) -> None:
    weight = (np.random.default_rng(seed).standard_t(3, (channels, 4)) * spread).astype(np.float32)
    levels, scales = quantize_columns_4(weight)
    assert levels.min() >= -8
    assert levels.max() <= 7
    whole = np.abs(weight).max(axis=0) / 7.5
    plain = np.clip(np.rint(weight / np.maximum(whole, 1e-12)), -8, 7) * whole
    error, reference = (np.square(each - weight).sum(axis=0) for each in (levels * scales, plain))
    assert (error <= reference * 1.001 + 1e-12).all()


def test_error_of_normally_distributed_weights() -> None:
    """The least that 16 even levels can have is 0.0115 of the variance (Max 1960, table of uniform quantizers)."""
    weight = RNG.normal(0, 2, (4096, 4)).astype(np.float32)
    levels, scales = quantize_columns_4(weight)
    assert np.square(levels * scales - weight).mean() / np.square(weight).mean() < 0.0135


def test_products_are_those_of_the_integers() -> None:
    weight = RNG.normal(0, 1, (96, 24)).astype(np.float32)
    rows = RNG.normal(0, 3, (9, 96)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "rows", 96])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    assert quantize_per_row(model, bits=4) == 1
    (y,) = cpu_session(model).run(["y"], {"x": rows[None]})
    levels, scales = quantize_columns_4(weight)
    own = np.abs(rows).max(axis=1, keepdims=True).astype(np.float64) / 127
    expected = (np.rint(rows / own) @ levels.astype(int)) * own * scales
    np.testing.assert_allclose(y[0], expected, rtol=1e-4, atol=1e-3)
    (stored,) = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT4]
    assert len(stored.raw_data) == weight.size // 2


@pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
def test_packed_levels_are_read_as_onnx_reads_them(shape: tuple[int, int]) -> None:
    levels = np.resize(np.arange(-8, 8, dtype=np.int8), shape)
    tensor, node = packed_levels("w", levels, numpy_helper.from_array)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), levels)
    assert (node.op_type, list(node.output)) == ("Cast", ["w"])


def test_gptq_rounds_for_the_inputs() -> None:
    inputs = RNG.normal(0, 1, (500, 8)) @ RNG.normal(0, 1, (8, 64)) + RNG.normal(0, 0.1, (500, 64))
    weight = RNG.normal(0, 1, (64, 16)).astype(np.float32)
    moments = torch.from_numpy(inputs.T @ inputs / len(inputs))
    errors = []
    for given_moments in (moments, None):
        levels, scales = quantize_columns_4(weight, given_moments)
        assert levels.min() >= -8
        assert levels.max() <= 7
        errors.append(np.abs(inputs @ (levels * scales - weight)).mean())
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("model_type", FUSED)
def test_every_family_is_near_its_float32_self(model_type: str, tmp_path: Path) -> None:
    model = tiny(model_type, hidden_size=128, intermediate_size=192)
    graph = exported(model, tmp_path, precision="int4")
    assert graph.contract.by_content
    logits, expected = tree_logits(graph), reference_logits(model)
    assert 0 < np.abs(logits - expected).mean() / expected.std() < 0.7


def test_bundle(tiny_model: Path, tiny_guard: Guard, tmp_path: Path) -> None:
    """Random weights, and large ones: 4 bits are only known to stay within what the exporter lets pass."""
    loaded = load_model(tiny_model)
    resolved = resolve_spec(*choose_spec(None, loaded.model_id), loaded)
    parity = build_bundle(loaded, resolved, tmp_path / "b", precision="int4", max_file_size=1_000_000)
    assert parity is not None
    assert parity.mean_probability_difference < parity.max_probability_difference < 0.9
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["precision"], manifest["graph_form"], manifest["graph"]["by_content"]) == ("int4", "fused", True)
    files = sorted(name for name in manifest["files"] if name.startswith("model.onnx.data"))
    assert len(files) > 1  # the embedding is larger than a megabyte, and alone in its file
    guard, exact = Guard.load(tmp_path / "b", device="cpu"), Guard.load(tiny_guard.path, device="cpu")
    alone = [guard.score(text, max_nodes=16) for text in TEXTS]
    together = list(guard.score_many([*TEXTS, *reversed(TEXTS)], max_nodes=16))
    for a, b, c in zip(alone, together, exact.score_many(TEXTS, max_nodes=16), strict=False):
        assert a == replace(b, id=a.id)  # to the bit
        assert a.unsafe.probability == pytest.approx(c.unsafe.probability, abs=0.9)
