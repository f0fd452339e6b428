"""Logits that are not finite: an error of the one content, not of its batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import load_file, save_file

from tests.support.edited_bundle import edit_graph, load, rename
from tests.support.word_guard import VOCAB
from tokmarg import ContentError, Guard, Record, Result


def add_nan(graph: onnx.GraphProto) -> None:
    """Makes one column of the logits NaN in every row."""
    rename("output", "logits", "whole")(graph)
    row = np.zeros(len(VOCAB), dtype=np.float32)
    row[VOCAB["noise"]] = np.nan
    graph.initializer.append(onnx.numpy_helper.from_array(row, "row"))
    graph.node.append(helper.make_node("Add", ["whole", "row"], ["logits"]))
    (value,) = (v for v in graph.output if v.name == "whole")
    value.name = "logits"


def test_nan_in_every_row(bundle_copy: Path) -> None:
    edit_graph(bundle_copy, add_nan)
    guard = load(bundle_copy)
    with pytest.raises(ContentError, match="the model returned NaN or infinite logits for this content") as caught:
        guard.score("hello", id="a")
    assert (caught.value.type, caught.value.id) == ("non_finite_logits", "a")
    contents = [Record("hello", i) for i in range(40)]
    found = list(guard.score_many(contents, on_error="return"))
    assert [(type(f), f.id) for f in found] == [(ContentError, i) for i in range(40)]


def test_infinite_logits_in_some_rows(word_bundle: Path) -> None:
    """Every content keeps its place and its score, whoever fails beside it."""
    guard = load(word_bundle)
    texts = ["boom boom" if i % 5 == 2 else "gun" if i % 2 else "hello" for i in range(40)]
    texts[30] = " "
    found = list(guard.score_many([Record(text, i) for i, text in enumerate(texts)], on_error="return"))
    assert [f.id for f in found] == list(range(40))
    for text, outcome in zip(texts, found, strict=True):
        if text in ("boom boom", " "):
            assert isinstance(outcome, ContentError)
            assert outcome.type == ("empty_text" if text == " " else "non_finite_logits")
        else:
            assert isinstance(outcome, Result)
            alone = guard.score(text, id=outcome.id)
            assert outcome.unsafe.probability == pytest.approx(alone.unsafe.probability, abs=1e-6)
    stream = guard.score_many(texts)
    assert [next(stream).flagged for _ in range(2)] == [False, True]
    with pytest.raises(ContentError, match="NaN or infinite"):
        next(stream)


def test_nan_in_an_exported_graph(tiny_bundle: Path, tmp_path: Path) -> None:
    """The same with a real graph: NaN in the stored prefix reaches every logit."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    path = folder / "prefix.safetensors"
    tensors = {name: np.array(tensor) for name, tensor in load_file(path).items()}
    tensors["user.0.value"][:] = np.nan
    save_file(tensors, path)
    guard = Guard.load(folder, device="cpu", verify=False)
    conversation = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    found = list(guard.score_many(["Hi", conversation, "Hi"], on_error="return", max_nodes=2))
    assert [type(f) for f in found] == [ContentError, Result, ContentError]
    with pytest.raises(ContentError) as caught:
        guard.score("Hi", id=7)
    assert (caught.value.type, caught.value.id) == ("non_finite_logits", 7)
