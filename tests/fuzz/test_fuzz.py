"""10,000 cases of all parsers together; ``python -m tests.fuzz`` runs more."""

from __future__ import annotations

import pytest

from tests.fuzz.parsers import PARSERS
from tests.fuzz.run import case, failures
from tokmarg.errors import TokmargError

CASES = -(-10_000 // len(PARSERS))


@pytest.mark.parametrize("name", PARSERS)
def test_parsers_read_or_refuse(name: str) -> None:
    assert list(failures(name, range(CASES))) == []


@pytest.mark.parametrize("name", PARSERS)
def test_cases_are_made_from_their_number_and_differ(name: str) -> None:
    cases = [case(name, number) for number in range(30)]
    assert cases == [case(name, number) for number in range(30)]
    assert len(set(cases)) > 15


def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panicked(BaseException):
        pass

    def read(_: object) -> None:
        raise Panicked("boom")

    def refuse(_: object) -> None:
        raise TokmargError("two\nlines")

    for reader, message in ((read, "Panicked: boom"), (refuse, "message")):
        monkeypatch.setitem(PARSERS, "broken", type(PARSERS["csv"])("x", lambda _: b"", reader))
        (line,) = failures("broken", [7])
        assert message in line
        assert line.endswith("--parser broken --case 7")
