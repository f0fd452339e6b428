"""What CUDA's driver is asked; a stand-in answers, and nothing does on a machine without a GPU."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from tokmarg.engine.gpu_info import gpu_memory_used, gpu_name

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def driver(**answers: Any) -> SimpleNamespace:
    def device_name(buffer: Any, size: int, device: int) -> int:
        buffer.value = b"NVIDIA Model 7"
        return 0

    def memory(free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = 3, 10
        return 0

    working = {
        "cuInit": lambda flags: 0,
        "cuDeviceGetName": device_name,
        "cuDevicePrimaryCtxRetain": lambda context, device: 0,
        "cuCtxPushCurrent_v2": lambda context: 0,
        "cuCtxPopCurrent_v2": lambda context: 0,
        "cuMemGetInfo_v2": memory,
    }
    return SimpleNamespace(**(working | answers))


def test_a_gpu_has_a_name_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver())
    assert (gpu_name(), gpu_memory_used()) == ("NVIDIA Model 7", 7)


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGetName"])
def test_no_gpu_has_no_name(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver(**{failing: lambda *_: NO_DEVICE}))
    assert gpu_name() is None


@pytest.mark.parametrize("failing", ["cuInit", "cuDevicePrimaryCtxRetain", "cuMemGetInfo_v2"])
def test_no_gpu_has_no_memory(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver(**{failing: lambda *_: NO_DEVICE}))
    assert gpu_memory_used() is None


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmarg.engine.gpu_info._LIBRARY", "libmissing.so.1")
    assert (gpu_name(), gpu_memory_used()) == (None, None)
