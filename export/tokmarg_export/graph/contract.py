"""Graph contract: layers, heads, precision and inputs of the exported graph; and which models can be exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedModel

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg_export.errors import ExportError

from .family import llama_graph_mismatch
from .traced import DICT_MASK_TYPES

__all__ = ["ROUNDED", "SUPPORTED_MODEL_TYPES", "Precision", "check_model_type", "check_supported", "graph_contract"]

Precision = Literal["fp32", "fp16", "int8", "int4"]
#: Those whose weights are rounded to integers.
ROUNDED = ("int8", "int4")

#: The families whose graph is tested for equality with PyTorch.
SUPPORTED_MODEL_TYPES = ("gemma2", "gemma3_text", "granite", "llama", "mistral", "qwen2", "qwen3")

#: Rotary embeddings whose frequencies depend on the input's length: tracing would freeze those of the example.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def graph_contract(
    model: PreTrainedModel,
    *,
    head_token_ids: Sequence[int] | None,
    precision: Precision,
    verdict_token_ids: Sequence[int] | None = None,
) -> GraphContract:
    """The contract of the graph of a causal LM.

    Args:
        model: the model.
        head_token_ids: the only rows of the output layer to keep; None = all.
        precision: of the graph.
        verdict_token_ids: of a second output layer, which only graphs written operator by operator have.

    Raises:
        ExportError: the architecture is not supported, or head token ids are outside the output layer.
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
    fits = llama_graph_mismatch(model) is None
    columns = tuple(verdict_token_ids) if verdict_token_ids and ids is None and fits else None
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
        verdict_token_ids=columns,
        log_probabilities=columns is not None,
        by_content=fits and precision in ROUNDED,
    )


def check_model_type(model_type: str) -> None:
    """Raise ExportError unless this is the name of a supported model family."""
    if model_type not in SUPPORTED_MODEL_TYPES:
        supported = ", ".join(SUPPORTED_MODEL_TYPES)
        raise ExportError(f"model_type {model_type!r} cannot be exported; supported are {supported}.")


def check_supported(model: PreTrainedModel) -> None:
    """Raise ExportError unless the exporter handles the model's family, rotary embedding and attention."""
    config = model.config
    check_model_type(config.model_type)
    scaling = getattr(config, "rope_scaling", None) or {}
    rope = scaling.get("rope_type", scaling.get("type", "default"))
    if rope in _LENGTH_DEPENDENT_ROPE:
        raise ExportError(
            f"rope_scaling type {rope!r} depends on the input's length and cannot be exported; "
            "edit rope_scaling in config.json to a static type, or remove it."
        )
    if getattr(config, "use_bidirectional_attention", False):
        raise ExportError("use_bidirectional_attention is set: this is an encoder, which generates no verdict.")


def _sliding_window(model: PreTrainedModel) -> int | None:
    """The window of the local layers, or None if there are none."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    if config.model_type in DICT_MASK_TYPES:
        return window if "sliding_attention" in config.layer_types else None
    return window  # Mistral: all layers or none; the others have no such field
