"""Spark: a frame's rows scored in its Python workers, one guard each (extra ``spark``).

    scored = score_dataframe(frame, "reference-guard", text="body")

or, by hand, ``udf = score_udf("reference-guard")`` and ``frame.mapInArrow(udf, udf.schema(frame))``.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tokmarg.arguments import check_integer
from tokmarg.guard import Guard

from .extras import check_extra
from .worker import WorkerScoring, worker_scoring

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

__all__ = ["SparkScorer", "score_dataframe", "score_udf", "use_this_python"]

_MAX_PARTITIONS = 2**31 - 1


class SparkScorer:
    """A function for ``mapInArrow`` and ``mapInPandas``: batches in, batches with results out.

    A Python worker loads the guard once, for all partitions that it is given (``spark.python.worker.reuse``, which is
    Spark's default).
    """

    def __init__(self, scoring: WorkerScoring) -> None:
        self._scoring = scoring

    def __call__(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Scores the batches of a partition: record batches, or pandas frames, which then come out, too."""
        from .numpy_columns import as_arrow

        first = next(batches, None)
        if first is None:
            return
        rest = itertools.chain([first], batches)
        if hasattr(first, "iloc"):  # a pandas frame
            yield from (self._scoring.table(as_arrow(frame)).to_pandas() for frame in rest)
        else:
            yield from self._scoring.batches(rest)

    def schema(self, frame: DataFrame) -> StructType:
        """The schema of a frame with its results, which Spark wants to know before anything runs.

        Raises:
            TokmargError: the bundle is not there, a column is missing or cannot hold contents, or one has the name of
                a result's.
        """
        from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

        rows = to_arrow_schema(frame.schema)
        added = from_arrow_schema(self._scoring.schema(rows)).fields[len(rows) :]
        return type(frame.schema)([*frame.schema.fields, *added])


def score_udf(bundle: Guard | str | os.PathLike[str] | None = None, **arguments: Any) -> SparkScorer:
    """A function that scores the rows of a frame, for ``mapInArrow`` or ``mapInPandas``.

    Args:
        bundle, arguments: as for :func:`tokmarg.dataframes.worker.worker_scoring`; files of policies and calibrations
            are read here, on the driver.

    Raises:
        OptionError: an argument is wrong.
        TokmargError: PySpark is not installed.
    """
    check_extra("spark", "pyarrow", "pyspark", what="score_udf")
    use_this_python()
    return SparkScorer(worker_scoring(bundle, **arguments).by_content())


def score_dataframe(
    frame: DataFrame,
    bundle: Guard | str | os.PathLike[str] | None = None,
    *,
    partitions: int | None = None,
    **arguments: Any,
) -> DataFrame:
    """A frame with its results: lazy, as :func:`tokmarg.dataframes.score_table` has them; streams as well.

    Args:
        frame: with a column of texts or of messages.
        bundle, arguments: as for :func:`score_udf`.
        partitions: that the rows are dealt out to first, so that all cores have work; None leaves them as they are.

    Raises:
        OptionError: an argument is wrong.
        TokmargError: as :func:`score_udf` and :meth:`SparkScorer.schema` do.
    """
    if partitions is not None:
        check_integer("partitions", partitions, _MAX_PARTITIONS)
    udf = score_udf(bundle, **arguments)
    schema = udf.schema(frame)
    return (frame if partitions is None else frame.repartition(partitions)).mapInArrow(udf, schema)


def use_this_python() -> None:
    """Has Spark's workers run the Python that runs this, where nothing else is said: the ``python3`` that Spark would
    find on the path may be another one, without tokmarg. A session that runs on this machine alone is told as well."""
    from pyspark import SparkContext

    if "PYSPARK_PYTHON" in os.environ:
        return
    os.environ["PYSPARK_PYTHON"] = sys.executable
    context = SparkContext._active_spark_context
    if context is not None and context.master.startswith("local") and context.pythonExec == "python3":
        context.pythonExec = sys.executable
