"""Moderating a text while it grows, such as the answer of a language model that arrives in chunks.

The text so far is scored after every few tokens and at ends of sentences; a guard with a prompt cache computes only
what is new. Where several results in a row flag it, the stream ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .arguments import check_integer, check_type, shown
from .errors import OptionError
from .prompt.messages import Content
from .results import MethodResult, Result
from .score_options import ScoreOptions

__all__ = ["TOLERANCE", "ModeratedText", "ModerationSettings", "TextSoFar", "growing_text", "moderated"]

#: A sentence's end, with the quotes and brackets after it: the full-width marks need no space.
_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*\s|[。！？]|\n""")
#: Of a growing text, where nothing else is said: each further verdict node costs as much as a token of the text, and
#: where a threshold lies inside an interval the search goes on anyway.
TOLERANCE = 0.1
#: Tokens between results, and flagged results in a row, at most.
_MAX_EVERY, _MAX_PATIENCE = 2**20, 2**10


@dataclass(frozen=True, slots=True)
class ModeratedText:
    """A part of a stream, and what the guard makes of the text up to its end.

    Attributes:
        text: what has come since the part before.
        result: of the whole text so far.
        stopped: the guard has flagged the text as often in a row as it takes: this is the last part, and the stream
            has been closed.
    """

    text: str
    result: Result | MethodResult
    stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerationSettings:
    """When a growing text is scored, and when its stream ends; checked when they are made.

    Attributes:
        every: tokens after which the text is scored again.
        sentences: score it at ends of sentences, too.
        patience: flagged results in a row that end the stream.

    Raises:
        OptionError: a value is of the wrong type or out of range; names it.
    """

    every: int = 32
    sentences: bool = True
    patience: int = 1

    def __post_init__(self) -> None:
        check_integer("every", self.every, _MAX_EVERY)
        check_type("sentences", self.sentences, bool, "True or False")
        check_integer("patience", self.patience, _MAX_PATIENCE)


class TextSoFar:
    """A growing text, and where its next result is due.

    Args:
        context: messages before it.
        role: whose it is.
        count: tokens of a text.
        settings: when it is scored, and when it ends.
    """

    def __init__(
        self,
        context: Sequence[Mapping[str, str]],
        role: str,
        count: Callable[[str], int],
        settings: ModerationSettings,
    ) -> None:
        self._context, self._role, self._count, self._settings = list(context), role, count, settings
        self._text, self._new, self._flagged = "", "", 0

    @property
    def content(self) -> Content:
        """The text so far, in its conversation."""
        return [*self._context, {"role": self._role, "content": self._text}]

    @property
    def unjudged(self) -> bool:
        """Whether text has come since the last result."""
        return bool(self._new) and bool(self._text.strip())

    def add(self, chunk: str) -> bool:
        """Adds a chunk; whether the text is to be scored now.

        Raises:
            OptionError: it is no text.
        """
        if not isinstance(chunk, str):
            raise OptionError(f"a chunk must be a text, not {shown(chunk)}")
        self._text += chunk
        self._new += chunk
        if not self.unjudged:
            return False
        if self._settings.sentences and _SENTENCE_END.search(self._new):
            return True
        return self._count(self._new) >= self._settings.every

    def judged(self, result: Result | MethodResult) -> ModeratedText:
        """The part that a result is about."""
        self._flagged = self._flagged + 1 if result.flagged else 0
        part, self._new = self._new, ""
        return ModeratedText(part, result, self._flagged >= self._settings.patience)


def growing_text(
    count: Callable[[str], int],
    context: Sequence[Mapping[str, str]],
    role: str,
    options: ScoreOptions | None,
    changes: Mapping[str, Any],
) -> tuple[TextSoFar, ScoreOptions]:
    """What a moderation begins with, and how it scores.

    Args:
        count: tokens of a text.
        context, role, options, changes: as for :meth:`tokmarg.Guard.moderate`.

    Raises:
        OptionError: one of them is wrong.
    """
    own = {name: changes[name] for name in changes if name in ModerationSettings.__slots__}
    scoring = {name: changes[name] for name in changes if name not in own}
    if options is None:
        scoring = {"tolerance": TOLERANCE, **scoring}
    chosen = ScoreOptions.of(options, **scoring)
    return TextSoFar(context, role, count, ModerationSettings(**own)), chosen


def moderated(
    chunks: Iterable[str], text: TextSoFar, score: Callable[[Content], Result | MethodResult]
) -> Iterator[ModeratedText]:
    """The parts of a stream; closes it at the end, if it can be closed.

    Args:
        chunks: of the text.
        text: what has come of it: nothing.
        score: scores a content.
    """
    try:
        for chunk in chunks:
            if text.add(chunk):
                part = text.judged(score(text.content))
                yield part
                if part.stopped:
                    return
        if text.unjudged:
            yield text.judged(score(text.content))
    finally:
        close: Any = getattr(chunks, "close", None)
        if close is not None:
            close()
