"""CUDA sessions: the whole graph runs on CUDA, or an error says which nodes do not.

onnxruntime itself accepts less. Where CUDA's libraries are missing it runs the graph on the CPU, and a node
that CUDA cannot run goes to the CPU with its tensors, back and forth in every pass.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path

from tokmarg.errors import DeviceError
from tokmarg.native import first_line, raised_by

from .ort import ort

__all__ = ["CPU", "CUDA", "CUDA_OPTIONS", "on_cuda", "strays"]

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
#: float32 is float32: onnxruntime's default rounds what it multiplies to TF32, with 10 bits for digits.
CUDA_OPTIONS = {"use_tf32": "0"}
#: Operators that compute shapes. onnxruntime puts these on the CPU on purpose, where shapes are; they touch no hidden
#: state.
_SHAPES = frozenset({
    "Add", "And", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Greater",
    "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Not", "Or", "Range", "ReduceProd",
    "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Sub", "Unsqueeze", "Where",
})  # fmt: skip


def on_cuda(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session whose every node but those that compute shapes is on CUDA.

    Args:
        path: of the graph.
        options: of the session; placement is recorded in addition.

    Raises:
        DeviceError: CUDA does not start, or the graph does not go there whole.
    """
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # CUDA's libraries from the packages of the gpu extra, where nobody else would look; it prints what it misses.
    with contextlib.redirect_stdout(io.StringIO()) as output:
        ort.preload_dlls()
    missed = next((f": {line}" for line in output.getvalue().splitlines() if line.startswith("Failed")), "")
    try:
        session = ort.InferenceSession(
            str(path), options, providers=[(CUDA, CUDA_OPTIONS), (CPU, {})], enable_fallback=0
        )
    except Exception as error:
        if not raised_by(error, "onnxruntime"):
            raise
        raise DeviceError(f"{path}: onnxruntime cannot load the graph on CUDA: {first_line(error)}") from error
    if session.get_providers()[0] != CUDA:
        raise DeviceError(
            f"CUDA was asked for, but onnxruntime could not start it: check driver and CUDA libraries{missed}"
        )
    if misplaced := strays(session):
        counts = ", ".join(f"{count} {operator}" for operator, count in misplaced.most_common(5))
        raise DeviceError(f"{path}: CUDA cannot run all of the graph, the CPU would have {counts}: use --device cpu")
    return session


def strays(session: ort.InferenceSession) -> Counter[str]:
    """Operators of nodes that are on the CPU though they compute no shapes; the session has recorded its placement."""
    return Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == CPU
        for node in part.get_nodes()
        if node.domain or node.op_type not in _SHAPES
    )
