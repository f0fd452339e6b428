"""Occlusion: the effect of each part of a text on a guard's probabilities, measured by leaving it out.

Occlusion (Zeiler and Fergus 2014, section 4): effect = P(text as it is) - P(text without the part). All variants are
one stream of contents, packed after the policy's prefix as any others are. Then the parts of the most influential part
are left out in turn:

    sentences   [ +0.01 ][ +0.62 ][ ≈0 ]
    words                [ ≈0 ][ +0.44 ][ +0.08 ]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Unpack

from tokmarg.errors import ContentError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.grammar.trie import Trie
from tokmarg.guard import Guard
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.messages import Message
from tokmarg.score_options import OptionChanges, ScoreOptions
from tokmarg.scoring.aggregation import join_label_marginals
from tokmarg.scoring.exact import Bounds, ExactSearch, Marginals

from .explanation import Effect, Occlusion, Segment
from .segmentation import Span, Unit, grouped, sentences, words

__all__ = ["MOST_SEGMENTS", "Occluder", "first_cut", "joined"]

#: Most parts left out in turn, at each level.
MOST_SEGMENTS = 64
#: A text of fewer sentences than this is cut into words at once.
_FEW_SENTENCES = 3


#: Of one content: its prompts, each with the verdict trie and the search that has expanded it.
Searches = Sequence[tuple[Prompt, Trie, ExactSearch]]


def joined(searches: Searches) -> Marginals:
    """The marginals of a content, over its prompts."""
    return join_label_marginals([(prompt.label, search.result()) for prompt, _, search in searches], 0.5)


class Occluder:
    """Scores a content without some of its parts.

    Args:
        guard: scores the contents.
        messages: the content; parts of the last message are left out.
        most: parts left out at each level.
        options, changes: how contents are scored, see :class:`tokmarg.ScoreOptions`; of them ``tolerance``,
            ``max_nodes`` and ``max_tokens`` matter.
    """

    def __init__(
        self,
        guard: Guard,
        messages: Sequence[Message],
        most: int = MOST_SEGMENTS,
        *,
        options: ScoreOptions | None = None,
        **changes: Unpack[OptionChanges],
    ) -> None:
        self._guard, self._most, self._options = guard, most, ScoreOptions.of(options, **changes)
        self._earlier = [{"role": m.role, "content": m.content} for m in messages[:-1]]
        self._role, self._text = messages[-1].role, messages[-1].content
        self._events = (UNSAFE, *guard.labels, *guard.events)
        self.full: Mapping[str, Bounds] = {}  # of the content as it is, once :meth:`occlude` has run

    def occlude(self, unit: Unit, parts: Sequence[Span], depth: int) -> tuple[Searches, Occlusion]:
        """The content as it is, and its parts left out in turn; both in one stream, which packs them."""
        groups = grouped(parts, self._most)
        outcomes = self._unfold([self._text, *map(self._without, groups)])
        whole = next(outcomes)
        if isinstance(whole, ContentError):
            raise whole
        bounds = joined(whole).bounds
        self.full = {event: bounds[event] for event in self._events if event in bounds}
        return whole, self._level(unit, parts, groups, outcomes, depth)

    def _level(
        self,
        unit: Unit,
        parts: Sequence[Span],
        groups: Sequence[Span],
        outcomes: Iterator[Searches | ContentError],
        depth: int,
    ) -> Occlusion:
        segments = [self._segment(group, outcome) for group, outcome in zip(groups, outcomes, strict=True)]
        top = max(range(len(segments)), key=lambda i: segments[i].influence, default=-1)
        if depth > 1 and top >= 0 and segments[top].influence > 0:
            start, end = segments[top].start, segments[top].end
            unit_within, within = unit, [part for part in parts if start <= part.start and part.end <= end]
            if len(within) == 1 and unit == "sentences":
                unit_within, within = _words(segments[top].text, start)
            if len(within) > 1:
                inner = grouped(within, self._most)
                occlusion = self._level(unit_within, within, inner, self._unfold(map(self._without, inner)), depth - 1)
                segments[top] = replace(segments[top], inner=occlusion)
        return Occlusion(unit, len(parts), tuple(segments))

    def _segment(self, group: Span, outcome: Searches | ContentError) -> Segment:
        if isinstance(outcome, ContentError):
            return Segment(*group, effects=None, unscored=f"{outcome.type}: {outcome}")
        without = joined(outcome).bounds
        effects = {
            event: Effect(
                full.middle - without[event].middle,
                full.lower - without[event].upper,
                full.upper - without[event].lower,
            )
            for event, full in self.full.items()
        }
        return Segment(*group, effects=effects)

    def _without(self, part: Span) -> str:
        rest = self._text[: part.start] + self._text[part.end :]
        # White space belongs to the part before it: without the last part some would be left over.
        return rest.rstrip() if part.end == len(self._text) else rest

    def _unfold(self, texts: Sequence[str] | Iterator[str]) -> Iterator[Searches | ContentError]:
        contents = ([*self._earlier, {"role": self._role, "content": text}] for text in texts)
        return self._guard.unfold(contents, options=self._options)


def first_cut(text: str, by_words: bool) -> tuple[Unit, list[Span]]:
    """The parts that are left out first: sentences where there are some, else words."""
    spans = sentences(text)
    if by_words or len(spans) < _FEW_SENTENCES:
        return _words(text, 0)
    return "sentences", spans


def _words(text: str, start: int) -> tuple[Unit, list[Span]]:
    """Words of a text that begins at ``start``; called characters where most are cut between two letters."""
    spans = [Span(start + span.start, start + span.end, span.text) for span in words(text)]
    cut = sum(not span.text[-1:].isspace() for span in spans[:-1])
    return ("characters" if 2 * cut > len(spans) - 1 else "words"), spans
