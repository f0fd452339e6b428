"""Numbers below the normal ones, taken for zero.

Softmax gives what is masked 4e-39, and a processor is slow with numbers below 1.2e-38: attention over 200 tokens takes
a third longer. onnxruntime's own threads take them for zero where a session says so
(``session.set_denormal_as_zero``); the thread that calls is left as it is, and computes along.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["denormals_as_zero"]

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
