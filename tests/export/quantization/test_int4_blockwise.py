"""Weights of 8 and 4 bits: the arithmetic against numpy, every family against float32, independence of company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.support.graphs import cpu_session, exported, reference_logits, tiny, tree_logits
from tokmarg.engine.cpu import int8_products_saturate
from tokmarg_export.quantization.int4_blockwise import BLOCK, pack_blocks, quantize_blockwise

TEXTS = ["How do I pick a lock?", "Thanks!", "word " * 60, "Ça coûte 12,50 €. 雨が好きです 🌧️"]
RNG = np.random.default_rng(5)
CHANNELS = 80  # two blocks and a half
TABLE = RNG.normal(0, 1, (40, CHANNELS)).astype(np.float32)
WEIGHT = RNG.normal(0, 1, (CHANNELS, 24)).astype(np.float32)
BIAS = RNG.normal(0, 1, 24).astype(np.float32)


def small_model(table: np.ndarray = TABLE) -> onnx.ModelProto:
    """ids -> rows of a table -> x; y = x W; z = x W + b, from W'; and the table again as output layer."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
        helper.make_node("Squeeze", ["x", "first"], ["rows"]),
        helper.make_node("Gemm", ["rows", "turned", "bias"], ["z"], transB=1),
        helper.make_node("Gemm", ["rows", "table"], ["logits"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "n"])]
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("x", "y", "z", "logits")]
    tensors = {"table": table, "weight": WEIGHT, "turned": np.ascontiguousarray(WEIGHT.T), "bias": BIAS}
    initializers = [
        numpy_helper.from_array(value, name) for name, value in (tensors | {"first": np.array([0])}).items()
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, ids: list[int]) -> list[np.ndarray]:
    """x, y, z and logits, each [n, ...]."""
    session = cpu_session(model)
    x, y, z, logits = session.run(["x", "y", "z", "logits"], {"ids": np.array([ids])})
    return [x[0], y[0], z, logits]


def unpacked(weight: np.ndarray, bits: Any) -> np.ndarray:
    """The matrix [N, K] that the packed form of ``weight`` stands for."""
    blocks, scales = pack_blocks(weight, bits)
    if bits == 4:
        blocks = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:2], BLOCK)
    levels = blocks.astype(np.float32) - 2 ** (bits - 1)
    return np.asarray((levels * scales[..., None]).reshape(len(weight), -1)[:, : weight.shape[1]])


def rounded(rows: np.ndarray) -> np.ndarray:
    """Activations as the kernel has them: each block of each row in steps of a 127th of its largest."""
    found = np.zeros_like(rows)
    for row, result in zip(rows, found, strict=True):
        for start in range(0, len(row), BLOCK):
            block = row[start : start + BLOCK]
            step = np.abs(block).max() / 127 or 1
            result[start : start + BLOCK] = np.rint(block / step) * step
    return found


@pytest.mark.parametrize("bits", [8, 4])
def test_arithmetic_is_as_documented(bits: Any) -> None:
    model = small_model()
    quantize_blockwise(model, bits)
    ids = [0, 7, 39, 7]
    x, y, z, logits = run(model, ids)
    np.testing.assert_allclose(x, unpacked(TABLE, 8)[ids], rtol=1e-5, atol=1e-6)
    expected = rounded(x) @ unpacked(WEIGHT.T, bits).T
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(z, expected + BIAS, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, rounded(x) @ unpacked(TABLE, 8).T, rtol=1e-4, atol=1e-4)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 100), st.sampled_from([1e-3, 1.0, 50.0]))
def test_every_weight_is_within_half_a_step(seed: int, rows: int, channels: int, spread: float) -> None:
    weight = (np.random.default_rng(seed).standard_t(3, (rows, channels)) * spread).astype(np.float32)
    for bits, levels in ((8, 127), (4, 8)):
        for row, restored in zip(weight, unpacked(weight, bits), strict=True):
            for start in range(0, channels, BLOCK):
                block, error = row[start : start + BLOCK], (restored - row)[start : start + BLOCK]
                step = np.abs(block).max() / levels
                if bits == 8:
                    assert np.abs(error).max() <= step * 0.501
                else:  # the plain form: the largest weight at -8, what would be +8 at +7; chosen is one no worse
                    turned = block / (block[np.abs(block).argmax()] / -8)
                    plain = (np.clip(np.rint(turned), -8, 7) - turned) * step
                    assert np.square(error).sum() <= np.square(plain).sum() * 1.001 + 1e-12


def test_weights_become_bytes_and_a_table_is_kept_once() -> None:
    for bits, width in ((8, BLOCK), (4, BLOCK // 2)):
        model = small_model()
        quantize_blockwise(model, bits)  # type: ignore[arg-type]
        stored = {t.name: tuple(t.dims) for t in model.graph.initializer if t.data_type == TensorProto.UINT8}
        assert stored == {
            "table/blocks": (40, 3, BLOCK),
            "weight/blocks": (24, 3, width),
            "turned/blocks": (24, 3, width),
        }
        assert not any(len(t.dims) == 2 and t.dims[-1] == CHANNELS for t in model.graph.initializer)


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_do_not_see_each_other(bits: Any) -> None:
    model = small_model()
    quantize_blockwise(model, bits)
    tokens = [1, 2, 3, 4, 5, 6, 7]
    together = run(model, tokens)
    for i, token in enumerate(tokens):
        for a, b in zip(run(model, [token, 0]), together, strict=True):
            np.testing.assert_array_equal(a[0], b[i])
        for a, b in zip(run(model, [token]), together, strict=True):
            if bits == 4 and int8_products_saturate():
                # Without VNNI one row of 4 bits is summed in another order (see the module): 6e-6 measured.
                np.testing.assert_allclose(a[0], b[i], rtol=0, atol=2e-5)
            else:
                np.testing.assert_array_equal(a[0], b[i])


def test_a_row_of_zeros_stays_zero() -> None:
    table = TABLE.copy()
    table[0] = 0
    model = small_model(table)
    quantize_blockwise(model, 8)
    _, y, z, _ = run(model, [0])
    assert not y.any()
    np.testing.assert_allclose(z[0], BIAS, rtol=1e-6)


def test_an_outlier_channel_costs_only_its_block_precision() -> None:
    table = TABLE.copy()
    table[:, 5] *= 300
    weight = WEIGHT.copy()
    errors = []
    for part in (slice(0, BLOCK), slice(BLOCK, CHANNELS)):
        only = np.zeros_like(table)
        only[:, part] = table[:, part]
        model = small_model(only)
        quantize_blockwise(model, 8)
        x, y, _, _ = run(model, list(range(40)))
        errors.append(np.abs(y - x @ weight).mean())
    assert errors[1] < errors[0] / 10


# Traced graphs; for the others see test_int8_per_row and test_int4_columns.
CASES = [("gemma2", 8), ("llama", 8), ("llama", 4), ("qwen3", 4), ("gemma2", 4), ("gemma3_text", 4)]


@pytest.mark.parametrize(("model_type", "bits"), CASES)
def test_every_family_is_its_float32_self_with_rounded_weights(model_type: str, bits: Any, tmp_path: Path) -> None:
    """What is left is the rounding of activations to 8 bits, whatever the bits of the weights."""
    model = tiny(model_type)
    graph = exported(model, tmp_path, precision=f"int{bits}", trace=True)
    logits = tree_logits(graph)
    np.testing.assert_allclose(tree_logits(graph, split=4), logits, rtol=1e-4, atol=1e-4)
    table = model.get_input_embeddings().weight
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            is_table = module.weight.data_ptr() == table.data_ptr()
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(unpacked(module.weight.numpy(), 8 if is_table else bits)))
    expected = reference_logits(model)
    assert 0 < np.abs(logits - expected).mean() / expected.std() < 0.08
