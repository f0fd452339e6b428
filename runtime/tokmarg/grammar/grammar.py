"""Verdict grammar as a state machine: which strings count as a verdict, and which events happen in each.

A grammar is a list of parts, matched one after the other; :mod:`tokmarg.grammar.syntax` says what parts there are.
Llama Guard, for example:

    [{choice = [{text = "safe"},
                {text = "unsafe", event = "unsafe", then = ["\\n", {labels = "id", separators = [","]}]}]}]

The grammar is walked as a state machine over pieces of text. A *state* is the tuple of parts still to be
matched; ``moves`` lists what may come next: a piece of text, the events it brings, and the state after it.
A literal is joined to the move that follows it, so that every move ends at a decision of the grammar.

>>> g = Grammar.parse([{"choice": [{"text": "safe"}, {"text": "unsafe", "event": "unsafe", "then": [
...     "\\n", {"labels": "id", "separators": [","]}]}]}], labels=[("A", "A"), ("B", "B")])
>>> [m.text for m in g.moves(g.start)]
['safe', 'unsafe']
>>> [m.text for m in g.moves(g.moves(g.start)[1].state)]
['\\nA', '\\nB']
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tokmarg.errors import SpecError

from .syntax import Alternative, Choice, LabelList, LabelTexts, Move, Part, State, label_lists, parse_parts

__all__ = ["UNSAFE", "Grammar", "Part"]

UNSAFE = "unsafe"


class Grammar:
    """A verdict grammar for the labels of one role mode.

    Events are bits of an int: bit i is label i, the named events (``unsafe`` first) follow.

    Attributes:
        labels: id, name and code of each label, in the policy's order.
        events: event names, label ids first, then ``unsafe``, then the others as they appear in the grammar; bit i of a
            bit set is ``events[i]``.
        start: the state before any text.
        ordered: bit set of the labels that lists in the policy's order bring.
    """

    def __init__(self, parts: Sequence[Part], labels: Iterable[LabelTexts]) -> None:
        self.labels = tuple(labels)
        parts = _without_needless_limits(parts, len(self.labels))
        ids = [label.id for label in self.labels]
        named = dict.fromkeys(name for name, _ in self._named_events(parts))  # an option may decide a label, too
        self.events: tuple[str, ...] = (*ids, UNSAFE, *(name for name in named if name not in {UNSAFE, *ids}))
        self._bit = {name: 1 << i for i, name in enumerate(self.events)}
        self.start = State(tuple(parts), 0)
        in_order = [part for part in label_lists(parts) if part.order == "policy"]
        self.ordered = self._mask([part.event(label.id) for part in in_order for label in self.labels])
        #: Events that parts can bring: those of label lists, and those of options.
        self._reach: dict[tuple[Part, ...], tuple[int, int]] = {}

    @classmethod
    def parse(
        cls, parts: object, labels: Sequence[tuple[str, str] | tuple[str, str, str | None]], where: str = "spec"
    ) -> Grammar:
        """Builds the grammar from its JSON/TOML form.

        Args:
            parts: a list of parts.
            labels: (id, name) or (id, name, code) of each label of the policy, in the policy's order.
            where: document name for error messages.

        Raises:
            SpecError: a part is malformed, or a label list has no labels, or one without the code that it writes; names
                the field.
        """
        parsed, texts = parse_parts(parts, where, "verdict.grammar"), [LabelTexts(*label) for label in labels]
        lists = list(label_lists(parsed))
        if not labels and lists:
            raise SpecError(f"{where}: policy.labels: is empty")
        for label in texts:
            if label.id == UNSAFE:
                raise SpecError(f"{where}: policy.labels: a label may not be called {UNSAFE!r}")
            if label.code is None and any("code" in each.fields for each in lists):
                raise SpecError(
                    f"{where}: policy.labels: {label.id!r:.60} has no code, which the verdict grammar writes"
                )
        return cls(parsed, texts)

    def mask(self, event: str) -> int:
        """The bit of ``event``."""
        return self._bit[event]

    def names(self, mask: int) -> tuple[str, ...]:
        """The events of a bit set, by name."""
        return tuple(name for i, name in enumerate(self.events) if mask >> i & 1)

    def moves(self, state: State) -> list[Move]:
        """What may follow ``state``, in the grammar's order (never empty)."""
        if not state.parts:
            return [Move("", 0, None)]
        part, rest = state.parts[0], state.parts[1:]
        if isinstance(part, str):
            return [_with_literal(part, move) for move in self.moves(State(rest, state.used))]
        moves: list[Move] = []
        if isinstance(part, Choice):
            for option in part.options:
                after = State((*option.then, *rest), state.used)
                events = self._mask(option.events)
                if option.text:
                    alternatives = tuple(Alternative("", pieces) for pieces in option.alternatives)
                    moves.append(Move(option.text, events, after, alternatives))
                else:
                    moves += [move._replace(events=move.events | events) for move in self.moves(after)]
            return moves
        moves = self._label_moves(part, rest, state.used)
        if part.started:
            moves += self.moves(State(rest, state.used))
        return moves

    def _label_moves(self, part: LabelList, rest: tuple[Part, ...], used: int) -> list[Move]:
        """The labels that may come next in a list."""
        separators = part.separators if part.started else ("",)
        left = None if part.left is None or part.left >= len(self.labels) else part.left - 1
        parts_after = rest if left == 0 else (replace(part, started=True, left=left), *rest)
        moves, earlier = [], 0
        for label in self.labels:
            bit = self._bit[part.event(label.id)]
            if part.order == "policy":
                earlier |= bit
            if not used & bit:
                after = State(parts_after, used | bit | earlier)
                moves += [Move(each + part.spell(label), bit, after, label=bit) for each in separators]
        return moves

    def reachable(self, state: State | None) -> int:
        """Bit set of events that may still happen after ``state`` (labels that may not come any more excluded)."""
        if state is None:
            return 0
        reach = self._reach.get(state.parts)
        if reach is None:
            named = self._named_events(state.parts)
            by_list, by_option = (
                self._mask([name for name, listed in named if listed is which]) for which in (True, False)
            )
            reach = self._reach[state.parts] = (by_list, by_option)
        return reach[0] & ~state.used | reach[1]

    def random_verdict(self, rng: random.Random, leads: Sequence[str]) -> tuple[str, int]:
        """The text of a random verdict after one of the leads, and the bit set of its events.

        Of many labels it has some: to go through verdicts of all of them would take the square of their number.
        """
        text = rng.choice(leads)
        state: State | None = self.start
        events, count, most = 0, 0, max(4, 600 // (1 + len(self.labels)))
        while state is not None:
            moves = self.moves(state)
            count += 1
            move = moves[-1] if count > most else rng.choice(moves)  # the last move is what ends a list
            text, events, state = text + move.text, events | move.events, move.state
        return text, events

    def longest(self) -> str:
        """A verdict of about the greatest length: the longest options, every label."""
        return self._longest(self.start.parts)

    def _longest(self, parts: Sequence[Part]) -> str:
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
            elif isinstance(part, Choice):
                text += max((option.text + self._longest(option.then) for option in part.options), key=len)
            else:
                spelled = [part.spell(label) for label in self.labels]
                labels = sorted(range(len(spelled)), key=lambda i: -len(spelled[i]))[: part.left]
                if part.order == "policy":
                    labels.sort()
                text += max(part.separators, key=len, default="").join(spelled[i] for i in labels)
        return text

    def _named_events(self, parts: Sequence[Part]) -> list[tuple[str, bool]]:
        """The events that the parts can bring, and whether a label list does."""
        events: list[tuple[str, bool]] = []
        for part in parts:
            if isinstance(part, LabelList):
                events += [(part.event(label.id), True) for label in self.labels]
            elif isinstance(part, Choice):
                for option in part.options:
                    events += [*((name, False) for name in option.events), *self._named_events(option.then)]
        return events

    def _mask(self, events: Sequence[str]) -> int:
        mask = 0
        for event in events:
            mask |= self._bit[event]
        return mask


def _without_needless_limits(parts: Sequence[Part], labels: int) -> tuple[Part, ...]:
    """The parts; a list that may have all labels has no limit, for each number of labels to come is a state."""
    return tuple(
        replace(part, left=None)
        if isinstance(part, LabelList) and part.left is not None and part.left >= labels > 1
        else replace(
            part, options=tuple(replace(o, then=_without_needless_limits(o.then, labels)) for o in part.options)
        )
        if isinstance(part, Choice)
        else part
        for part in parts
    )


def _with_literal(text: str, move: Move) -> Move:
    """The move with a literal in front of it."""
    alternatives = tuple(other._replace(before=text + other.before) for other in move.alternatives)
    return move._replace(text=text + move.text, alternatives=alternatives)
