"""How a content is scored: the options that scoring, evaluation, calibration, explanations and the commands share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, get_args

from .arguments import check_choice, check_integer, check_number, check_type, number, shown
from .errors import OptionError
from .results import MAX_DEPTH, METHODS, Method, Thresholds

__all__ = [
    "JUDGE",
    "MAX_NODES",
    "MAX_TOKENS",
    "ExactKeywords",
    "Judge",
    "OnOverflow",
    "OnRole",
    "OptionChanges",
    "ScoreKeywords",
    "ScoreOptions",
]

OnOverflow = Literal["error", "window"]
#: What to do with a message whose role the guard's template has no place for.
OnRole = Literal["skip", "error"]
#: Which messages of a conversation are judged, each in the light of those before it.
Judge = Literal["last", "each", "user", "assistant"]
JUDGE: tuple[Judge, ...] = get_args(Judge)
#: Most trie nodes that a search may be allowed: a million nodes take minutes and gigabytes.
MAX_NODES = 2**20
#: Highest limit of a content's tokens.
MAX_TOKENS = 2**31 - 1


class OptionChanges(TypedDict, total=False):
    """Fields of :class:`ScoreOptions` as keyword arguments; all but ``method``."""

    tolerance: float
    max_nodes: int
    top_p: float
    eps: float
    max_depth: int
    thresholds: Thresholds | None
    prior: float | None
    max_tokens: int | None
    on_overflow: OnOverflow
    on_role: OnRole
    work: bool


class ExactKeywords(OptionChanges, total=False):
    """Keyword arguments of a call that scores with the method ``exact``, and so makes a :class:`Result`."""

    options: ScoreOptions | None
    method: Literal["exact"]


class ScoreKeywords(OptionChanges, total=False):
    """Keyword arguments of a call that scores: ``options``, and fields of :class:`ScoreOptions` that change them."""

    options: ScoreOptions | None
    method: Method


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """Options of one call; checked when they are made.

    Attributes:
        method: ``exact``, or one of :mod:`tokmarg.scoring.methods`.
        tolerance: ``exact``: widest interval that counts as converged, a probability.
        max_nodes: ``exact``: trie nodes to expand at most.
        top_p: ``any-place``: mass of the nucleus.
        eps: ``any-place``: least mass of a path that is followed.
        max_depth: ``any-place``: most tokens of a path that is followed; ``greedy``, ``token``, ``fixed-place``: most
            tokens to generate.
        thresholds: when the content counts as flagged (default: the calibration's, else unsafe >= the spec's threshold,
            which is 0.5 but where the spec says otherwise), on the probabilities that the result shows.
        prior: ``exact``, of a calibrated guard: the share of the contents that are unsafe where it is used. Calibrated
            probabilities are shifted to it from the calibration's (:mod:`tokmarg.calibration.prior_shift`).
        max_tokens: most tokens of one content, the texts of all its messages; one with more is ``content_too_long``
            and is counted no further. None = as many as the context window takes, or as windows take.
        on_overflow: what to do with content beyond the context window: ``error``, or ``window`` = score it in
            overlapping windows, without the oldest messages where those would leave too little of a window.
        on_role: what to do with messages of the system, the developer and tools where the guard's template has no place
            for them: ``skip`` = leave them out and count them in the result's ``skipped``, or ``error``.
        work: whether the result says what it took (:class:`tokmarg.results.Work`).

    Raises:
        OptionError: a value is of the wrong type or out of range; names the option.
    """

    method: Method = "exact"
    tolerance: float = 1e-3
    max_nodes: int = 256
    top_p: float = 0.99
    eps: float = 0.01
    max_depth: int = 20
    thresholds: Thresholds | None = None
    prior: float | None = None
    max_tokens: int | None = None
    on_overflow: OnOverflow = "error"
    on_role: OnRole = "skip"
    work: bool = False

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("on_overflow", self.on_overflow, get_args(OnOverflow))
        check_choice("on_role", self.on_role, get_args(OnRole))
        check_type("work", self.work, bool, "True or False")
        check_number("tolerance", self.tolerance, 0 < number(self.tolerance) <= 1, "(0, 1]")
        check_number("top_p", self.top_p, 0 < number(self.top_p) <= 1, "(0, 1]")
        check_number("eps", self.eps, 0 <= number(self.eps) <= 1, "[0, 1]")
        check_integer("max_nodes", self.max_nodes, MAX_NODES)
        check_integer("max_depth", self.max_depth, MAX_DEPTH)
        if self.prior is not None:
            check_number("prior", self.prior, 0 < number(self.prior) < 1, "(0, 1)")
        if self.max_tokens is not None:
            check_integer("max_tokens", self.max_tokens, MAX_TOKENS)
        if self.thresholds is not None and not isinstance(self.thresholds, Thresholds):
            raise OptionError(f"thresholds must be a tokmarg.Thresholds or None, not {shown(self.thresholds)}")

    @classmethod
    def of(cls, options: ScoreOptions | None, **changes: Any) -> ScoreOptions:
        """``options`` (default: the defaults) with some of them changed.

        Raises:
            OptionError: there is no such option, or a value is wrong.
        """
        if options is not None and not isinstance(options, cls):
            raise OptionError(f"options must be a tokmarg.ScoreOptions or None, not {shown(options)}")
        if unknown := sorted(set(changes) - set(cls.__slots__)):
            raise OptionError(f"{unknown[0]!r:.60} is no option of scoring (options: {', '.join(cls.__slots__)})")
        return replace(options or cls(), **changes)
