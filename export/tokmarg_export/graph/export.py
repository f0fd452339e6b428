"""Export of a model as the ONNX graph of a guard: one forward pass over new tokens, given cached ones, under a mask.

Inputs (S new tokens, P cached ones, K positions of interest; S, P and K are dynamic, P may be 0):

    input_ids                 int64  [1, S]
    position_ids              int64  [1, S]            depth in the tree, not index
    attention_mask            bool   [1, 1, S, P+S]    True = visible
    sliding_attention_mask    bool   [1, 1, S, P+S]    the same for local layers; only if the model has some
    logit_positions           int64  [K]               indices into S
    verdict_positions         int64  [N]               more of them; only where the graph has a second output layer
    past_key_values.{i}.key   float  [1, kv_heads, P, head_dim], and .value

Outputs:

    logits                    float32 [1, K, V], or [1, K, len(head_token_ids)] for the verdict head
    log_probabilities         float32 [1, K, len(verdict_token_ids)], within the whole vocabulary
    verdict_logits            float32 [1, N, len(verdict_token_ids)]
    present.{i}.key           float  [1, kv_heads, S, head_dim], and .value: the new tokens only

Local layers see what `attention_mask` allows and is nearer than the window, by position and not by index:
position_q - position_k < sliding_window. Both masks are inputs then, even if all layers are local (Mistral
with a window) and nothing reads the first. Keys and values have the precision of the graph (float32 or
float16).

Hidden states are gathered at `logit_positions` before the output layer, so no [S, V] tensor exists. What a model does
after the output layer (Gemma 2 caps logits, Granite scales them) is in the graph.

Models of Llama's shape, and of Gemma's, get a graph that is written operator by operator
(`tokmarg_export.graph.llama_graph`); the forward of all others is traced (`tokmarg_export.graph.traced`). Same
contract, same numbers, more nodes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import onnx
import torch
from transformers import PreTrainedModel

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg_export.errors import ExportError
from tokmarg_export.progress import Share
from tokmarg_export.quantization.input_statistics import CalibrationPrompt, LayerStatistics
from tokmarg_export.quantization.int4_blockwise import Bits, quantize_blockwise
from tokmarg_export.quantization.int8_per_row import StatisticsOf, quantize_per_row

from .contract import Precision, graph_contract
from .family import llama_graph_mismatch
from .llama_graph import build_llama_graph
from .onnx_writer import finish_onnx_file, save_onnx, state_interface
from .order_invariant_attention import make_attention_order_invariant
from .rotated_graph import build_rotated_graph
from .tensor_spool import StoreTensor, TensorSpool, read_model
from .traced import ScoringPass, as_traceable

__all__ = ["export_graph", "tracer"]

_SPOOL, _ROUNDED = "unrounded", "rounded"  # files of weights while the graph is built
_BITS: dict[str, Bits] = {"int8": 8, "int4": 4}


def export_graph(
    model: PreTrainedModel,
    out_dir: Path,
    *,
    head_token_ids: Sequence[int] | None,
    precision: Precision,
    max_file_size: int | None = None,
    trace: bool = False,
    verdict_token_ids: Sequence[int] | None = None,
    prompts: Iterable[CalibrationPrompt] | None = None,
    unrounded: Path | None = None,
    share: Share = lambda share: None,
) -> str:
    """Write ``out_dir/model.onnx`` and its weights ``out_dir/model.onnx.data``, and nothing else.

    Args:
        model: unchanged afterwards.
        out_dir: is made.
        head_token_ids: the only rows of the output layer to keep, in this order (verdict head); None = all.
        precision: of weights, keys and values.
        max_file_size: of a file of weights, in bytes; more files are called ``model.onnx.data.1`` and so on.
        trace: the model's forward, whatever its architecture.
        verdict_token_ids: of a second output layer, see :func:`graph_contract`.
        prompts: calibration prompts, on which weights of 8 or 4 bits are rounded with the least error (GPTQ).
        unrounded: a folder that gets the graph before its weights are rounded, for what is computed at export.
        share: is told how much is done.

    Returns:
        how the graph came about: "fused" (operator by operator), or "traced by optimum: " (or torch.export) and why.

    Raises:
        ExportError: as :func:`graph_contract`; or there are ``prompts`` and the graph is not rounded by them.
    """
    contract = graph_contract(
        model, head_token_ids=head_token_ids, precision=precision, verdict_token_ids=verdict_token_ids
    )
    if trace:
        contract = replace(contract, verdict_token_ids=None, log_probabilities=False, by_content=False)
    mismatch = "as asked for" if trace else llama_graph_mismatch(model)
    if prompts is not None and not contract.by_content:
        raise ExportError(f"typical texts are for int8 and int4 in fused graphs; this one is {mismatch or precision}")
    bits, statistics = _BITS.get(precision), None
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".graph-", dir=out_dir) as scratch:  # optimum leaves files behind
        first = _spool(Path(scratch) / _SPOOL, model, lambda part: share(part if bits is None else part / 2))
        if mismatch is None:
            graph, statistics = _fused(model, contract, precision, prompts, first)
        else:
            traced = _trace(model, contract, _dtype(precision), Path(scratch))
            if bits is None and max_file_size is None:
                finish_onnx_file(traced, out_dir, contract)
                return _form(mismatch)
            graph = read_model(traced, first)
        state_interface(graph.graph, contract)
        if bits is not None:
            second = _spool(Path(scratch) / _ROUNDED, model, lambda part: share((1 + part) / 2))
            graph = _quantized(graph, bits, statistics, unrounded, second)
        save_onnx(graph, out_dir, max_file_size, rows_apart=contract.by_content)  # which runs on the CPU only
    return _form(mismatch)


def _fused(
    model: PreTrainedModel,
    contract: GraphContract,
    precision: Precision,
    prompts: Iterable[CalibrationPrompt] | None,
    store: StoreTensor,
) -> tuple[onnx.ModelProto, StatisticsOf | None]:
    """The graph written operator by operator; and the statistics of its inputs, where it is rotated."""
    if not contract.by_content:
        return build_llama_graph(model, contract, _dtype(precision), store), None
    return build_rotated_graph(model, contract, None if prompts is None else LayerStatistics(model, prompts), store)


def _spool(path: Path, model: PreTrainedModel, share: Share) -> StoreTensor:
    """A spool that says after each tensor what part of the model's weights is stored."""
    store, weights = TensorSpool(path).store, sum(parameter.numel() for parameter in model.parameters())
    stored = 0

    def counted(value: npt.NDArray[Any], name: str) -> onnx.TensorProto:
        nonlocal stored
        stored += value.size
        share(min(1.0, stored / weights))
        return store(value, name)

    return counted


def _dtype(precision: Precision) -> torch.dtype:
    """Of the graph before weights are rounded to 8 or 4 bits."""
    return torch.float16 if precision == "fp16" else torch.float32


def tracer() -> Literal["optimum", "torch.export"]:
    """What traces a forward here: optimum where it is installed; it does not go with transformers 5."""
    try:
        version("optimum-onnx")
    except PackageNotFoundError:
        return "torch.export"
    return "optimum"


def _form(mismatch: str | None) -> str:
    """How a graph came about, which does not fit the one that is written operator by operator for this reason."""
    return "fused" if mismatch is None else f"traced by {tracer()}: {mismatch}"


def _trace(model: PreTrainedModel, contract: GraphContract, dtype: torch.dtype, folder: Path) -> Path:
    """The file of the traced forward, in ``folder``."""
    with as_traceable(model, dtype, contract.head_token_ids, str(folder)):
        scoring_pass = ScoringPass(model, takes_local_mask=contract.sliding_window is not None)
        if tracer() == "optimum":
            from .optimum_export import onnx_config_for, run_optimum

            run_optimum(model, scoring_pass, onnx_config_for(model, contract, dtype), folder)
        else:
            from .torch_export import run_torch_export

            run_torch_export(scoring_pass, contract, dtype, folder)
    return folder / "model.onnx"


def _quantized(
    graph: onnx.ModelProto,
    bits: Bits,
    statistics: StatisticsOf | None,
    unrounded: Path | None,
    store: StoreTensor,
) -> onnx.ModelProto:
    """The graph with rounded weights; before that it is saved in ``unrounded``, where that is a folder.

    ``statistics``: of a rotated graph's inputs; None for all other graphs. ``store``: makes initializers.
    """
    if unrounded is not None:
        unrounded.mkdir(parents=True, exist_ok=True)
        whole = onnx.ModelProto()
        whole.CopyFrom(graph)
        save_onnx(whole, unrounded)
    make_attention_order_invariant(graph.graph)
    if statistics is not None:
        quantize_per_row(graph, statistics, store, bits)
    quantize_blockwise(graph, bits, store)  # the products that are left, and the embedding
    return graph
