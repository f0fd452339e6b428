"""Ray Data: a dataset's rows scored by actors, one guard each (extra ``ray``).

    ds = ray.data.read_parquet("s3://posts/")
    score_dataset(ds, "reference-guard", text="body").write_parquet("s3://scores/")

or, with one's own resources, ``ds.map_batches(GuardScorer, fn_constructor_kwargs={...}, concurrency=4, num_cpus=1)``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tokmarg.arguments import check_integer
from tokmarg.errors import TokmargError
from tokmarg.guard import Guard

from .extras import check_extra
from .worker import worker_scoring

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

__all__ = ["GuardScorer", "cpus_of_actor", "score_dataset"]

#: Rows of a batch: some seconds of work for one thread, which is what a node that dies costs.
_ROWS = 128
#: Actors at most, to refuse what is no number of actors.
_MAX_ACTORS = 100_000


class GuardScorer:
    """What ``Dataset.map_batches`` makes an actor of: one guard, one thread, batches in, batches with results out.

    Args:
        bundle, arguments: as for :func:`tokmarg.dataframes.worker.worker_scoring`.

    Raises:
        TokmargError: the bundle cannot be loaded on this node.
    """

    def __init__(self, bundle: Guard | str | os.PathLike[str] | None = None, **arguments: Any) -> None:
        self._scoring = worker_scoring(bundle, **arguments)
        self._scoring.guard()  # a bundle that is missing is said before the first batch

    def __call__(self, batch: Any) -> pa.Table:
        """Scores a batch, of any ``batch_format``: a pyarrow table, a pandas frame, or a dict of numpy arrays."""
        from .numpy_columns import as_arrow

        return self._scoring.table(as_arrow(batch))


def score_dataset(
    dataset: Dataset,
    bundle: Guard | str | os.PathLike[str] | None = None,
    *,
    actors: int | None = None,
    rows: int = _ROWS,
    **arguments: Any,
) -> Dataset:
    """A Ray dataset with its results: lazy, rows as :func:`tokmarg.dataframes.score_table` has them, in Ray's order.

    What goes wrong by hand is seen to: rows are split so that all actors have work, and actors reserve so little of
    the CPUs that reading goes on beside them.

    Args:
        dataset: with a column of texts or of messages.
        bundle, arguments: as for :func:`tokmarg.dataframes.worker.worker_scoring`; files of policies and calibrations
            are read here.
        actors: that score at the same time; None = one for each CPU of the cluster, as it is now.
        rows: of a batch: what is done again where a node dies.

    Raises:
        OptionError: an argument is wrong.
        TokmargError: Ray is not installed, or does not start; or a policy or calibration cannot be read. What is wrong
            with a column, the actors say, inside Ray's error.
    """
    check_extra("ray", "pyarrow", "ray.data", what="score_dataset")
    from ray.data import ActorPoolStrategy

    check_integer("rows", rows, 2**31 - 1)
    if actors is not None:
        check_integer("actors", actors, _MAX_ACTORS)
    scoring = worker_scoring(bundle, **arguments).by_content()
    actors, cpus = cpus_of_actor(actors)
    return dataset.repartition(target_num_rows_per_block=rows).map_batches(
        _Scorer,
        fn_constructor_args=(scoring,),
        batch_size=rows,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=actors),
        num_cpus=cpus,
    )


def cpus_of_actor(actors: int | None) -> tuple[int, float]:
    """How many actors a cluster takes, and what each reserves of its CPUs.

    Actors that reserve all CPUs leave none to read with, and Ray waits for ever. So one CPU of the largest node stays
    free: each of four actors on four CPUs reserves three quarters of one.

    Args:
        actors: as asked for; None = one for each CPU.

    Raises:
        TokmargError: Ray does not start, or there are more actors than the cluster has CPUs, which would share them.
    """
    import ray

    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False)
        except Exception as error:  # whatever it is, Ray has no class for it
            raise TokmargError(f"Ray does not start: {' '.join(str(error).split())}") from None
    nodes = [cpus for node in ray.nodes() if node["Alive"] and (cpus := node["Resources"].get("CPU", 0)) > 0]
    total = max(1, int(sum(nodes)))
    chosen = total if actors is None else actors
    if chosen > total:
        raise TokmargError(f"{chosen} actors of one thread, but the Ray cluster has {total} CPUs: ask for no more")
    return chosen, _reserved(chosen, nodes)


def _reserved(actors: int, nodes: list[float]) -> float:
    """CPUs that an actor reserves: actors are spread over the nodes, and one CPU of the largest stays free."""
    a_node = -(-actors // max(1, len(nodes)))
    share = (max(nodes, default=1) - 1) / a_node
    return min(1.0, max(0.0, int(share * 1000) / 1000))


class _Scorer:
    """:class:`GuardScorer`, from what was made on the driver."""

    def __init__(self, scoring: Any) -> None:
        self._scoring = scoring
        scoring.guard()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self._scoring.table(batch)
