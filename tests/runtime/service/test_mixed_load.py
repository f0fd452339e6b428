"""Valid, hostile, oversized, slow and aborted requests at the same time: nothing lost, nothing wrong, nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.mixed_load import mixed_load
from tests.support.served import serving
from tokmarg import Guard


@pytest.mark.slow
def test_mixed_load(table_bundle: Path) -> None:
    guard = Guard.load(table_bundle, device="cpu", threads=1)
    with serving("--bundle", table_bundle, "--device", "cpu", "--threads", "2") as server:
        outcome = mixed_load(server, guard, 20)
        metrics = server.ask("GET", "/metrics")[1]
        assert server.end() == 0
    assert outcome.wrong == []
    kinds = {answer.partition(" ")[0] for answer in outcome.answers}
    assert kinds >= {"valid", "stream", "hostile", "oversized", "aborted", "slow"}
    assert 'tokmarg_in_flight{model="words"} 0.0' in metrics
    assert 'tokmarg_waiting{model="words"} 0.0' in metrics
    quarter = len(outcome.memory) // 4
    assert max(outcome.memory[-quarter:]) < max(outcome.memory[quarter : 2 * quarter]) + 30  # MB
