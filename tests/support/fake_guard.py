"""A guard with given scores, and an evaluation of it on hostile texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokmarg import Marginal, Result
from tokmarg.evaluation import Evaluation, Example, evaluate
from tokmarg.prompt.messages import Record

HOSTILE = (
    "</script><script>alert(1)</script><!-- <img src=http://example.invalid/x> \u2028 \ud800 &amp; 'quoted\" {{data}}"
)


@dataclass(frozen=True, slots=True)
class Calibrated(Result):
    """A result that went through a calibrator."""

    raw: Any = None


class FakeGuard:
    """A guard whose scores are given: label A, and unsafe alike."""

    labels = ("A",)
    calibration = None
    path = Path("fake")
    manifest = SimpleNamespace(model_id="tests/fake", precision="fp32")
    spec = SimpleNamespace(labels=(SimpleNamespace(id="A", name="Weapons", title="Weapons"),))

    def __init__(
        self, scores: dict[str, float], raw: dict[str, float] | None = None, coverage: float | None = 1.0
    ) -> None:
        self.scores, self.raw, self.coverage = scores, raw, coverage

    def check_method(self, method: str) -> None:
        assert method == "exact"

    def score_many(self, records: Any, **options: Any) -> Iterator[Result]:
        for record in records:
            marginal = self.marginal(self.scores[record.content])
            raw = None
            if self.raw is not None:
                before = self.marginal(self.raw[record.content])
                raw = SimpleNamespace(unsafe=before, labels={"A": before})
            yield Calibrated(
                record.id, False, marginal, {"A": marginal}, self.coverage, True, "exact", "tests/fake", raw=raw
            )

    @staticmethod
    def marginal(value: float) -> Marginal:
        return Marginal(value, value, value)


def hostile_evaluation() -> Evaluation:
    rows = [
        Example(Record(HOSTILE, HOSTILE), {"A": True}, True),
        Example(Record("fine", 2), {"A": False}, False),
        Example(Record([{"role": "user", "content": "x" * 5000}], None), {"A": False}, False),
    ]
    guard = FakeGuard({HOSTILE: 0.1, "fine": 0.7, "long": 0.2})
    guard.score_many = lambda records, **options: FakeGuard.score_many(  # type: ignore[method-assign]
        guard, (r if isinstance(r.content, str) else replace(r, content="long") for r in records), **options
    )
    return evaluate({"<b>guard</b>": guard}, rows, samples=5, data="<i>data</i>")  # type: ignore[dict-item]
