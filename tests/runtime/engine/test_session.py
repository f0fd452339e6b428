"""Loading a graph: whatever does not fit the manifest is refused and named. Logits that are no numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from safetensors.numpy import load_file, save_file

from tests.support.documents import edited
from tests.support.word_guard import VOCAB, write_manifest
from tokmarg import BundleError, ContentError, DeviceError, Guard, Record, Result, SpecError
from tokmarg.bundle.bundle import Bundle
from tokmarg.engine.cpu import int8_products_saturate
from tokmarg.engine.forward import Forward
from tokmarg.engine.kv_cache import KVCache
from tokmarg.engine.onnx_builder import FLOAT, INT8, UINT8, one_operator
from tokmarg.engine.session import Session


@pytest.fixture
def copy(word_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    return shutil.copytree(word_bundle, tmp_path / "bundle")


def edit_graph_table(folder: Path, **fields: object) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["graph"] |= fields
    path.write_text(json.dumps(document), encoding="utf-8")


def edit_spec(folder: Path, *place: str | int, value: object) -> None:
    path = folder / "manifest.json"
    document = edited(json.loads(path.read_text(encoding="utf-8")), ("spec", *place), value)
    path.write_text(json.dumps(document), encoding="utf-8")


def edit_graph(folder: Path, edit: Callable[[onnx.GraphProto], None]) -> None:
    model = onnx.load(folder / "model.onnx")
    edit(model.graph)
    onnx.save(model, folder / "model.onnx")
    write_manifest(folder)


def load(folder: Path) -> Guard:
    return Guard.load(folder, device="cpu")


def test_whole_graph(word_bundle: Path) -> None:
    session = Session(Bundle.open(word_bundle), threads=1)
    assert session.device == "cpu"
    empty = session.empty()
    assert empty.length == 0
    assert [t.shape for t in empty.tensors] == [(1, 1, 0, len(VOCAB))] * 2


def test_one_pass(word_bundle: Path) -> None:
    """Two tokens that see a cached one and, of each other, what the mask allows."""
    session = Session(Bundle.open(word_bundle), "cpu")
    past = session.run(Forward([VOCAB["gun"]], np.array([0]), np.array([[True]]), session.empty(), [0])).new
    mask = np.array([[True, True, False], [True, False, True]])
    outputs = session.run(Forward([VOCAB["idiot"], VOCAB["hello"]], np.array([1, 2]), mask, past, [1, 0]))
    logits, new = outputs.logits, outputs.new
    assert logits.shape == (2, len(VOCAB))
    assert [row[VOCAB["A"]] for row in logits] == [6, 6]
    assert [row[VOCAB["B"]] for row in logits] == [0, 6]
    assert new.length == 2
    both = KVCache.joined([past, new])
    assert both.positions.tolist() == [0, 1, 2]
    assert [t.shape for t in both.tensors] == [(1, 1, 3, len(VOCAB))] * 2


def test_joined_caches_must_have_the_same_layers() -> None:
    tensor, positions = np.zeros((1, 1, 1, 2)), np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        KVCache.joined([KVCache((tensor, tensor), positions), KVCache((tensor,), positions)])


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
        ({"max_positions": 70}, r"graph\.max_positions: 70 leaves no room for content behind the policy's \d tokens"),
        ({"max_positions": 1}, r"graph\.max_positions: 1 leaves no room for content behind the policy's \d tokens"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_manifest_of_another_graph(copy: Path, fields: dict[str, object], message: str) -> None:
    edit_graph_table(copy, **fields)
    with pytest.raises(BundleError, match=message):
        load(copy)


def test_two_layer_graph_with_a_manifest_of_one(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    edit_graph_table(folder, layers=1)
    with pytest.raises(BundleError, match=r"model\.onnx: graph has 2 layers of keys and values, not 1"):
        Session(Bundle.open(folder), "cpu")


def rename(side: str, old: str, new: str) -> Callable[[onnx.GraphProto], None]:
    def edit(graph: onnx.GraphProto) -> None:
        for value in getattr(graph, side):
            value.name = new if value.name == old else value.name
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    return edit


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
def test_graph_of_another_contract(copy: Path, edit: Callable[[onnx.GraphProto], None], message: str) -> None:
    edit_graph(copy, edit)
    with pytest.raises(BundleError, match=rf"model\.onnx: .*{message}"):
        load(copy)


def test_input_that_nobody_feeds(copy: Path) -> None:
    extra = helper.make_tensor_value_info("token_type_ids", onnx.TensorProto.INT64, [1, "S"])
    edit_graph(copy, lambda graph: graph.input.append(extra))
    with pytest.raises(BundleError, match=r"graph input token_type_ids is unknown to this tokmarg"):
        load(copy)


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\0" * 4096, b"\x08\x08" + b"\xff" * 100])
def test_garbage_for_a_graph(copy: Path, data: bytes) -> None:
    (copy / "model.onnx").write_bytes(data)
    write_manifest(copy)
    with pytest.raises(BundleError, match=r"model\.onnx: not an ONNX graph: ") as caught:
        load(copy)
    assert "\n" not in str(caught.value)


def test_cut_graph_without_verification(copy: Path) -> None:
    data = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match=r"model\.onnx: is [\d,]+ bytes, the manifest says"):
        Guard.load(copy, device="cpu", verify=False)


def test_missing_external_data(tiny_bundle: Path, tmp_path: Path) -> None:
    """Whether the manifest knows the file or not."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (folder / "model.onnx.data").unlink()
    for verify in (True, False):
        with pytest.raises(BundleError, match=r"model\.onnx\.data: is missing"):
            Guard.load(folder, device="cpu", verify=verify)
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del document["files"]["model.onnx.data"]
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(
        BundleError, match=r"model\.onnx: has weights in 'model\.onnx\.data', which the manifest's files"
    ):
        Guard.load(folder, device="cpu")


def test_a_graph_that_onnxruntime_cannot_name_says_nothing_on_stdout(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A name that is not UTF-8: onnxruntime would try once more, and print that on stdout, where results go."""
    data = (copy / "model.onnx").read_bytes()
    head, output, tail = data.partition(b"everywhere")
    (copy / "model.onnx").write_bytes(head + output + tail.replace(b"everywhere", b"everywher\xf3"))
    write_manifest(copy)
    with pytest.raises(BundleError, match="onnxruntime cannot load the graph"):
        load(copy)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("device", ["gpu", "", None, "CUDA"])
def test_unknown_device(word_bundle: Path, device: Any) -> None:
    with pytest.raises(DeviceError, match="device must be auto, cpu or cuda, not "):
        Guard.load(word_bundle, device=device)


def test_faulty_release(word_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.__version__", "1.24.1")
    with pytest.raises(DeviceError, match=r"onnxruntime 1\.24\.1 has known faults: install another release"):
        Guard.load(word_bundle)


Tensors = dict[str, np.ndarray]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user.0.key": None}, r"does not contain tensor user\.0\.key"),
        ({"assistant.token_ids": None}, r"does not contain tensor assistant\.token_ids"),
        (
            {"user.0.value": (1, 1, 1, len(VOCAB))},
            r"user\.0\.value: has shape \[1, 1, 1, \d+\], not \[1, 1, \d+, \d+\]",
        ),
        ({"user.0.key": (1, 2, 5, len(VOCAB))}, r"user\.0\.key: has shape \[1, 2, 5, \d+\], not \[1, 1, \d+, \d+\]"),
        ({"user.0.key": ()}, r"user\.0\.key: has shape \[\], not \[1, 1, \d+, \d+\]"),
        ({"user.token_ids": (2, 2)}, r"user\.token_ids: is float32 \[2, 2\], not int64 \[P\]"),
        ({"user.token_ids": (4,)}, r"user\.token_ids: is float32 \[4\], not int64 \[P\]"),
    ],
)
def test_prefix_of_another_graph(copy: Path, change: dict[str, tuple[int, ...] | None], message: str) -> None:
    path = copy / "prefix.safetensors"
    tensors: Tensors = load_file(path)
    for name, shape in change.items():
        del tensors[name]
        if shape is not None:
            tensors[name] = np.zeros(shape, dtype=np.float32)
    save_file(tensors, path)
    write_manifest(copy)
    with pytest.raises(BundleError, match=rf"prefix\.safetensors: .*{message}"):
        load(copy)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_cut_prefix(copy: Path, kept: int) -> None:
    path = copy / "prefix.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    write_manifest(copy)
    with pytest.raises(BundleError, match=r"prefix\.safetensors: ") as caught:
        load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"{}", b"[]", b"", b'{"added_tokens": [], "model": null}'])
def test_broken_tokenizer(copy: Path, data: bytes) -> None:
    (copy / "tokenizer.json").write_bytes(data)
    write_manifest(copy)
    with pytest.raises(BundleError, match=r"tokenizer\.json: (cannot be read|not a tokenizer)"):
        load(copy)


def test_tokenizer_of_a_larger_model(copy: Path) -> None:
    document = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["vocab"]["more"] = len(VOCAB)
    (copy / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    write_manifest(copy)
    with pytest.raises(
        BundleError, match=rf"graph\.vocab_size: is {len(VOCAB)}, but tokenizer\.json has token {len(VOCAB)}"
    ):
        load(copy)


def test_verdict_head_that_lacks_a_token(copy: Path) -> None:
    kept = [i for token, i in VOCAB.items() if token != "B"]
    edit_graph(copy, lambda graph: _keep_columns(graph, kept))
    edit_graph_table(copy, head="verdict", head_token_ids=kept)
    with pytest.raises(BundleError, match=rf"graph\.head_token_ids: lacks token {VOCAB['B']}, which a verdict can use"):
        load(copy)
    full = [*kept[:-1], VOCAB["B"]]
    assert VOCAB["<|end|>"] == kept[-1]
    edit_graph_table(copy, head_token_ids=full)
    with pytest.raises(BundleError, match=rf"lacks token {kept[-1]}"):
        load(copy)


def _keep_columns(graph: onnx.GraphProto, kept: list[int]) -> None:
    rename("output", "logits", "all")(graph)
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(kept), "kept"))
    graph.node.append(helper.make_node("Gather", ["all", "kept"], ["logits"], axis=2))
    (value,) = (v for v in graph.output if v.name == "all")
    value.CopyFrom(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, "K", len(kept)]))


def test_spec_that_does_not_fit_the_tokenizer(copy: Path) -> None:
    """Found when the bundle is loaded, not when the first content is scored."""
    edit_spec(copy, "verdict", "terminators", value=["hello gun"])
    with pytest.raises(SpecError, match=r"manifest\.json: spec\.verdict: the terminator 'hello gun' is not one token"):
        load(copy)


def add_nan(graph: onnx.GraphProto) -> None:
    """Makes one column of the logits NaN in every row."""
    rename("output", "logits", "whole")(graph)
    row = np.zeros(len(VOCAB), dtype=np.float32)
    row[VOCAB["noise"]] = np.nan
    graph.initializer.append(onnx.numpy_helper.from_array(row, "row"))
    graph.node.append(helper.make_node("Add", ["whole", "row"], ["logits"]))
    (value,) = (v for v in graph.output if v.name == "whole")
    value.name = "logits"


def test_nan_in_every_row(copy: Path) -> None:
    edit_graph(copy, add_nan)
    guard = load(copy)
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


def test_a_pass_that_fails_is_one_clear_line(word_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    monkeypatch.setattr("tokmarg.engine.batch.TreeBatch.mask", lambda self: np.ones((1, 1), dtype=np.bool_))
    with pytest.raises(DeviceError, match=r"onnxruntime failed on cpu in a pass of \d+ tokens"):
        guard.score("several words, so that the mask is too small")


def test_this_machine_multiplies_bytes_exactly_or_is_told_apart() -> None:
    """Either sums of bytes are exact here, or onnxruntime's exact path is: ``int8_products_saturate`` decides which."""
    a, b = np.full((3, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    weights = {
        "b": (INT8, b),
        "a_scale": (FLOAT, np.ones((), np.float32)),
        "b_scale": (FLOAT, np.ones(16, np.float32)),
        "a_zero": (UINT8, np.zeros((), np.uint8)),
    }
    options = onnxruntime.SessionOptions()
    if int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    model = one_operator("MatMulIntegerToFloat", (UINT8, FLOAT), weights)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    assert (session.run(None, {"a": a})[0] == a.astype(int) @ b.astype(int)).all()


def test_an_int8_graph_is_not_sent_to_cuda_where_its_products_have_no_form(copy: Path) -> None:
    edit_graph_table(copy, by_content=True)
    with pytest.raises(DeviceError, match="--precision fp16"):
        Session(Bundle.open(copy), "cuda")
    with pytest.raises(BundleError, match="graph has no attention_rows"):  # the CPU takes it, and finds another graph
        Session(Bundle.open(copy), "auto")
