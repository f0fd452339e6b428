"""Per-row int8: the arithmetic against numpy, every family against its float32 graph, independence of company."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.export.test_graph import FAMILY, PROMPT, Graph, tiny, tree_logits
from tokmarg import Guard
from tokmarg_export.build import build_bundle
from tokmarg_export.graph import export_graph, graph_contract
from tokmarg_export.int8 import quantize
from tokmarg_export.load import load_model
from tokmarg_export.specs import choose_spec, resolve_spec

TEXTS = ["How do I pick a lock?", "Thanks!", "word " * 60, "Ça coûte 12,50 €. 雨が好きです 🌧️"]
RNG = np.random.default_rng(5)
TABLE = RNG.normal(0, 1, (40, 16)).astype(np.float32)
WEIGHT = RNG.normal(0, 1, (16, 24)).astype(np.float32)
BIAS = RNG.normal(0, 1, 24).astype(np.float32)


def small_model() -> onnx.ModelProto:
    """ids -> rows of a table -> x; y = x W; z = x W' + b; and the table again as output layer."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
        helper.make_node("Gemm", ["x", "turned", "bias"], ["z"], transB=1),
        helper.make_node("Gemm", ["x", "table"], ["logits"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in ("x", "y", "z", "logits")
    ]
    tensors = {"table": TABLE, "weight": WEIGHT, "turned": np.ascontiguousarray(WEIGHT.T), "bias": BIAS}
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, ids: list[int]) -> list[np.ndarray]:
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["x", "y", "z", "logits"], {"ids": np.array(ids)})


def rounded(weight: np.ndarray, axis: int) -> np.ndarray:
    scale = np.abs(weight).max(axis=axis, keepdims=True) / 127
    return np.rint(weight / scale) * scale


def test_arithmetic_is_as_documented() -> None:
    outliers = [3, 11]
    peaks = np.ones(16, np.float32)
    peaks[outliers] = 50
    model = small_model()
    quantize(model, {"x": peaks})
    x, y, z, logits = run(model, [0, 7, 39, 7])
    np.testing.assert_allclose(x, rounded(TABLE, 1)[[0, 7, 39, 7]], rtol=1e-5, atol=1e-6)
    rest = x.copy()
    rest[:, outliers] = 0
    rows = rounded(rest, 1)
    exact = x[:, outliers] @ WEIGHT[outliers].astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(y, rows @ rounded(WEIGHT, 0) + exact, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(z, rows @ rounded(WEIGHT, 0) + exact + BIAS, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        logits,
        rows @ rounded(TABLE, 1).T + x[:, outliers] @ TABLE.T[outliers].astype(np.float16).astype(np.float32),
        rtol=1e-4,
        atol=1e-4,
    )


def test_weights_become_bytes_and_a_table_is_kept_once() -> None:
    model = small_model()
    quantize(model, {"x": np.ones(16, np.float32)})
    kinds = {t.name: t.data_type for t in model.graph.initializer if len(t.dims) == 2}
    assert kinds == dict.fromkeys(("table/int8", "weight/int8", "turned/int8"), TensorProto.UINT8)


def test_rows_do_not_see_each_other() -> None:
    model = small_model()
    quantize(model, {"x": np.ones(16, np.float32)})
    together = run(model, [1, 2, 3, 4])
    for i, token in enumerate([1, 2, 3, 4]):
        for a, b in zip(run(model, [token]), together, strict=True):
            np.testing.assert_array_equal(a[0], b[i])


def test_a_row_of_zeros_stays_zero() -> None:
    model = small_model()
    table = TABLE.copy()
    table[0] = 0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    quantize(model, {"x": np.ones(16, np.float32)})
    _, y, z, _ = run(model, [0])
    assert not y.any()
    np.testing.assert_allclose(z[0], BIAS, rtol=1e-6)


def test_outlier_channels_cost_the_others_no_precision() -> None:
    model = small_model()
    table = TABLE.copy()
    table[:, 5] *= 300
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    plain, handled = onnx.ModelProto(), onnx.ModelProto()
    plain.CopyFrom(model)
    handled.CopyFrom(model)
    quantize(plain, {"x": np.ones(16, np.float32)})
    quantize(handled, {"x": np.abs(table).max(axis=0)})
    ids = list(range(40))
    errors = []
    for quantized in (plain, handled):
        x, y, _, _ = run(quantized, ids)
        errors.append(np.abs(y - x @ WEIGHT).mean())
    assert errors[1] < errors[0] / 10


@pytest.mark.parametrize("model_type", FAMILY)
def test_every_family_is_close_to_float32(model_type: str, tmp_path: Path) -> None:
    model = tiny(model_type)
    logits = {}
    for precision in ("fp32", "int8"):
        folder = tmp_path / precision
        export_graph(model, folder, head_token_ids=None, precision=precision, calibration=[PROMPT, PROMPT[::-1]])
        contract = graph_contract(model, head_token_ids=None, precision=precision)
        graph = Graph(folder, contract)
        logits[precision] = tree_logits(graph)
        np.testing.assert_allclose(tree_logits(graph, split=4), logits[precision], rtol=1e-4, atol=1e-4)
    error = np.abs(logits["int8"] - logits["fp32"]).mean() / logits["fp32"].std()
    assert 0 < error < 0.15


def test_bundle(tiny_model: Path, tiny_guard: Guard, tmp_path: Path) -> None:
    loaded = load_model(tiny_model)
    resolved = resolve_spec(*choose_spec(None, loaded.model_id), loaded)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    parity = build_bundle(loaded, resolved, tmp_path / "b", precision="int8", max_file_size=1_000_000)
    assert all((value == before[name]).all() for name, value in loaded.model.state_dict().items())
    assert parity is not None
    assert parity.mean_probability_difference < parity.max_probability_difference < 0.1
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["precision"] == "int8"
    assert manifest["parity"]["mean_probability_difference"] == parity.mean_probability_difference
    files = sorted(name for name in manifest["files"] if name.startswith("model.onnx.data"))
    assert len(files) > 1  # the embedding is larger than a megabyte, and alone in its file
    whole = Guard.load(tiny_guard.path, device="cpu")
    guard = Guard.load(tmp_path / "b", device="cpu")
    alone = [guard.score(text, max_nodes=16) for text in TEXTS]
    for a, b, c in zip(
        alone, guard.score_many(TEXTS, max_nodes=16), whole.score_many(TEXTS, max_nodes=16), strict=True
    ):
        assert a.unsafe.probability == pytest.approx(b.unsafe.probability, abs=1e-5)
        assert a.unsafe.probability == pytest.approx(c.unsafe.probability, abs=0.1)
        assert a.coverage == pytest.approx(b.coverage, abs=1e-5)
