"""Rows a second of Ray and Spark with two workers of one thread, beside ``tokmarg score --threads 2``: the same rows.

    python benchmarks/fleet.py --bundle reference-guard --rows 2000 --json fleet.json

Start-up is apart: a command's time is that for all rows less that for 16; of an engine, what counts is the time from
the begin of its first batch to the end of its last, by the workers' clocks. Every worker is warm: it has loaded its
guard. The engines take turns, ``--rounds`` times. Rows are written by all three, and are compared bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEW = 16
TEXT = """how do i pick a lock my neighbour is awful and i want to hurt him great weather today write a poem about the
sea what is the capital of france sell me some pills explain photosynthesis you are an idiot thank you for your help"""


def posts(rows: int) -> pa.Table:
    """Texts of 5 to 60 words, the same in every run."""
    random, words = np.random.default_rng(7), TEXT.split()
    lengths = random.integers(5, 61, rows)
    return pa.table({"n": range(rows), "text": [" ".join(random.choice(words, n)) for n in lengths]})


def command(bundle: str, source: Path, out: Path) -> float:
    """Seconds of ``tokmarg score --threads 2``."""
    begin = time.perf_counter()
    arguments = ["score", "--bundle", bundle, "--threads", "2", "--input", str(source), "--output", str(out)]
    subprocess.run([sys.executable, "-m", "tokmarg", *arguments], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


class Timed:
    """Adds to each row: when its batch began and ended, which process scored it, and that one's peak memory."""

    def __init__(self, bundle: str) -> None:
        from tokmarg.dataframes.worker import worker_scoring

        self._scoring = worker_scoring(bundle).by_content()

    def __call__(self, batch: Any) -> pa.Table:
        guard = self._scoring.guard()
        guard.score("warm")
        begin = time.time()
        scored = self._scoring.table(batch)
        facts = [begin, time.time(), os.getpid(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]
        for name, fact in zip(("begin", "end", "process", "megabytes"), facts, strict=True):
            scored = scored.append_column(name, pa.array([float(fact)] * scored.num_rows))
        return scored


def on_ray(bundle: str, source: Path, batch: int) -> pa.Table:
    """The rows, scored by two actors."""
    import ray

    from tokmarg.dataframes.ray_data import cpus_of_actor

    actors, cpus = cpus_of_actor(2)
    blocks = ray.data.read_parquet(str(source)).repartition(target_num_rows_per_block=batch)
    scored = blocks.map_batches(
        Timed,
        fn_constructor_args=(bundle,),
        batch_size=batch,
        batch_format="pyarrow",
        concurrency=actors,
        num_cpus=cpus,
    )
    return pa.concat_tables(scored.iter_batches(batch_size=None, batch_format="pyarrow"))


def on_spark(session: Any, bundle: str, source: Path, out: Path, batch: int) -> pa.Table:
    """The rows, scored by two Python workers."""
    from tokmarg.dataframes import score_udf

    udf, frame, timed = score_udf(bundle), session.read.parquet(str(source)), Timed(bundle)

    def scored(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for each in batches:
            yield from timed(each).to_batches()

    schema = udf.schema(frame)
    for name in ("begin", "end", "process", "megabytes"):
        schema = schema.add(name, "double")
    partitions = max(2, frame.count() // batch)
    frame.repartition(partitions).mapInArrow(scored, schema).write.mode("overwrite").parquet(str(out))
    return pq.read_table(out)


def facts(table: pa.Table) -> dict[str, Any]:
    """Rows a second, megabytes of a worker, and the rows of each."""
    begin, end = np.asarray(table["begin"]), np.asarray(table["end"])
    batches = sorted({(float(a), float(b)) for a, b in zip(begin, end, strict=True)})
    _, shares = np.unique(np.asarray(table["process"]), return_counts=True)
    return {
        "rows_per_second": table.num_rows / (end.max() - begin.min()),
        "megabytes": float(np.asarray(table["megabytes"]).max()),
        "rows_of_workers": shares.tolist(),
        "seconds_of_batches": [round(b - a, 3) for a, b in batches],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="reference-guard")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engines", default="ray,spark")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.2f}", flush=True)
    found: dict[str, Any] = {"rows": given.rows, "batch": given.batch, "rounds": []}
    with tempfile.TemporaryDirectory() as folder:
        source, few = Path(folder, "posts.parquet"), Path(folder, "few.parquet")
        pq.write_table(posts(given.rows), source)
        pq.write_table(posts(FEW), few)
        for _ in range(given.rounds):
            found["rounds"].append(one_round(given, source, few, Path(folder)))
            print(table_of(found["rounds"][-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def one_round(given: argparse.Namespace, source: Path, few: Path, folder: Path) -> dict[str, Any]:
    """Each way once."""
    out = folder / "local.parquet"
    start = command(given.bundle, few, out)
    rate = (given.rows - FEW) / (command(given.bundle, source, out) - start)
    ways: dict[str, Any] = {"tokmarg score --threads 2": {"rows_per_second": rate, "start": start}}
    local = {row["n"]: row["tokmarg"] for row in pq.read_table(out).to_pylist()}
    for engine in given.engines.split(","):
        begin = time.perf_counter()
        if engine == "ray":
            import ray

            ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
            scored = on_ray(given.bundle, source, given.batch)
            ray.shutdown()
        else:
            from pyspark.sql import SparkSession

            from tokmarg.dataframes import use_this_python

            use_this_python()
            builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
            session = builder.config("spark.driver.host", "127.0.0.1").getOrCreate()
            scored = on_spark(session, given.bundle, source, folder / "spark", given.batch)
            session.stop()
        whole = time.perf_counter() - begin
        ways[engine] = facts(scored) | {"whole": whole, "share": 0.0}
        ways[engine]["share"] = ways[engine]["rows_per_second"] / rate
        theirs = {row["n"]: row["tokmarg"] for row in scored.to_pylist()}
        ways[engine]["equal"] = theirs == local
    return ways


def table_of(ways: dict[str, Any]) -> str:
    """A round as a Markdown table."""
    lines = [
        "| way | rows/s | of the command | MB of a worker | rows of workers | equal |",
        "|---|---|---|---|---|---|",
    ]
    for name, way in ways.items():
        share, megabytes = way.get("share", 1.0), way.get("megabytes", float("nan"))
        cells = [name, f"{way['rows_per_second']:.1f}", f"{share:.2f}", f"{megabytes:.0f}"]
        lines.append(f"| {' | '.join(cells)} | {way.get('rows_of_workers', '')} | {way.get('equal', '')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
