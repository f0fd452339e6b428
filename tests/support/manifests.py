"""A valid manifest with every field, and its published JSON Schema."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

from tests.support.word_guard import SPEC
from tokmarg.bundle.manifest import Manifest
from tokmarg.errors import TokmargError

__all__ = ["ENTRY", "FULL", "SCHEMA", "VALIDATOR", "parses"]

SCHEMA: dict[str, Any] = json.loads((files("tokmarg.bundle") / "manifest.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
ENTRY = {"sha256": "0" * 64, "size": 1}
#: A valid manifest with every field there is.
FULL: dict[str, Any] = {
    "schema_version": 1,
    "tokmarg_version": "0.1.0",
    "model": {"id": "a/b", "revision": "abc", "licence": "MIT", "architecture": "llama"},
    "spec": {
        **SPEC,
        "sources": {"template": "made up"},
        "template": {**SPEC["template"], "strip": True, "turns": "alternating"},
        "policy": {
            "labels": [
                {
                    "id": "A",
                    "name": "Weapons",
                    "code": "arms",
                    "title": "Weapons",
                    "definition": "Guns.",
                    "roles": ["user", "assistant"],
                },
                {"id": "B", "name": "Insults"},
            ]
        },
        "verdict": {
            "terminators": ["<|end|>"],
            "leads": ["", "\n"],
            "grammar": [
                {
                    "choice": [
                        {"text": "safe"},
                        {
                            "text": "unsafe",
                            "event": "unsafe",
                            "then": ["\n", {"labels": "id", "separators": [","], "order": "policy"}],
                        },
                    ]
                }
            ],
        },
    },
    "graph": {
        "layers": 1,
        "kv_heads": 1,
        "head_dim": 8,
        "vocab_size": 100,
        "head": "verdict",
        "head_token_ids": [1, 2, 3],
        "kv_dtype": "float16",
        "sliding_window": 64,
        "max_positions": 160,
    },
    "precision": "fp16",
    "parity": {"max_probability_difference": 0.0, "reference": "PyTorch", "max_coverage_difference": None},
    "guesses": [[0, -1, 5, 0.75], [1, 5, 7, 1]],
    "files": {"model.onnx": ENTRY, "tokenizer.json": ENTRY, "prefix.safetensors": ENTRY, "model.onnx.data": ENTRY},
}


def parses(document: object) -> bool:
    try:
        Manifest.parse(document, "manifest.json")
        return True
    except TokmargError as error:
        message = str(error)
    assert message.startswith("manifest.json: ")
    assert message.isprintable()
    return False
