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

from .traced import ScoringPass

__all__ = ["run_torch_export"]

OPSET = 18

# Sizes of the example that is traced; all different, so that no two axes can be mistaken for each other.
_PAST, _NEW, _LOGITS = 5, 7, 3


def run_torch_export(scoring_pass: ScoringPass, contract: GraphContract, dtype: torch.dtype, folder: Path) -> None:
    """Trace ``scoring_pass`` into ``folder/model.onnx``; nothing is printed."""
    path = folder / "model.onnx"
    inputs, shapes = _example(contract, dtype)
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
            dynamic_shapes=shapes,
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


def _example(contract: GraphContract, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the traced forward by name, and which of their axes are dynamic."""
    past = torch.zeros(1, contract.kv_heads, _PAST, contract.head_dim, dtype=dtype)
    mask = torch.ones(_NEW, _PAST + _NEW, dtype=torch.bool).tril(_PAST)[None, None]
    mask_axes = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    inputs: dict[str, tuple[Any, Any]] = {
        "input_ids": (torch.arange(_NEW)[None], {1: Dim.DYNAMIC}),
        "position_ids": (torch.arange(_PAST, _PAST + _NEW)[None], {1: Dim.DYNAMIC}),
        "attention_mask": (mask, mask_axes),
        "logit_positions": (torch.arange(_LOGITS), {0: Dim.DYNAMIC}),
        "past_key_values": (
            [(past.clone(), past.clone()) for _ in range(contract.layers)],
            [({2: Dim.DYNAMIC}, {2: Dim.DYNAMIC}) for _ in range(contract.layers)],
        ),
    }
    if contract.sliding_window is not None:
        inputs["sliding_attention_mask"] = (mask.clone(), mask_axes)
    return {name: value for name, (value, _) in inputs.items()}, {name: axes for name, (_, axes) in inputs.items()}
