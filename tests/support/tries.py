"""Tries of a verdict grammar for the real tokenizers, and the enumeration of their token paths."""

from __future__ import annotations

from tokmarg.grammar.grammar import Grammar
from tokmarg.grammar.node import Node
from tokmarg.grammar.trie import Trie

from .encoders import encoder_of
from .grammars import LLAMA_GUARD

__all__ = ["EOT", "S14", "TAIL", "build", "complete_paths"]

EOT = {"llama3": "<|eot_id|>", "gemma3": "<end_of_turn>", "qwen3": "<|im_end|>", "smollm2": "<|im_end|>"}
TAIL = {"llama3": "", "gemma3": "model\n", "qwen3": "assistant\n", "smollm2": "assistant\n"}
S14 = [f"S{i}" for i in range(1, 15)]


def build(family: str, labels: list[str], *, leads: tuple[str, ...] = ("",), parts: object = LLAMA_GUARD) -> Trie:
    grammar = Grammar.parse(parts, [(label, label) for label in labels])
    return Trie(grammar, encoder_of(family), TAIL[family], leads, (EOT[family],))


def complete_paths(trie: Trie) -> dict[tuple[int, ...], int]:
    found = {}

    def walk(node: Node) -> None:
        if node.complete:
            found[node.path] = node.certain
        for child in trie.children(node).values():
            walk(child)

    walk(trie.root)
    return found
