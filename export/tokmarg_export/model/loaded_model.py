"""What is loaded: a causal LM with its tokenizer and what is known of it, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tokmarg_export.errors import ExportError
from tokmarg_export.graph.contract import check_supported

__all__ = ["LoadedModel", "check_complete", "loaded_model"]


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM ready to be exported.

    `model` is in eval mode, on the CPU, in the dtype given to `load_model`, any adapter merged; weights of a large one
    are in their file, see `stored_parameters`. `model_id` is the hub id, or the name of the folder or file, never a
    path. `revision` is the hub's commit hash. `eos_token_ids` are in rising order. `sources` are the files and folders
    that it was read from, and what they are.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    tokenizer_json: str
    chat_template: str | None
    model_id: str
    revision: str | None
    licence: str | None
    max_positions: int
    eos_token_ids: tuple[int, ...]
    sources: tuple[tuple[str, Path], ...] = ()

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The model's own chat template over `messages`, up to and including the generation prompt.

        Raises ExportError if the model has no chat template, or the template rejects the messages.
        """
        if self.chat_template is None:
            raise ExportError(f"{self.model_id} has no chat template; use a spec that brings its own.")
        turns = [dict(message) for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # templates raise whatever Jinja lets them
            raise ExportError(f"{self.model_id}'s chat template rejects the messages: {error}") from error


def check_complete(report: Mapping[str, Any], weights: str) -> None:
    """Refuses weights that do not fill the model, which transformers would fill at random, or that exceed it.

    Raises:
        ExportError: names a tensor.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise ExportError(f"{weights} lack {missing[0]}{_more(missing)}; they are damaged, or not all are here.")
    # Names in transformers 4, in 5 with both shapes.
    shapes = sorted(key if isinstance(key, str) else key[0] for key in report.get("mismatched_keys", ()))
    if shapes:
        raise ExportError(f"{weights} have {shapes[0]}{_more(shapes)} in another shape than the configuration.")
    layers = sorted(name for name in report["unexpected_keys"] if ".layers." in name)
    if layers:
        raise ExportError(f"{weights} have {layers[0]}{_more(layers)}, for which the configuration has no layer.")


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1:,} more" if len(names) > 1 else ""


def loaded_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    model_id: str,
    revision: str | None,
    licence: str | None,
    tokenizer_document: str | None,
) -> LoadedModel:
    check_supported(model)
    if tokenizer_document is None:
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()  # a limit saved by a training script would cut prompts silently
        backend.no_padding()
        tokenizer_document = backend.to_str()
    eos: set[Any] = set()
    for holder in (tokenizer, model.config, model.generation_config):
        value = getattr(holder, "eos_token_id", None)
        eos.update([] if value is None else [value] if isinstance(value, int) else value)
    if wrong := [value for value in eos if not isinstance(value, int)]:
        raise ExportError(f"{model_id}: eos_token_id must be integers, not {wrong[0]!r:.60}.")
    positions = model.config.max_position_embeddings
    if not isinstance(positions, int) or positions < 1:
        raise ExportError(f"{model_id}: max_position_embeddings must be a positive integer, not {positions!r:.60}.")
    template = tokenizer.chat_template
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        tokenizer_json=tokenizer_document,
        chat_template=template.get("default") if isinstance(template, dict) else template,
        model_id=model_id,
        revision=revision,
        licence=licence,
        max_positions=positions,
        eos_token_ids=tuple(sorted(eos)),
    )
