"""A run over Parquet files, without Ray: its plan, what an actor does with a block, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.fleet import local_rows, write_posts
from tokmarg import TokmargError

pytest.importorskip("fsspec", reason="of the extra ray")

from tokmarg.dataframes.ray_files import RayRun, RunCounts, _BlockScorer, _cause, plan_run
from tokmarg.dataframes.worker import WorkerScoring, worker_scoring

ROWS = 200
FINGERPRINT = {"bundle": "1", "options": {"tolerance": 0.001}}


@pytest.fixture
def scoring(word_bundle: Path) -> WorkerScoring:
    return worker_scoring(word_bundle, device="cpu").by_content()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_posts(tmp_path / "in", ROWS)


def plan(scoring: WorkerScoring, folder: Path, resume: bool = False, **changes: Any) -> RayRun:
    given: dict[str, Any] = {"rows": 32, "fingerprint": FINGERPRINT, "resume": resume} | changes
    return plan_run(scoring, str(folder), str(folder.parent / "out"), **given)


def play(run: RayRun, blocks: int | None = None) -> RunCounts:
    """What Ray's actors do, in this process."""
    actor, counts = _BlockScorer(run.scoring, run.output), RunCounts()
    for block in run.blocks[:blocks]:
        batch = pa.Table.from_pylist([{"url": block.url, "start": block.start, "stop": block.stop}])
        counts.add(actor(batch).to_pylist()[0])
    return counts


def outputs(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder.parent / "out").sort_by("n").to_pylist()
    return rows


def test_a_run_that_ended_is_gone_on_with(scoring: WorkerScoring, folder: Path, word_bundle: Path) -> None:
    first = plan(scoring, folder)
    assert (len(first.blocks), first.done) == (8, 0)  # of two files with 100 rows each
    play(first, blocks=3)
    second = plan(scoring, folder, resume=True, rows=50)  # the run keeps its own rows of a block
    assert (len(second.blocks), second.done) == (5, 3)
    counts = play(second)
    assert outputs(folder) == local_rows(word_bundle, ROWS)
    assert plan(scoring, folder, resume=True).blocks == []
    assert counts.failures == []


def test_counts_are_those_of_the_rows(scoring: WorkerScoring, folder: Path) -> None:
    counts = play(plan(scoring, folder))
    rows = outputs(folder)
    errors = [row["tokmarg"]["error"] for row in rows if row["tokmarg"]["error"]]
    assert counts.rows["scored"] == ROWS - len(errors)
    assert counts.rows["flagged"] == sum(bool(row["tokmarg"]["flagged"]) for row in rows)
    assert counts.rows["low_coverage"] == counts.rows["not_converged"] == 0
    assert counts.errors == {"empty_text": 3, "invalid_record": 3}
    assert counts.first_error is not None
    assert counts.first_error.startswith(("empty_text: ", "invalid_record: "))


def test_all_rows_of_a_block_may_fail(scoring: WorkerScoring, folder: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([None] * 5, pa.string())}), folder / "null.parquet")
    counts = play(plan(scoring, folder / "null.parquet"))
    assert (counts.rows["scored"], counts.rows["flagged"], counts.errors) == (0, 0, {"invalid_record": 5})


def test_files_that_came_later_are_scored(scoring: WorkerScoring, folder: Path) -> None:
    play(plan(scoring, folder))
    shutil.copy(folder / "part-0.parquet", folder / "part-9.parquet")
    later = plan(scoring, folder, resume=True)
    assert {Path(block.url).name for block in later.blocks} == {"part-9.parquet"}


def test_two_runs_are_never_mixed(scoring: WorkerScoring, folder: Path) -> None:
    play(plan(scoring, folder), blocks=1)
    with pytest.raises(TokmargError, match=r"--output: .*/out: has a run already: --resume goes on"):
        plan(scoring, folder)
    with pytest.raises(TokmargError, match=r"--resume: .*: bundle is not what the run began with"):
        plan(scoring, folder, resume=True, fingerprint=FINGERPRINT | {"bundle": "2"})
    pq.write_table(pa.table({"text": ["another"] * 100}), folder / "part-0.parquet")
    with pytest.raises(TokmargError, match=r"part-0\.parquet: has changed since the run began"):
        plan(scoring, folder, resume=True)


def test_a_folder_with_other_files_is_refused(scoring: WorkerScoring, folder: Path) -> None:
    (folder.parent / "out").mkdir()
    (folder.parent / "out" / "mine.parquet").touch()
    with pytest.raises(TokmargError, match="has files, and no run to go on with"):
        plan(scoring, folder)


def test_mistakes_name_file_and_column_and_write_nothing(
    scoring: WorkerScoring, folder: Path, word_bundle: Path
) -> None:
    for column, says in (("body", "no column 'body'|'body'"), ("n", "'n'")):
        with pytest.raises(TokmargError, match=rf"part-0\.parquet: .*({says})") as caught:
            plan(worker_scoring(word_bundle, device="cpu", text=column), folder)
        assert "\n" not in str(caught.value)
    pq.write_table(pa.table({"text": ["x"], "tokmarg": [1]}), folder / "part-2.parquet")
    with pytest.raises(TokmargError, match=r"part-2\.parquet: .*'tokmarg' already"):
        plan(scoring, folder)
    assert not (folder.parent / "out").exists()


def test_a_damaged_block_costs_itself_alone(scoring: WorkerScoring, folder: Path, word_bundle: Path) -> None:
    path = folder / "part-1.parquet"
    data = bytearray(path.read_bytes())
    data[4:500] = b"\xff" * 496
    path.write_bytes(data)
    counts = play(plan(scoring, folder))
    assert counts.failures
    assert all(str(path) in line and "\n" not in line for line in counts.failures)
    whole = [row for row in local_rows(word_bundle, ROWS) if row["n"] < ROWS / 2]
    assert outputs(folder)[: len(whole)] == whole
    again = plan(scoring, folder, resume=True)
    assert len(again.blocks) == len(counts.failures)


@pytest.mark.parametrize(("rows", "block"), [(200, 64), (20_000, 156), (2_000_000, 8192)])
def test_blocks_follow_from_the_rows_alone(
    scoring: WorkerScoring, folder: Path, rows: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from tokmarg.dataframes import ray_files
    from tokmarg.dataframes.parquet_blocks import read_footer

    monkeypatch.setattr(ray_files, "read_footer", lambda url: dataclasses.replace(read_footer(url), rows=rows // 2))
    plan(scoring, folder, rows=None)
    assert json.loads((folder.parent / "out" / "_tokmarg_run.json").read_text())["rows"] == block


def test_the_cause_of_an_error_is_one_line() -> None:
    inner = TokmargError("bundle: is missing")
    outer = RuntimeError("a task failed\nTraceback ...")
    outer.__cause__ = inner
    assert _cause(outer) == "bundle: is missing"
