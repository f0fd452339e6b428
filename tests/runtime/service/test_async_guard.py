"""AsyncGuard: callers share passes, get what a direct call gives, and wait for nobody else's work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.int8_guard import TEXTS, build
from tokmarg import AsyncGuard, ContentError, Guard, OptionError, Overloaded, Record, TokmargError
from tokmarg.engine.session import Session
from tokmarg.errors import DeviceError

CONVERSATION = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "gun. idiot"}]
WORDS: tuple[Any, ...] = ("hello", "gun", "idiot", "hello gun. idiot", "noise", "hello " * 30, CONVERSATION)


@pytest.fixture(scope="module")
def word_guard(word_bundle: Path) -> Guard:
    return Guard.load(word_bundle, device="cpu", threads=2)


@pytest.fixture(scope="module")
def int8_guard(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Guard:
    return Guard.load(build(tiny_model, tmp_path_factory.mktemp("int8") / "bundle"), device="cpu", threads=2)


class Gate:
    """Holds passes up; counts them, and the new tokens of each."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()
        self.tokens: list[int] = []


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    for name in ("run", "run_alone"):
        begin = getattr(Session, name)

        def held(session: Session, forward: Any, begin: Any = begin, **more: Any) -> Any:
            gate.tokens.append(len(forward.input_ids))
            gate.begun.set()
            assert gate.open.wait(60)
            return begin(session, forward, **more)

        monkeypatch.setattr(Session, name, held)
    yield gate
    gate.open.set()


def test_the_same_as_a_direct_call(word_guard: Guard) -> None:
    async def score() -> list[Any]:
        async with AsyncGuard(word_guard) as guard:
            return list(await asyncio.gather(*(guard.score(each, id=n) for n, each in enumerate(WORDS))))

    for n, (found, content) in enumerate(zip(asyncio.run(score()), WORDS, strict=True)):
        expected = word_guard.score(content, id=n)
        assert (found.id, found.flagged, found.coverage) == (n, expected.flagged, pytest.approx(expected.coverage))
        for label, marginal in expected.labels.items():
            if marginal is None:
                assert found.labels[label] is None
            else:
                assert found.labels[label].probability == pytest.approx(marginal.probability, abs=1e-5)


def test_int8_has_the_same_bits_under_load(int8_guard: Guard) -> None:
    contents: list[Any] = [*TEXTS, [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "No. " * 9}]]
    options: dict[str, Any] = {"max_nodes": 30}
    alone = [int8_guard.score(content, **options) for content in contents]

    async def score() -> None:
        async with AsyncGuard(int8_guard) as guard:
            for _ in range(2):
                calls = [guard.score(content, client=n % 3, **options) for n, content in enumerate(contents * 4)]
                assert await asyncio.gather(*calls) == alone * 4
            assert guard.stats().done == 8 * len(contents)

    asyncio.run(score())


def test_calls_share_passes(int8_guard: Guard, gate: Gate) -> None:
    async def score() -> None:
        async with AsyncGuard(int8_guard) as guard:
            await guard.score(TEXTS[0], max_nodes=5)
            single, before = len(gate.tokens), guard.stats().passes
            gate.tokens.clear()
            gate.open.clear()  # until all stand in the line: how soon they come is the machine's affair
            calls = [asyncio.create_task(guard.score(TEXTS[0], max_nodes=5)) for _ in range(12)]
            await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(guard._encoding, lambda: None)  # after their encoding
            gate.open.set()
            await asyncio.gather(*calls)
            assert len(gate.tokens) <= 6 * single
            assert max(gate.tokens) > 30
            assert guard.stats().passes - before == len(gate.tokens)

    asyncio.run(score())


async def until(holds: Callable[[], bool]) -> None:
    """Waits for what another thread or task brings about."""
    for _ in range(6000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a minute has passed")


def test_who_comes_later_joins_between_passes(int8_guard: Guard, gate: Gate) -> None:
    """A short content is done before a long one that was there first."""

    async def score() -> None:
        order: list[str] = []
        async with AsyncGuard(int8_guard) as guard:

            async def one(which: str, text: str, **more: Any) -> None:
                await guard.score(text, **more)
                order.append(which)

            gate.open.clear()
            gate.begun.clear()
            first = asyncio.create_task(one("long", "word " * 600, max_nodes=1))
            await asyncio.to_thread(gate.begun.wait, 60)
            second = asyncio.create_task(one("short", "hello", max_nodes=1))
            await until(lambda: guard.stats().waiting_tokens > 0)
            gate.open.set()
            await asyncio.gather(first, second)
        assert order == ["short", "long"]

    asyncio.run(score())


def test_the_line_is_bounded(word_guard: Guard, gate: Gate) -> None:
    async def score() -> None:
        async with AsyncGuard(word_guard, max_waiting=3) as guard:
            gate.open.clear()
            calls = [asyncio.create_task(guard.score("gun"))]
            await asyncio.to_thread(gate.begun.wait, 60)
            calls += [asyncio.create_task(guard.score("gun")) for _ in range(3)]
            await until(lambda: guard.stats().waiting == 3)
            assert (guard.stats().waiting, guard.stats().in_flight) == (3, 1)
            with pytest.raises(Overloaded, match="3 contents wait to be scored already") as refused:
                await guard.score("gun")
            assert refused.value.retry_after >= 1
            with pytest.raises(Overloaded):
                await anext(guard.score_many(["gun"]))
            gate.open.set()
            assert all(result.flagged for result in await asyncio.gather(*calls))
            assert (guard.stats().refused, guard.stats().waiting, guard.stats().in_flight) == (2, 0, 0)
            assert guard.stats().waiting_tokens == 0

    asyncio.run(score())


def test_a_stream_waits_for_room_once_it_has_begun(word_guard: Guard) -> None:
    async def score() -> list[Any]:
        async with AsyncGuard(word_guard, max_waiting=2) as guard:
            records = [Record("gun" if n % 2 else "hello", id=n) for n in range(50)]
            return [result async for result in guard.score_many(records)]

    found = asyncio.run(score())
    assert [result.id for result in found] == list(range(50))
    assert [result.flagged for result in found] == [bool(n % 2) for n in range(50)]


def test_streams_with_errors_in_order_or_as_done(word_guard: Guard) -> None:
    async def contents() -> AsyncIterator[Any]:
        for each in ("gun", "", "hello", "hello " * 500):
            yield each

    async def score() -> None:
        async with AsyncGuard(word_guard) as guard:
            found = [each async for each in guard.score_many(contents(), on_error="return")]
            kinds = [each.type if isinstance(each, ContentError) else each.flagged for each in found]
            assert kinds == [True, "empty_text", False, "content_too_long"]
            done = [each async for each in guard.score_many(contents(), on_error="return", ordered=False)]
            assert len(done) == 4
            with pytest.raises(ContentError):
                [each async for each in guard.score_many(contents())]
            with pytest.raises(OptionError, match="for one, use score"):
                [each async for each in guard.score_many("gun")]
            assert guard.stats().waiting == 0

    asyncio.run(score())


def test_a_timeout_ends_the_work(int8_guard: Guard, gate: Gate) -> None:
    async def score() -> None:
        async with AsyncGuard(int8_guard) as guard:
            gate.open.clear()
            with pytest.raises(TimeoutError):
                await guard.score("word " * 700, timeout=1)
            gate.open.set()
            await guard.score("hello", max_nodes=1)
            assert sum(gate.tokens) < 500  # of 700: the rest is not computed
            stats = guard.stats()
            assert (stats.cancelled, stats.in_flight, stats.waiting, stats.waiting_tokens) == (1, 0, 0, 0)

    asyncio.run(score())


def test_what_is_cancelled_in_the_line_never_runs(word_guard: Guard, gate: Gate) -> None:
    async def score() -> None:
        async with AsyncGuard(word_guard) as guard:
            gate.open.clear()
            first = asyncio.create_task(guard.score("gun"))
            await asyncio.to_thread(gate.begun.wait, 60)
            others = [asyncio.create_task(guard.score("idiot " * 20)) for _ in range(5)]
            await until(lambda: guard.stats().waiting == 5)
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            gate.open.set()
            assert (await first).flagged
            assert max(gate.tokens) < 20
            assert guard.stats().cancelled == 5

    asyncio.run(score())


def test_a_bulk_upload_leaves_room_for_one_row(int8_guard: Guard) -> None:
    async def score() -> None:
        async with AsyncGuard(int8_guard) as guard:
            rows = 0

            async def upload() -> None:
                nonlocal rows
                async for _ in guard.score_many([TEXTS[0]] * 300, client="bulk", max_nodes=20):
                    rows += 1

            task = asyncio.create_task(upload())
            while rows < 20:
                await asyncio.sleep(0.01)
            before = rows
            await guard.score(TEXTS[0], client="single", max_nodes=20)
            assert rows - before < 40
            task.cancel()

    asyncio.run(score())


def test_a_pass_that_fails_loses_its_contents_only(word_guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Session.run

    def failing(session: Session, forward: Any) -> Any:
        if len(forward.input_ids) > 30:
            raise DeviceError("out of memory, as if")
        return begin(session, forward)

    monkeypatch.setattr(Session, "run", failing)

    async def score() -> None:
        async with AsyncGuard(word_guard) as guard:
            with pytest.raises(DeviceError, match="as if"):
                await guard.score("hello " * 30)
            assert (await guard.score("gun")).flagged
            assert guard.stats().failed == 1

    asyncio.run(score())


def test_an_engine_that_breaks_tells_its_callers_and_starts_anew(
    word_guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, broken = Session.run, [True]

    def breaking(session: Session, forward: Any) -> Any:
        if broken.pop() if broken else False:
            raise RuntimeError("as if")
        return begin(session, forward)

    monkeypatch.setattr(Session, "run", breaking)

    async def score() -> None:
        async with AsyncGuard(word_guard) as guard:
            with pytest.raises(TokmargError, match="the engine failed: RuntimeError: as if"):
                await guard.score("hello")
            assert (await guard.score("gun")).flagged

    asyncio.run(score())


def test_closing_waits_for_what_was_accepted(word_guard: Guard, gate: Gate) -> None:
    async def score() -> None:
        guard = AsyncGuard(word_guard)
        gate.open.clear()
        call = asyncio.create_task(guard.score("gun"))
        await asyncio.to_thread(gate.begun.wait, 60)
        closing = asyncio.create_task(guard.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        with pytest.raises(TokmargError, match="is closed"):
            await guard.score("gun")
        gate.open.set()
        await closing
        assert (await call).flagged

    asyncio.run(score())


def test_no_thread_stays(word_guard: Guard) -> None:
    async def score() -> None:
        async with AsyncGuard(word_guard) as guard:
            await guard.score("gun")

    asyncio.run(score())
    until = time.monotonic() + 10
    while any(thread.name.startswith("tokmarg") for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_many_loops_at_once(word_guard: Guard) -> None:
    shared, flagged = AsyncGuard(word_guard), list[bool]()

    def loop() -> None:
        async def score() -> None:
            results = await asyncio.gather(*(shared.score("gun") for _ in range(10)))
            flagged.extend(result.flagged for result in results)

        asyncio.run(score())

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flagged == [True] * 40


def test_packed_contents_leave_and_others_take_their_slots(word_guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long run: what has left is dropped from the cache, and those that stay find their tokens again."""
    monkeypatch.setattr("tokmarg.engine.prefix_batch._MIN_LEFT", 1)
    texts = ["hello " * (n % 20) + ("gun" if n % 3 else "idiot. gun") for n in range(120)]
    expected = [word_guard.score(text) for text in texts]

    async def score() -> list[Any]:
        async with AsyncGuard(word_guard) as guard:
            return [each async for each in guard.score_many(texts, tolerance=1e-9, max_nodes=99)]

    for found, wanted in zip(asyncio.run(score()), expected, strict=True):
        for label, marginal in wanted.labels.items():
            if marginal is not None:
                assert found.labels[label].probability == pytest.approx(marginal.probability, abs=1e-3)


def test_another_calibration(word_guard: Guard) -> None:
    guard = AsyncGuard(word_guard)
    guard.replace(word_guard.recalibrated(False))
    with pytest.raises(OptionError, match="the session of the one it replaces"):
        guard.replace(Guard.load(word_guard.path, device="cpu", threads=1))


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [({"max_waiting": 0}, "max_waiting"), ({"max_tokens": 0}, "max_tokens"), ({"max_waiting": "3"}, "max_waiting")],
)
def test_arguments(word_guard: Guard, arguments: dict[str, Any], wrong: str) -> None:
    with pytest.raises(OptionError, match=wrong):
        AsyncGuard(word_guard, **arguments)


def test_max_tokens(word_guard: Guard) -> None:
    async def score() -> None:
        async with AsyncGuard(word_guard, max_tokens=5) as guard:
            with pytest.raises(ContentError, match="max_tokens") as refused:
                await guard.score("hello " * 20)
            assert refused.value.type == "content_too_long"
            assert not (await guard.score("hello " * 20, max_tokens=100)).flagged

    asyncio.run(score())
