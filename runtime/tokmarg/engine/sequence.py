"""One prompt on its way through the engine: its tokens, its search, and its place in the cache."""

from __future__ import annotations

from collections.abc import Sequence as GenericSequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tokmarg.errors import ContentError

from .prefix_cache import Prefix, shared_tokens

__all__ = ["P", "Search", "Sequence", "TokenPath"]


class TokenPath(Protocol):
    """Tokens behind a prompt, known by identity: the last of them, and the path before it (None at the root)."""

    @property
    def token(self) -> int: ...
    @property
    def parent(self) -> TokenPath | None: ...
    @property
    def depth(self) -> int: ...


P = TypeVar("P", bound=TokenPath)


class Search(Protocol[P]):
    """What decides which paths behind one prompt are evaluated."""

    @property
    def root(self) -> P:
        """The empty path."""

    def wanted(self, limit: int) -> GenericSequence[P]:
        """Paths to evaluate next, about ``limit`` at most; empty when done."""

    def whole(self, node: P, /) -> bool:
        """Whether the whole vocabulary's logits matter behind a path, and not only those of verdict tokens."""

    def feed(self, node: P, logits: npt.NDArray[np.float32], /) -> None:
        """Takes the logits [columns] behind a path that :meth:`wanted` named. The array is only lent; where
        :meth:`whole` is false, other tokens than a verdict's may be at minus infinity."""


@dataclass(slots=True)
class Sequence(Generic[P]):
    """One prompt on its way: its tokens, its search, and where its tokens lie in the cache.

    ``trunk`` is an earlier job of the same run, most of whose tokens this one begins with: their keys and values serve
    both. ``error`` is set instead of a result when the model's logits are not finite.
    """

    token_ids: GenericSequence[int]
    search: Search[P]
    trunk: Sequence[P] | None = None
    error: ContentError | None = None
    shared: int = 0
    laid_out: int = -1  # tokens of the prompt that have a slot; -1 before :meth:`begin`
    spans: list[tuple[int, int]] = field(default_factory=list)  # cache slots [start, end) of the prompt's own tokens
    slots: dict[TokenPath, int] = field(default_factory=dict)  # cache slot of each path's last token

    def begin(self, prefix: Prefix) -> None:
        """Takes what the prefix and the trunk have of the prompt; the trunk's prompt has been laid out."""
        self.shared = self.laid_out = prefix.shared(self.token_ids)
        if self.trunk is not None and self.trunk.shared == self.shared:
            common = max(self.shared, shared_tokens(self.trunk.token_ids, self.token_ids[:-1]))
            self.spans = _first(self.trunk.spans, common - self.shared)
            self.laid_out = common


def _first(spans: GenericSequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """The first ``count`` slots of some spans."""
    found = []
    for start, end in spans:
        if count > 0:
            found.append((start, min(end, start + count)))
            count -= end - start
    return found
