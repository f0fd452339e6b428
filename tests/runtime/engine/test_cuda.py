"""A graph goes to CUDA whole or not at all. Most of this stands in for CUDA, which machines that test seldom have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from tokmarg import DeviceError, Guard
from tokmarg.engine.cuda import CPU, CUDA, strays
from tokmarg.engine.onnx_builder import FLOAT, node, small_model

WHOLE = onnxruntime.InferenceSession
HAS_CUDA = CUDA in onnxruntime.get_available_providers()


def recorded(model: bytes | str) -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return WHOLE(model, options, providers=[CPU])


def test_what_computes_shapes_may_be_on_the_cpu() -> None:
    nodes = [
        node("Shape", ("a",), "b"),
        node("Gather", ("b", "b"), "d"),
        node("ConstantOfShape", ("d",), "e"),
        node("Softmax", ("e",), "f"),
        node("QuickGelu", ("f",), "c", "com.microsoft"),
    ]
    assert strays(recorded(small_model(nodes, {"a": (FLOAT, ("n",))}, {"c": (FLOAT, ("n",))}))) == {
        "Softmax": 1,
        "QuickGelu": 1,
    }


def test_every_product_and_norm_of_a_graph_is_told_from_shapes(tiny_bundle: Path) -> None:
    found = strays(recorded(str(tiny_bundle / "model.onnx")))
    assert {"MatMul", "FusedMatMul", "Gemm", "Softmax", "SkipSimplifiedLayerNormalization", "RotaryEmbedding"} <= set(
        found
    )
    assert not {"Shape", "Concat", "Reshape"} & set(found)


def pretend(monkeypatch: pytest.MonkeyPatch, session: Any) -> None:
    """An onnxruntime with CUDA, whose sessions there are ``session(path, options)``."""

    def start(path: Any, options: Any, providers: list[Any], **more: Any) -> Any:
        return session(path, options) if providers[0] != CPU else WHOLE(path, options, providers=providers, **more)

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr("onnxruntime.InferenceSession", start)


def fails(path: Any, options: Any) -> Any:
    raise Fail("CUDA failure 2: out of memory\nand a trace")  # a class of onnxruntime's own


def falls_back(path: Any, options: Any) -> Any:
    return WHOLE(path, options, providers=[CPU])


def is_left_in_part(path: Any, options: Any) -> Any:
    nodes = [SimpleNamespace(op_type=op, domain="") for op in ("Shape", "Einsum", "Einsum", "NonZero")]
    parts = [SimpleNamespace(ep_name=CPU, get_nodes=lambda: nodes)]
    return SimpleNamespace(get_providers=lambda: [CUDA, CPU], get_provider_graph_assignment_info=lambda: parts)


@pytest.mark.parametrize(
    ("session", "message"),
    [
        (fails, r"model\.onnx: onnxruntime cannot load the graph on CUDA: CUDA failure 2: out of memory$"),
        (
            falls_back,
            r"could not start it: check driver and CUDA libraries: Failed to load libcublas\.so\.13: no file$",
        ),
        (
            is_left_in_part,
            r"CUDA cannot run all of the graph, the CPU would have 2 Einsum, 1 NonZero: use --device cpu",
        ),
    ],
)
def test_cuda_fails_loudly_and_auto_takes_the_cpu(
    word_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    session: Any,
    message: str,
) -> None:
    """onnxruntime would fall back to the CPU with a warning; here that is an error."""
    pretend(monkeypatch, session)
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: print("Failed to load libcublas.so.13: no file"))
    with pytest.raises(DeviceError, match=message):
        Guard.load(word_bundle, device="cuda")
    assert Guard.load(word_bundle, device="auto").device == "cpu"
    assert capfd.readouterr().out == ""


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
def test_cuda_where_there_is_none(word_bundle: Path) -> None:
    with pytest.raises(DeviceError, match=r'no CUDA: pip install "tokmarg\[gpu\]"'):
        Guard.load(word_bundle, device="cuda")
    assert Guard.load(word_bundle, device="auto").device == "cpu"


@pytest.mark.skipif(not HAS_CUDA, reason="this onnxruntime has no CUDA")
def test_a_fused_graph_is_on_cuda_whole(tiny_bundle: Path) -> None:
    """Not even shapes are computed elsewhere."""
    session = Guard.load(tiny_bundle, device="cuda")._session._session
    assert {part.ep_name for part in session.get_provider_graph_assignment_info()} == {CUDA}
