"""Statistics of the inputs of a model's linear layers over calibration prompts, for GPTQ.

Of a model in memory they are collected in one run over all prompts. Of one whose weights are in their file, a layer's
statistics are collected when they are first asked for, and let go of when the next layer's are: layers are asked for
in their order. Both ways are the same operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokmarg_export.model.layer_by_layer import LayerByLayer
from tokmarg_export.model.stored_parameters import is_stored

from .gptq import InputStatistics

__all__ = ["CalibrationPrompt", "LayerStatistics"]

#: Token ids of a prompt, and how many of them, the policy prefix, are left out of the statistics.
CalibrationPrompt = tuple[Sequence[int], int]


class LayerStatistics:
    """Statistics of the inputs of the decoder's linear layers.

    Args:
        model: causal LM.
        prompts: of calibration. The policy prefix is left out: it is the same in all of them, and once it is computed
            no product reads it again.

    Takes 8 in² bytes of memory for each input: of all layers, or of one where weights are in their file.
    """

    def __init__(self, model: PreTrainedModel, prompts: Iterable[CalibrationPrompt]) -> None:
        self._layers: Any = model.get_decoder().layers
        self._number = {id(linear): i for i, layer in enumerate(self._layers) for linear in _inputs(layer)}
        prompts = list(prompts)
        self._skipped = [skipped for _, skipped in prompts]
        self._tokens = sum(len(ids) - skipped for ids, skipped in prompts)
        self._found: dict[int, InputStatistics] = {}
        self._run: LayerByLayer | None = None
        self._next = 0
        if is_stored(model):
            self._run = LayerByLayer(model, [ids for ids, _ in prompts])
        else:
            self._collect(self._layers, lambda: _run_whole(model, [ids for ids, _ in prompts]))

    def of(self, linear: nn.Linear) -> InputStatistics:
        """Of a linear layer's inputs."""
        number = self._number[id(linear)]
        while self._run is not None and self._next <= number:
            run, at = self._run, self._next
            self._found = {}
            self._collect([self._layers[at]], lambda run=run, at=at: run.run(at))  # type: ignore[misc]
            self._next += 1
        return self._found[id(linear)]

    def _collect(self, layers: Sequence[Any], run: Callable[[], None]) -> None:
        """Statistics of these layers, whose inputs ``run`` brings, one prompt after the other."""
        sums: dict[int, tuple[Tensor, Tensor]] = {}
        seen: dict[int, int] = {}  # linear layer -> prompts so far

        def add(linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            skipped = self._skipped[seen.setdefault(id(linear), 0)]
            seen[id(linear)] += 1
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])[skipped:].double()
            total, products = sums.get(id(linear), (0.0, 0.0))
            sums[id(linear)] = rows.sum(dim=0) + total, rows.T @ rows + products

        hooks = [linear.register_forward_pre_hook(add) for layer in layers for linear in set(_inputs(layer).values())]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        statistics = {}
        for key in list(sums):
            total, products = sums.pop(key)
            statistics[key] = InputStatistics(total.cpu() / self._tokens, products.cpu() / self._tokens, self._tokens)
        for layer in layers:
            self._found |= {id(linear): statistics[id(measured)] for linear, measured in _inputs(layer).items()}


def _inputs(layer: Any) -> dict[nn.Linear, nn.Linear]:
    """Each linear layer, and the one that is measured in its place: some share an input."""
    attention, mlp = layer.self_attn, layer.mlp
    shared = dict.fromkeys((attention.q_proj, attention.k_proj, attention.v_proj), attention.q_proj)
    own = {linear: linear for linear in (attention.o_proj, mlp.down_proj)}
    return shared | own | dict.fromkeys((mlp.gate_proj, mlp.up_proj), mlp.gate_proj)


@torch.inference_mode()
def _run_whole(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
    for ids in prompts:
        model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False, logits_to_keep=1)
