"""What the CPU and its system offer: cores, denormals, 8-bit products, free memory."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .onnx_builder import FLOAT, INT8, UINT8, one_operator
from .ort import ort

__all__ = ["denormals_as_zero", "int8_products_saturate", "physical_cores", "release_free_memory"]


@cache
def int8_products_saturate() -> bool:
    """Whether sums of uint8 times int8 are cut off at 16 bits on this machine, as AVX2 without VNNI does."""
    a, b = np.full((2, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    weights = {
        "b": (INT8, b),
        "a_scale": (FLOAT, np.ones((), np.float32)),
        "b_scale": (FLOAT, np.ones(16, np.float32)),
        "a_zero": (UINT8, np.zeros((), np.uint8)),
    }
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    model = one_operator("MatMulIntegerToFloat", (UINT8, FLOAT), weights)
    (found,) = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"a": a})
    return bool((found != 64 * 255 * 127).any())


def physical_cores() -> int:
    """Cores that this process may use; two hardware threads of one core count once, as they share what multiplies.

    Linux tells which threads are of one core. Elsewhere x86 processors are taken to have two each, and others one.
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return max(1, len({Path(topology.format(cpu)).read_text() for cpu in usable}))
    except OSError:
        paired = platform.machine().lower() in ("amd64", "x86_64") and platform.system() != "Linux"
        return max(1, len(usable) // (2 if paired else 1))


#: Of fenv_t on x86-64 (psABI; the same in glibc and musl), in bytes: its size, and where the MXCSR register stands.
_SIZE, _MXCSR = 32, 28


_FLUSH = 0x8040  # results below the normal numbers, and operands


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """While the block runs, on this thread alone; nothing on other machines than Linux on x86-64."""
    get, put = _environment()
    before = get()
    register = int.from_bytes(before[_MXCSR:], "little") | _FLUSH
    put(before[:_MXCSR] + register.to_bytes(4, "little"))
    try:
        yield
    finally:
        put(before)


@cache
def _environment() -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
    """Reads and sets the thread's floating-point environment."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        library = ctypes.CDLL(None)
        if hasattr(library, "fegetenv") and hasattr(library, "fesetenv"):

            def get() -> bytes:
                space = ctypes.create_string_buffer(_SIZE)
                library.fegetenv(space)
                return space.raw

            return get, library.fesetenv
    return lambda: bytes(_SIZE), lambda _: None


def release_free_memory() -> None:
    """Gives free memory of glibc's heap back, which takes some milliseconds; nothing where the C library is another."""
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # Windows has no library of no name
        return None
