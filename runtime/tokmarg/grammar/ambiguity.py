"""Token paths with two readings: verdicts with different events that no search could tell apart.

With the labels ``A``, ``B`` and ``A,B`` the tokens ``A , B`` are two labels or one. Such paths are found as Sardinas
and Patterson decide whether a code is uniquely decodable: of two readings of one path one is ahead by some tokens, the
*remainder*; the other one has to go on with them. A remainder is the end of a move, so there are few of them, however
many verdicts there are.

That a label may come once only is left aside here where labels come in any order, and so are events: a path is a
suspicion that the trie then confirms. Where they come in the policy's order, each reading knows which may still come.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
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
    """Tokens (at least one) from a place in the grammar to another, and the events that they bring.

    ``label`` is the bit of the label that the step is and ``used`` the set of those that may not come after it, both of
    lists in the policy's order; 0 otherwise.
    """

    tokens: tuple[int, ...]
    events: int
    to: Hashable
    label: int = 0
    used: int = 0


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps from a place, by their tokens and by every beginning of these."""

    by_tokens: dict[tuple[int, ...], list[Step]] = field(default_factory=dict)
    by_beginning: dict[tuple[int, ...], list[Step]] = field(default_factory=dict)


class _Reading(NamedTuple):
    """A reading of a path, from where it parts from another: its place, the labels in order that may not come any more,
    and those that it has named."""

    place: Hashable
    used: int
    named: int = 0

    def after(self, step: Step) -> _Reading:
        """The reading after one more step."""
        return _Reading(step.to, self.used | step.used, self.named | step.label)


class _Pair(NamedTuple):
    """Two readings of one path: the one that is behind, the other, and what this is ahead by."""

    behind: _Reading
    ahead: _Reading
    remainder: tuple[int, ...]


class _Seen:
    """The pairs that have been looked at; one in which more labels may come stands for those in which fewer may, if
    their readings differ in the same labels."""

    def __init__(self) -> None:
        self._used: dict[tuple[Hashable, Hashable, tuple[int, ...], int], list[tuple[int, int]]] = {}

    def add(self, pair: _Pair) -> bool:
        """Whether the pair tells anything new."""
        behind, ahead, remainder = pair
        known = self._used.setdefault((behind.place, ahead.place, remainder, behind.named ^ ahead.named), [])
        if any(not (one & ~behind.used or other & ~ahead.used) for one, other in known):
            return False
        known.append((behind.used, ahead.used))
        return True


def suspicious_paths(steps_from: Callable[[Hashable], Sequence[Step]], start: Hashable) -> Iterator[tuple[int, ...]]:
    """Token paths from ``start`` on that two readings may share to the end of one of them.

    Args:
        steps_from: the steps from a place; not asked for :data:`END`.
        start: the place before any token.
    """
    index: dict[Hashable, _Steps] = {}
    # Of labels in order, the first path to a place leaves most to come.
    to_place: dict[Hashable, list[tuple[tuple[int, ...], _Reading]]] = {start: [((), _Reading(start, 0))]}
    places = deque([start])
    pairs: deque[tuple[_Pair, Hashable, tuple[int, ...]]] = deque()  # with place and tokens where they parted
    while places:
        place = places.popleft()
        if place is END:
            continue
        listed = steps_from(place)
        steps = index[place] = _indexed(listed)
        path, here = to_place[place][0]
        for step in _possible(listed, here):
            known = to_place.setdefault(step.to, [])
            if not known:
                places.append(step.to)
            if len(known) < _PATHS:
                known.append((path + step.tokens, _Reading(step.to, here.used | step.used)))
        for alike in steps.by_tokens.values():
            pairs.extend((pair, place, tokens) for pair, tokens in _partings(steps, alike, here))
    to_end = _ways_to_end(index)
    seen = _Seen()
    work = 0
    while pairs and work < _MAX_PAIRS:
        pair, origin, tokens = pairs.popleft()
        if not seen.add(pair):
            continue
        ending = _ending(pair, tokens, to_end)
        if ending is not None:
            yield from (path + ending for path, _ in to_place[origin])
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


def _possible(steps: Iterable[Step], reading: _Reading) -> Iterator[Step]:
    """The steps whose label may still come."""
    return (step for step in steps if not step.label & reading.used)


def _partings(steps: _Steps, alike: Sequence[Step], origin: _Reading) -> Iterator[tuple[_Pair, tuple[int, ...]]]:
    """Where two readings part: at steps with the same tokens, or with the first tokens of another one."""
    possible = list(_possible(alike, origin))
    if not possible:
        return
    first = possible[0]
    for other in possible[1:]:
        if (other.events, other.to) != (first.events, first.to):
            yield _Pair(origin.after(first), origin.after(other), ()), first.tokens
    for longer in _possible(steps.by_beginning.get(first.tokens, ()), origin):
        rest = longer.tokens[len(first.tokens) :]
        yield _Pair(origin.after(first), origin.after(longer), rest), longer.tokens


def _ending(pair: _Pair, tokens: tuple[int, ...], to_end: dict[Hashable, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The rest of a path on which one of the two readings ends and the other one is there, too; None if not yet."""
    behind, ahead = pair.behind.place, pair.ahead.place
    if behind is END:
        return tokens[: len(tokens) - len(pair.remainder)]
    if pair.remainder:
        return None
    if ahead is END:
        return tokens
    return tokens + to_end[behind] if behind == ahead and behind in to_end else None


def _following(pair: _Pair, index: dict[Hashable, _Steps]) -> Iterator[tuple[_Pair, tuple[int, ...]]]:
    """The pairs after one more step of the reading that is behind, and the tokens by which the path grows."""
    behind, ahead, remainder = pair
    steps = index[behind.place]
    if not remainder:
        yield from _from_level(behind, ahead, steps, index.get(ahead.place, _Steps()))
        return
    for length in range(1, len(remainder) + 1):
        for step in _possible(steps.by_tokens.get(remainder[:length], ()), behind):
            yield _Pair(behind.after(step), ahead, remainder[length:]), ()
    for step in _possible(steps.by_beginning.get(remainder, ()), behind):
        rest = step.tokens[len(remainder) :]
        yield _Pair(ahead, behind.after(step), rest), rest


def _from_level(
    one: _Reading, other: _Reading, steps: _Steps, others: _Steps
) -> Iterator[tuple[_Pair, tuple[int, ...]]]:
    """The pairs after one more step of each of two readings that are level, and the tokens of the longer one."""
    for tokens, alike in steps.by_tokens.items():
        for step in itertools.islice(_possible(alike, one), 1):
            for level in itertools.islice(_possible(others.by_tokens.get(tokens, ()), other), 1):
                yield _Pair(one.after(step), other.after(level), ()), tokens
            for longer in _possible(others.by_beginning.get(tokens, ()), other):
                yield _Pair(one.after(step), other.after(longer), longer.tokens[len(tokens) :]), longer.tokens
    for tokens, alike in others.by_tokens.items():
        for step in itertools.islice(_possible(alike, other), 1):
            for longer in _possible(steps.by_beginning.get(tokens, ()), one):
                yield _Pair(other.after(step), one.after(longer), longer.tokens[len(tokens) :]), longer.tokens


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
