"""What was read before the caller's own iterator failed is scored and comes out first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tokmarg import ContentError, Guard
from tokmarg.explanation.occlusion import joined


class CallerError(Exception):
    """The caller's own."""


@pytest.fixture
def guard(word_bundle: Path) -> Guard:
    return Guard.load(word_bundle, device="cpu")


def failing(texts: list[Any], error: BaseException) -> Iterator[Any]:
    yield from texts
    raise error


def drain(outcomes: Iterator[Any]) -> tuple[list[Any], BaseException | None]:
    found = []
    try:
        for outcome in outcomes:
            found.append(outcome)
    except BaseException as error:  # KeyboardInterrupt too
        return found, error
    return found, None


@pytest.mark.parametrize("count", [0, 1, 3, 70])
def test_contents_before_a_failure_are_scored(guard: Guard, count: int) -> None:
    """One pack holds them all, or (70) several."""
    texts: list[Any] = ["gun", "hello", ""] * count
    expected = [str(each) for each in guard.score_many(texts, on_error="return")]
    error = CallerError("mine")
    found, raised = drain(guard.score_many(failing(texts, error), on_error="return"))
    assert [str(each) for each in found] == expected
    assert raised is error
    packs, raised = drain(guard.score_packs(failing(texts, error)))
    assert [str(each) for pack in packs for each in pack] == expected
    assert raised is error
    assert [len(pack) for pack in packs] == [len(pack) for pack in guard.score_packs(texts)]


def test_an_error_row_before_it_is_raised_first(guard: Guard) -> None:
    found, raised = drain(guard.score_many(failing(["gun", "", "gun"], CallerError())))
    assert len(found) == 1
    assert isinstance(raised, ContentError)


def test_unfolded_contents_come_out_first_too(guard: Guard) -> None:
    error = CallerError()
    found, raised = drain(guard.unfold(failing(["gun", "hello"], error)))
    assert [joined(each).bounds["unsafe"] for each in found] == [
        joined(each).bounds["unsafe"] for each in guard.unfold(["gun", "hello"]) if not isinstance(each, ContentError)
    ]
    assert raised is error


def test_a_message_that_fails_when_it_is_read(guard: Guard) -> None:
    class Lazy(Mapping[str, str]):
        def __getitem__(self, key: str) -> NoReturn:
            raise error

        def __iter__(self) -> Iterator[str]:
            return iter(("role", "content"))

        def __len__(self) -> int:
            return 2

    error = CallerError()
    found, raised = drain(guard.score_many(["gun", [Lazy()], "gun"], on_error="return"))
    assert found == [guard.score("gun")]
    assert raised is error


def test_an_interrupt_does_not_wait_for_a_pack(guard: Guard) -> None:
    error = KeyboardInterrupt()
    assert drain(guard.score_many(failing(["gun"], error))) == ([], error)


@pytest.mark.parametrize("score", [Guard.score_many, Guard.score_packs])
def test_the_guard_works_on(guard: Guard, score: Callable[..., Iterator[Any]]) -> None:
    before = guard.score("gun")
    drain(score(guard, failing(["hello", "gun"], CallerError())))
    assert guard.score("gun") == before
