"""``tokmarg score`` over folders and patterns: one output for each input, what is whole skipped, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.command_line import Run
from tests.support.resumable_runs import Kill, Killed

ROWS = [f"{'gun ' * (n % 5)}hello {n}" for n in range(150)]


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    folder = tmp_path / "posts"
    (folder / "day=1").mkdir(parents=True)
    (folder / "_temporary").mkdir()
    pq.write_table(pa.table({"n": range(150), "text": ROWS}), folder / "day=1" / "a.parquet", row_group_size=40)
    pq.write_table(pa.table({"text": ROWS[:30]}), folder / "b.parquet")
    (folder / "c.csv").write_text("text\ngun\nhello\n")
    (folder / "c.jsonl").write_text('{"text": "gun"}\n{"text": ""}\n')
    for other in ("README.md", ".hidden.jsonl", "_SUCCESS", "_temporary/d.jsonl"):
        (folder / other).write_text("gun\n")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OUTPUTS = [".tokmarg-run", "b.parquet", "c.csv.jsonl", "c.jsonl", "day=1/a.parquet"]


def test_every_file_of_a_folder_has_its_output(tokmarg: Run, tmp_path: Path, posts: Path) -> None:
    scores = tmp_path / "deep" / "scores"
    done = tokmarg("score", "--input", posts, "--output", scores, "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert sorted(files(scores)) == OUTPUTS
    assert done.stderr.splitlines()[-2:] == [
        "4 of 4 files are whole",
        "183 scored, 146 flagged, 1 failed (1 empty_text), 0 low coverage, 0 not converged",
    ]
    assert done.stderr.count("flagged: unsafe") == 1
    assert pq.read_table(scores / "day=1" / "a.parquet")["n"].to_pylist() == list(range(150))
    assert len((scores / "c.jsonl").read_text().splitlines()) == 2
    alone = tmp_path / "alone.parquet"
    tokmarg("score", "--input", posts / "b.parquet", "--output", alone, "--threads", 1)
    assert alone.read_bytes() == (scores / "b.parquet").read_bytes()


def test_a_pattern_and_a_format(tokmarg: Run, tmp_path: Path, posts: Path) -> None:
    scores = tmp_path / "scores"
    command = ["score", "--output", scores, "--format", "jsonl", "--threads", 1]
    assert tokmarg(*command, "--input", posts / "**" / "*.parquet").exit_code == 0
    assert sorted(files(scores)) == [".tokmarg-run", "b.parquet.jsonl", "day=1/a.parquet.jsonl"]
    (posts / "x[1].jsonl").write_text('{"text": "gun"}\n')  # a file of its own name, which is no pattern
    assert tokmarg("score", "--input", posts / "x[1].jsonl", "--output", tmp_path / "x.jsonl").exit_code == 0


def test_resume_skips_what_is_whole_and_scores_what_is_new(tokmarg: Run, tmp_path: Path, posts: Path) -> None:
    scores = tmp_path / "scores"
    command = ["score", "--input", posts, "--output", scores, "--threads", 1]
    first = tokmarg(*command)
    before = files(scores)
    times = {path: path.stat().st_mtime_ns for path in scores.rglob("*.*")}
    (posts / "new.jsonl").write_text('{"text": "gun"}\n')
    again = tokmarg(*command, "--resume")
    assert again.exit_code == 0, again.stderr
    assert again.stderr.splitlines()[-2:] == [
        "5 of 5 files are whole, 4 of them already",
        first.stderr.splitlines()[-1].replace("183 scored, 146", "184 scored, 147"),
    ]
    assert {name: data for name, data in files(scores).items() if name != "new.jsonl" and name != ".tokmarg-run"} == {
        name: data for name, data in before.items() if name != ".tokmarg-run"
    }
    assert all(path.stat().st_mtime_ns == at for path, at in times.items() if path.name != ".tokmarg-run")
    (scores / "b.parquet").unlink()  # gone, and another one damaged: both are made again
    (scores / "c.jsonl").write_text("damaged")
    assert "5 of 5 files are whole, 3 of them already" in tokmarg(*command, "--resume").stderr
    assert {name: files(scores)[name] for name in OUTPUTS[1:]} == {name: before[name] for name in OUTPUTS[1:]}


def test_resume_refuses_what_was_made_otherwise(tokmarg: Run, tmp_path: Path, posts: Path) -> None:
    scores = tmp_path / "scores"
    command = ["score", "--input", posts, "--output", scores, "--threads", 1]
    tokmarg(*command)
    before = files(scores)
    done = tokmarg(*command, "--resume", "--threshold", 0.3)
    assert done.exit_code == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 4
    assert all("is whole, but thresholds: " in line and "delete it to score its input anew" in line for line in lines)
    (posts / "c.csv").write_text("text\nidiot\n")
    done = tokmarg(*command, "--resume")
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert line.startswith(
        f"Error: {scores / 'c.csv.jsonl'}: is whole, but the input is not what it was in the first run; delete it"
    )
    assert {name: files(scores)[name] for name in OUTPUTS[1:]} == {name: before[name] for name in OUTPUTS[1:]}


def test_a_file_that_cannot_be_read_takes_no_other_with_it(tokmarg: Run, tmp_path: Path, posts: Path) -> None:
    (posts / "a.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"text": [1]}), posts / "n.parquet")
    (posts / "z.csv").write_text("a,b\n1,2\n")
    done = tokmarg("score", "--input", posts, "--output", tmp_path / "scores", "--threads", 1)
    assert done.exit_code == 1
    bad, wrong, without = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert bad.startswith(f"Error: {posts / 'a.parquet'}: is no Parquet file that can be read: ")
    assert wrong.startswith(f"Error: {posts / 'n.parquet'}: column 'text' is of type int64, which holds no text")
    assert without.startswith(f"Error: {posts / 'z.csv'}: the CSV input has no column 'text'")
    assert sorted(files(tmp_path / "scores")) == OUTPUTS
    assert "4 of 7 files are whole\n183 scored" in done.stderr


def test_killed_anywhere_and_resumed_loses_and_doubles_nothing(
    tokmarg: Run,
    tmp_path: Path,
    posts: Path,
    kill: Kill,
) -> None:
    command = ["score", "--input", posts, "--threads", 1, "--output"]
    kill(-1)
    expected = tokmarg(*command, tmp_path / "alone")
    steps, scores = kill.calls["made"], tmp_path / "scores"
    wanted = {name: files(tmp_path / "alone")[name] for name in OUTPUTS[1:]}
    resumed = 0
    for at in range(3, steps, 7):
        kill(at)
        with pytest.raises(Killed):
            tokmarg(*command, scores, "--resume")
        kill(-1)
        done = tokmarg(*command, scores, "--resume")
        assert done.exit_code == 0, done.stderr
        assert done.stderr.splitlines()[-1] == expected.stderr.splitlines()[-1]
        found = files(scores)
        assert sorted(found) == OUTPUTS
        assert {name: found[name] for name in OUTPUTS[1:]} == wanted
        resumed += "of them already" in done.stderr
        lines = [json.loads(line) for line in found[".tokmarg-run"].decode().splitlines()]
        assert sorted(line["name"] for line in lines) == OUTPUTS[1:]
        for path in [scores / name for name in found]:
            path.unlink()
    assert resumed > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "posts"], "--input names several files: --output must name a folder for theirs"),
        (["--input", "posts", "--output", "posts"], "--output: posts: is the folder of the input files"),
        (["--input", "posts", "--output", "posts/b.parquet"], "--output: posts/b.parquet: must be a folder"),
        (["--input", "posts/*.xyz", "--output", "o"], "--input: posts/*.xyz: there is no file of a known format"),
        (["--input", "posts", "--output", "o", "--format", "table"], "--format table goes with one input"),
        (["--input", "posts/*", "--output", "o"], "its extension names no format"),
        (["gun", "--input", "posts", "--output", "o"], "TEXT and --input exclude each other"),
        (["--input", "posts", "--output", "o", "--format", "arrow", "--judge", "each"], "--judge each gives several"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(
    tokmarg: Run, tmp_path: Path, posts: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = tokmarg("score", *arguments)
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["posts"]
