"""Loading a guard: tokenizer, spec and verdict head must fit each other and the graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.edited_bundle import edit_graph, edit_graph_table, edit_spec, load, rename
from tests.support.word_guard import VOCAB, sha256, write_manifest
from tokmarg import BundleError, Guard, SpecError


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


def test_verdict_that_leaves_no_choice_is_scored(bundle_copy: Path) -> None:
    edit_spec(bundle_copy, "verdict", "grammar", value=["safe"])
    guard = load(bundle_copy)
    result = guard.score("hello gun")
    assert (result.unsafe.probability, result.unsafe.lower, result.unsafe.upper) == (0.0, 0.0, 0.0)
    assert result.converged
    assert result.coverage is not None
    assert 0 < result.coverage < 1  # the probability of `safe` and of the terminator


LIST = {"labels": "id", "separators": [","]}


def _labels(*ids: str) -> list[dict[str, str]]:
    return [{"id": label, "name": label} for label in ids]


@pytest.mark.parametrize(
    ("labels", "verdict", "message"),
    [
        (("A", "B", "A,B"), {}, "same tokens: .*A,B"),
        (("A", "B", "C", "A,C,B", "C,B"), {}, "same tokens"),
        (("A", "B"), {"terminators": [","]}, "same tokens"),
        (
            ("A", "B"),
            {"terminators": ["<|end|>", "\n"], "grammar": ["A", {"labels": "id", "separators": ["\n"]}]},
            "same",
        ),
        (("A",), {"grammar": [{"choice": [{"text": "safe"}, {"text": "safe", "event": "unsafe"}]}]}, "same tokens"),
        (("A",), {"grammar": [{"choice": [{"text": t, "event": f"e{t}"} for t in ("x", "y")]}]}, "same tokens"),
    ],
)
def test_grammar_with_two_readings_is_refused(
    bundle_copy: Path, labels: tuple[str, ...], verdict: dict[str, object], message: str
) -> None:
    """Also for the bundle's own policy: a content that leads to the two readings must not end a run."""
    edit_spec(bundle_copy, "policy", "labels", value=_labels(*labels))
    for key, value in verdict.items():
        edit_spec(bundle_copy, "verdict", key, value=value)
    with pytest.raises(SpecError, match=rf"manifest\.json: spec\.verdict: .*{message}"):
        load(bundle_copy)


def test_policy_with_two_readings_is_refused(bundle_copy: Path) -> None:
    with pytest.raises(SpecError, match=r"spec\.verdict with the given policy: .*same tokens"):
        Guard.load(bundle_copy, device="cpu", policy={"labels": _labels("A", "B", "A,B")})


def test_alternative_readings_with_the_same_events_are_no_obstacle(bundle_copy: Path) -> None:
    parts = [{"choice": [{"text": "safe"}, {"text": "safe", "then": []}, {"text": "unsafe", "event": "unsafe"}]}]
    edit_spec(bundle_copy, "verdict", "grammar", value=parts)
    assert load(bundle_copy).score("hello gun").converged


def _edit_tokenizer(folder: Path, **fields: object) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["tokenizer.json"] = {"sha256": sha256(path), "size": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    "fields",
    [
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "[^<>|]"}, "content": ""}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "[A-Z,\\n]"}, "content": ""}},
        {"model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}},
        {"model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}, "pre_tokenizer": None},
    ],
)
def test_tokenizer_that_tells_no_texts_apart_is_refused(bundle_copy: Path, fields: dict[str, object]) -> None:
    """It would have more readings of one path than a search could ever unfold."""
    edit_spec(bundle_copy, "policy", "labels", value=_labels(*(f"S{i}" for i in range(14))))
    _edit_tokenizer(bundle_copy, **fields)
    with pytest.raises(SpecError, match=r"manifest\.json: spec\.verdict: "):
        load(bundle_copy)
