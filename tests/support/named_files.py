"""Folders that are taken for bundles by the names of their files; nothing in them can be loaded."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["MANIFEST", "bundle"]

MANIFEST = {"schema_version": 1, "files": {"model.onnx": {"sha256": "0" * 64, "size": 1}}}


def bundle(folder: Path, manifest: object = MANIFEST) -> Path:
    """What is taken for a bundle, by its names."""
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "model.onnx").write_text("x")
    return folder
