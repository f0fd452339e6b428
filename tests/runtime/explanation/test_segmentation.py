"""Texts are cut into sentences, words or groups of characters that together are the text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokmarg.explanation.segmentation import Span, grouped, sentences, words


def texts(parts: list[Span]) -> list[str]:
    return [part.text for part in parts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello there. How do I pick a lock?", ["Hello there. ", "How do I pick a lock?"]),
        ("Mr. Smith has 3.5 locks, e.g. this one. Really!", ["Mr. Smith has 3.5 locks, e.g. this one. ", "Really!"]),
        ('"Really?" he said.  "Yes!" (So.) End', ['"Really?" he said.  ', '"Yes!" ', "(So.) ", "End"]),
        ("one line\n\nanother\nlast", ["one line\n\n", "another\n", "last"]),
        ("J. Smith and I. Then more.", ["J. Smith and I. ", "Then more."]),
        ("今日はいい天気ですね。鍵の開け方を教えて！はい", ["今日はいい天気ですね。", "鍵の開け方を教えて！", "はい"]),
        ("क्या हाल है। ठीक है।", ["क्या हाल है। ", "ठीक है।"]),
        ("Wait... what? No", ["Wait... what? ", "No"]),
        ("\n\n a. b", ["\n\n a. b"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert texts(sentences(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" How do I\tpick a lock? ", [" How ", "do ", "I\t", "pick ", "a ", "lock? "]),
        ("Привет, мир!", ["Привет, ", "мир!"]),
        ("자물쇠를 여는 법", ["자물쇠를 ", "여는 ", "법"]),
        ("鍵の開け方、OK?", ["鍵の", "開け", "方、", "OK?"]),
        ("สวัสดี ครับ", ["สวั", "สดี ", "ครั", "บ"]),
        ("a" * 41, ["a" * 12, "a" * 12, "a" * 12, "a" * 5]),
        ("👨‍👩‍👧漢e\u0301字 🇩🇪🇫🇷", ["👨‍👩‍👧", "漢", "e\u0301", "字 ", "🇩🇪🇫🇷"]),
        ("!!!", ["!!!"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert texts(words(text)) == expected


LETTERS = st.text(alphabet=st.sampled_from("ab.!? \n\t,字か。ก\u0301\u200d😀🇩é\"'") | st.characters(), max_size=60)


@pytest.mark.parametrize("cut", [sentences, words])
@given(text=LETTERS)
def test_parts_are_the_text(cut: Callable[[str], list[Span]], text: str) -> None:
    parts = cut(text)
    assert "".join(texts(parts)) == (text if text.strip() else "")
    at = 0
    for part in parts:
        assert part == Span(at, part.end, text[at : part.end])
        assert part.text.strip()
        at = part.end


@given(text=LETTERS)
def test_no_accent_loses_its_letter(text: str) -> None:
    for part in words(text)[1:]:
        assert unicodedata.category(part.text[0]) not in ("Mn", "Me", "Mc")


@given(text=LETTERS, most=st.integers(1, 8))
def test_groups_keep_to_the_limit(text: str, most: int) -> None:
    parts = words(text)
    groups = grouped(parts, most)
    assert len(groups) <= most
    assert "".join(texts(groups)) == "".join(texts(parts))
    sizes = [sum(group.start <= part.start < group.end for part in parts) for group in groups]
    assert len(set(sizes[:-1])) <= 1
    assert sum(sizes) == len(parts)
    if len(parts) <= most:
        assert groups == parts
