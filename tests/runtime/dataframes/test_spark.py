"""Spark itself: rows equal to a local run value by value, and a Python worker that is killed in the middle."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.runtime.dataframes.test_worker import messages_table
from tests.support.engines import need_java, need_module
from tests.support.fleet import local_rows, posts, write_posts
from tokmarg import Guard, TokmargError

need_module("pyspark", "spark")
need_java()

from pyspark.sql import DataFrame, SparkSession  # noqa: E402

from tokmarg.dataframes import score_dataframe, score_table, score_udf, use_this_python  # noqa: E402, F401

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Spark's own warnings are many

ROWS = 600


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.task.maxFailures": "4",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
    }
    # local[2, 4]: two cores, and a task may fail three times, as on a cluster.
    builder = SparkSession.builder.master("local[2, 4]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # what workers unpickle is here
        patch.delenv("PYSPARK_PYTHON", raising=False)
        session = builder.getOrCreate()  # and nobody says which Python workers run
        yield session
        session.stop()


@pytest.fixture
def frame(spark: SparkSession, tmp_path: Path) -> DataFrame:
    return spark.read.parquet(str(write_posts(tmp_path / "posts", ROWS)))


def written(frame: DataFrame, folder: Path) -> list[dict[str, Any]]:
    frame.write.parquet(str(folder))
    rows: list[dict[str, Any]] = pq.read_table(folder).sort_by("n").to_pylist()
    for row in rows:  # Spark writes times of the session's zone
        row["when"] = row["when"].replace(tzinfo=None)
    return rows


def test_rows_are_those_of_a_local_run(frame: DataFrame, word_bundle: Path, tmp_path: Path) -> None:
    scored = score_dataframe(frame, word_bundle, device="cpu", partitions=4)
    assert written(scored, tmp_path / "scored") == local_rows(word_bundle, ROWS)


def test_flat_columns_and_a_guard_that_is_handed_over(frame: DataFrame, word_bundle: Path, tmp_path: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu", policy={"exclude": ["B"]})
    scored = score_dataframe(frame, guard, prefix="guard_")
    expected = score_table(guard, posts(ROWS), prefix="guard_").to_pylist()
    assert written(scored, tmp_path / "scored") == expected


def test_map_in_pandas(frame: DataFrame, word_bundle: Path) -> None:
    udf = score_udf(word_bundle, device="cpu")
    rows = frame.mapInPandas(udf, udf.schema(frame)).collect()
    got = {row["n"]: row["tokmarg"].asDict(recursive=True) for row in rows}
    expected = {row["n"]: row["tokmarg"] for row in local_rows(word_bundle, ROWS)}
    assert got.keys() == expected.keys()
    for n, result in got.items():
        assert result["unsafe"] == expected[n]["unsafe"]
        assert result["labels"] == expected[n]["labels"]
        assert result["error"] == expected[n]["error"]


@pytest.mark.parametrize("how", ["mapInArrow", "mapInPandas"])
def test_messages(spark: SparkSession, word_bundle: Path, tmp_path: Path, how: str) -> None:
    table = messages_table()
    pq.write_table(table, tmp_path / "messages.parquet")
    frame = spark.read.parquet(str(tmp_path / "messages.parquet"))
    udf = score_udf(word_bundle, device="cpu", messages="messages")
    rows = sorted(getattr(frame, how)(udf, udf.schema(frame)).collect(), key=lambda row: row["n"])
    local = score_table(Guard.load(word_bundle, device="cpu", threads=1), table, messages="messages").to_pylist()
    assert [row["tokmarg"]["unsafe"] for row in rows] == [row["tokmarg"]["unsafe"] for row in local]
    assert all(row["tokmarg"]["error"] is None for row in rows)


class Killed:
    """Kills the Python worker that gets to row 100, once."""

    def __init__(self, udf: Any, mark: Path) -> None:
        self._udf, self._mark = udf, mark

    def __call__(self, batches: Any) -> Iterator[Any]:
        for batch in self._udf(batches):
            if 100 in batch.column("n").to_pylist() and not self._mark.exists():
                self._mark.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def test_a_killed_worker_loses_and_doubles_nothing(frame: DataFrame, word_bundle: Path, tmp_path: Path) -> None:
    udf = score_udf(word_bundle, device="cpu")
    mark = tmp_path / "killed"
    scored = frame.repartition(4).mapInArrow(Killed(udf, mark), udf.schema(frame))
    assert written(scored, tmp_path / "scored") == local_rows(word_bundle, ROWS)
    assert mark.exists()


def loads(batches: Any, bundle: str) -> Iterator[Any]:
    """The process of each batch, and how many guards it has loaded from a bundle."""
    import pyarrow as pa

    from tokmarg.recipe import _shared

    for _ in batches:
        yield pa.RecordBatch.from_pydict(
            {"process": [os.getpid()], "guards": [sum(bundle in str(key) for key in _shared.kept)]}
        )


def test_a_worker_loads_the_guard_once(frame: DataFrame, word_bundle: Path, tmp_path: Path) -> None:
    folder = str(shutil.copytree(word_bundle, tmp_path / "bundle"))  # workers have those of other tests
    udf = score_udf(folder, device="cpu")

    def both(batches: Any) -> Iterator[Any]:
        return loads(udf(batches), folder)

    rows = frame.repartition(12).mapInArrow(both, "process long, guards long").collect()
    assert len(rows) == 12
    assert {row["guards"] for row in rows} == {1}
    assert len({row["process"] for row in rows}) <= 4  # two cores; a worker that idles may be replaced


def test_a_stream_with_available_now_scores_what_is_new(
    spark: SparkSession, frame: DataFrame, word_bundle: Path, tmp_path: Path
) -> None:
    folder, out = write_posts(tmp_path / "in", ROWS, files=3), tmp_path / "out"

    def run() -> None:
        stream = spark.readStream.schema(frame.schema).option("maxFilesPerTrigger", 1).parquet(str(folder))
        writer = score_dataframe(stream, word_bundle, device="cpu").writeStream.format("parquet")
        writer = writer.option("checkpointLocation", str(tmp_path / "checkpoint")).option("path", str(out))
        assert writer.trigger(availableNow=True).start().awaitTermination(600) is True

    last = next(folder.glob("*-2.parquet")).rename(tmp_path / "later.parquet")
    run()
    last.rename(folder / "part-2.parquet")
    run()
    run()
    numbers = spark.read.parquet(str(out)).select("n").collect()
    assert sorted(row["n"] for row in numbers) == list(range(ROWS))


def test_mistakes_are_one_line_before_anything_runs(frame: DataFrame, word_bundle: Path) -> None:
    with pytest.raises(TokmargError, match=re.escape("'body'")):
        score_dataframe(frame, word_bundle, text="body")
    with pytest.raises(TokmargError, match="'n'"):
        score_dataframe(frame, word_bundle, text="n")
    with pytest.raises(TokmargError, match="already"):
        score_dataframe(frame, word_bundle, into="when")
