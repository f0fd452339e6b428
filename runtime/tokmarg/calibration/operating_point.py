"""Operating point: the threshold that reaches a target on labelled data.

Targets are ``fpr<=0.01``, ``recall>=0.95``, ``precision>=0.9``, with other levels, and ``max-f1``.

A case is flagged where its score is at or above the threshold, and thresholds are observed scores. Of the thresholds
that reach the target, the one that is best at the other error is taken:

    fpr<=x         the lowest with at most that share of the negatives flagged
    recall>=x      the highest with at least that share of the positives flagged
    precision>=x   the lowest (most recall) with at least that share of the flagged positive
    max-f1         the one with the highest F1; of equals the highest

What is reached on the data is not guaranteed on other data; :mod:`tokmarg.calibration.risk_control` certifies it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np

from tokmarg.arguments import check_choice, number, shown
from tokmarg.arrays import Floats
from tokmarg.errors import OptionError, TokmargError

__all__ = ["Target"]

Quantity = Literal["fpr", "recall", "precision", "max-f1"]
_FORM = re.compile(r"(fpr)<=(.+)|(recall|precision)>=(.+)")


@dataclass(frozen=True, slots=True)
class Target:
    """A rate that a threshold reaches on the data, or the highest F1; ``level`` is 0 for ``max-f1``."""

    quantity: Quantity
    level: float = 0.0

    def __post_init__(self) -> None:
        check_choice("target: quantity", self.quantity, get_args(Quantity))
        level = number(self.level)
        if not (0 <= level < 1 if self.quantity == "fpr" else self.quantity == "max-f1" or 0 < level <= 1):
            raise OptionError(
                f"target: level must lie between 0 and 1 and rule something out, not be {shown(self.level)}"
            )

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads ``fpr<=0.01`` and the like.

        Raises:
            TokmargError: it is none of the forms, or the level is not between 0 and 1; quotes it.
        """
        compact = "".join(text.split())
        if compact == "max-f1":
            return cls("max-f1")
        if (match := _FORM.fullmatch(compact)) is None:
            raise TokmargError(f"target {text!r:.60} is not fpr<=X, recall>=X, precision>=X or max-f1")
        quantity, level = match[1] or match[3], match[2] or match[4]
        try:
            return cls(cast(Quantity, quantity), float(level))
        except ValueError:  # no number, or one out of range
            raise TokmargError(
                f"target {text!r:.60}: the level must lie between 0 and 1 and rule something out"
            ) from None

    def __str__(self) -> str:
        if self.quantity == "max-f1":
            return "max-f1"
        return f"{self.quantity}{'<=' if self.quantity == 'fpr' else '>='}{self.level!r}"

    def threshold(self, score: Floats, truth: Floats, weight: Floats | None = None) -> float | None:
        """The threshold that reaches the target.

        Args:
            score: float64 [cases].
            truth: 1 or 0, float64 [cases].
            weight: how often each case counts, float64 [cases]; None: once.

        Returns:
            an observed score; infinity where only flagging nothing keeps the false-positive rate; None where no
            threshold reaches the target, or the data lack the class that it is about.
        """
        order = np.argsort(-score, kind="stable")
        descending, counted = score[order], (np.ones_like(truth) if weight is None else weight)[order]
        positive = truth[order] * counted
        last = np.append(descending[1:] != descending[:-1], True) if len(score) else np.zeros(0, bool)
        # At each distinct score, from the highest down: what a threshold there flags. [distinct]
        values, true_positives = descending[last], np.cumsum(positive)[last]
        flagged = np.cumsum(counted)[last]
        positives = float(positive.sum())
        negatives = float(counted.sum()) - positives
        if (negatives if self.quantity == "fpr" else positives) == 0:
            return None
        if self.quantity == "max-f1":
            return float(values[int(np.argmax(2 * true_positives / (flagged + positives)))])
        if self.quantity == "recall":
            return float(values[int(np.argmax(true_positives / positives >= self.level))])
        if self.quantity == "fpr":
            reached = np.flatnonzero((flagged - true_positives) / negatives <= self.level)
            return float(values[reached[-1]]) if len(reached) else math.inf
        reached = np.flatnonzero((true_positives / flagged >= self.level) & (true_positives > 0))
        return float(values[reached[-1]]) if len(reached) else None
