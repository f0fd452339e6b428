"""The ONNX graph of a guard: one forward pass over new tokens behind cached ones, under an explicit mask.

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
    verdict_logits            float32 [1, N, len(verdict_token_ids)]
    present.{i}.key           float  [1, kv_heads, S, head_dim], and .value: the new tokens only

Local layers see what `attention_mask` allows and is nearer than the window, by position and not by index:
position_q - position_k < sliding_window. Both masks are inputs then, even if all layers are local (Mistral
with a window) and nothing reads the first. Keys and values have the precision of the graph (float32 or
float16).

Hidden states are gathered at `logit_positions` before the output layer, so no [S, V] tensor exists. What a model does
behind the output layer (Gemma 2 caps logits, Granite scales them) is in the graph.

Models of Llama's shape get a graph that is written operator by operator (`tokmarg_export.graph.llama_graph`); the
forward of all others is traced (`tokmarg_export.graph.traced`). Same contract, same numbers, more nodes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx
import torch
from transformers import PreTrainedModel

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg_export.errors import ExportError
from tokmarg_export.quantization.gptq import Typical, usual_inputs
from tokmarg_export.quantization.int4_blockwise import Bits, quantize
from tokmarg_export.quantization.int8_per_row import quantize_rows

from .llama_graph import emit_graph, why_not_fused
from .onnx_writer import finish_onnx_file, save_onnx, state_interface
from .optimum_export import onnx_config_for, run_optimum
from .order_invariant_attention import steady_attention
from .rotated_graph import emit_rotated_graph
from .traced import DICT_MASK_TYPES, ScoringPass, as_traceable

Precision = Literal["fp32", "fp16", "int8", "int4"]

_BITS: dict[str, Bits] = {"int8": 8, "int4": 4}

# The families whose graph is tested for equality with PyTorch.
SUPPORTED_MODEL_TYPES = ("gemma2", "gemma3_text", "granite", "llama", "mistral", "qwen2", "qwen3")

# Rotary embeddings whose frequencies depend on the input's length: tracing would freeze those of the example.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def graph_contract(
    model: PreTrainedModel,
    *,
    head_token_ids: Sequence[int] | None,
    precision: Precision,
    verdict_token_ids: Sequence[int] | None = None,
) -> GraphContract:
    """Read the contract off a causal LM. `verdict_token_ids`: of a second output layer, which fused graphs can have.

    Raises ExportError for an architecture that is not supported, or head token ids outside the output layer.
    """
    config = model.config
    check_supported(model)
    vocab_size = int(model.get_output_embeddings().weight.shape[0])
    ids = None if head_token_ids is None else tuple(int(i) for i in head_token_ids)
    if ids is not None:
        if not ids:
            raise ExportError("The verdict head needs at least one token id, got none.")
        wrong = [i for i in ids if not 0 <= i < vocab_size]
        if wrong:
            raise ExportError(f"Verdict head token id {wrong[0]} is outside the vocabulary of {vocab_size}.")
        if len(set(ids)) != len(ids):
            raise ExportError("The verdict head's token ids must be distinct.")
    fits = why_not_fused(model) is None
    return GraphContract(
        layers=config.num_hidden_layers,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocab_size=vocab_size,
        head="full" if ids is None else "verdict",
        head_token_ids=ids,
        sliding_window=_sliding_window(model),
        kv_dtype="float16" if precision == "fp16" else "float32",
        max_positions=config.max_position_embeddings,
        verdict_token_ids=tuple(verdict_token_ids) if verdict_token_ids and ids is None and fits else None,
        by_content=fits and precision == "int8",
    )


def check_supported(model: PreTrainedModel) -> None:
    """Raise ExportError unless the model's family, rotary embedding and attention can be traced truly."""
    config = model.config
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        supported = ", ".join(SUPPORTED_MODEL_TYPES)
        raise ExportError(f"model_type {config.model_type!r} cannot be exported; supported are {supported}.")
    scaling = getattr(config, "rope_scaling", None) or {}
    rope = scaling.get("rope_type", scaling.get("type", "default"))
    if rope in _LENGTH_DEPENDENT_ROPE:
        raise ExportError(
            f"rope_scaling type {rope!r} depends on the input's length and cannot be exported; "
            "edit rope_scaling in config.json to a static type, or remove it."
        )
    if getattr(config, "use_bidirectional_attention", False):
        raise ExportError("use_bidirectional_attention is set: this is an encoder, which generates no verdict.")


def export_graph(
    model: PreTrainedModel,
    out_dir: Path,
    *,
    head_token_ids: Sequence[int] | None,
    precision: Precision,
    max_file_size: int | None = None,
    fused: bool = True,
    verdict_token_ids: Sequence[int] | None = None,
    prompts: Iterable[Typical] | None = None,
    unrounded: Path | None = None,
) -> str:
    """Write `out_dir/model.onnx` and its weights `out_dir/model.onnx.data`, and nothing else.

    `head_token_ids` keeps only those rows of the output layer, in the given order (verdict head); None keeps
    all. `max_file_size`: of a file of weights, in bytes; more files are called `model.onnx.data.1` and so on. The
    model is unchanged afterwards. `fused=False` traces it whatever its shape. `prompts`: typical ones, for
    which products in int8 are rounded best. `unrounded`: a folder that gets the same graph before weights of 8 or 4
    bits are rounded, for what is computed at export. Returns how the graph came about: "fused", or "traced: " and why.
    Raises ExportError as `graph_contract` does, and for `prompts` where nothing is rounded by them.
    """
    contract = graph_contract(
        model, head_token_ids=head_token_ids, precision=precision, verdict_token_ids=verdict_token_ids
    )
    if not fused:
        contract = replace(contract, verdict_token_ids=None, by_content=False)
    dtype = torch.float16 if precision == "fp16" else torch.float32
    bits = _BITS.get(precision)
    out_dir.mkdir(parents=True, exist_ok=True)
    reason = why_not_fused(model) if fused else "as asked for"
    rotated = reason is None and precision == "int8"
    if prompts is not None and not rotated:
        raise ExportError(f"typical texts are for int8 in fused graphs; this one is {reason or precision}")
    # optimum leaves configuration files behind; a folder of its own keeps them out of the bundle.
    with tempfile.TemporaryDirectory(prefix=".graph-", dir=out_dir) as scratch:
        if reason is None:
            if rotated:
                read = None if prompts is None else usual_inputs(model, prompts)
                written, usual = emit_rotated_graph(model, contract, read)
            else:
                written = emit_graph(model, contract, dtype)
        else:
            with as_traceable(model, dtype, contract.head_token_ids, scratch):
                scoring_pass = ScoringPass(model, takes_local_mask=contract.sliding_window is not None)
                run_optimum(model, scoring_pass, onnx_config_for(model, contract, dtype), Path(scratch))
            traced = Path(scratch) / "model.onnx"
            if bits is None and max_file_size is None:
                finish_onnx_file(traced, out_dir, contract)
                return f"traced: {reason}"
            written = onnx.load(str(traced))
        state_interface(written.graph, contract)
        if bits is not None:
            if unrounded is not None:
                unrounded.mkdir(parents=True, exist_ok=True)
                save_onnx(written, unrounded)
                written = onnx.load(str(unrounded / "model.onnx"))  # saving took the weights out
            steady_attention(written.graph)
            if rotated:
                quantize_rows(written, usual)
            quantize(written, bits)  # what is left of the products, and the embedding
        save_onnx(written, out_dir, max_file_size, rows_apart=rotated)  # which runs on the CPU only
    return "fused" if reason is None else f"traced: {reason}"


def _sliding_window(model: PreTrainedModel) -> int | None:
    """The window of the local layers, or None if there are none."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    if config.model_type in DICT_MASK_TYPES:
        return window if "sliding_attention" in config.layer_types else None
    return window  # Mistral: all layers or none; the others have no such field
