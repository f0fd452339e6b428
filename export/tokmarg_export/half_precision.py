"""Whether a model can be computed in half precision: numbers beyond 65,504 become infinite in it.

Gemma 2's hidden states grow far beyond that in its deeper layers; such a model needs float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokmarg_export.model.layer_by_layer import LayerByLayer
from tokmarg_export.model.stored_parameters import in_memory

from .errors import ExportError

__all__ = ["check_half_precision"]

_LARGEST = torch.finfo(torch.float16).max


def check_half_precision(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
    """Runs prompts in the model's own precision.

    Raises:
        ExportError: a weight, or a number on the way, is too large for half precision; names where.
    """
    run = LayerByLayer(model, prompts)
    layers = model.get_decoder().layers
    for number, layer in enumerate(layers):
        peaks: dict[str, float] = {}

        def note(name: str, value: object, peaks: dict[str, float] = peaks) -> None:
            value = value[0] if isinstance(value, tuple) and value else value
            if isinstance(value, Tensor):
                peak = float(value.detach().abs().max())
                if not peak <= peaks.get(name, -1.0):  # what is not a number is larger than all
                    peaks[name] = peak

        hooks = [
            module.register_forward_hook(_noting(name, note))
            for name, module in layer.named_modules()
            if name == "" or isinstance(module, nn.Linear) or name.endswith("norm")
        ]
        try:
            with in_memory(layer):
                for name, parameter in layer.named_parameters():
                    note(f"{name} (a weight)", parameter)
                run.run(number)
        finally:
            for hook in hooks:
                hook.remove()
        for name, peak in peaks.items():
            if not peak <= _LARGEST:
                raise ExportError(
                    f"fp16: layer {number} of {len(layers)} has numbers of {peak:,.0f} ({name}), and "
                    f"half precision ends at {_LARGEST:,.0f}: export in fp32, int8 or int4."
                )


def _noting(name: str, note: Callable[[str, object], None]) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        note(f"the input of {name or 'the layer'}", inputs)
        note(f"the output of {name or 'the layer'}", output)

    return hook
