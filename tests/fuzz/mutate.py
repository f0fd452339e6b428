"""Damage: changed places in documents, changed bytes in files."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.support.documents import REMOVED, at, edited, places

#: Values that a document does not expect.
HOSTILE: list[Any] = [
    REMOVED, None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("inf"),
    float("nan"), "", " ", "\n", "\0", "\ud800", "é" * 3, "x" * 5000, "{{policy}}", "{{conversation}}", "{{content}}",
    "{{role}}" * 50, "{{nonsense}}", "../../etc/passwd", "/etc/passwd", "C:\\x", "model.onnx", "unsafe", "\u202eabc",
    [], [[]], [None], ["a"], ["", ""], [1, "a"], [[["a"]]], ["a"] * 300, {}, {"": ""}, {"a": {"a": {"a": 1}}},
    {"text": "a"}, {"choice": []}, {"choice": [{"text": ""}]}, {"choice": [{"text": "", "then": [{"choice": [{}]}]}]},
    {"labels": "id", "separators": []}, {"labels": "{{name}}", "separators": [","] * 20}, {"user": "a"}, "user",
]  # fmt: skip
_BYTES = [
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\n",
    b'"',
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"=",
    b"\\",
    b"\\ud800",
    b"NaN",
]
_BYTES += [
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    b"[" * 2000,
    b'{"a":' * 2000,
    b"\xef\xbb\xbf",
    b"\r",
    b"\xe2\x80\xa8",
    b"#",
]


def document(rng: random.Random, valid: Any) -> Any:
    """A valid document with up to four places changed, taken away, doubled or swapped."""
    found = valid
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        spots = list(places(found))
        if not spots:
            break
        spot = rng.choice(spots)
        value = rng.choice(HOSTILE)
        roll = rng.random()
        if roll < 0.2:  # a part of the document itself at the wrong place
            value = at(found, rng.choice(spots))
        elif roll < 0.3:  # nested into itself, or many times the same
            inner = at(found, spot)
            value = rng.choice(
                ([inner] * rng.choice((2, 50, 1500)), {"choice": [{"text": "", "then": [inner, inner]}] * 2})
            )
        elif roll < 0.4 and isinstance(at(found, spot), dict):
            value = {**at(found, spot), rng.choice(("", "x", "id", "text", "labels", "\ud800")): value}
            value = {k: v for k, v in value.items() if v is not REMOVED}
        found = edited(found, spot, value)
    return found


def dumped(rng: random.Random, found: Any) -> bytes:
    """JSON bytes, now and then with a field twice."""
    text = json.dumps(found, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1 and b'": ' in text:
        head, tail = text.split(b"{", 1) if b"{" in text else (text, b"")
        text = head + b'{"schema_version": 1, "text": "a", ' + tail
    return damaged(rng, text) if rng.random() < 0.2 else text


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes cut, flipped, doubled, swapped or with others put in."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at_, end = (rng.randrange(len(found) + 1) for _ in range(2))
        roll = rng.randrange(6)
        if roll == 0:
            del found[at_:]
        elif roll == 1 and at_ < len(found):
            found[at_] ^= 1 << rng.randrange(8)
        elif roll == 2:
            found[at_:at_] = rng.choice(_BYTES)
        elif roll == 3:
            found[at_:at_] = found[min(at_, end) : max(at_, end)][:4096]
        elif roll == 4:
            del found[min(at_, end) : min(max(at_, end), min(at_, end) + 64)]
        elif at_ < len(found):
            found[at_] = rng.randrange(256)
    return bytes(found)
