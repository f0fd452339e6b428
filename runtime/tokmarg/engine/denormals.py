"""Numbers below the normal ones, taken for zero.

Softmax gives what is masked 4e-39, and a processor is slow with numbers below 1.2e-38: attention over 200 tokens takes
a third longer. onnxruntime's own threads take them for zero where a session says so
(``session.set_denormal_as_zero``); the thread that calls is left as it is, and computes along.
"""

from __future__ import annotations

__all__ = []
