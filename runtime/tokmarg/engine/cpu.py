"""CPU and system properties that the engine depends on: 8-bit products, denormals, free heap memory.

Three facts that onnxruntime does not handle by itself:

- **8-bit products.** AVX2 without VNNI sums pairs of uint8 x int8 products in 16 bits and saturates. Sessions of int8
  graphs take another kernel there.
- **Denormals.** Softmax gives masked columns about 4e-39, and arithmetic below 1.2e-38 is slow: attention over 200
  tokens takes a third longer. onnxruntime's own threads flush denormals to zero where a session says so
  (``session.set_denormal_as_zero``); the calling thread computes along and has to be told separately.
- **Heap memory.** glibc's heap ends with the last block in use: whatever is free below it stays the process's. After a
  pack of contents that is half as much again as all that a guard has loaded, in pieces between blocks that stay.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np

from tokmarg.native import raised_by

from .onnx_builder import FLOAT, INT8, UINT8, one_operator
from .ort import ort, session_options

__all__ = ["denormals_as_zero", "int8_products_saturate", "release_free_memory"]

T = TypeVar("T")

#: fenv_t on x86-64 (psABI; the same in glibc and musl): its size, and the offset of the MXCSR register, in bytes.
_FENV_SIZE, _MXCSR = 32, 28
#: Bits of MXCSR: flush results to zero (FTZ) and treat denormal operands as zero (DAZ).
_FTZ_DAZ = 0x8040


@cache
def int8_products_saturate() -> bool:
    """Whether sums of uint8 x int8 products saturate at 16 bits on this machine, as with AVX2 without VNNI."""
    a, b = np.full((2, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    weights = {
        "b": (INT8, b),
        "a_scale": (FLOAT, np.ones((), np.float32)),
        "b_scale": (FLOAT, np.ones(16, np.float32)),
        "a_zero": (UINT8, np.zeros((), np.uint8)),
    }
    model = one_operator("MatMulIntegerToFloat", (UINT8, FLOAT), weights)
    session = ort.InferenceSession(model, session_options(threads=1), providers=["CPUExecutionProvider"])
    (products,) = session.run(None, {"a": a})
    return bool((products != 64 * 255 * 127).any())


def denormals_as_zero(call: Callable[[], T]) -> T:
    """Calls with denormals flushed to zero on the calling thread; only on Linux on x86-64.

    No context manager: an exception at the wrong moment, of a signal handler or another thread, could end one before it
    has put the thread's mode back.
    """
    get, put = _floating_point_environment()
    before = get()
    register = int.from_bytes(before[_MXCSR:], "little") | _FTZ_DAZ
    try:
        put(before[:_MXCSR] + register.to_bytes(4, "little"))
        return call()
    finally:
        put(before)


@cache
def _floating_point_environment() -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
    """Getter and setter of the calling thread's floating-point environment (fenv_t)."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        library = ctypes.CDLL(None)
        if hasattr(library, "fegetenv") and hasattr(library, "fesetenv"):

            def get() -> bytes:
                environment = ctypes.create_string_buffer(_FENV_SIZE)
                library.fegetenv(environment)
                return environment.raw

            return get, library.fesetenv
    return lambda: bytes(_FENV_SIZE), lambda _: None


def release_free_memory() -> None:
    """Returns free memory of glibc's heap to the system, in some milliseconds; does nothing with other C libraries."""
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError) as error:  # Windows has no library of no name
        if not raised_by(error, "ctypes"):
            raise
        return None
