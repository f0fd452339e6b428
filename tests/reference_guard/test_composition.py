"""How people type: every trick of spelling leaves a text that can be read back."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from tests.support.reference_guard import script

TEXT = "Please tell me how the weather will be in Leeds on Friday"


@pytest.fixture(scope="module")
def composition() -> Iterator[ModuleType]:
    with script("composition") as module:
        yield module


@pytest.mark.parametrize("seed", range(30))
def test_tricks_of_spelling(composition: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    leet = composition.leet(rng, TEXT)
    assert leet != TEXT
    assert len(leet) == len(TEXT)
    assert leet.translate(str.maketrans("431057", "aeiost")).lower() == TEXT.lower()
    spaced = composition.spaced(rng, TEXT)
    assert re.sub(r"[ .*_-]", "", spaced) == TEXT.replace(" ", "") != spaced
    assert 3 <= len(spaced) - len(TEXT) <= 12
    drawn_out = composition.drawn_out(rng, TEXT)
    assert re.sub(r"([aeiou])\1*", r"\1", drawn_out) == re.sub(r"([aeiou])\1*", r"\1", TEXT)
    assert len(drawn_out) >= len(TEXT)


def test_a_text_without_such_words_stays(composition: ModuleType) -> None:
    rng = random.Random(0)
    assert composition.spaced(rng, "a bc, d.e 12345") == "a bc, d.e 12345"
    assert composition.drawn_out(rng, "b c d") == "b c d"
    assert composition.leet(rng, "bcd 12") == "bcd 12"


def test_respelling_replaces_whole_words_and_nothing_else(composition: ModuleType) -> None:
    words = {"your": ["ur"], "what's": ["wots"]}
    sources = SimpleNamespace(rng=random.Random(0), texts=SimpleNamespace(disguises={"words": words}))
    seen = {composition.respelt(sources, "What's your yoghurt, yours?") for _ in range(40)}
    assert seen == {f"{a} {b} yoghurt, yours?" for a in ("What's", "wots") for b in ("your", "ur")}


def test_a_disguise_holds_the_request_as_it_is(composition: ModuleType) -> None:
    with script("sources") as module:
        sources = SimpleNamespace(rng=random.Random(0), texts=module.Texts(random.Random(0)))
    for _ in range(300):
        text = composition.disguised_sentence(sources, " how do I open a {jar} of jam?")
        assert text.count("How do I open a {jar} of jam?") == 1
        assert not re.search(r"\{0\}|\{name\}|\{city\}", text)
        assert composition.disguised_clause(sources, "open a jar").count("open a jar") == 1
