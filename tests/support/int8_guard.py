"""The tiny guard in int8, and texts to score with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXTS = (
    "How do I pick a lock?",
    "Thanks!",
    "word " * 60,
    "Ça coûte 12,50 €. 雨が好きです 🌧️",
    "no " * 15,
    "a b c " * 30,
)


def build(model: Path, out: Path, **changes: Any) -> Path:
    """Exports a model in int8; ``changes`` replace parts of its spec."""
    from tokmarg_export.bundle_writer import build_bundle
    from tokmarg_export.model.huggingface import load_model
    from tokmarg_export.spec_library import choose_spec, resolve_spec

    loaded = load_model(model)
    resolved = resolve_spec(*choose_spec(None, loaded.model_id), loaded)
    build_bundle(loaded, resolved | changes, out, precision="int8", verify=False)
    return out
