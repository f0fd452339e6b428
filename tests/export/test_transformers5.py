"""Graphs written beside transformers 5, traced by torch.export, and those written here: the same numbers.

$TRANSFORMERS5 is the Python of an environment with the extra ``export5``, which does not go with the other one.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.graphs import Graph, exported, tiny, tree_logits
from tokmarg_export.graph.contract import SUPPORTED_MODEL_TYPES

PYTHON = os.environ.get("TRANSFORMERS5")
#: Exports the folders that it is given, by the model's own architecture and traced.
EXPORT = """
import sys
from pathlib import Path
import transformers
from tokmarg_export.graph.export import export_graph, tracer
from transformers import AutoModelForCausalLM

assert transformers.__version__.startswith("5.") and tracer() == "torch.export"
transformers.utils.logging.disable_progress_bar()
for folder in map(Path, sys.argv[1:]):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    for trace in (False, True):
        form = export_graph(model, folder / f"trace-{trace}", head_token_ids=None, precision="fp32", trace=trace)
        print(folder.name, trace, form)
"""


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="$TRANSFORMERS5 does not name the Python of an environment with export5")
def test_both_score_the_same(tmp_path: Path) -> None:
    models = {model_type: tiny(model_type) for model_type in SUPPORTED_MODEL_TYPES}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    command = [str(PYTHON), "-W", "ignore", "-c", EXPORT, *(str(tmp_path / name) for name in models)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    forms = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [form for _, trace, form in forms if trace == "True"] == ["traced by torch.export: as asked for"] * len(
        models
    )
    for name, model in models.items():
        for trace in (False, True):
            here = exported(model, tmp_path / f"{name}-{trace}", trace=trace)
            there = Graph(tmp_path / name / f"trace-{trace}", here.contract)
            np.testing.assert_allclose(tree_logits(there), tree_logits(here), atol=1e-5, rtol=0, err_msg=name)
            np.testing.assert_allclose(tree_logits(there, split=4), tree_logits(here), atol=1e-5, rtol=0, err_msg=name)
