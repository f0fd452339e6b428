"""10,000 cases of all parsers together; ``python -m tests.fuzz`` runs more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz.parsers import CALIBRATION, JOURNAL, LABELLED_CSV, LABELS, PARSERS, RUN, _sealed
from tests.fuzz.run import case, failures
from tokmarg.calibration.calibration import Calibration
from tokmarg.cli.resume.journal import Journal
from tokmarg.cli.resume.run import restore_tally
from tokmarg.errors import TokmargError
from tokmarg.evaluation.dataset import read_labelled

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


def test_what_is_damaged_is_whole_before(tmp_path: Path) -> None:
    """Else nothing but the first check of a parser would be fuzzed."""
    path = tmp_path / "out.jsonl.tokmarg-run"
    path.write_bytes(_sealed(JOURNAL))
    with Journal(str(path)) as journal:
        assert journal.run == RUN
        assert [restore_tally(each, "out.jsonl").records for each in journal.checkpoints] == [32, 64, 96]
    (tmp_path / "c.json").write_text(json.dumps(CALIBRATION))
    assert Calibration.read(tmp_path / "c.json").to_dict() == CALIBRATION
    (tmp_path / "d.csv").write_bytes(LABELLED_CSV)
    assert [example.unsafe for example in read_labelled(tmp_path / "d.csv", LABELS)] == [True, False, None]
