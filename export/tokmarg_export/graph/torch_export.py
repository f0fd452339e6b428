"""The way through torch.export, where optimum is not installed: transformers 5, which optimum does not go with."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.export import Dim

from tokmarg.bundle.graph_contract import GraphContract

from .traced import OPSET, ScoringPass, example_inputs

__all__ = ["run_torch_export"]


def run_torch_export(scoring_pass: ScoringPass, contract: GraphContract, dtype: torch.dtype, folder: Path) -> None:
    """Trace ``scoring_pass`` into ``folder/model.onnx``; nothing is printed."""
    path = folder / "model.onnx"
    inputs = example_inputs(contract, dtype, scoring_pass.model.device)
    cached = [f"past_key_values.{part}" for part in contract.cache_parts]
    names = [name for given in inputs for name in (cached if given == "past_key_values" else [given])]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            scoring_pass,
            kwargs=inputs,
            f=path,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            dynamic_shapes=_dynamic_axes(inputs),
            input_names=names,
            output_names=["logits", *(f"present.{part}" for part in contract.cache_parts)],
        )
    graph = onnx.load(str(path), load_external_data=False)
    _read_output_layer_as_stored(graph.graph)
    onnx.save(graph, str(path))


def _read_output_layer_as_stored(graph: onnx.GraphProto) -> None:
    """Lets the Gemm of the output layer transpose its weight, which is the embedding where the two are tied: a node of
    its own for that would make a second copy of it in memory."""
    stored = {tensor.name for tensor in graph.initializer}
    transposed = {
        node.output[0]: node for node in graph.node if node.op_type == "Transpose" and node.input[0] in stored
    }
    for node in graph.node:
        if node.op_type == "Gemm" and node.input[1] in transposed:
            node.input[1] = transposed[node.input[1]].input[0]
            del node.attribute[:]  # alpha and beta are 1, which is what they are without a word
            node.attribute.append(onnx.helper.make_attribute("transB", 1))
    read = {name for node in graph.node for name in node.input}
    for name, node in transposed.items():
        if name not in read:
            graph.node.remove(node)


def _dynamic_axes(inputs: dict[str, Any]) -> dict[str, Any]:
    """Which axes of the inputs are dynamic: those of tokens."""
    masks, tokens, cached = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, {1: Dim.DYNAMIC}, {2: Dim.DYNAMIC}
    axes: dict[str, Any] = {
        "input_ids": tokens,
        "position_ids": tokens,
        "attention_mask": masks,
        "sliding_attention_mask": masks,
        "logit_positions": {0: Dim.DYNAMIC},
        "past_key_values": [(cached, cached) for _ in inputs["past_key_values"]],
    }
    return {name: axes[name] for name in inputs}
