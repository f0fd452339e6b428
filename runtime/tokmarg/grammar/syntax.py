"""Syntax of verdict grammars: the parts, and how a spec states them. :mod:`tokmarg.grammar.grammar` walks them.

    "text"                                  the text itself
    {choice = [option, ...]}                one of the options
    {labels = "id", separators = [","]}     one or more labels of the policy, each at most once

    option = {text = "unsafe", event = "unsafe", then = [part, ...], alternatives = [["un", "safe"]]}

All of an option but ``text`` may be left out; ``events = [...]`` stands for several at once. ``alternatives`` are
other token paths of the same text, as entries of the tokenizer's vocabulary: their mass is added to the option's.

``labels`` says how a label is written: ``id``, ``name``, ``code``, or a text with {{id}}, {{name}} or {{code}} in it.
``max`` limits how many there are (with ``max = 1`` no separator is needed). With ``order = "policy"`` they come in the
policy's order, each later than the one before; else (``"any"``) in any. A separator may be empty.

A label that is named happens as an event; a list with a ``namespace`` brings events of its own instead, called
``namespace:id``, so that two lists over the same labels (what the request violates, what the response violates) can
stand in one verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, get_args

from tokmarg.documents import Fields, has_surrogate
from tokmarg.errors import SpecError

__all__ = [
    "Alternative",
    "Choice",
    "LabelList",
    "LabelTexts",
    "Move",
    "Option",
    "Order",
    "Part",
    "State",
    "label_lists",
    "parse_parts",
    "substitute",
]

Order = Literal["any", "policy"]
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
#: Choices inside choices, at most: parsing and walking a grammar recurse.
_MAX_DEPTH = 32
#: Parts along one verdict, and moves between which one decision chooses (label lists counted once), at most: a grammar
#: of a few lines could have more verdict beginnings than there is memory.
_MAX_PARTS, _MAX_MOVES = 128, 2000
#: Characters of one literal, and separators of one label list, at most.
_MAX_TEXT, _MAX_SEPARATORS = 2000, 16


class LabelTexts(NamedTuple):
    """What a guard may write for a label; ``code`` is None where the label has none."""

    id: str
    name: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """A text, the events it brings, the parts that follow, and other token paths of the text (see the module)."""

    text: str
    events: tuple[str, ...] = ()
    then: tuple[Part, ...] = ()
    alternatives: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several options."""

    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class LabelList:
    """A list of labels, or the rest of one: ``left`` labels may still come (None: all), ``started`` if one has."""

    spelling: str
    separators: tuple[str, ...] = ()
    namespace: str | None = None
    left: int | None = None
    started: bool = False
    order: Order = "any"

    def event(self, label_id: str) -> str:
        """The event that the label brings."""
        return label_id if self.namespace is None else f"{self.namespace}:{label_id}"

    @property
    def fields(self) -> frozenset[str]:
        """What of a label the guard writes: ``id``, ``name``, ``code``."""
        return frozenset(PLACEHOLDER.findall(self._text))

    def spell(self, label: LabelTexts) -> str:
        """The label as the guard writes it; one without a code where the guard writes codes is a ValueError."""
        if label.code is None and "code" in self.fields:
            raise ValueError(f"the label {label.id!r} has no code")
        return substitute(self._text, {"id": label.id, "name": label.name, "code": label.code or ""})

    @property
    def _text(self) -> str:
        return f"{{{{{self.spelling}}}}}" if self.spelling in LabelTexts._fields else self.spelling


Part = str | Choice | LabelList


class State(NamedTuple):
    """Parts still to be matched, and the labels (a bit set of events) that may not come any more."""

    parts: tuple[Part, ...]
    used: int


class Alternative(NamedTuple):
    """Another token path for a move: the text ``before``, then ``pieces`` of the tokenizer's vocabulary."""

    before: str
    pieces: tuple[str, ...]


class Move(NamedTuple):
    """One piece of verdict text from a decision to the next.

    ``state`` is None when the verdict is complete after ``text`` and only a terminator may follow. ``label`` is the bit
    of the label that the move is, 0 where it is none of a list.
    """

    text: str
    events: int
    state: State | None
    alternatives: tuple[Alternative, ...] = ()
    label: int = 0


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Fills placeholders in one pass: values are never scanned for placeholders again."""
    return PLACEHOLDER.sub(lambda m: values[m[1]], text)


def label_lists(parts: Sequence[Part]) -> Iterator[LabelList]:
    """Every label list of the parts, options included."""
    for part in parts:
        if isinstance(part, LabelList):
            yield part
        elif isinstance(part, Choice):
            for option in part.options:
                yield from label_lists(option.then)


def parse_parts(parts: object, where: str, path: str) -> tuple[Part, ...]:
    """Reads a grammar.

    Args:
        parts: its JSON/TOML form, a list.
        where: document name for messages.
        path: its place in the document.

    Raises:
        SpecError: a part is malformed, or two label lists of one verdict bring the same events; names the field.
    """
    parsed = _parse_parts(parts, where, path, 0)
    if not parsed:
        raise SpecError(f"{where}: {path}: is empty")
    _check_lists(parsed, where, path)
    if _length(parsed) > _MAX_PARTS:
        raise SpecError(f"{where}: {path}: one verdict has more than {_MAX_PARTS} parts")
    if _most_moves(parsed, 1)[1] > _MAX_MOVES:
        raise SpecError(f"{where}: {path}: more than {_MAX_MOVES:,} texts may come next at one place")
    return parsed


def _length(parts: Sequence[Part]) -> int:
    """The most parts that one verdict can have."""
    return sum(
        1 + max((_length(option.then) for option in part.options), default=0) if isinstance(part, Choice) else 1
        for part in parts
    )


def _most_moves(parts: Sequence[Part], after: int) -> tuple[int, int]:
    """How many moves there are where the parts begin (``after``: where they end), and the most anywhere in them."""
    moves = most = after
    for part in reversed(parts):
        if isinstance(part, LabelList):
            moves += 1 + len(part.separators)
        elif isinstance(part, Choice):
            inside = [_most_moves(option.then, moves) for option in part.options]
            most = max(most, *(count for _, count in inside))
            pairs = zip(part.options, inside, strict=True)
            moves = sum(1 if option.text else first for option, (first, _) in pairs)
        most = max(most, moves)
        if most > _MAX_MOVES:
            break
    return moves, most


def _check_lists(parts: Sequence[Part], where: str, path: str) -> set[str | None]:
    """The namespaces of the lists that one verdict can hold."""
    namespaces: set[str | None] = set()
    for part in parts:
        here: set[str | None] = set()
        if isinstance(part, LabelList):
            here = {part.namespace}
        elif isinstance(part, Choice):
            here = set().union(*(_check_lists(option.then, where, path) for option in part.options))
        if namespaces & here:
            raise SpecError(f"{where}: {path}: two label lists in one verdict bring the same events: use namespace")
        namespaces |= here
    return namespaces


def _parse_parts(parts: object, where: str, path: str, depth: int) -> tuple[Part, ...]:
    if not isinstance(parts, (list, tuple)):
        raise SpecError(f"{where}: {path}: must be a list of parts")
    if depth > _MAX_DEPTH:
        raise SpecError(f"{where}: verdict.grammar: more than {_MAX_DEPTH} choices inside each other")
    return tuple(_parse_part(part, where, f"{path}[{i}]", depth) for i, part in enumerate(parts))


def _parse_part(part: Any, where: str, path: str, depth: int) -> Part:
    if isinstance(part, str):
        if not part or has_surrogate(part):
            raise SpecError(f"{where}: {path}: {'holds a lone surrogate' if part else 'empty text'}")
        if len(part) > _MAX_TEXT:
            raise SpecError(f"{where}: {path}: has {len(part):,} characters, more than {_MAX_TEXT:,}")
        return part
    fields = Fields(part, where, SpecError, path)
    if "choice" in fields.data:
        fields.only(["choice"])
        options = tuple(_parse_option(option, depth) for option in fields.tables("choice"))
        if not options:
            raise fields.fail("choice", "has no options")
        return Choice(options)
    return _parse_label_list(fields)


def _parse_option(option: Fields, depth: int) -> Option:
    option.only(["text", "event", "events", "then", "alternatives"])
    text, event = option.get("text", str), option.get("event", str, None)
    if len(text) > _MAX_TEXT:
        raise option.fail("text", f"has {len(text):,} characters, more than {_MAX_TEXT:,}")
    if event is not None and "events" in option.data:
        raise option.fail("events", "excludes event")
    if event is not None and not event.strip():
        raise option.fail("event", "is blank")
    events = option.strings("events", []) if event is None else (event,)
    if not all(name.strip() for name in events):
        raise option.fail("events", "holds a blank name")
    alternatives = []
    for i, pieces in enumerate(option.get("alternatives", list, [])):
        key = f"alternatives[{i}]"
        path = Fields({key: pieces}, option.where, option.error, option.path).strings(key)
        if not path or not all(path):
            raise option.fail(key, "needs at least one token, none of them empty")
        alternatives.append(path)
    if alternatives and not text:
        raise option.fail("alternatives", "are for an option with text")
    then = _parse_parts(option.get("then", list, []), option.where, f"{option.path}.then", depth + 1)
    return Option(text, events, then, tuple(alternatives))


def _parse_label_list(fields: Fields) -> LabelList:
    fields.only(["labels", "separators", "max", "namespace", "order"])
    spelling, known = fields.get("labels", str), LabelTexts._fields
    used = PLACEHOLDER.findall(spelling)
    if spelling not in known and (not used or set(used) - set(known)):
        wanted = 'must be "id", "name" or "code", or a text with {{id}}, {{name}} or {{code}}'
        raise fields.fail("labels", f"{wanted}, not {spelling!r:.60}")
    order = fields.get("order", str, "any")
    if order not in get_args(Order):
        raise fields.fail("order", f'must be "any" or "policy", not {order!r:.60}')
    most, namespace = fields.get("max", int, None), fields.get("namespace", str, None)
    if most is not None and most < 1:
        raise fields.fail("max", f"must be positive, not {most}")
    if namespace is not None and not namespace.strip():
        raise fields.fail("namespace", "is blank")
    separators = fields.strings("separators", *([[]] if most == 1 else []))
    if not separators and most != 1:
        raise fields.fail("separators", 'needs at least one text ("" where labels follow each other directly)')
    if len(separators) > _MAX_SEPARATORS or max(map(len, separators), default=0) > _MAX_TEXT:
        raise fields.fail("separators", f"must be {_MAX_SEPARATORS} at most, each of {_MAX_TEXT:,} characters at most")
    return LabelList(spelling, separators, namespace, most, order=cast(Order, order))
