"""AsyncGuard: a guard for asyncio, whose callers share passes while each waits for its own content alone.

async with AsyncGuard(Guard.load("bundle-folder")) as guard:
    result = await guard.score("How do I pick a lock?", timeout=5)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, NoReturn, Unpack, overload

from tokmarg.arguments import check_choice, check_integer, check_type
from tokmarg.errors import ContentError, OptionError, Overloaded, TokmargError
from tokmarg.guard import Guard
from tokmarg.moderation import ModeratedText, growing_text
from tokmarg.pipeline import searched
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Content, Record
from tokmarg.results import MethodResult, Result
from tokmarg.score_call import ScoreCall, Searched
from tokmarg.score_options import MAX_TOKENS, ExactKeywords, ScoreKeywords, ScoreOptions

from .async_moderation import moderated
from .engine_line import EngineLine, Ticket
from .stats import GuardStats
from .task_stream import task_stream

__all__ = ["AsyncGuard"]

Outcome = Result | MethodResult | ContentError
Contents = Iterable[Content | Record | ContentError] | AsyncIterable[Content | Record | ContentError]
#: Contents of one `score_many` that wait or are in flight at most: enough to share passes with each other.
_AHEAD = 32
_MAX_WAITING = 2**20


class AsyncGuard:
    """Scores contents of many callers with one guard. Safe to use from any number of event loops and threads.

    Contents wait in a line, from which the engine takes them between its passes. Short ones overtake long ones, and a
    caller with many does not keep others waiting. A score does not depend on who else is there.

    Args:
        guard: scores.
        max_waiting: contents in the waiting line at most; more are refused (:class:`tokmarg.Overloaded`).
        max_tokens: most tokens of one content, where a call does not say another number; None = as many as the context
            window takes.

    Attributes:
        guard: as given, or the last one given to :meth:`replace`.

    Raises:
        OptionError: an argument is of the wrong type or out of range.
    """

    def __init__(self, guard: Guard, *, max_waiting: int = 256, max_tokens: int | None = None) -> None:
        check_type("guard", guard, Guard, "a tokmarg.Guard")
        check_integer("max_waiting", max_waiting, _MAX_WAITING)
        if max_tokens is not None:
            check_integer("max_tokens", max_tokens, MAX_TOKENS)
        self.guard, self._max_tokens = guard, max_tokens
        self._line = EngineLine(guard._pipeline.serve, max_waiting)
        self._encoding = ThreadPoolExecutor(1, "tokmarg-encode")
        self._open: set[Ticket] = set()
        self._closed = False

    def __reduce__(self) -> NoReturn:
        raise TokmargError("an AsyncGuard cannot be pickled or copied: make another of a guard loaded there")

    async def __aenter__(self) -> AsyncGuard:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Refuses new contents, and returns when those accepted before are done."""
        self._closed = True
        while self._open:
            await asyncio.sleep(0.01)
        self._encoding.shutdown(wait=False)

    def replace(self, guard: Guard) -> None:
        """Scores with a guard of the same session (:meth:`tokmarg.Guard.recalibrated`) from the next content on.

        Raises:
            OptionError: it has another session.
        """
        if guard._session is not self.guard._session:
            raise OptionError(
                "guard must have the session of the one it replaces: Guard.recalibrated makes such a guard"
            )
        self.guard = guard

    def check_options(self, options: ScoreOptions) -> None:
        """Checks that options go with the guard.

        Raises:
            TokmargError: they do not; says why.
        """
        self._call(options, {})

    def stats(self) -> GuardStats:
        """What it does now, and has done."""
        return GuardStats.of(self._line.counts, self.guard._session.counts.tolist(), self.guard.cache_stats())

    @overload
    async def score(
        self,
        content: Content,
        *,
        id: object = ...,
        role: Role | None = ...,
        timeout: float | None = ...,
        client: Hashable = ...,
        **options: Unpack[ExactKeywords],
    ) -> Result: ...

    @overload
    async def score(
        self,
        content: Content,
        *,
        id: object = ...,
        role: Role | None = ...,
        timeout: float | None = ...,
        client: Hashable = ...,
        **options: Unpack[ScoreKeywords],
    ) -> Result | MethodResult: ...

    async def score(
        self,
        content: Content,
        *,
        id: object = None,
        role: Role | None = None,
        timeout: float | None = None,
        client: Hashable = None,
        options: ScoreOptions | None = None,
        **changes: Any,
    ) -> Result | MethodResult:
        """Scores one content. Where the task that waits is cancelled, so is the work.

        Args:
            content, id, role, options, changes: as for :meth:`tokmarg.Guard.score`.
            timeout: seconds after which nobody wants the result any more.
            client: whose content it is: each client gets a fair share.

        Raises:
            TimeoutError: it was not scored in time.
            Overloaded: too many contents wait already.
            ContentError, OptionError, TokmargError: as for :meth:`tokmarg.Guard.score`; or the guard is closed.
        """
        call = self._call(options, changes)
        async with asyncio.timeout(timeout):
            outcome = await self._outcome(Record(content, id, role), call, (client, object()), self._reserve())
        if isinstance(outcome, ContentError):
            raise outcome
        return outcome

    async def score_many(
        self,
        contents: Contents,
        *,
        on_error: Literal["raise", "return"] = "raise",
        ordered: bool = True,
        client: Hashable = None,
        options: ScoreOptions | None = None,
        **changes: Any,
    ) -> AsyncGenerator[Outcome, None]:
        """Scores a stream, lazily: it is read as results are taken.

        Args:
            contents: as for :meth:`tokmarg.Guard.score_many`, or an asynchronous iterable.
            on_error: ``raise`` ends the stream at the first content that cannot be scored; ``return`` puts the
                ContentError in its place and goes on.
            ordered: results come in the order of the contents; else each as soon as it is done.
            client, options, changes: as for :meth:`score`.

        Raises:
            Overloaded: too many contents wait already, when this one begins; later it waits for its turn.
            ContentError: with ``on_error="raise"``.
            OptionError, TokmargError: as for :meth:`tokmarg.Guard.score_many`.
        """
        check_choice("on_error", on_error, ("raise", "return"))
        if isinstance(contents, (str, bytes)) or not isinstance(contents, (Iterable, AsyncIterable)):
            raise OptionError(f"contents must be an iterable of contents, not {contents!r:.60}: for one, use score")
        call, flow, first = self._call(options, changes), (client, object()), [self._reserve()]

        async def start(content: Content | Record | ContentError) -> Coroutine[Any, Any, Outcome]:
            return self._outcome(content, call, flow, first.pop() if first else await self._place())

        outcomes = task_stream(contents, start, ahead=_AHEAD, ordered=ordered)
        try:
            async for outcome in outcomes:
                if on_error == "raise" and isinstance(outcome, ContentError):
                    raise outcome
                yield outcome
        finally:
            await outcomes.aclose()
            for ticket in first:  # nothing was read
                self._line.leave(ticket)

    def moderate(
        self,
        chunks: Iterable[str] | AsyncIterable[str],
        *,
        context: Sequence[Mapping[str, str]] = (),
        role: Role = "assistant",
        client: Hashable = None,
        options: ScoreOptions | None = None,
        **changes: Any,
    ) -> AsyncGenerator[ModeratedText, None]:
        """Moderates a text while it arrives, as :meth:`tokmarg.Guard.moderate` does; the arguments are the same, and
        chunks may be an asynchronous iterable.

        Raises:
            Overloaded: too many contents wait already.
            ContentError, OptionError, TokmargError: as for :meth:`tokmarg.Guard.moderate`.
        """
        text, chosen = growing_text(self.guard._parts.encoder.count, context, role, options, changes)

        async def score(content: Content) -> Result | MethodResult:
            result: Result | MethodResult = await self.score(content, client=client, options=chosen)
            return result

        return moderated(chunks, text, score)

    def _call(self, options: ScoreOptions | None, changes: dict[str, Any]) -> ScoreCall:
        chosen = ScoreOptions.of(options, **changes)
        if chosen.max_tokens is None:
            chosen = replace(chosen, max_tokens=self._max_tokens)
        self.guard._session.check_process()
        return self.guard._pipeline.calls.of(chosen)

    def _reserve(self) -> Ticket:
        """A place in the line.

        Raises:
            Overloaded: there is none.
            TokmargError: the guard is closed.
        """
        if not self._closed:
            return self._line.reserve()
        raise TokmargError("this AsyncGuard is closed")

    async def _place(self) -> Ticket:
        """A place in the line, waiting for it."""
        loop = asyncio.get_running_loop()
        while True:
            with suppress(Overloaded):
                return self._reserve()
            free = asyncio.Event()
            self._line.hope(lambda free=free: _in_loop(loop, free.set))  # type: ignore[misc]
            await free.wait()

    async def _outcome(
        self, content: Content | Record | ContentError, call: ScoreCall, flow: tuple[Hashable, Hashable], ticket: Ticket
    ) -> Outcome:
        """The result of one content that has a place; or its error."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        pipeline, options = self.guard._pipeline, call.options
        outcomes: list[Outcome | Exception] = []

        self._open.add(ticket)
        try:
            record = await loop.run_in_executor(self._encoding, pipeline.encode, content, options, options.on_overflow)
            if isinstance(record, ContentError):
                return record
            encoded = record

            def finish(error: TokmargError | None) -> None:
                try:
                    found = error or searched(encoded, [group.sequences for group in ticket.groups])
                    outcomes.append(call.result(found) if isinstance(found, Searched) else found)
                except Exception as unexpected:
                    outcomes.append(unexpected)
                _in_loop(loop, done.set)

            self._line.add(ticket, pipeline.groups(record, call.scorer.search), flow, finish)
            await done.wait()
        finally:
            self._line.leave(ticket)
            self._open.discard(ticket)
        (outcome,) = outcomes
        if isinstance(outcome, Exception) and not isinstance(outcome, ContentError):
            raise outcome
        return outcome


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Calls something in the loop's thread, unless the loop has ended, and with it whoever waited."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
