"""``max_tokens``: a limit for one content, counted no further than it takes to know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import builder_of
from tests.support.command_line import Run
from tests.support.encoders import encoder_of
from tokmarg import ContentError, Guard, OptionError, Record, Result, ScoreOptions
from tokmarg.explanation import explain
from tokmarg.prompt.messages import messages_of
from tokmarg.prompt.token_borders import CHUNK
from tokmarg.tokenizer import Encoder

NAME = "llama-guard-3-8b"


@pytest.fixture
def guard(word_bundle: Path) -> Guard:
    return Guard.load(word_bundle, device="cpu")


def refusal(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(ContentError) as caught:
        call(*args, **options)
    assert caught.value.type == "content_too_long"
    return str(caught.value)


def test_what_has_as_many_tokens_is_scored_as_ever(guard: Guard) -> None:
    text = "hello gun " * 2 + "hello"  # nine tokens with the blanks
    assert guard.score(text, max_tokens=9) == guard.score(text)
    assert "more than 8 tokens, which max_tokens (--max-tokens) allows" in refusal(guard.score, text, max_tokens=8)


def test_all_messages_count(guard: Guard) -> None:
    conversation = [{"role": "user", "content": "hello gun"}, {"role": "assistant", "content": "hello"}]
    assert guard.score(conversation, max_tokens=4) == guard.score(conversation)
    refusal(guard.score, conversation, max_tokens=3)


@pytest.mark.parametrize("way", ["error", "window"])
def test_the_limit_comes_before_windows(guard: Guard, way: Any) -> None:
    text = "hello " * 200
    message = refusal(guard.score, text, max_tokens=399, on_overflow=way)
    assert "overflow" not in message  # windows would be refused as well
    assert guard.score(text, max_tokens=400, on_overflow="window").truncated


def test_a_refused_content_keeps_its_place(guard: Guard) -> None:
    records: list[str | Record] = ["gun", Record("gun " * 9, 7), "hello"]
    found = list(guard.score_many(records, on_error="return", max_tokens=3))
    assert [type(each) for each in found] == [Result, ContentError, Result]
    assert isinstance(found[1], ContentError)
    assert found[1].id == 7


def test_explanations_have_it_too(guard: Guard) -> None:
    refusal(explain, guard, "hello gun", max_tokens=2)
    assert explain(guard, "hello gun", max_tokens=3).text == "hello gun"


@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True, 2**31])
def test_a_wrong_limit(value: Any) -> None:
    with pytest.raises(OptionError, match=r"^max_tokens must be an integer from 1 to 2,147,483,647"):
        ScoreOptions(max_tokens=value)


@pytest.mark.parametrize("text", ["\u0301", "word ", "a", "漢", "123 "])
def test_long_texts_are_counted_as_they_are_encoded(text: str) -> None:
    content = text * (1 + 3 * CHUNK // len(text))
    builder = builder_of(NAME)
    messages, tokens = messages_of(content), encoder_of("llama3").count(content)
    builder.check_tokens(messages, tokens)
    refusal(builder.check_tokens, messages, tokens - 1)


def test_counting_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    original = Encoder._encoded

    def count(encoder: Encoder, text: str) -> Any:
        encoded.append(len(text))
        return original(encoder, text)

    monkeypatch.setattr(Encoder, "_encoded", count)
    builder = builder_of(NAME)
    refusal(builder.check_tokens, messages_of("word " * 200_000), 10_000)
    assert sum(encoded) <= CHUNK
    encoded.clear()
    refusal(builder.check_tokens, messages_of("word " * 200_000), 100)
    assert encoded == []
    conversation = [{"role": ("user", "assistant")[i % 2], "content": "word"} for i in range(10_000)]
    refusal(builder.check_tokens, messages_of(conversation), 100)
    assert len(encoded) <= 101


def test_commands(tokmarg: Run, tmp_path: Path) -> None:
    rows = tokmarg("score", "--max-tokens", 2, "--format", "jsonl", input="gun\nhello gun\n").stdout.splitlines()
    assert [json.loads(row).get("error", {}).get("type") for row in rows] == [None, "content_too_long"]
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "hello gun", "labels": ["A"]}\n', encoding="utf-8")
    for arguments in (
        ["explain", "hello gun"],
        ["evaluate", "--data", data],
        ["calibrate", "--data", data, "--output", tmp_path / "calibration.json"],
    ):
        result = tokmarg(*arguments, "--max-tokens", 2)
        assert result.exit_code == 1
        assert "content_too_long" in result.stderr
        assert "more than 2 tokens" in result.stderr
