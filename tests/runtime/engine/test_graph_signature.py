"""Graph signature: a graph that does not fit the manifest is refused, and the difference named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import helper

from tests.support.edited_bundle import edit_graph, edit_graph_table, load, rename
from tests.support.word_guard import VOCAB
from tokmarg import BundleError, DeviceError
from tokmarg.bundle.bundle import Bundle
from tokmarg.engine.graph_signature import LEAST_RELEASE, check_release
from tokmarg.engine.session import Session

HEADS = {"head": "verdict", "head_token_ids": [0, 1, 2]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": 2}, r"graph has 1 layers of keys and values, not 2 as the manifest says"),
        ({"layers": 2**31 - 1}, r"graph has 1 layers of keys and values, not 2147483647 as the manifest says"),
        ({"kv_heads": 2}, r"graph past_key_values\.0\.key: dimension 1 is 1, not 2 as the manifest says"),
        ({"head_dim": 7}, rf"graph past_key_values\.0\.key: dimension 3 is {len(VOCAB)}, not 7 as the manifest says"),
        ({"vocab_size": 99}, rf"graph logits: dimension 2 is {len(VOCAB)}, not 99 as the manifest says"),
        (HEADS, rf"graph logits: dimension 2 is {len(VOCAB)}, not 3 as the manifest says"),
        (
            {"kv_dtype": "float16"},
            r"past_key_values\.0\.key: is tensor\(float\), not tensor\(float16\) as the manifest",
        ),
        ({"max_positions": 70}, r"graph\.max_positions: 70 leaves no space for content after the policy's \d tokens"),
        ({"max_positions": 1}, r"graph\.max_positions: 1 leaves no space for content after the policy's \d tokens"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_manifest_of_another_graph(bundle_copy: Path, fields: dict[str, object], message: str) -> None:
    edit_graph_table(bundle_copy, **fields)
    with pytest.raises(BundleError, match=message):
        load(bundle_copy)


def test_two_layer_graph_with_a_manifest_of_one(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    edit_graph_table(folder, layers=1)
    with pytest.raises(BundleError, match=r"model\.onnx: graph has 2 layers of keys and values, not 1"):
        Session(Bundle.open(folder), "cpu")


def cast(name: str, kind: int) -> Callable[[onnx.GraphProto], None]:
    """Gives input ``name`` another element type."""

    def edit(graph: onnx.GraphProto) -> None:
        (value,) = (v for v in graph.input if v.name == name)
        before = value.type.tensor_type.elem_type
        value.type.tensor_type.elem_type = kind
        for node in graph.node:
            node.input[:] = ["cast" if i == name else i for i in node.input]
        graph.node.insert(0, helper.make_node("Cast", [name], ["cast"], to=before))

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename("input", "input_ids", "ids"), r"graph has no input_ids, which the manifest's graph table implies"),
        (rename("input", "attention_mask", "mask"), r"graph input attention_mask is missing"),
        (rename("output", "logits", "scores"), r"graph has no logits"),
        (rename("output", "present.0.key", "new.0.key"), r"graph has no present\.0\.key"),
        (rename("input", "past_key_values.0.value", "past.0.v"), r"graph has no past_key_values\.0\.value"),
        (cast("attention_mask", onnx.TensorProto.FLOAT), r"attention_mask: is tensor\(float\), not tensor\(bool\)"),
        (cast("input_ids", onnx.TensorProto.INT32), r"input_ids: is tensor\(int32\), not tensor\(int64\)"),
    ],
)
def test_graph_of_another_contract(bundle_copy: Path, edit: Callable[[onnx.GraphProto], None], message: str) -> None:
    edit_graph(bundle_copy, edit)
    with pytest.raises(BundleError, match=rf"model\.onnx: .*{message}"):
        load(bundle_copy)


def test_input_that_nobody_feeds(bundle_copy: Path) -> None:
    extra = helper.make_tensor_value_info("token_type_ids", onnx.TensorProto.INT64, [1, "S"])
    edit_graph(bundle_copy, lambda graph: graph.input.append(extra))
    with pytest.raises(BundleError, match=r"graph input token_type_ids is unknown to this tokmarg"):
        load(bundle_copy)


def test_a_graph_that_an_older_release_computes_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one with a cap on attention scores, which onnxruntime before 1.27 applied after the mask."""

    def session(least: str | None) -> Any:
        found = {} if least is None else {LEAST_RELEASE: least}
        return SimpleNamespace(get_modelmeta=lambda: SimpleNamespace(custom_metadata_map=found))

    monkeypatch.setattr("onnxruntime.__version__", "1.26.3")
    for least in (None, "1.26", "1.3", "0.9"):
        check_release(session(least), "g")
    for least in ("1.27", "2.0"):
        with pytest.raises(DeviceError, match=rf"g: onnxruntime 1\.26\.3 .* wrong: install {least} or newer"):
            check_release(session(least), "g")
    for least in ("", "x", "1", "1.27.0", "1." + "9" * 5000):
        with pytest.raises(BundleError, match=r"g: least_onnxruntime must be a release such as 1\.27"):
            check_release(session(least), "g")
