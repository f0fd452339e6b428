"""Attention sums that do not depend on what is masked, for quantized graphs.

In float32 a sum over keys depends on where the masked keys lie between the others: they add nothing, but they change
the order of the additions. One step of rounding (1e-7) is harmless by itself, and float32 graphs leave it at that.
Before a product that rounds activations to 8 bits it is not: now and then a value falls into the next step, and through
the layers above that grows to the size of the quantization error itself. Measured on SmolLM2-135M at 8 bits, another
prompt in the same pass moved logits by 0.8.

So   weights = softmax(scores), weights @ values   becomes

    e = exp(scores - max)                  float32, element by element
    (e @ values) / sum(e)                  float64, then rounded to float32

where the order of a sum shows in the sixteenth digit, which the rounding to float32 swallows.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = ["make_attention_order_invariant"]


def make_attention_order_invariant(graph: onnx.GraphProto) -> int:
    """Rewrites, in place, every softmax over the last axis whose only reader is a product; returns how many.

    The tracer leaves casts of float32 to float32 in between, which go too. The graph is float32.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    scores: dict[str, str] = {}  # output of the product -> what its softmax reads
    removed: set[str] = set()
    for node in graph.node:
        if node.op_type != "Softmax":
            continue
        chain = [node]
        while len(read := readers.get(chain[-1].output[0], [])) == 1 and read[0].op_type in ("Cast", "Identity"):
            chain.append(read[0])
        if [r.op_type for r in read] == ["MatMul"] and read[0].input[0] == chain[-1].output[0]:
            scores[read[0].output[0]] = node.input[0]
            removed.update(link.output[0] for link in chain)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] in scores:
            nodes += _order_invariant(scores[node.output[0]], node.input[1], node.output[0])
        elif node.output[0] not in removed:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    if scores:
        graph.initializer.append(numpy_helper.from_array(np.array([-1]), "steady/last"))
    return len(scores)


def _order_invariant(scores: str, values: str, output: str) -> list[NodeProto]:
    at = f"{output}/steady"
    return [
        helper.make_node("ReduceMax", [scores, "steady/last"], [f"{at}/top"], keepdims=1),
        helper.make_node("Sub", [scores, f"{at}/top"], [f"{at}/below"]),
        helper.make_node("Exp", [f"{at}/below"], [f"{at}/e"]),
        helper.make_node("Cast", [f"{at}/e"], [f"{at}/e64"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", [values], [f"{at}/values"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", [f"{at}/e64", f"{at}/values"], [f"{at}/mixed"]),
        helper.make_node("ReduceSum", [f"{at}/e64", "steady/last"], [f"{at}/sum"], keepdims=1),
        helper.make_node("Div", [f"{at}/mixed", f"{at}/sum"], [f"{at}/quotient"]),
        helper.make_node("Cast", [f"{at}/quotient"], [output], to=TensorProto.FLOAT),
    ]
