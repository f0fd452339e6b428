"""fp16 is refused, with the reason, for models whose numbers it does not hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.graphs import FUSED, PROMPT, tiny
from tokmarg_export.errors import ExportError
from tokmarg_export.half_precision import check_half_precision


def scaled(model: Any, name: str, factor: float) -> Any:
    with torch.no_grad():
        model.get_parameter(name).mul_(factor)
    return model


@pytest.mark.parametrize("model_type", FUSED)
def test_models_within_the_range_pass(model_type: str) -> None:
    check_half_precision(tiny(model_type), [PROMPT, PROMPT[:3]])


@pytest.mark.parametrize("model_type", FUSED)
def test_hidden_states_beyond_it_are_refused(model_type: str) -> None:
    model = scaled(tiny(model_type), "model.embed_tokens.weight", 1e6)
    with pytest.raises(ExportError, match=r"fp16: layer 0 of 2 has numbers of [\d,]+ .*ends at 65,504: export in fp32"):
        check_half_precision(model, [PROMPT])


def test_the_place_is_named() -> None:
    model = scaled(tiny("llama"), "model.layers.1.mlp.up_proj.weight", 5e4)
    with pytest.raises(ExportError, match=r"layer 1 of 2 has numbers of [\d,]+ \(the output of mlp\.up_proj\)"):
        check_half_precision(model, [PROMPT])
    model = scaled(tiny("llama"), "model.layers.1.mlp.down_proj.weight", 1e9)
    with pytest.raises(ExportError, match=r"\(mlp\.down_proj\.weight \(a weight\)\)"):
        check_half_precision(model, [PROMPT])


def test_numbers_that_are_none_are_refused() -> None:
    model = scaled(tiny("llama"), "model.layers.0.self_attn.o_proj.weight", float("nan"))
    with pytest.raises(ExportError, match="layer 0 of 2 has numbers of nan"):
        check_half_precision(model, [PROMPT])
