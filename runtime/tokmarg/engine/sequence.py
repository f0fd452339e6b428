"""Sequence: one prompt in flight, with the search that evaluates token paths after it and its slots in the cache.

An encoded record has one :class:`Sequence` per prompt. The engine feeds the prompt once; then the sequence's
:class:`Search` names the token paths whose logits it needs (:class:`LogitsRequest`) until it names no more.
"""

from __future__ import annotations

from collections.abc import Sequence as GenericSequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tokmarg.errors import ContentError

from .prefix import Prefix, shared_tokens

__all__ = ["Carried", "LogitsRequest", "P", "Reads", "Search", "Sequence", "TokenPath"]


class TokenPath(Protocol):
    """Tokens after a prompt, known by identity: the last of them, and the path before it (None at the root)."""

    @property
    def token(self) -> int: ...
    @property
    def parent(self) -> TokenPath | None: ...
    @property
    def depth(self) -> int: ...


P = TypeVar("P", bound=TokenPath)
#: What a search reads of the next token: logits of the whole vocabulary; log-probabilities within it of verdict tokens;
#: or logits of verdict tokens, which are enough to compare those with each other. The names are those of the graph's
#: outputs.
Reads = Literal["logits", "log_probabilities", "verdict_logits"]


class Search(Protocol[P]):
    """Chooses which token paths after one prompt are evaluated, and takes their logits."""

    @property
    def root(self) -> P:
        """The empty path."""

    def wanted(self, limit: int) -> GenericSequence[P]:
        """Paths to evaluate next, about ``limit`` at most; empty when done."""

    def reads(self, node: P, /) -> Reads:
        """What is enough to know after a path."""

    def feed(self, node: P, logits: npt.NDArray[np.float32], /, *, normalized: bool = False) -> None:
        """Takes the logits [columns] after a path that :meth:`wanted` named. The array is only lent.

        Args:
            node: the path.
            logits: of the next token. Where :meth:`reads` does not say ``logits``, other tokens than a verdict's may be
                at minus infinity.
            normalized: whether these are log-probabilities within the whole vocabulary. Only where :meth:`reads` says
                ``log_probabilities``, and not always there.
        """


@dataclass(slots=True, eq=False)
class Carried:
    """What passes have carried of a content: ``tokens``, in so many ``passes``."""

    passes: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Sequence(Generic[P]):
    """One prompt in flight.

    Attributes:
        token_ids: of the whole prompt, the policy prefix included.
        search: evaluates paths after the prompt.
        trunk: an earlier sequence of the same run, most of whose tokens this one begins with: their keys and values
            serve both. The first prompt of a content is the trunk of its others.
        error: set instead of a result when the model's logits are not finite.
        shared: leading tokens that the policy prefix has.
        laid_out: leading tokens that have a cache slot; -1 before :meth:`begin`.
        spans: cache slots [start, end) of the prompt's own tokens, those after ``shared``.
        slots: cache slot of each path's last token.
        carried: of the content; its sequences have one in common.
    """

    token_ids: GenericSequence[int]
    search: Search[P]
    trunk: Sequence[P] | None = None
    error: ContentError | None = None
    shared: int = 0
    laid_out: int = -1
    spans: list[tuple[int, int]] = field(default_factory=list)
    slots: dict[TokenPath, int] = field(default_factory=dict)
    carried: Carried = field(default_factory=Carried)

    def begin(self, prefix: Prefix) -> None:
        """Takes over the tokens that prefix and trunk have of the prompt; the trunk's prompt has been laid out."""
        self.shared = self.laid_out = prefix.shared(self.token_ids)
        if self.trunk is not None and self.trunk.shared == self.shared:
            common = max(self.shared, shared_tokens(self.trunk.token_ids, self.token_ids[:-1]))
            self.spans = _first_slots(self.trunk.spans, common - self.shared)
            self.laid_out = common


class LogitsRequest(NamedTuple):
    """Logits that a sequence's search wants: those after ``node``, computed at new token ``row`` of the pass."""

    sequence: Sequence[Any]
    node: Any
    row: int


def _first_slots(spans: GenericSequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """The first ``count`` slots of some spans.

    ``_first_slots([(200, 210), (300, 310)], 12) == [(200, 210), (300, 302)]``
    """
    first = []
    for start, end in spans:
        if count > 0:
            first.append((start, min(end, start + count)))
            count -= end - start
    return first
