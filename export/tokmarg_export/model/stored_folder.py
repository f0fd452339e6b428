"""A Hugging Face folder's model with its weights left in their safetensors files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from .stored_parameters import store

__all__ = ["WEIGHT_FILES", "SafetensorsFiles", "stored_model"]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
#: Names, as the hub's patterns have them.
WEIGHT_FILES = [_SINGLE, _INDEX, "model-*.safetensors"]


@dataclass(frozen=True)
class SafetensorsFiles:
    """The tensors of a folder: name -> file, and name -> shape."""

    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of_folder(cls, folder: Path) -> SafetensorsFiles | None:
        """None where the folder has weights in another format.

        Raises whatever the files' damage brings up, safetensors.SafetensorError among it.
        """
        if (folder / _INDEX).is_file():
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            names = sorted(set(index["weight_map"].values()))
        elif (folder / _SINGLE).is_file():
            names = [_SINGLE]
        else:
            return None
        files: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name in names:
            with safe_open(folder / name, "pt") as file:
                for tensor in file.keys():  # noqa: SIM118  # it is no dictionary
                    files[tensor] = folder / name
                    shapes[tensor] = tuple(file.get_slice(tensor).get_shape())
        return cls(files, shapes)

    @property
    def values(self) -> int:
        """How many values there are in all."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def reader(self, name: str, dtype: torch.dtype) -> Callable[[], Tensor]:
        """Reads a tensor. The file is mapped only meanwhile: what was read of it counts as memory until then."""

        def read() -> Tensor:
            with safe_open(self.files[name], "pt") as file:
                values: Tensor = file.get_tensor(name).to(dtype, copy=True)
            return values

        return read


def stored_model(
    files: SafetensorsFiles, config: PretrainedConfig, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]] | None:
    """The model, and which weights are missing or too many; None where names or shapes are not those of the model:
    those transformers may know how to convert."""
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    model.tie_weights()
    parameters = dict(model.named_parameters())
    if any(files.shapes.get(name, tuple(value.shape)) != tuple(value.shape) for name, value in parameters.items()):
        return None
    missing = parameters.keys() - files.files.keys()
    if len(missing) == len(parameters):
        return None
    for name in parameters.keys() - missing:
        store(model, name, files.reader(name, dtype))
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return model, {"missing_keys": missing, "unexpected_keys": files.files.keys() - parameters.keys() - tied}
