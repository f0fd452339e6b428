"""Session: loading a graph on a device, and its passes; what cannot be loaded is refused and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import run_python
from tests.support.edited_bundle import edit_graph_table, load
from tests.support.word_guard import VOCAB, write_manifest
from tokmarg import BundleError, DeviceError, Guard, OptionError
from tokmarg.bundle.bundle import Bundle
from tokmarg.engine.forward import Forward
from tokmarg.engine.kv_cache import KVCache
from tokmarg.engine.session import Session


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


#: Megabytes that a process holds after a small pass, and after a large one.
_SMALL_AND_LARGE = """
import os, sys
import numpy as np
from tests.support.mixed_load import resident
from tokmarg.bundle.bundle import Bundle
from tokmarg.engine.forward import Forward
from tokmarg.engine.session import Session

session = Session(Bundle.open(sys.argv[1]), "cpu", threads=1)
for tokens in (16, 2048):
    mask = np.tril(np.ones((tokens, tokens), dtype=bool))
    session.run(Forward([1] * tokens, np.arange(tokens), mask, session.empty(), [tokens - 1]))
    print(resident(os.getpid()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_of_a_large_pass_goes_back(tiny_bundle: Path) -> None:
    """Scores of 2,048 tokens that see each other, and the weights that they become, take 160 MB. In a process of its
    own: the heap of one that has run other tests grows as it happens."""
    done = run_python(_SMALL_AND_LARGE, str(tiny_bundle))
    assert done.returncode == 0, done.stderr
    small, large = map(float, done.stdout.split())
    assert large < small + 100


def test_joined_caches_must_have_the_same_layers() -> None:
    tensor, positions = np.zeros((1, 1, 1, 2)), np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        KVCache.joined([KVCache((tensor, tensor), positions), KVCache((tensor,), positions)])


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\0" * 4096, b"\x08\x08" + b"\xff" * 100])
def test_garbage_for_a_graph(bundle_copy: Path, data: bytes) -> None:
    (bundle_copy / "model.onnx").write_bytes(data)
    write_manifest(bundle_copy)
    with pytest.raises(BundleError, match=r"model\.onnx: not an ONNX graph: ") as caught:
        load(bundle_copy)
    assert "\n" not in str(caught.value)


def test_cut_graph_without_verification(bundle_copy: Path) -> None:
    data = (bundle_copy / "model.onnx").read_bytes()
    (bundle_copy / "model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match=r"model\.onnx: is [\d,]+ bytes, the manifest says"):
        Guard.load(bundle_copy, device="cpu", verify=False)


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
    bundle_copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A name that is not UTF-8: onnxruntime would try once more, and print that on stdout, where results go."""
    data = (bundle_copy / "model.onnx").read_bytes()
    head, output, tail = data.partition(b"everywhere")
    (bundle_copy / "model.onnx").write_bytes(head + output + tail.replace(b"everywhere", b"everywher\xf3"))
    write_manifest(bundle_copy)
    with pytest.raises(BundleError, match="onnxruntime cannot load the graph"):
        load(bundle_copy)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("device", ["gpu", "", None, "CUDA"])
def test_unknown_device(word_bundle: Path, device: Any) -> None:
    with pytest.raises(OptionError, match=r"device .* is not one of auto, cpu, cuda"):
        Guard.load(word_bundle, device=device)


def test_faulty_release(word_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.__version__", "1.24.1")
    with pytest.raises(DeviceError, match=r"onnxruntime 1\.24\.1 has known faults: install another release"):
        Guard.load(word_bundle)


def test_a_pass_that_fails_is_one_clear_line(word_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    monkeypatch.setattr("tokmarg.engine.batch.TreeBatch.mask", lambda self: np.ones((1, 1), dtype=np.bool_))
    with pytest.raises(DeviceError, match=r"onnxruntime failed on cpu in a pass of \d+ tokens"):
        guard.score("several words, so that the mask is too small")


def test_an_int8_graph_is_not_sent_to_cuda_where_its_products_have_no_form(bundle_copy: Path) -> None:
    edit_graph_table(bundle_copy, by_content=True)
    with pytest.raises(DeviceError, match="--precision fp16"):
        Session(Bundle.open(bundle_copy), "cuda")
    with pytest.raises(BundleError, match="graph has no attention_rows"):  # the CPU takes it, and finds another graph
        Session(Bundle.open(bundle_copy), "auto")
