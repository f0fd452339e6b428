"""Ray itself: rows equal to a local run value by value, on three nodes of which one is killed in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.runtime.dataframes.test_worker import messages_table
from tests.support.engines import need_module
from tests.support.fleet import local_rows, posts, write_posts
from tokmarg import Guard
from tokmarg.dataframes import score_table

need_module("ray.data", "ray")

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from tokmarg.dataframes.ray_data import GuardScorer, _reserved, cpus_of_actor, score_dataset  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are many

ROWS = 600
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_agent_register_timeout_ms": "300000", "RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes on this machine: the head with two CPUs, others with one."""
    patch = pytest.MonkeyPatch()
    for name, value in ENVIRONMENT.items():
        patch.setenv(name, value)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}  # what workers unpickle is here
    ray.init(address=nodes.address, log_to_driver=False, runtime_env={"env_vars": paths})
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    patch.undo()


def by_number(dataset: Any) -> list[dict[str, Any]]:
    return sorted(dataset.take_all(), key=lambda row: row["n"])


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as Ray and as Arrow hand them out, alike."""
    return [
        {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}
        for row in rows
    ]


def test_rows_are_those_of_a_local_run(cluster: Cluster, word_bundle: Path, tmp_path: Path) -> None:
    dataset = ray.data.read_parquet(str(write_posts(tmp_path / "posts", ROWS)))
    scored = score_dataset(dataset, word_bundle, device="cpu", rows=50)
    assert plain(by_number(scored)) == plain(local_rows(word_bundle, ROWS))


def test_as_many_actors_as_cpus_start_and_all_have_work(cluster: Cluster, word_bundle: Path, tmp_path: Path) -> None:
    dataset = ray.data.read_parquet(str(write_posts(tmp_path / "posts", ROWS, files=1)))

    def process(batch: pa.Table) -> pa.Table:
        time.sleep(1)  # so that work is left when the last actor has started
        return batch.append_column("process", pa.array([os.getpid()] * batch.num_rows))

    class Traced(GuardScorer):
        def __call__(self, batch: Any) -> pa.Table:
            return process(super().__call__(batch))

    actors, cpus = cpus_of_actor(4)
    blocks = dataset.repartition(target_num_rows_per_block=25)
    arguments = {"bundle": str(word_bundle), "device": "cpu"}
    traced = blocks.map_batches(
        Traced,
        fn_constructor_kwargs=arguments,
        concurrency=actors,
        num_cpus=cpus,
        batch_size=25,
        batch_format="pyarrow",
    )
    rows = traced.take_all()
    assert len({row["process"] for row in rows}) == 4
    assert sorted(row["n"] for row in rows) == list(range(ROWS))


@pytest.mark.parametrize("batches", ["pyarrow", "pandas", "numpy"])
def test_guard_scorer_takes_every_batch_format(cluster: Cluster, word_bundle: Path, batches: str) -> None:
    table = messages_table()
    scored = ray.data.from_arrow(table).map_batches(
        GuardScorer,
        fn_constructor_kwargs={"bundle": str(word_bundle), "device": "cpu", "messages": "messages"},
        batch_format=batches,
        concurrency=1,
        num_cpus=0.5,
    )
    guard = Guard.load(word_bundle, device="cpu", threads=1)
    local = score_table(guard, table, messages="messages").to_pylist()
    assert [row["tokmarg"]["unsafe"] for row in by_number(scored)] == [row["tokmarg"]["unsafe"] for row in local]


def test_a_bundle_at_a_url_is_fetched(cluster: Cluster, word_bundle: Path, tmp_path: Path) -> None:
    dataset = ray.data.from_arrow(posts(100))
    scored = score_dataset(dataset, f"file://{word_bundle}", device="cpu", actors=2, rows=10)
    assert plain(by_number(scored)) == plain(local_rows(word_bundle, 100))


class Slow:
    """Time enough to kill a node."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        time.sleep(0.2)
        return batch


def test_a_node_that_is_killed_loses_and_doubles_nothing(cluster: Cluster, word_bundle: Path, tmp_path: Path) -> None:
    dataset = ray.data.read_parquet(str(write_posts(tmp_path / "posts", ROWS)))
    scored = score_dataset(dataset, word_bundle, device="cpu", rows=20, actors=3)
    slow = scored.map_batches(Slow, batch_format="pyarrow", batch_size=20, concurrency=1, num_cpus=0)
    doomed = cluster.add_node(num_cpus=1)
    rows, killed = [], False
    for row in slow.iter_rows():
        rows.append(row)
        if len(rows) == 60:
            cluster.remove_node(doomed, allow_graceful=False)
            killed = True
    assert killed
    assert plain(sorted(rows, key=lambda row: row["n"])) == plain(local_rows(word_bundle, ROWS))


@pytest.mark.parametrize(
    ("actors", "nodes", "cpus"),
    [(2, [2.0], 0.5), (1, [1.0], 0.0), (3, [1.0, 1.0, 1.0], 0.0), (1, [16.0], 1.0), (64, [16.0] * 4, 0.937)],
)
def test_one_cpu_of_the_largest_node_stays_free(actors: int, nodes: list[float], cpus: float) -> None:
    assert _reserved(actors, nodes) == cpus


# tokmarg score --engine ray


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tokmarg", "score", "--engine", "ray", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ENVIRONMENT, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, env=environment)


def outputs(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder).sort_by("n").to_pylist()
    return rows


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What tokmarg itself said last."""
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_the_command_scores_every_row_once(cluster: Cluster, word_bundle: Path, tmp_path: Path) -> None:
    write_posts(tmp_path / "in", ROWS)
    files = ["--bundle", word_bundle, "--input", tmp_path / "in" / "*.parquet", "--output", tmp_path / "out"]
    done = run(*files, "--device", "cpu", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert re.match(r"586 scored, \d+ flagged, 14 failed \(7 empty_text, 7 invalid_record\)", said(done)), said(done)
    assert outputs(tmp_path / "out") == local_rows(word_bundle, ROWS)

    again = run(*files, "--device", "cpu")
    assert again.returncode == 1
    assert "has a run already: --resume goes on with it" in said(again)

    lost = sorted((tmp_path / "out").glob("part-*.parquet"))[3]
    lost.unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*.parquet")}
    resumed = run(*files, "--device", "cpu", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "9 blocks are done already, 1 are left" in resumed.stderr
    assert outputs(tmp_path / "out") == local_rows(word_bundle, ROWS)
    assert {path: path.stat().st_mtime_ns for path in times} == times

    other = run(*files, "--device", "cpu", "--resume", "--tolerance", "0.1")
    assert other.returncode == 1
    assert "options is not what the run began with" in said(other)


def test_a_driver_that_is_killed_is_gone_on_from(cluster: Cluster, word_bundle: Path, tmp_path: Path) -> None:
    write_posts(tmp_path / "in", ROWS)
    files = ["--bundle", word_bundle, "--input", tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu"]
    environment = {**os.environ, **ENVIRONMENT, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen(command(*files, "--block-rows", 4), env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "out").glob("part-*.parquet"))) < 5:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = len(list((tmp_path / "out").glob("part-*.parquet")))
    assert done < 150
    assert run(*files, "--resume").returncode == 0
    assert outputs(tmp_path / "out") == local_rows(word_bundle, ROWS)
    assert json.loads((tmp_path / "out" / "_tokmarg_run.json").read_text())["rows"] == 4


def test_mistakes_are_one_line_with_file_and_column(cluster: Cluster, word_bundle: Path, tmp_path: Path) -> None:
    folder = write_posts(tmp_path / "in", 50)
    arguments = ["--bundle", word_bundle, "--device", "cpu", "--output", tmp_path / "out", "--input", folder]
    missing = run(*arguments, "--text-field", "body")
    assert missing.returncode == 1
    assert f"{folder}/part-0.parquet" in said(missing)
    assert "'body'" in said(missing)
    wrong = run(*arguments, "--text-field", "n")
    assert (wrong.returncode, "'n'" in said(wrong), "part-0.parquet" in said(wrong)) == (1, True, True)
    (folder / "part-1.parquet").write_bytes(b"PAR1 nothing PAR1")
    corrupt = run(*arguments)
    assert corrupt.returncode == 1
    assert f"{folder}/part-1.parquet" in said(corrupt)
    assert not (tmp_path / "out").exists()


def test_a_damaged_block_costs_itself_alone(cluster: Cluster, word_bundle: Path, tmp_path: Path) -> None:
    folder = write_posts(tmp_path / "in", ROWS)
    path = folder / "part-1.parquet"
    data = bytearray(path.read_bytes())
    data[4:2000] = b"\xff" * 1996
    path.write_bytes(data)
    done = run("--bundle", word_bundle, "--device", "cpu", "--input", folder, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert f"{path}" in done.stderr
    assert "--resume tries them again" in said(done)
    whole = [row for row in local_rows(word_bundle, ROWS) if row["n"] < ROWS / 2]
    assert outputs(tmp_path / "out")[: len(whole)] == whole
