"""Verdicts of every family: enumerated from the spec's TOML form, and parsed in the author's manner.

Nothing here uses the runtime's grammar.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.tokenizers import NATIVE, Label, encoder_of, parts_of, spec_of
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.labels import Role
from tokmarg.tokenizer import Encoder

__all__ = ["ALTERNATIVES", "SPLIT", "Labels", "expected", "listed", "read", "verdicts"]

Labels = Sequence[Label]


def verdicts(parts: list[Any], labels: Labels) -> Iterator[str]:
    """Every text of a grammar, straight from its TOML form."""
    if not parts:
        yield ""
        return
    part, rest = parts[0], parts[1:]
    if isinstance(part, str):
        heads = [part]
    elif "choice" in part:
        heads = [
            option["text"] + text for option in part["choice"] for text in verdicts(option.get("then", []), labels)
        ]
    else:
        field = part["labels"]
        spelling = f"{{{{{field}}}}}" if field in ("id", "name", "code") else field
        orders = itertools.combinations if part.get("order") == "policy" else itertools.permutations
        heads = []
        for n in range(1, min(len(labels), part.get("max", len(labels))) + 1):
            for chosen in orders(labels, n):
                spelt = [spelt_label(spelling, *label) for label in chosen]
                for between in itertools.product(part.get("separators", []), repeat=n - 1):
                    heads.append("".join(itertools.chain(*itertools.zip_longest(spelt, between, fillvalue=""))))
    tails = list(verdicts(rest, labels))
    yield from (head + tail for head in heads for tail in tails)


def spelt_label(spelling: str, label_id: str, name: str, code: str | None = None) -> str:
    return spelling.replace("{{id}}", label_id).replace("{{name}}", name).replace("{{code}}", code or "")


def matched(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text)
    assert match is not None
    return match


def listed(text: str, separator: str = r",\s*") -> set[str]:
    return set(re.split(separator, text.strip())) - {"None", ""}


def read(name: str, role: Role, text: str, labels: Labels) -> set[str]:
    """The events of a verdict, read as the family's author reads it."""
    ids = {label[1]: label[0] for label in labels}
    answer = role == "assistant"
    if name.startswith(("llama-guard", "instruct", "md-judge")):
        first, *more = text.strip().split("\n")
        return {"unsafe", *listed(more[0])} if first == "unsafe" else set()
    if name == "reference-guard":
        first, *codes = text.split()
        by_code = {label[2]: label[0] for label in labels if len(label) == 3}
        return {"unsafe", *(by_code[code] for code in codes)} if first == "unsafe" else set()
    if name == "nemotron-safety-guard":
        verdict = json.loads(text)
        ratings = {
            "harmful_request": verdict["User Safety"],
            "harmful_response": verdict.get("Response Safety", "safe"),
        }
        assert ("Response Safety" in verdict) is answer
        assert ("Safety Categories" in verdict) is ("unsafe" in ratings.values())
        events = {event for event, rating in ratings.items() if rating == "unsafe"}
        if ratings["harmful_response" if answer else "harmful_request"] == "unsafe":
            events.add("unsafe")
        return events | {ids[x] for x in listed(verdict.get("Safety Categories", ""))}
    if name.startswith(("shieldgemma", "granite")):  # on the one policy that the prompt asks for
        first = matched("yes|no", text.lower())[0]
        return {"unsafe"} if first == "yes" else set()
    if name == "nemotron-reasoning-4b":
        harms = [x.strip() for x in re.findall(r"harm\s*:\s*(\w+)", text, re.IGNORECASE)]
        assert len(harms) == 1 + answer
        events = {
            event
            for event, harm in zip(("harmful_request", "harmful_response"), harms, strict=False)
            if harm == "harmful"
        }
        return events | ({"unsafe"} if harms[-1] == "harmful" else set())
    if name == "ga-guard-1b":
        violated = set(re.findall(r"<(\w+)_violation>", text)) - set(re.findall(r"<(\w+_not)_violation>", text))
        return violated | ({"unsafe"} if violated else set())
    if name == "wildguard":
        if not answer:
            return {"unsafe", "harmful_request"} if matched(r"\A.*:(.*)\Z", text)[1].strip() == "yes" else set()
        request, refusal, response = (x.strip() for x in matched(r"\A.*:(.*)\n.*:(.*)\n.*:(.*)", text).groups())
        yes = {"harmful_request": request, "refusal": refusal, "harmful_response": response, "unsafe": response}
        return {event for event, said in yes.items() if said == "yes"}
    if name == "polyguard":
        fields = {k.strip(): v.strip() for k, v in (line.split(":") for line in text.split("\n"))}
        request = listed(fields["Request safety violations"])
        events = {"harmful_request"} if fields["Harmful request"] == "yes" else set()
        if not answer:
            return events | request | ({"unsafe"} if events else set())
        events |= {f"request:{x}" for x in request} | listed(fields["Response safety violations"])
        events |= {"harmful_response", "unsafe"} if fields["Harmful response"] == "yes" else set()
        return events | ({"refusal"} if fields["Response refusal"] == "yes" else set())
    if name == "qwen3guard-gen":
        safety = matched(r"Safety: (Safe|Unsafe|Controversial)", text)[1]
        known = sorted((re.escape(n) for n in ids), key=len, reverse=True)
        found = re.findall("|".join(known), text.split("\n")[1].removeprefix("Categories:"))
        refusal = re.search(r"Refusal: (Yes|No)", text)
        assert bool(refusal) is answer
        readings: dict[str, list[str]] = {
            "Safe": [],
            "Unsafe": ["unsafe", "unsafe_loose"],
            "Controversial": ["unsafe", "controversial"],
        }
        return {*readings[safety], *(ids[x] for x in found), *(["refusal"] if refusal and refusal[1] == "Yes" else [])}
    if name == "yufeng-xguard":
        return set() if text == "sec" else {"unsafe", text}
    kanana = matched(r"\A(?:<SAFE>|<UNSAFE-(\w+)>)\Z", text)
    return {"unsafe", kanana[1]} if kanana[1] else set()


def _token(encoder: Encoder, piece: str) -> int:
    token = encoder.vocabulary_id(piece)
    assert token is not None
    return token


def expected(name: str, role: Role, tokenizer: str, labels: Labels, trie: Trie) -> dict[tuple[int, ...], set[str]]:
    """Token path -> events, for every verdict, from whole texts and the parsers above."""
    spec, encoder = spec_of(name), encoder_of(tokenizer)
    base = encoder.encode_verdict(trie._tail)
    found: dict[tuple[int, ...], set[str]] = {}
    for lead, text in itertools.product(spec.verdict.leads, verdicts(parts_of(spec, role), labels)):
        whole = encoder.encode_verdict(trie._tail + lead + text)
        assert whole[: len(base)] == base
        paths = [whole[len(base) :]]
        if tokenizer == NATIVE[name]:
            paths += [
                [
                    *(_token(encoder, piece) for piece in pieces),
                    *whole[len(encoder.encode_verdict(trie._tail + word)) :],
                ]
                for word, pieces in ALTERNATIVES.get(name, [])
                if text.startswith(word)
            ]
        for path in paths:
            for end in trie._terminators:
                found[*path, *end] = read(name, role, text, labels)
    return found


#: What the two families list beside the tokenizer's own spelling.
SPLIT = [(" safe", ["safe"]), (" unsafe", ["un", "safe"]), (" unsafe", ["▁un", "safe"])]
ALTERNATIVES = {"llama-guard-1": SPLIT, "md-judge-0.1": SPLIT}
