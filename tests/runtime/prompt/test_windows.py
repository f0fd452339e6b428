"""Content beyond the context window: refused by default, else in overlapping windows that miss nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.builders import TOKENIZER, builder_of
from tests.support.encoders import encoder_of
from tokmarg import ContentError, Guard, Record, Result
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.messages import Message, messages_of
from tokmarg.prompt.token_borders import token_borders
from tokmarg.prompt.windows import SHARE, WORST_FACTOR, windows
from tokmarg.scoring.aggregation import join_window_marginals
from tokmarg.scoring.exact import Bounds, Marginals
from tokmarg.tokenizer import Encoder

NAME = "llama-guard-3-8b"
ROOM = 1024 - 64  # of the tiny model
LONG = " ".join(f"w{i}" for i in range(700))
QUESTION = {"role": "user", "content": "Tell me a story."}


def parts(content: Any, max_tokens: int = ROOM) -> list[Prompt]:
    return [prompt for (prompt,) in windows(builder_of(NAME, max_tokens), messages_of(content))]


def last_text(prompt: Prompt) -> str:
    return prompt.text[slice(*prompt.message_spans[-1])]


def check_windows(content: str, found: Sequence[Prompt], max_tokens: int = ROOM) -> None:
    """Each fits; together they hold every character that is no white space. For content without repetition."""
    assert all(len(prompt.token_ids) <= max_tokens for prompt in found)
    at = [content.index(last_text(prompt)) for prompt in found]
    assert at == sorted(at)
    covered = {c for prompt in found for c in last_text(prompt)}
    assert covered | set(filter(str.isspace, content)) == set(content) | set(filter(str.isspace, covered))


def test_default_is_an_error(tiny_guard: Guard) -> None:
    for call in (tiny_guard.score, tiny_guard.prompt):
        with pytest.raises(ContentError, match=r"the content is [\d,]+ tokens .*; .* may take 960 tokens") as caught:
            call(LONG)
        assert caught.value.type == "content_too_long"
        assert ("on_overflow=window" in str(caught.value)) == (call == tiny_guard.score)  # prompt has no windows
    rows = list(tiny_guard.score_many(["Hi", Record(LONG, "long"), "Hi"], on_error="return", max_nodes=2))
    assert [type(row) for row in rows] == [Result, ContentError, Result]
    assert rows[1].id == "long"


def test_windows_cover_the_content_and_overlap() -> None:
    found = parts(LONG)
    check_windows(LONG, found)
    assert len(found) >= 3
    starts = [LONG.index(last_text(prompt)) for prompt in found]
    for start, prompt, behind in zip(starts, found, starts[1:], strict=False):
        length = len(last_text(prompt))
        assert 0.2 <= (start + length - behind) / length <= 0.4
    for prompt in found[:-1]:
        assert len(prompt.token_ids) > 0.95 * ROOM  # no more windows than needed
    assert [prompt.role for prompt in found] == ["user"] * len(found)


def test_windows_are_prompts_of_their_text() -> None:
    for prompt in parts(LONG):
        assert prompt == builder_of(NAME, ROOM).prompts(messages_of(last_text(prompt)))[0]


def test_only_the_last_message_is_cut() -> None:
    found = parts([QUESTION, {"role": "assistant", "content": LONG}])
    check_windows(LONG, found)
    for prompt in found:
        assert prompt.role == "assistant"
        assert prompt.text[slice(*prompt.message_spans[0])] == QUESTION["content"]


def test_content_that_fits_is_one_window() -> None:
    (prompt,) = parts("Hello.")
    assert prompt == builder_of(NAME, ROOM).prompts([Message("user", "Hello.")])[0]


@pytest.mark.parametrize("earlier", ["w " * 700, LONG, "x" * 200_000])
def test_a_needed_message_that_leaves_no_window(tiny_guard: Guard, earlier: str) -> None:
    conversation = [{"role": "user", "content": earlier}, {"role": "assistant", "content": "Yes. " * 200}]
    with pytest.raises(ContentError, match="less than a quarter of a window is left") as caught:
        tiny_guard.score(conversation, on_overflow="window")
    assert caught.value.type == "content_too_long"
    assert "needs the message before it" in str(caught.value)
    assert "overflow" not in str(caught.value)  # it was given


def turns(*texts: str) -> list[dict[str, str]]:
    """A conversation: user, assistant, user, ..."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def cost(found: Sequence[Prompt], scaffold: int) -> int:
    """Tokens of all windows without the scaffold, whose policy is computed once for all contents."""
    return sum(len(prompt.token_ids) - scaffold for prompt in found)


def scaffold_of(name: str) -> int:
    return len(builder_of(name).prompts([Message("user", ".")])[0].token_ids) - 1


def test_earlier_messages_do_not_multiply_the_cost() -> None:
    """They left windows of some tokens: with messages of 700 tokens before it, this one took 400 windows."""
    text = " k" * 4000
    for earlier in (["a" + " w" * n for n in (372, 372)], ["a"] * 130, ["a"] * 5000, [LONG, LONG], ["x" * 10**6, "a"]):
        found = parts([*turns(*earlier), {"role": "user", "content": text}])
        assert cost(found, scaffold_of(NAME)) < WORST_FACTOR * 4000 + ROOM
        assert sum(last_text(prompt).count("k") for prompt in found) >= 4000


def test_the_oldest_messages_are_left_out_and_no_more() -> None:
    """In whole turns: llama-guard's template wants a conversation to begin with the user."""
    conversation = turns(*[f"message {i}" + " w" * 90 for i in range(12)], " k" * 2000)
    found = parts(conversation)
    first = len(conversation) - len(found[0].message_spans)
    assert first % 2 == 0
    builder = builder_of(NAME, ROOM)
    for prompt in found:
        window = [*conversation[first:-1], {"role": "user", "content": last_text(prompt)}]
        assert prompt == builder.prompts(messages_of(window))[0]

    def left(start: int) -> int:
        kept = [*conversation[start:-1], {"role": "user", "content": "."}]
        return ROOM - len(builder.prompts(messages_of(kept))[0].token_ids)

    quarter = int(SHARE * left(len(conversation) - 1))
    assert left(first) >= quarter > left(first - 2)


def test_without_turns_single_messages_are_left_out(word_bundle: Path) -> None:
    """And what is left may be one window; the result says that it is not the whole."""
    guard = Guard.load(word_bundle, device="cpu")
    recent = [{"role": "user", "content": "hello hello"}, {"role": "user", "content": "gun hello"}]
    for earlier in ("idiot " * 200, "idiot " * 25):
        conversation = [{"role": "user", "content": earlier}] * 2 + recent
        found = guard.score(conversation, on_overflow="window")
        expected = guard.score(recent if len(earlier) > 1000 else conversation[1:])
        assert found.truncated
        assert (found.unsafe, found.labels) == (expected.unsafe, expected.labels)
        with pytest.raises(ContentError, match="on_overflow=window"):
            guard.score(conversation)


WORDS = st.sampled_from(
    ["w", " k", "hello ", "1", "\u0301", "👩‍👩‍👧", "\n", "   ", "漢字", "ﷺ", "aaaaaaaa", "<|eot_id|>"]
)
TEXT = st.builds(lambda words, n: "a" + "".join(words) * n + "a", st.lists(WORDS, max_size=8), st.integers(0, 700))


@pytest.mark.parametrize("name", ["llama-guard-3-8b", "instruct"])
@settings(max_examples=40)
@given(earlier=st.lists(TEXT, max_size=4), size=st.integers(1000, 6000), room=st.integers(600, 1200), text=TEXT)
def test_the_worst_factor(name: str, earlier: list[str], size: int, room: int, text: str) -> None:
    """Tokens of all windows <= factor x tokens of the content + a window, whatever comes before the message.

    A window that would begin or end inside a character loses up to six tokens; hence 6 for 16/3.
    """
    scaffold = scaffold_of(name)
    builder = builder_of(name, scaffold + room)
    encoder = encoder_of(TOKENIZER[name])
    text = text * (1 + size // len(text))
    conversation = turns(*earlier, text)
    try:
        found = [prompt for (prompt,) in windows(builder, messages_of(conversation))]
    except ContentError as error:
        # The message before an answer cannot be left out.
        if error.type != "content_too_long" or conversation[-1]["role"] == "user":
            raise
        return
    tokens = sum(encoder.count(message["content"]) for message in conversation)
    assert cost(found, scaffold) <= 6 * tokens + room


def test_a_chunk_of_few_tokens_is_not_passed_over(word_bundle: Path) -> None:
    """A word of 60,000 letters is one unknown token, and a chunk's last tokens are uncertain."""
    encoder = Encoder((word_bundle / "tokenizer.json").read_text(encoding="utf-8"))
    text = "y" * 60_000 + " gun " + "y" * 60_000 + " gun " + "y" * 60_000
    borders = list(token_borders(encoder, text))
    assert [text[start:end] for start, end in borders].count("gun") == 2
    assert borders[0][0] == 0
    assert borders[-1][1] == len(text)
    assert all(end == start for (_, end), (start, _) in pairwise(borders))


def test_blank_stretches_are_left_out() -> None:
    content = f"a{' ' * 400_000}b"
    found = parts(content)
    assert [last_text(prompt) for prompt in found] == ["a", "b"]


# Code points once each, so that it is clear which ones a window holds.
CHARACTERS = st.lists(st.characters(exclude_categories=["Cs"]), unique=True, min_size=30, max_size=200)


@settings(max_examples=40)
@given(CHARACTERS, st.integers(12, 60), st.lists(st.tuples(st.integers(0, 200), st.sampled_from(" \n\t")), max_size=20))
def test_windows_miss_no_character(characters: list[str], room: int, blanks: list[tuple[int, str]]) -> None:
    text = [c for c in characters if not c.isspace()]
    for place, blank in blanks:
        text.insert(min(place, len(text)), blank)
    content = "".join(text)
    assume(content.strip())
    max_tokens = len(builder_of(NAME).prompts([Message("user", ".")])[0].token_ids) + room
    found = parts(content, max_tokens)
    check_windows(content, found, max_tokens)


def test_a_megabyte() -> None:
    content = " ".join(f"word{i}" for i in range(105_000))
    assert len(content) > 1_000_000
    found = parts(content)
    assert last_text(found[0]).startswith("word0 word1 ")
    assert last_text(found[-1]).endswith("word104998 word104999")
    end = 0
    for prompt in found:
        assert len(prompt.token_ids) <= ROOM
        text = last_text(prompt)
        start = content.index(text, max(0, end - len(text)))
        assert start <= end
        end = start + len(text)
    assert end == len(content)


def test_a_megabyte_without_a_space() -> None:
    found = parts("a" * 1_000_000)
    assert sum(len(last_text(prompt)) for prompt in found) >= 1_000_000


def test_huge_content_is_refused_without_tokenising(tiny_guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "encode", None)
    with pytest.raises(ContentError, match="10,000,000 characters") as caught:
        tiny_guard.score("x" * 10_000_000)
    assert caught.value.type == "content_too_long"


def test_scores_are_those_of_the_windows(tiny_guard: Guard) -> None:
    content = " ".join(f"w{i}" for i in range(400))
    texts = [last_text(prompt) for prompt in parts(content)]
    assert len(texts) > 1
    whole = tiny_guard.score(content, id=3, on_overflow="window", max_nodes=8)
    single = [tiny_guard.score(text, max_nodes=8) for text in texts]
    assert (whole.id, whole.truncated) == (3, True)
    assert not any(result.truncated for result in single)
    assert whole.converged == all(result.converged for result in single)
    assert whole.evaluated_nodes == sum(result.evaluated_nodes for result in single)
    assert whole.coverage == pytest.approx(min(result.coverage or 0 for result in single), abs=1e-5)
    for label in tiny_guard.labels:
        found, expected = whole.labels[label], [result.labels[label] for result in single]
        assert found is not None
        assert found.lower == pytest.approx(max(m.lower for m in expected if m), abs=1e-5)
        assert found.upper == pytest.approx(max(m.upper for m in expected if m), abs=1e-5)
        assert found.probability == pytest.approx((found.lower + found.upper) / 2)
    assert whole.unsafe.upper == pytest.approx(max(result.unsafe.upper for result in single), abs=1e-5)


def test_short_content_is_not_truncated(word_bundle: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    assert guard.score("gun", on_overflow="window") == guard.score("gun")


def test_one_bad_word_in_a_long_text_is_found(word_bundle: Path) -> None:
    """And what is wrong with one window is wrong with the whole."""
    guard = Guard.load(word_bundle, device="cpu")
    for place in (0, 40, 87, 130, 199):
        words = ["hello"] * 200
        words[place] = "gun"
        result = guard.score(" ".join(words), on_overflow="window")
        assert result.truncated
        assert result.flagged
        assert result.labels["A"] is not None
        assert result.labels["A"].probability > 0.5
    words[70] = "noise"
    assert (guard.score(" ".join(words), on_overflow="window").coverage or 0) < 0.01
    words[60:62] = ["boom", "boom"]
    with pytest.raises(ContentError, match="NaN or infinite") as caught:
        guard.score(" ".join(words), on_overflow="window")
    assert caught.value.type == "non_finite_logits"


def test_windows_keep_their_place_in_a_stream(word_bundle: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    records = [Record("hello " * (300 if i % 3 == 0 else 1) + ("gun" if i % 2 else "hello"), i) for i in range(20)]
    found = list(guard.score_many(records, on_overflow="window"))
    assert [(r.id, r.flagged, r.truncated) for r in found] == [(i, i % 2 == 1, i % 3 == 0) for i in range(20)]


def test_join() -> None:
    a = Marginals({"unsafe": Bounds(0.2, 0.5), "A": Bounds(0.1, 0.3)}, 0.9, True, 3)
    b = Marginals({"unsafe": Bounds(0.3, 0.4), "A": Bounds(0.0, 0.1)}, 0.7, False, 5)
    joined = Marginals({"unsafe": Bounds(0.3, 0.5), "A": Bounds(0.1, 0.3)}, 0.7, False, 8)
    assert join_window_marginals([a, b]) == join_window_marginals([b, a]) == joined
    assert join_window_marginals([a]) == a
    without = Marginals(a.bounds, None, True, 1)
    assert join_window_marginals([without, without]).coverage is None


def test_windows_end_where_characters_do() -> None:
    """Characters of several tokens: no window begins or ends inside one."""
    content = "👩‍👩‍👧🏳️‍🌈" * 300
    found = parts(content)
    assert len(found) > 2
    for prompt in found:
        assert last_text(prompt) in content
        assert (
            encoder_of("llama3")
            ._plain.decode(list(prompt.token_ids[slice(*prompt.content_token_span)]))
            .count("\ufffd")
            <= 1
        )
