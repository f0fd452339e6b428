"""Explanations on the guard that counts words: occlusion equals scoring every variant alone."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import word_guard
from tests.support.optional import present
from tests.support.results import marginal
from tokmarg import ContentError, OptionError
from tokmarg.explanation import Effect, Explanation, Occlusion, explain
from tokmarg.guard import Guard
from tokmarg.prompt.messages import Content
from tokmarg.results import Marginal


@pytest.fixture(scope="module")
def guard(word_bundle: Path) -> Guard:
    return Guard.load(word_bundle, device="cpu", threads=1)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def marginals(guard: Guard, content: Content, **options: Any) -> dict[str, Marginal]:
    result = guard.score(content, **options)
    every = {"unsafe": result.unsafe, **result.labels, **result.events}
    return {event: m for event, m in every.items() if m is not None}


def check(
    guard: Guard,
    found: Explanation,
    occlusion: Occlusion,
    text: str,
    earlier: Sequence[Mapping[str, str]] = (),
    **options: Any,
) -> None:
    """Every segment's effects are those of two scores, each made alone."""
    full = marginals(guard, [*earlier, {"role": "user", "content": text}], **options)
    for segment in occlusion.segments:
        assert text[segment.start : segment.end] == segment.text
        rest = (text[: segment.start] + text[segment.end :]).rstrip()
        if not rest:
            assert segment.effects is None
            assert present(segment.unscored).startswith("empty_text")
            continue
        without = marginals(guard, [*earlier, {"role": "user", "content": rest}], **options)
        effects = present(segment.effects)
        assert list(effects) == list(full) == list(found.probabilities)
        for event, effect in effects.items():
            assert effect.change == pytest.approx(full[event].probability - without[event].probability, abs=1e-6)
            assert effect.lower == pytest.approx(full[event].lower - without[event].upper, abs=1e-6)
            assert effect.upper == pytest.approx(full[event].upper - without[event].lower, abs=1e-6)
        if segment.inner is not None:
            check(guard, found, segment.inner, text, earlier, **options)


def test_by_hand(guard: Guard) -> None:
    """unsafe: 4 and 8 for every gun against 8 for safe; A: 6 for every gun against 0 for B."""
    found = explain(guard, "hello gun gun", id="x")
    assert found.id == "x"
    assert (found.occlusion.unit, found.occlusion.parts) == ("words", 3)
    assert [s.text for s in found.occlusion.segments] == ["hello ", "gun ", "gun"]
    change = [present(s.effects)["unsafe"].change for s in found.occlusion.segments]
    assert change == pytest.approx([0, sigmoid(12) - sigmoid(4), sigmoid(12) - sigmoid(4)], abs=1e-6)
    assert [present(s.effects)["unsafe"].is_zero for s in found.occlusion.segments] == [True, False, False]
    (tree,) = found.trees
    assert tree.label is None
    assert tree.root.children[0].text == "unsafe"
    assert tree.root.children[0].probability == pytest.approx(sigmoid(12), abs=1e-6)
    assert tree.root.children[0].children[0].share == pytest.approx(sigmoid(12), abs=1e-6)
    assert tree.coverage == found.coverage == guard.score("hello gun gun").coverage
    assert found.probabilities["A"].middle == pytest.approx(marginal(guard.score("hello gun gun"), "A").probability)
    assert found.leading_events(4) == ["unsafe", "A", "B"]  # B comes behind A, at times
    assert found.leading_events(1) == ["unsafe"]


WORDS = ["hello", "gun", "idiot", "noise", "hello.", "gun.", "idiot.\n", "noise."]


@settings(max_examples=12)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), by_words=st.booleans(), most=st.integers(1, 9))
def test_equals_scoring_each_variant_alone(guard: Guard, words: list[str], by_words: bool, most: int) -> None:
    text = " ".join(words)
    found = explain(guard, text, by_words=by_words, most_segments=most, depth=3, max_nodes=6, tolerance=0.01)
    assert "".join(s.text for s in found.occlusion.segments) == text
    assert len(found.occlusion.segments) <= most
    check(guard, found, found.occlusion, text, max_nodes=6, tolerance=0.01)


def test_sentences_then_words_of_the_most_influential_one(guard: Guard) -> None:
    text = "hello hello. hello hello gun. hello"
    found = explain(guard, text.replace("hello gun", "Hello gun").replace(". hello", ". Hello"))
    # (unknown words count for nothing)
    assert found.occlusion.unit == "sentences"
    assert [s.inner is None for s in found.occlusion.segments] == [True, False, True]
    inner = present(found.occlusion.segments[1].inner)
    assert inner.unit == "words"
    assert [s.text for s in inner.segments] == ["Hello ", "Hello ", "gun. "]
    assert [present(s.effects)["unsafe"].is_zero for s in inner.segments] == [True, True, False]
    assert all(s.inner is None for s in inner.segments)
    flat = explain(guard, found.text, depth=1).occlusion
    assert [s.effects for s in flat.segments] == [s.effects for s in found.occlusion.segments]
    assert all(s.inner is None for s in flat.segments)
    assert explain(guard, found.text, by_words=True).occlusion.unit == "words"


def test_neighbours_are_joined_and_looked_into(guard: Guard) -> None:
    text = " ".join(["hello"] * 30 + ["gun"] + ["hello"] * 9)
    found = explain(guard, text, most_segments=8, depth=2)
    outer = found.occlusion
    assert (outer.parts, outer.per_segment, len(outer.segments)) == (40, 5, 8)
    (segment,) = [s for s in outer.segments if s.inner is not None]
    assert segment.text.split() == ["gun", *["hello"] * 4]
    assert [present(s.effects)["A"].is_zero for s in present(segment.inner).segments] == [False, *[True] * 4]


def test_nothing_to_look_into(guard: Guard) -> None:
    found = explain(guard, "Hello hello. Hello. Hello.", depth=4)
    assert all(s.influence == 0 and s.inner is None for s in found.occlusion.segments)


def test_the_only_part(guard: Guard) -> None:
    (segment,) = explain(guard, "gun").occlusion.segments
    assert segment.effects is None
    assert segment.influence == 0.0
    assert segment.unscored == "empty_text: messages[0].content is empty or blank"


def test_conversation(guard: Guard) -> None:
    earlier = [{"role": "user", "content": "gun hello"}]
    found = explain(guard, [*earlier, {"role": "user", "content": "hello idiot"}])
    assert found.text == "hello idiot"
    assert [m.content for m in found.messages] == ["gun hello", "hello idiot"]
    check(guard, found, found.occlusion, "hello idiot", earlier)
    answer = explain(guard, "hello gun", role="assistant")
    assert "C" in answer.probabilities
    assert "C" not in found.probabilities


@pytest.mark.parametrize(("content", "type"), [("", "empty_text"), ("gun " * 200, "content_too_long")])
def test_content_that_cannot_be_scored(guard: Guard, content: Content, type: str) -> None:
    with pytest.raises(ContentError) as caught:
        explain(guard, content)
    assert caught.value.type == type
    assert "window, " not in str(caught.value)  # windows have no tree in common


@pytest.mark.parametrize("options", [{"depth": 0}, {"most_segments": 0}, {"least": 1.0}])
def test_options_out_of_range(guard: Guard, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"^{next(iter(options))} must "):
        explain(guard, "gun", **options)


def test_effects_within_the_bounds_are_nothing() -> None:
    assert Effect(0.02, -0.001, 0.04).is_zero
    assert not Effect(0.02, 0.001, 0.04).is_zero
    assert not Effect(-0.02, -0.04, -0.001).is_zero
    assert Effect(0.0001, 0.0001, 0.0001).is_zero


def test_json(guard: Guard) -> None:
    found = explain(guard, "Hello gun. Hello. Idiot \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"))
    data = json.loads(found.to_json())
    assert data == json.loads(json.dumps(found.to_dict()))
    assert data["probabilities"]["unsafe"]["probability"] == found.probabilities["unsafe"].middle
    total = sum(child["probability"] for child in data["trees"][0]["root"]["children"])
    assert total + data["trees"][0]["root"]["other"] == pytest.approx(1.0)
    assert data["occlusion"]["segments"][0]["effects"]["A"]["change"] > 0.4
    assert data["occlusion"]["segments"][0]["inner"]["unit"] == "words"


@pytest.fixture(scope="module")
def per_label_guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """The word guard, asked for one label at a time, content first; the prompt on A speaks for unsafe with 4."""
    patch = pytest.MonkeyPatch()
    spec = copy.deepcopy(word_guard.SPEC)
    spec["template"]["text"] = "<|talk|>{{conversation}}<|policy|>{{policy}}<|verdict|>"
    spec["policy"]["aggregate"] = "max"
    spec["verdict"]["grammar"] = [{"choice": [{"text": "safe"}, {"text": "unsafe", "event": "unsafe"}]}]
    patch.setattr(word_guard, "SPEC", spec)
    patch.setattr(word_guard, "WORDS", {**word_guard.WORDS, "A": {"unsafe": 4.0}})
    folder = word_guard.write(tmp_path_factory.mktemp("per-label"))
    patch.undo()
    return Guard.load(folder, device="cpu", threads=1)


def test_one_label_at_a_time(per_label_guard: Guard) -> None:
    found = explain(per_label_guard, "hello gun", least=0.0)
    assert [tree.label for tree in found.trees] == ["A", "B"]  # the likelier one first
    for tree, logit in zip(found.trees, (8, 4), strict=True):
        assert [child.text for child in tree.root.children] == ["unsafe", "safe"]
        assert tree.root.children[0].probability == pytest.approx(sigmoid(logit), abs=1e-6)
    assert found.probabilities["unsafe"].middle == pytest.approx(sigmoid(8), abs=1e-6)
    effects = present(found.occlusion.segments[1].effects)
    assert effects["unsafe"].change == pytest.approx(sigmoid(8) - sigmoid(0), abs=1e-6)
    assert effects["B"].change == pytest.approx(sigmoid(4) - sigmoid(-4), abs=1e-6)
    check(per_label_guard, found, found.occlusion, "hello gun")
    hesitant = explain(per_label_guard, "hello").hesitations()
    assert [(label, text) for label, text, _ in hesitant] == [("A", "")]
