"""Moderating a text while it arrives: when it is scored, and when its stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.reference_guard import BUNDLE
from tokmarg import AsyncGuard, ContentError, Guard, ModeratedText, OptionError, ScoreOptions
from tokmarg.moderation import TOLERANCE

KIND = ["hel", "lo ", "hello", " hello. ", "hello"]
RUDE = ["hello ", "hello ", "gun ", "hello ", "hello ", "hello"]


class Stream:
    """Chunks as a client library hands them out, to be closed."""

    def __init__(self, *chunks: str) -> None:
        self._chunks = iter(chunks)
        self.closed = False
        self.read = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.read += 1
        return next(self._chunks)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def guard(word_bundle: Path) -> Guard:
    return Guard.load(word_bundle, device="cpu", threads=1, prompt_cache="1 MB")


def parts(found: list[ModeratedText]) -> list[tuple[str, bool, bool]]:
    return [(part.text, part.result.flagged, part.stopped) for part in found]


def test_after_some_tokens_and_at_the_end(guard: Guard) -> None:
    found = list(guard.moderate(KIND, every=3, sentences=False))
    assert parts(found) == [("hello hello", False, False), (" hello. ", False, False), ("hello", False, False)]
    assert found[-1].result == guard.score("".join(KIND), role="assistant", tolerance=TOLERANCE)


def test_at_ends_of_sentences(guard: Guard) -> None:
    assert [part.text for part in guard.moderate(KIND, every=99)] == ["hello hello hello. ", "hello"]
    assert [part.text for part in guard.moderate(["hello\n", "hello。", "3.5 ", "a."], every=99)] == [
        "hello\n",
        "hello。",
        "3.5 a.",
    ]


def test_the_stream_ends_where_the_text_is_flagged(guard: Guard) -> None:
    stream = Stream(*RUDE)
    found = list(guard.moderate(stream, every=2))
    assert parts(found) == [("hello ", False, False), ("hello ", False, False), ("gun ", True, True)]
    assert (stream.closed, stream.read) == (True, 3)


def test_patience(guard: Guard) -> None:
    found = list(guard.moderate(RUDE, every=2, patience=2))
    assert parts(found)[2:] == [("gun ", True, False), ("hello ", True, True)]
    assert not any(part.stopped for part in guard.moderate(RUDE, every=2, patience=9))


def test_the_context_counts(guard: Guard) -> None:
    context = [{"role": "user", "content": "gun"}]
    (part,) = guard.moderate(["hello"], context=context)
    talk = [*context, {"role": "assistant", "content": "hello"}]
    assert part.result == guard.score(talk, tolerance=TOLERANCE)
    (part,) = guard.moderate(["hello"], context=context, options=ScoreOptions())
    assert part.result == guard.score(talk)
    (part,) = guard.moderate(["hello"], role="user", tolerance=0.5)
    assert part.result == guard.score("hello", tolerance=0.5)


def test_an_answer_costs_a_quarter_of_its_beginnings_at_most() -> None:
    plain, remembering = (Guard.load(BUNDLE, device="cpu", prompt_cache=size) for size in (None, "64 MB"))
    text = "The bakery opens at seven and sells bread, rolls and plum cake until the shelves are empty."
    words = text.split()
    chunks = [" ".join(words[n % 17 : n % 17 + 8]) + " " for n in range(20)]

    def tokens(guard: Guard, work: Callable[[], object]) -> int:
        before = guard._session.counts[0]
        work()
        return int(guard._session.counts[0] - before)

    found: list[ModeratedText] = []
    once = tokens(remembering, lambda: found.extend(remembering.moderate(chunks, every=1, patience=99)))
    beginnings = ["".join(chunks[: n + 1]) for n in range(20)]
    expected = [plain.score(text, role="assistant", tolerance=TOLERANCE) for text in beginnings[::6]]
    assert [part.result for part in found][::6] == expected  # int8: to the bit
    afresh = tokens(plain, lambda: [plain.score(text, role="assistant") for text in beginnings])
    assert once <= afresh / 4


def test_a_stream_of_nothing(guard: Guard) -> None:
    assert list(guard.moderate([])) == list(guard.moderate(["", " ", "\n"])) == []


def test_whoever_stops_early_closes_the_stream(guard: Guard) -> None:
    stream = Stream(*KIND)
    moderation = guard.moderate(stream, every=1)
    next(moderation)
    del moderation
    assert stream.closed


def test_what_is_wrong(guard: Guard) -> None:
    with pytest.raises(ContentError, match="tokens"):
        list(guard.moderate(["hello "] * 100))
    with pytest.raises(OptionError, match="a chunk must be a text, not 3"):
        list(guard.moderate(["hello", 3]))  # type: ignore[list-item]
    wrong: dict[str, Any] = {"every": 0, "patience": 0, "sentences": 1}
    for name, value in wrong.items():
        with pytest.raises(OptionError, match=name):
            guard.moderate(["hello"], **{name: value})
    with pytest.raises(OptionError, match="is no option of scoring"):
        guard.moderate(["hello"], nodes=3)


# asyncio


def test_an_asynchronous_stream(guard: Guard) -> None:
    ended: list[str] = []

    async def chunks() -> AsyncIterator[str]:
        try:
            for chunk in RUDE:
                await asyncio.sleep(0)
                yield chunk
        finally:
            ended.append("closed")

    async def moderate() -> list[ModeratedText]:
        async with AsyncGuard(guard) as shared:
            return [part async for part in shared.moderate(chunks(), every=2)]

    found = asyncio.run(moderate())
    assert parts(found) == parts(list(guard.moderate(RUDE, every=2)))
    assert ended == ["closed"]


def test_many_streams_at_once(guard: Guard) -> None:
    async def moderate(shared: AsyncGuard, chunks: Any) -> list[ModeratedText]:
        return [part async for part in shared.moderate(chunks, every=2)]

    async def all_of_them() -> list[list[ModeratedText]]:
        async with AsyncGuard(guard) as shared:
            return await asyncio.gather(*(moderate(shared, RUDE if n % 2 else KIND) for n in range(20)))

    for n, found in enumerate(asyncio.run(all_of_them())):
        assert found[-1].stopped == bool(n % 2)
