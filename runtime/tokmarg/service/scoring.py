"""Scoring for endpoints: the contents of a request through its guard, counted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing

from tokmarg.errors import ContentError
from tokmarg.prompt.messages import Record
from tokmarg.results import MethodResult, Result
from tokmarg.score_options import ScoreOptions

from .hosting import GuardHost, HostedGuard
from .problems import RequestError, of_exception

__all__ = ["Endpoint", "Outcome", "Scoring"]

Outcome = Result | MethodResult | ContentError


class Scoring:
    """Scores contents of requests.

    Args:
        count: called with each content's guard and outcome.
        most: contents of one request other than a stream.
    """

    def __init__(self, count: Callable[[HostedGuard, Outcome], None], most: int) -> None:
        self._count, self._most = count, most

    async def stream(
        self, hosted: HostedGuard, records: Iterable[Record | ContentError], client: str, options: ScoreOptions
    ) -> AsyncGenerator[Outcome, None]:
        """The outcomes of records, in order and lazily.

        Raises:
            Overloaded: too many contents wait already.
            TokmargError: the options do not go with the guard.
        """
        outcomes = hosted.guard.score_many(records, on_error="return", client=client, options=options)
        async with aclosing(outcomes):
            async for outcome in outcomes:
                self._count(hosted, outcome)
                yield outcome

    async def results(
        self, hosted: HostedGuard, records: Sequence[Record], client: str, options: ScoreOptions, params: Sequence[str]
    ) -> list[Result | MethodResult]:
        """The results of records that all have to be scored.

        Args:
            params: of each record the field it comes from, for the error.

        Raises:
            RequestError: one cannot be scored; names its field.
            Overloaded, TokmargError: as for :meth:`stream`.
        """
        if len(records) > self._most:
            raise RequestError(400, f"{len(records):,} contents are more than {self._most:,}: send JSONL to /v1/score")
        results: list[Result | MethodResult] = []
        async with aclosing(self.stream(hosted, records, client, options)) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome, ContentError):
                    raise of_exception(outcome, params[len(results)])
                results.append(outcome)
        return results


class Endpoint:
    """What answers requests with scores.

    Args:
        host: the guards.
        scoring: scores.
    """

    def __init__(self, host: GuardHost, scoring: Scoring) -> None:
        self._host, self._scoring = host, scoring
