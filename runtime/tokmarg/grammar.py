"""The verdict grammar: which strings count as a verdict, and which events happen in each.

A grammar is a list of parts, matched one after the other:

    "text"                                     the text itself
    {choice = [option, ...]}                   one of the options
    {labels = "id", separators = [",", ...]}   one or more labels of the policy, each at most once, in any order,
                                               spelt by "id" or "name"

    option = {text = "unsafe", event = "unsafe", then = [part, ...]}    (event and then may be left out)

Llama Guard, for example:

    [{choice = [{text = "safe"},
                {text = "unsafe", event = "unsafe", then = ["\\n", {labels = "id", separators = [","]}]}]}]

The grammar is walked as a state machine over pieces of text. A *state* is the tuple of parts still to be
matched; ``moves`` lists what may come next: a piece of text, the events it brings, and the state behind it.
A literal is glued to the front of what follows, so that every move ends where the grammar really decides.

>>> g = Grammar.parse([{"choice": [{"text": "safe"}, {"text": "unsafe", "event": "unsafe", "then": [
...     "\\n", {"labels": "id", "separators": [","]}]}]}], labels=[("A", "A"), ("B", "B")])
>>> [m.text for m in g.moves(g.start)]
['safe', 'unsafe']
>>> [m.text for m in g.moves(g.moves(g.start)[1].state)]
['\\nA', '\\nB']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from .errors import SpecError
from .fields import Fields, has_surrogate

__all__ = ["UNSAFE", "Choice", "Grammar", "LabelList", "Move", "Option", "Part", "State"]

UNSAFE = "unsafe"
#: Choices inside choices, at most: parsing and walking a grammar recurse.
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Option:
    text: str
    event: str | None
    then: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class LabelList:
    spelling: Literal["id", "name"]
    separators: tuple[str, ...]
    started: bool = False


Part = str | Choice | LabelList


class State(NamedTuple):
    """Parts still to be matched, and the labels (a bit set of events) that are used up."""

    parts: tuple[Part, ...]
    used: int


class Move(NamedTuple):
    """One piece of verdict text from a decision to the next.

    ``state`` is None when the verdict is complete behind ``text`` and only a terminator may follow.
    """

    text: str
    events: int
    state: State | None


class Grammar:
    """A verdict grammar for the labels of one role mode.

    Events are bits of an int: bit i is label i, the named events (``unsafe`` first) follow.

    Attributes:
        events: event names, label ids first, then named events; bit i of a bit set is ``events[i]``.
        start: the state before any text.
    """

    def __init__(self, parts: Sequence[Part], labels: Sequence[tuple[str, str]]) -> None:
        self.labels = tuple(labels)
        named = sorted(set(_named_events(parts)) - {UNSAFE, *dict(labels)})  # an option may decide a label, too
        self.events: tuple[str, ...] = (*(i for i, _ in labels), UNSAFE, *named)
        self._bit = {name: 1 << i for i, name in enumerate(self.events)}
        self.start = State(tuple(parts), 0)
        self._reach: dict[tuple[Part, ...], int] = {}

    @classmethod
    def parse(cls, parts: object, labels: Sequence[tuple[str, str]], where: str = "spec") -> Grammar:
        """Builds the grammar from its JSON/TOML form.

        Args:
            parts: the list described in this module's docstring.
            labels: (id, name) of each label of the policy, in the policy's order.
            where: document name for error messages.

        Raises:
            SpecError: a part is malformed, or a label list has no labels; names the field.
        """
        parsed = _parse_parts(parts, where, "verdict.grammar")
        if not parsed:
            raise SpecError(f"{where}: verdict.grammar: is empty")
        if not labels:
            raise SpecError(f"{where}: policy.labels: is empty")
        if UNSAFE in dict(labels):
            raise SpecError(f"{where}: policy.labels: a label may not be called {UNSAFE!r}")
        return cls(parsed, labels)

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
            return [Move(part + m.text, m.events, m.state) for m in self.moves(State(rest, state.used))]
        if isinstance(part, Choice):
            found = []
            for option in part.options:
                after = State((*option.then, *rest), state.used)
                events = self._bit[option.event] if option.event else 0
                if option.text:
                    found.append(Move(option.text, events, after))
                else:
                    found += [Move(m.text, m.events | events, m.state) for m in self.moves(after)]
            return found
        leads = part.separators if part.started else ("",)
        found = []
        for i, (label_id, name) in enumerate(self.labels):
            if state.used >> i & 1:
                continue
            spelt = label_id if part.spelling == "id" else name
            again = LabelList(part.spelling, part.separators, started=True)
            after = State((again, *rest), state.used | 1 << i)
            found += [Move(lead + spelt, 1 << i, after) for lead in leads]
        if part.started:
            found += self.moves(State(rest, state.used))
        return found

    def reachable(self, state: State | None) -> int:
        """Bit set of events that may still happen behind ``state`` (labels already used included)."""
        if state is None:
            return 0
        found = self._reach.get(state.parts)
        if found is None:
            found = self._reach[state.parts] = self._reachable(state.parts)
        return found & ~state.used

    def _reachable(self, parts: tuple[Part, ...]) -> int:
        found = 0
        for part in parts:
            if isinstance(part, LabelList):
                found |= (1 << len(self.labels)) - 1
            elif isinstance(part, Choice):
                for option in part.options:
                    found |= (self._bit[option.event] if option.event else 0) | self._reachable(option.then)
        return found


def _named_events(parts: Sequence[Part]) -> list[str]:
    found: list[str] = []
    for part in parts:
        if isinstance(part, Choice):
            for option in part.options:
                found += ([option.event] if option.event else []) + _named_events(option.then)
    return found


def _parse_parts(parts: object, where: str, path: str, depth: int = 0) -> tuple[Part, ...]:
    if not isinstance(parts, (list, tuple)):
        raise SpecError(f"{where}: {path}: must be a list of parts")
    if depth > _MAX_DEPTH:
        raise SpecError(f"{where}: verdict.grammar: more than {_MAX_DEPTH} choices inside each other")
    return tuple(_parse_part(part, where, f"{path}[{i}]", depth) for i, part in enumerate(parts))


def _parse_part(part: Any, where: str, path: str, depth: int) -> Part:
    if isinstance(part, str):
        if not part or has_surrogate(part):
            raise SpecError(f"{where}: {path}: {'holds a lone surrogate' if part else 'empty text'}")
        return part
    fields = Fields(part, where, SpecError, path)
    if "choice" in fields.data:
        fields.only(["choice"])
        options = []
        for option in fields.tables("choice"):
            option.only(["text", "event", "then"])
            then = _parse_parts(option.get("then", list, []), where, f"{option.path}.then", depth + 1)
            event = option.get("event", str, None)
            if event is not None and not event.strip():
                raise option.fail("event", "is blank")
            options.append(Option(option.get("text", str), event, then))
        if not options:
            raise fields.fail("choice", "has no options")
        return Choice(tuple(options))
    fields.only(["labels", "separators"])
    spelling = fields.get("labels", str)
    if spelling not in ("id", "name"):
        raise fields.fail("labels", f'must be "id" or "name", not {spelling!r}')
    separators = fields.strings("separators")
    if not separators or not all(separators):
        raise fields.fail("separators", "needs at least one text, none of them empty")
    return LabelList("id" if spelling == "id" else "name", separators)
