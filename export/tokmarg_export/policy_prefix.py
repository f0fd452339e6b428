"""Keys and values of the policy prefix, as the bundle stores them.

Every content reads the prefix: computed with unrounded weights it carries no error of their rounding. Half precision
for its keys and values costs no accuracy that could be seen beside weights of 8 bits.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.manifest import Manifest
from tokmarg.bundle.prefix_file import StoredPrefix, write_prefixes
from tokmarg.engine.prefix_cache import compute_prefixes, save_prefixes
from tokmarg.engine.session import Session
from tokmarg.prompt.builder import PromptBuilder
from tokmarg_export.model.layer_by_layer import keys_and_values
from tokmarg_export.quantization.input_rotation import rotation_of

__all__ = ["PREFIX_FILE", "write_prefix", "write_prefix_of_graph"]

PREFIX_FILE = "prefix.safetensors"


def write_prefix_of_graph(folder: Path, prompt_builder: PromptBuilder, unrounded: Path | None) -> None:
    """Computed by the bundle's graph, or by the unrounded one, which is deleted afterwards."""
    manifest = Bundle.open(folder).manifest
    session = Session(Bundle.open(folder), "cpu") if unrounded is None else _session(unrounded, manifest)
    prefixes = compute_prefixes(session, prompt_builder.prefixes())
    if unrounded is not None:
        shutil.rmtree(unrounded)  # as large as the model in fp32
    save_prefixes(folder / PREFIX_FILE, prefixes, session.graph, half=unrounded is not None)


def _session(folder: Path, manifest: Manifest) -> Session:
    """Of a graph that is no bundle, with the interface of one that is."""
    files = {path.name: ("", path.stat().st_size) for path in folder.iterdir()}
    return Session(Bundle(folder, replace(manifest, files=files)), "cpu")


def write_prefix(folder: Path, prompt_builder: PromptBuilder, model: PreTrainedModel, *, rotated: bool) -> None:
    """Computed by PyTorch with one layer in memory at a time.

    ``rotated``: whether the graph's values are, see :mod:`tokmarg_export.quantization.quarot`.
    """
    rotation = rotation_of(model) if rotated else None
    prefixes = {}
    for role, ids in prompt_builder.prefixes().items():
        tensors = []
        for key, value in keys_and_values(model, ids):
            turned = value if rotation is None else rotation.values_of_heads(value)
            tensors += [key.numpy(), turned.numpy()]
        prefixes[role] = StoredPrefix(tuple(ids), tuple(tensors))
    write_prefixes(folder / PREFIX_FILE, prefixes, half=True)
