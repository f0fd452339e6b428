"""Loading a guard: tokenizer, spec and verdict head must fit each other and the graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.edited_bundle import edit_graph, edit_graph_table, edit_spec, load, rename
from tests.support.word_guard import VOCAB, write_manifest
from tokmarg import BundleError, SpecError


@pytest.mark.parametrize("data", [b"\xff\xfe", b"{}", b"[]", b"", b'{"added_tokens": [], "model": null}'])
def test_broken_tokenizer(bundle_copy: Path, data: bytes) -> None:
    (bundle_copy / "tokenizer.json").write_bytes(data)
    write_manifest(bundle_copy)
    with pytest.raises(BundleError, match=r"tokenizer\.json: (cannot be read|not a tokenizer)"):
        load(bundle_copy)


def test_tokenizer_of_a_larger_model(bundle_copy: Path) -> None:
    document = json.loads((bundle_copy / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["vocab"]["more"] = len(VOCAB)
    (bundle_copy / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    write_manifest(bundle_copy)
    with pytest.raises(
        BundleError, match=rf"graph\.vocab_size: is {len(VOCAB)}, but tokenizer\.json has token {len(VOCAB)}"
    ):
        load(bundle_copy)


def test_verdict_head_that_lacks_a_token(bundle_copy: Path) -> None:
    kept = [i for token, i in VOCAB.items() if token != "B"]
    edit_graph(bundle_copy, lambda graph: _keep_columns(graph, kept))
    edit_graph_table(bundle_copy, head="verdict", head_token_ids=kept)
    with pytest.raises(BundleError, match=rf"graph\.head_token_ids: lacks token {VOCAB['B']}, which a verdict can use"):
        load(bundle_copy)
    full = [*kept[:-1], VOCAB["B"]]
    assert VOCAB["<|end|>"] == kept[-1]
    edit_graph_table(bundle_copy, head_token_ids=full)
    with pytest.raises(BundleError, match=rf"lacks token {kept[-1]}"):
        load(bundle_copy)


def _keep_columns(graph: onnx.GraphProto, kept: list[int]) -> None:
    rename("output", "logits", "all")(graph)
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(kept), "kept"))
    graph.node.append(helper.make_node("Gather", ["all", "kept"], ["logits"], axis=2))
    (value,) = (v for v in graph.output if v.name == "all")
    value.CopyFrom(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, "K", len(kept)]))


def test_spec_that_does_not_fit_the_tokenizer(bundle_copy: Path) -> None:
    """Found when the bundle is loaded, not when the first content is scored."""
    edit_spec(bundle_copy, "verdict", "terminators", value=["hello gun"])
    with pytest.raises(SpecError, match=r"manifest\.json: spec\.verdict: the terminator 'hello gun' is not one token"):
        load(bundle_copy)
