"""GPU name and memory in use, from CUDA's driver; onnxruntime reports neither."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from tokmarg.native import raised_by

__all__ = ["gpu_memory_used", "gpu_name"]

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_DEVICE = 0  # the one that onnxruntime takes


def gpu_name() -> str | None:
    """The GPU's name; None where there is no driver, or no GPU."""
    driver, name = _driver(), ctypes.create_string_buffer(256)
    if driver is None or driver.cuDeviceGetName(name, len(name), _DEVICE) != 0:
        return None
    return name.value.decode("utf-8", "replace")


def gpu_memory_used() -> int | None:
    """Bytes of the GPU's memory in use, by any process; None where there is no driver, or no GPU.

    The memory that CUDA takes for this process is included from the first call on.
    """
    driver, context = _driver(), ctypes.c_void_p()
    if driver is None or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), _DEVICE) != 0:
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    driver.cuCtxPushCurrent_v2(context)
    failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    # The context stays, like onnxruntime's use of it, until the process ends.
    return None if failed else total.value - free.value


def _driver() -> Any:
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        if not raised_by(error, "ctypes"):
            raise
        return None
    return driver if driver.cuInit(0) == 0 else None
