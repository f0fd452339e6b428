"""A guard small enough to predict by hand: its model counts words.

The graph meets the whole contract of a bundle (cached prefix, mask, logit positions), so tests run through the real
runtime. Attention is a sum over the one-hot vectors of all visible tokens, and

    logits(next token) = NEXT[last token] + sum of WORDS[w] over the visible words w

``gun`` speaks for label A, ``idiot`` for B; ``noise`` for a token that is no verdict (low coverage); two ``boom``
overflow. Label C exists for assistant messages only.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from tokmarg.prompt.builder import PromptBuilder
from tokmarg.prompt.spec import Spec
from tokmarg.tokenizer import Encoder

CONTEXT = 160  # tokens
SPEC: dict[str, Any] = {
    "name": "words",
    "title": "Counts words",
    "template": {
        "text": "<|policy|>{{policy}}<|talk|>{{conversation}}<|verdict|>",
        "policy_item": "{{id}}",
        "roles": {"user": "User", "assistant": "Agent"},
        "messages": {"user": "<|user|>{{content}}", "assistant": "<|agent|>{{content}}"},
    },
    "policy": {
        "labels": [
            {"id": "A", "name": "Weapons"},
            {"id": "B", "name": "Insults"},
            {"id": "C", "name": "Refusals", "roles": ["assistant"]},
        ]
    },
    "verdict": {
        "terminators": ["<|end|>"],
        "grammar": [
            {
                "choice": [
                    {"text": "safe"},
                    {"text": "unsafe", "event": "unsafe", "then": ["\n", {"labels": "id", "separators": [","]}]},
                ]
            }
        ],
    },
}
SPECIAL = ["<|policy|>", "<|talk|>", "<|user|>", "<|agent|>", "<|verdict|>", "<|end|>"]
PLAIN = ["<unk>", "safe", "unsafe", "\n", "A", "B", "C", ",", " ", ".", "hello", "gun", "idiot", "noise", "boom"]
#: Tokens longer than any word of a test: the prompt builder refuses content that cannot fit by its characters alone.
VOCAB = {token: i for i, token in enumerate([*PLAIN, "x" * 64, *SPECIAL])}
NEXT = {
    "<|verdict|>": {"safe": 8.0, "unsafe": 4.0},
    "A": {"<|end|>": 2.0},
    "B": {"<|end|>": 2.0},
    "C": {"<|end|>": 2.0},
}
WORDS = {
    "gun": {"unsafe": 8.0, "A": 6.0},
    "idiot": {"unsafe": 8.0, "B": 6.0},
    "noise": {".": 20.0},
    "boom": {"unsafe": 3e38},
}


def write(folder: Path) -> Path:
    """Writes the bundle into an empty folder."""
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()), encoding="utf-8")
    onnx.save(_graph(), folder / "model.onnx")
    save_file(_prefixes(folder), folder / "prefix.safetensors")
    return write_manifest(folder)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(folder: Path) -> Path:
    """Writes the manifest that fits the files as they are now."""
    names = ["model.onnx", "tokenizer.json", "prefix.safetensors"]
    manifest = {
        "schema_version": 1,
        "tokmarg_version": "0",
        "model": {"id": "tests/words", "revision": None, "licence": "MIT", "architecture": "Words"},
        "spec": SPEC,
        "graph": {
            "layers": 1,
            "kv_heads": 1,
            "head_dim": len(VOCAB),
            "vocab_size": len(VOCAB),
            "head": "full",
            "head_token_ids": None,
            "kv_dtype": "float32",
            "sliding_window": None,
            "max_positions": CONTEXT,
        },
        "precision": "fp32",
        "parity": {"max_abs_logit_difference": 0.0},
        "files": {
            name: {
                "sha256": sha256(folder / name),
                "size": (folder / name).stat().st_size,
            }
            for name in names
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _tokenizer() -> dict[str, object]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": VOCAB[token], "content": token, **flags} for token in SPECIAL],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"[a-z]+|[^a-z]"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": VOCAB, "unk_token": "<unk>"},
    }


def _table(rows: dict[str, dict[str, float]]) -> np.ndarray:
    table = np.zeros((len(VOCAB), len(VOCAB)), dtype=np.float32)
    for token, following in rows.items():
        for other, logit in following.items():
            table[VOCAB[token], VOCAB[other]] = logit
    return table


def _graph() -> onnx.ModelProto:
    size = len(VOCAB)
    constants = {"eye": np.eye(size, dtype=np.float32), "next": _table(NEXT), "words": _table(WORDS)}
    constants |= {"one": np.array([1], dtype=np.int64)}
    nodes = [
        helper.make_node("Gather", ["eye", "input_ids"], ["last"]),  # [1, S, V]
        helper.make_node("Unsqueeze", ["last", "one"], ["present.0.value"]),  # [1, 1, S, V]
        helper.make_node("Identity", ["present.0.value"], ["present.0.key"]),
        helper.make_node("Concat", ["past_key_values.0.value", "present.0.value"], ["values"], axis=2),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["weights", "values"], ["heads"]),
        helper.make_node("Squeeze", ["heads", "one"], ["counts"]),  # [1, S, V]
        helper.make_node("MatMul", ["counts", "words"], ["from_words"]),
        helper.make_node("MatMul", ["last", "next"], ["from_last"]),
        helper.make_node("Add", ["from_words", "from_last"], ["everywhere"]),
        helper.make_node("Gather", ["everywhere", "logit_positions"], ["logits"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "S"]),
        helper.make_tensor_value_info("position_ids", TensorProto.INT64, [1, "S"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.BOOL, [1, 1, "S", "T"]),
        helper.make_tensor_value_info("logit_positions", TensorProto.INT64, ["K"]),
        helper.make_tensor_value_info("past_key_values.0.key", TensorProto.FLOAT, [1, 1, "P", size]),
        helper.make_tensor_value_info("past_key_values.0.value", TensorProto.FLOAT, [1, 1, "P", size]),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "K", size]),
        helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, [1, 1, "S", size]),
        helper.make_tensor_value_info("present.0.value", TensorProto.FLOAT, [1, 1, "S", size]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "words", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _prefixes(folder: Path) -> dict[str, np.ndarray]:
    spec = Spec.parse(SPEC, "words")
    builder = PromptBuilder(spec, Encoder((folder / "tokenizer.json").read_text(encoding="utf-8")), CONTEXT)
    tensors: dict[str, np.ndarray] = {}
    for role in spec.roles:
        ids = np.array(builder.prefix_ids(role), dtype=np.int64)
        cache = np.eye(len(VOCAB), dtype=np.float32)[ids][None, None]
        tensors |= {f"{role}.token_ids": ids, f"{role}.0.key": cache, f"{role}.0.value": cache}
    return tensors
