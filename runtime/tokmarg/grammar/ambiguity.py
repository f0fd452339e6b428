"""Token paths with two readings: verdicts with different events that no search could tell apart.

With the labels ``A``, ``B`` and ``A,B`` the tokens ``A , B`` are two labels or one. Such paths are found as Sardinas
and Patterson decide whether a code is uniquely decodable: of two readings of one path one is ahead by some tokens, the
*remainder*; the other one has to go on with them. A remainder is the end of a move, so there are few of them, however
many verdicts there are.

That a label may come once only is left aside here, and so are events: a path is a suspicion that the trie then
confirms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["END", "Step", "suspicious_paths"]

#: The place after a terminator.
END = None
#: Pairs of steps that are compared at most: a bound on the work, far beyond what policies of 1,000 labels need.
_MAX_PAIRS = 500_000
#: Paths that lead to a place, for each: a label on one of them may be what the other one needs.
_PATHS = 3


class Step(NamedTuple):
    """Tokens (at least one) from a place in the grammar to another, and the events that they bring."""

    tokens: tuple[int, ...]
    events: int
    to: Hashable


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps from a place, by their tokens and by every beginning of these."""

    by_tokens: dict[tuple[int, ...], list[Step]] = field(default_factory=dict)
    by_beginning: dict[tuple[int, ...], list[Step]] = field(default_factory=dict)


class _Pair(NamedTuple):
    """Two readings of one path: the place of the one that is behind, that of the other, and what this is ahead by."""

    behind: Hashable
    ahead: Hashable
    remainder: tuple[int, ...]


def suspicious_paths(steps_from: Callable[[Hashable], Sequence[Step]], start: Hashable) -> Iterator[tuple[int, ...]]:
    """Token paths from ``start`` on that two readings may share to the end of one of them.

    Args:
        steps_from: the steps from a place; not asked for :data:`END`.
        start: the place before any token.
    """
    index: dict[Hashable, _Steps] = {}
    to_place: dict[Hashable, list[tuple[int, ...]]] = {start: [()]}
    places = deque([start])
    pairs: deque[tuple[_Pair, Hashable, tuple[int, ...]]] = deque()  # with place and tokens where they parted
    while places:
        place = places.popleft()
        if place is END:
            continue
        steps = index[place] = _indexed(steps_from(place))
        for alike in steps.by_tokens.values():
            for step in alike:
                known = to_place.setdefault(step.to, [])
                if not known:
                    places.append(step.to)
                if len(known) < _PATHS:
                    known.append(to_place[place][0] + step.tokens)
            pairs.extend((pair, place, tokens) for pair, tokens in _partings(steps, alike))
    to_end = _ways_to_end(index)
    seen: set[_Pair] = set()
    work = 0
    while pairs and work < _MAX_PAIRS:
        pair, origin, tokens = pairs.popleft()
        if pair in seen:
            continue
        seen.add(pair)
        ending = _ending(pair, tokens, to_end)
        if ending is not None:
            yield from (path + ending for path in to_place[origin])
            continue
        for following, more in _following(pair, index):
            work += 1
            pairs.append((following, origin, tokens + more))


def _indexed(steps: Sequence[Step]) -> _Steps:
    indexed = _Steps()
    for step in steps:
        indexed.by_tokens.setdefault(step.tokens, []).append(step)
        for length in range(len(step.tokens)):
            indexed.by_beginning.setdefault(step.tokens[:length], []).append(step)
    return indexed


def _partings(steps: _Steps, alike: Sequence[Step]) -> Iterator[tuple[_Pair, tuple[int, ...]]]:
    """Where two readings part: at steps with the same tokens, or with the first tokens of another one."""
    first = alike[0]
    for other in alike[1:]:
        if (other.events, other.to) != (first.events, first.to):
            yield _Pair(first.to, other.to, ()), first.tokens
    for longer in steps.by_beginning.get(first.tokens, ()):
        yield _Pair(first.to, longer.to, longer.tokens[len(first.tokens) :]), longer.tokens


def _ending(pair: _Pair, tokens: tuple[int, ...], to_end: dict[Hashable, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The rest of a path on which one of the two readings ends and the other one is there, too; None if not yet."""
    if pair.behind is END:
        return tokens[: len(tokens) - len(pair.remainder)]
    if pair.remainder:
        return None
    if pair.ahead is END:
        return tokens
    return tokens + to_end[pair.behind] if pair.behind == pair.ahead and pair.behind in to_end else None


def _following(pair: _Pair, index: dict[Hashable, _Steps]) -> Iterator[tuple[_Pair, tuple[int, ...]]]:
    """The pairs after one more step of the reading that is behind, and the tokens by which the path grows."""
    behind, (_, ahead, remainder) = index[pair.behind], pair
    if not remainder:
        for tokens, steps in behind.by_tokens.items():
            for other in index[ahead].by_tokens.get(tokens, ())[:1] if ahead in index else ():
                yield _Pair(steps[0].to, other.to, ()), tokens
            for longer in index[ahead].by_beginning.get(tokens, ()) if ahead in index else ():
                yield _Pair(steps[0].to, longer.to, longer.tokens[len(tokens) :]), longer.tokens
        for tokens, steps in index[ahead].by_tokens.items() if ahead in index else ():
            for longer in behind.by_beginning.get(tokens, ()):
                yield _Pair(steps[0].to, longer.to, longer.tokens[len(tokens) :]), longer.tokens
        return
    for length in range(1, len(remainder) + 1):
        for step in behind.by_tokens.get(remainder[:length], ()):
            yield _Pair(step.to, ahead, remainder[length:]), ()
    for step in behind.by_beginning.get(remainder, ()):
        rest = step.tokens[len(remainder) :]
        yield _Pair(ahead, step.to, rest), rest


def _ways_to_end(index: dict[Hashable, _Steps]) -> dict[Hashable, tuple[int, ...]]:
    """Tokens from each place to the end of a verdict, by a shortest chain of steps."""
    before: dict[Hashable, list[tuple[Hashable, tuple[int, ...]]]] = {}
    for place, steps in index.items():
        for tokens, alike in steps.by_tokens.items():
            for to in {step.to for step in alike}:
                before.setdefault(to, []).append((place, tokens))
    ways: dict[Hashable, tuple[int, ...]] = {END: ()}
    pending: deque[Hashable] = deque([END])
    while pending:
        place = pending.popleft()
        for earlier, tokens in before.get(place, ()):
            if earlier not in ways:
                ways[earlier] = tokens + ways[place]
                pending.append(earlier)
    return ways
