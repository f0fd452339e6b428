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
from tokmarg_export.quantization.int4_columns import BLOCK, quantize_blocks, stored_levels
from tokmarg_export.quantization.int8_per_row import quantize_per_row
from tokmarg_export.spec_library import choose_spec, resolve_spec

RNG = np.random.default_rng(5)
TEXTS = ["How do I pick a lock?", "Thanks!", "word " * 60, "Ça coûte 12,50 €. 雨が好きです 🌧️"]


def whole(levels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """step * q, [K, N]."""
    return np.asarray(levels.astype(int) * np.repeat(steps.astype(int), BLOCK, axis=0)[: len(levels)])


def test_by_hand() -> None:
    """Two blocks of one column: the first reaches 120, the second 24, and its largest weight is positive."""
    weight = np.zeros((2 * BLOCK, 1), np.float32)
    weight[:3, 0] = [-120, 60, 8]
    weight[BLOCK : BLOCK + 3, 0] = [24, -9, 1]
    levels, steps, scales = quantize_blocks(weight)
    assert scales.tolist() == [1.0]
    assert steps.tolist() == [[15], [-3]]
    assert levels[:3, 0].tolist() == [-8, 4, 1]
    assert levels[BLOCK : BLOCK + 3, 0].tolist() == [-8, 3, 0]
    assert whole(levels, steps)[:3, 0].tolist() == [-120, 60, 15]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 100), st.sampled_from([0.0, 1e-3, 1.0, 50.0]))
def test_no_weight_is_far_away(seed: int, channels: int, spread: float) -> None:
    weight = (np.random.default_rng(seed).standard_t(3, (channels, 4)) * spread).astype(np.float32)
    levels, steps, scales = quantize_blocks(weight)
    assert levels.min() >= -8
    assert levels.max() <= 7
    assert ((np.abs(steps) >= 1) & (np.abs(steps) <= 15)).all()
    # No block is worse than with the least step that reaches all of it, of which no weight is half a step away.
    enough = np.ceil(np.abs(weight) / scales / 8 - 1e-3).max(axis=0)
    error = np.abs(whole(levels, steps) * scales - weight)
    assert (np.sqrt(np.square(error).mean(axis=0)) <= scales * np.clip(enough, 1, 15) * 0.71).all()


def test_products_are_those_of_the_integers() -> None:
    weight = RNG.normal(0, 1, (3 * BLOCK, 24)).astype(np.float32)
    rows = RNG.normal(0, 3, (9, 3 * BLOCK)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "rows", 3 * BLOCK])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    assert quantize_per_row(model, bits=4) == 1
    (y,) = cpu_session(model).run(["y"], {"x": rows[None]})
    levels, steps, scales = quantize_blocks(weight)
    own = np.abs(rows).max(axis=1, keepdims=True).astype(np.float64) / 127
    expected = (np.rint(rows / own) @ whole(levels, steps)) * own * scales
    np.testing.assert_allclose(y[0], expected, rtol=1e-4, atol=1e-3)
    (stored,) = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT4]
    assert len(stored.raw_data) == weight.size // 2


def test_stored_levels_are_read_as_onnx_reads_them() -> None:
    levels = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    (tensor, _), _ = stored_levels("w", levels, np.ones((1, 4), np.int8), numpy_helper.from_array)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), levels)


def test_gptq_rounds_for_the_inputs() -> None:
    inputs = RNG.normal(0, 1, (500, 8)) @ RNG.normal(0, 1, (8, 2 * BLOCK)) + RNG.normal(0, 0.1, (500, 2 * BLOCK))
    weight = RNG.normal(0, 1, (2 * BLOCK, 16)).astype(np.float32)
    moments = torch.from_numpy(inputs.T @ inputs / len(inputs))
    errors = []
    for given_moments in (moments, None):
        levels, steps, scales = quantize_blocks(weight, given_moments)
        assert levels.min() >= -8
        assert levels.max() <= 7
        errors.append(np.abs(inputs @ (whole(levels, steps) * scales - weight)).mean())
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("model_type", FUSED)
def test_every_family_is_near_its_float32_self(model_type: str, tmp_path: Path) -> None:
    model = tiny(model_type, hidden_size=128, intermediate_size=192)
    graph = exported(model, tmp_path, precision="int4")
    assert graph.contract.by_content
    logits, expected = tree_logits(graph), reference_logits(model)
    assert 0 < np.abs(logits - expected).mean() / expected.std() < 0.5


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
