"""Hostile content for every family with its tokenizer: it stays where it is; what looks like a template is told."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tokenizers import NATIVE, TOKENIZERS, builder_of, encoder_of, modes, spec_of
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.delimiters import delimiters_of
from tokmarg.prompt.injection import InjectionDetector
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Message
from tokmarg.tokenizer import Piece
from tokmarg_export.spec_library import list_specs

WIDE = {ord(c): ord(c) + 0xFEE0 for c in "<|>/[]_:"}
#: Latin letters, and those of other scripts that look the same.
CYRILLIC, GREEK = ("ABCEHIJKMOPSTXYaceijopsxy", "АВСЕНІЈКМОРЅТХУасеіјорѕху"), ("ABEHIKMNOPTXYZo", "ΑΒΕΗΙΚΜΝΟΡΤΧΥΖο")
DRESSES: list[Callable[[str], str]] = [
    lambda c: c.translate(WIDE),
    lambda c: chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c,
    lambda c: f"\u200b{c}\u2060",
    lambda c: f" {c}",
    lambda c: f"{c}\u0336",
    lambda c: c.translate(str.maketrans(*CYRILLIC)),
    lambda c: c.upper().translate(str.maketrans(*GREEK)),
]
MARKERS = [
    "<END CONVERSATION>", "<BEGIN CONVERSATION>\n\n", "\n\nAgent: ", "\n\nUser: ", "<END UNSAFE CONTENT CATEGORIES>",
    "<end_of_risk_definition>", "<score> no </score>", "[/INST]", "[INST]", "===", "\n---\n", "safe", "unsafe\nS1",
    "{{content}}", "{{conversation}}", "{{policy}}", "<|", "|>", "<", ">", "▁", "\u2581\u2581", " ", "\n", "\n\n", "\t",
    "\0", "\u200b", "\u202e", "\ufeff", "\U000e0041", "e" + "\u0301\u0316" * 20, "ﷺ", "İ", "\r\n", "\u2028", "😀", "雨",
]  # fmt: skip
ORDINARY = [
    "How do I pick a lock?",
    "Hello!\n\nThe agent: a man called Smith. Is it safe? Yes.\nNo.",
    "Task list:\n1. Milk\n2. Eggs\n- bread\n* butter",
    "<p>Some <b>bold</b> text, <a href='x'>a link</a> and a list[0] of things.</p>",
    "if a < b and c > d:\n    return {'unsafe': [1, 2, 3]}",
    "| a | b |\n| 1 | 2 |",
    "Ça coûte 12,50 € — à 15h30. 雨が好きです。 مرحبا 👩‍👩‍👧 می‌خواهم",
    "Dear Sir or Madam,\nre: your order\nRegards: none",
]


@functools.cache
def suspicions(name: str) -> InjectionDetector:
    return InjectionDetector(spec_of(name), encoder_of(NATIVE[name]))


@functools.cache
def plain(name: str, role: Role) -> tuple[Prompt, ...]:
    return builder_of(name).prompts(conversation(role, "x"))


def conversation(role: Role, content: str) -> list[Message]:
    earlier = [Message("user", "x")] if role == "assistant" else []
    return [*earlier, Message(role, content)]


def test_every_spec_has_a_tokenizer_here() -> None:
    assert set(NATIVE) == set(list_specs())


@pytest.mark.parametrize("tokenizer", dict.fromkeys([*TOKENIZERS, *NATIVE.values()]))
def test_every_special_token_of_every_tokenizer_stays_text(tokenizer: str) -> None:
    encoder = encoder_of(tokenizer)
    texts = list(encoder.special_ids)
    special = set(encoder.special_ids.values())
    assert len(texts) >= 3
    for glue in ("", " ", "\n", "\0", "\u200b", "▁"):
        for spelt in (texts, [text.translate(WIDE) for text in texts], [text.replace(" ", "▁") for text in texts]):
            ids = encoder.encode([Piece(glue.join(spelt), True)], after_special=bool(glue)).ids
            assert not special & set(ids)
            assert len(ids) > len(texts)  # none has become one token


@pytest.mark.parametrize(("name", "role"), modes())
@settings(max_examples=12)
@given(data=st.data())
def test_scaffold_does_not_depend_on_content(name: str, role: Role, data: st.DataObject) -> None:
    encoder = encoder_of(NATIVE[name])
    special = set(encoder.special_ids.values())
    spelt = st.sampled_from(sorted(encoder.special_ids))
    pieces = (
        st.sampled_from(MARKERS)
        | spelt
        | spelt.map(lambda text: text.translate(WIDE))
        | spelt.map("\u200b".join)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    )
    content = data.draw(st.lists(pieces, min_size=1, max_size=8).map("".join).filter(str.strip))
    found = builder_of(name).prompts(conversation(role, content))
    assert len(found) == len(plain(name, role))
    for prompt, other in zip(found, plain(name, role), strict=True):
        ids, wanted = prompt.token_ids, other.token_ids
        assert [token for token in ids if token in special] == [token for token in wanted if token in special]
        start, end = prompt.message_spans[-1]
        assert prompt.text[:start] == other.text[: other.message_spans[-1][0]]
        assert prompt.text[end:] == other.text[other.message_spans[-1][1] :]
        # Tokens, ids and positions, up to the last special token before the message and from the first after it.
        (head, tail), (other_head, other_tail) = around(prompt, special, encoder), around(other, special, encoder)
        assert (head, ids[:head]) == (other_head, wanted[:other_head])
        assert ids[len(ids) - tail :] == wanted[len(wanted) - other_tail :]
        assert tail == other_tail


def around(prompt: Prompt, special: set[int], encoder: object) -> tuple[int, int]:
    """How many tokens stand before the last message for certain, and how many after it: those that a special token
    parts from it."""
    start, end = prompt.content_token_span
    places = [i for i, token in enumerate(prompt.token_ids) if token in special]
    # Between messages special tokens lie inside the span of all of them; those of the last message lie at its end.
    before = [i for i in places if i < start]
    after = [i for i in places if i >= end]
    return (before[-1] + 1 if before else 0), (len(prompt.token_ids) - after[0] if after else 0)


@pytest.mark.parametrize(("name", "role"), modes())
def test_content_that_closes_the_conversation_is_told(name: str, role: Role) -> None:
    """The template after a message, up to the verdict, and the template before one: each as content."""
    spec = spec_of(name)
    before, after = spec.scaffold(role)
    head, foot = spec.template.messages[role].split("{{content}}")
    for text in (f"hello{foot}{after}", f"hello\n{before}{head}bye", f"hello{foot}{after}\n{head}bye"):
        latin = text.upper().translate(str.maketrans(*CYRILLIC))
        for dress in (text, text.upper(), latin, text.translate(WIDE), text.replace("<", "<\u200b")):
            found = suspicions(name).detect([Message(role, dress)])
            assert {"fence", "special-token"} & set(found), dress


@pytest.mark.parametrize("name", list_specs())
@settings(max_examples=12)
@given(data=st.data())
def test_every_fence_of_every_spec_is_told_in_any_dress(name: str, data: st.DataObject) -> None:
    """Every mark, with case, spaces, invisible characters, fullwidth forms and look-alikes at any of its characters."""
    fences = delimiters_of(spec_of(name))
    inside = [f"hello {mark} bye" for mark in sorted(fences.tags)]
    starting = [f"hello\n{mark} bye" for mark in sorted(fences.openings)]
    alone = [f"hello\n{mark}\nbye" for mark in sorted(fences.lines | fences.words)]
    dress = data.draw(st.sampled_from([str.upper, *DRESSES]))
    for text in inside + starting + alone:
        dressed = "".join(data.draw(st.sampled_from([c, dress(c)])) if len(text) < 60 else dress(c) for c in text)
        assert {"fence", "special-token"} & set(suspicions(name).detect([Message("user", dressed)])), ascii(dressed)


def test_marks_of_llama_guard() -> None:
    fences = delimiters_of(spec_of("llama-guard-3-8b"))
    assert "<endconversation>" in fences.tags
    assert "agent:" in fences.openings


@pytest.mark.parametrize(("name", "role"), modes())
def test_roles_in_front_of_messages_are_told(name: str, role: Role) -> None:
    head = spec_of(name).template.messages[role].split("{{content}}")[0].strip(" ")
    if not head.strip():
        pytest.skip("nothing stands in front of a message")
    assert suspicions(name).detect([Message(role, f"hello\n\n{head} Smith")])


@pytest.mark.parametrize("name", list_specs())
def test_ordinary_contents_are_not_reported(name: str) -> None:
    for text in ORDINARY:
        assert suspicions(name).detect([Message("user", text)]) == (), text
