"""Merging PEFT LoRA adapters into a model."""

from __future__ import annotations

import warnings
from pathlib import Path

from transformers import PreTrainedModel

from tokmarg.native import first_line
from tokmarg_export.errors import ExportError

__all__ = ["merge_adapter"]


def merge_adapter(model: PreTrainedModel, adapter: Path) -> None:
    """Merge the adapter in a folder into the weights of ``model``, in place.

    Raises:
        ExportError: the folder is not an adapter, a file of it is damaged, or its matrices and those of the model do
            not match.
    """
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    if not (adapter / "adapter_config.json").is_file():
        raise ExportError(f"{adapter} is not an adapter: it has no adapter_config.json.")
    if not any((adapter / f"adapter_model.{ending}").is_file() for ending in ("safetensors", "bin")):
        raise ExportError(f"{adapter} is not an adapter: it has no adapter_model.safetensors.")
    try:
        with warnings.catch_warnings():
            # What peft calls in transformers 5 announces what transformers 6 will call it.
            warnings.filterwarnings("ignore", category=FutureWarning)
            # peft only warns of matrices that the file lacks, and says nothing of surplus ones.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(adapter))
        stored = {key for key in load_peft_weights(str(adapter), device="cpu") if ".lora_" in key}
        surplus = stored - get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
        if surplus:
            raise ValueError(f"the model has no place for {min(surplus)}")
        adapted.merge_and_unload()
    except Exception as error:  # peft raises every kind of error for an adapter of another model
        raise ExportError(f"Adapter {adapter} is damaged, or does not fit this model: {first_line(error)}") from error
