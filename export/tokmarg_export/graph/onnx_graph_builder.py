"""Builder of ONNX graphs: nodes in the order in which they are added, and named initializers.

It knows operators and tensors, and nothing of models. Methods return the name of what they add, which the next node
takes as its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from tokmarg_export.model.stored_parameters import values

from .tensor_spool import StoreTensor

__all__ = ["MICROSOFT", "OnnxGraphBuilder"]

#: Domain of onnxruntime's own operators.
MICROSOFT = "com.microsoft"


class OnnxGraphBuilder:
    """Nodes and initializers under construction.

    Args:
        dtype: of weights and activations: float32 or float16.
        opset: version of the ONNX operators.
        ir_version: of the file format.
        store: makes initializers.
    """

    def __init__(
        self, dtype: torch.dtype, opset: int, ir_version: int, store: StoreTensor = numpy_helper.from_array
    ) -> None:
        self._store = store
        self._dtype, self._opset, self._ir_version = dtype, opset, ir_version
        self.half = dtype == torch.float16
        self._nodes: list[NodeProto] = []
        self._tensors: dict[str, TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        """The model so far; inputs and outputs are not declared."""
        graph = helper.make_graph(self._nodes, "tokmarg", [], [], list(self._tensors.values()))
        opsets = [helper.make_opsetid("", self._opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self._ir_version, producer_name="tokmarg")

    def op(self, kind: str, inputs: Sequence[str], output: str, domain: str | None = None, **attributes: Any) -> str:
        """A node with one output."""
        self.node(kind, inputs, [output], domain, **attributes)
        return output

    def node(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], domain: str | None = None, **attributes: Any
    ) -> None:
        """A node with any number of outputs; an empty name omits an optional one."""
        self._nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))

    def half_to_float(self, value: str, name: str) -> str:
        """A cast of float16 to float32; nothing in a float32 graph."""
        return self.op("Cast", [value], name, to=TensorProto.FLOAT) if self.half else value

    def float_to_half(self, value: str, name: str) -> str:
        """A cast of float32 to the dtype of the graph; nothing in a float32 graph."""
        return self.op("Cast", [value], name, to=TensorProto.FLOAT16) if self.half else value

    def scaled(self, value: str, factor: float, name: str, dtype: Any = None) -> str:
        """value * factor; nothing for a factor of 1. ``dtype``: of the value, if it is not the dtype of the graph."""
        if factor == 1.0:
            return value
        number = np.array(factor, dtype or (np.float16 if self.half else np.float32))
        return self.op("Mul", [value, self.constant(f"{name}/factor", number)], name)

    def __contains__(self, name: str) -> bool:
        """Whether there is an initializer of this name."""
        return name in self._tensors

    def weight(self, name: str, value: Tensor) -> str:
        """An initializer in the dtype of the graph."""
        with torch.no_grad():
            return self.constant(name, values(value).to(device="cpu", dtype=self._dtype).contiguous().numpy())

    def ints(self, name: str, values: Sequence[int]) -> str:
        """An int64 initializer [n]."""
        return self.constant(name, np.array(values, np.int64))

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """An initializer; the first value given under a name stays."""
        if name not in self._tensors:
            self._tensors[name] = self._store(value, name)
        return name
