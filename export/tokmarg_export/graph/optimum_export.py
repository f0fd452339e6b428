"""The way through optimum: the family's own configuration, with the graph contract's inputs and outputs."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path
from typing import Any

from tokmarg.engine import ort  # noqa: F401 (first: it keeps onnxruntime, which optimum imports, from reporting)

# isort: split
import torch
from optimum.exporters.onnx import onnx_export_from_model
from optimum.exporters.tasks import TasksManager
from optimum.utils import logging as optimum_logging
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from tokmarg.bundle.graph_contract import GraphContract

from .traced import OPSET, ScoringPass, example_inputs

_TASK = "text-generation-with-past"


def onnx_config_for(model: PreTrainedModel, contract: GraphContract, dtype: torch.dtype) -> Any:
    """An instance of a subclass of the OnnxConfig that optimum has for the model's family."""
    constructor = TasksManager.get_exporter_config_constructor(
        exporter="onnx", model_type=model.config.model_type, task=_TASK, library_name="transformers"
    )
    family: type[Any] = constructor.func
    pairs = contract.cache_parts
    local = contract.sliding_window is not None
    mask_axes = {2: "new", 3: "past_and_new"}

    class ScoringOnnxConfig(family):  # type: ignore[misc]
        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {
                "input_ids": {1: "new"},
                "position_ids": {1: "new"},
                "attention_mask": mask_axes,
                "logit_positions": {0: "logits"},
                **{f"past_key_values.{pair}": {2: "past"} for pair in pairs},
                **({"sliding_attention_mask": mask_axes} if local else {}),
            }

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {"logits": {1: "logits"}, **{f"present.{pair}": {2: "new"} for pair in pairs}}

        def generate_dummy_inputs(self, framework: str = "pt", **_: Any) -> dict[str, Any]:
            return example_inputs(contract, dtype, model.device)

        def fix_dynamic_axes(self, *_: Any, **__: Any) -> None:
            """Nothing: it would run the graph to find shapes that the contract states."""

    return ScoringOnnxConfig(model.config, task="text-generation", use_past=True, use_past_in_inputs=True)


def run_optimum(model: PreTrainedModel, scoring_pass: ScoringPass, config: Any, out_dir: Path) -> None:
    """Trace `scoring_pass` into `out_dir/model.onnx`; stdout stays clean, warnings are dropped."""
    levels = [(log, log.get_verbosity()) for log in (optimum_logging, transformers_logging)]
    try:
        for log, _ in levels:
            log.set_verbosity_error()
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            onnx_export_from_model(
                model,
                out_dir,
                opset=OPSET,
                task=_TASK,
                custom_onnx_configs={"model": config},
                fn_get_submodels=lambda _: {"model": scoring_pass},
                device=model.device.type,
                do_validation=False,
                no_post_process=True,
            )
    finally:
        for log, level in levels:
            log.set_verbosity(level)
