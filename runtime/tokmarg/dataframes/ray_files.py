"""A run over Parquet files on Ray: each block is read, scored and written by one actor, once.

The driver holds the list of blocks and what became of each; no rows go through it, nor through Ray's object store. A
run whose driver died can be resumed as well: blocks whose output is there are skipped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from tokmarg.errors import TokmargError
from tokmarg.results import LOW_COVERAGE

from .parquet_blocks import Block, InputFile, OutputFolder, blocks_of, find_files, read_block, read_footer
from .ray_data import cpus_of_actor
from .worker import WorkerScoring

__all__ = ["RECORD", "RayRun", "RunCounts", "plan_run"]

#: Of a run, in its output folder; readers of Parquet pass over names that begin so.
RECORD = "_tokmarg_run.json"
_VERSION = 1
#: Blocks of a run, so that the last ones are a small part of it, and rows of a block: more cost more where a node dies,
#: fewer make more files.
_BLOCKS, _FEWEST, _MOST = 128, 64, 8192
#: Footers that are read at the same time.
_READERS = 16
_COUNTS = ("scored", "flagged", "low_coverage", "not_converged")
_REPORT = pa.schema(
    [(name, pa.int64()) for name in _COUNTS] + [(name, pa.string()) for name in ("errors", "first_error", "failure")]
)


@dataclass(slots=True)
class RunCounts:
    """What became of the blocks that this run scored.

    Attributes:
        rows: how many were scored, flagged, of low coverage, not converged.
        errors: rows that could not be scored, by type.
        first_error: one of them, as ``type: message``.
        failures: of blocks that could not be read or written, one line each.
    """

    rows: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first_error: str | None = None
    failures: list[str] = field(default_factory=list)

    def add(self, report: dict[str, Any]) -> None:
        """Counts a block."""
        if report["failure"] is not None:
            self.failures.append(report["failure"])
            return
        self.rows.update({name: report[name] for name in _COUNTS})
        self.errors.update(json.loads(report["errors"]))
        self.first_error = self.first_error or report["first_error"]


@dataclass(frozen=True, slots=True)
class RayRun:
    """What is to do.

    Attributes:
        scoring: how.
        output: where to.
        blocks: without output yet.
        done: blocks that have one.
    """

    scoring: WorkerScoring
    output: OutputFolder
    blocks: list[Block]
    done: int

    def run(self, actors: int | None) -> RunCounts:
        """Scores the blocks on the Ray cluster that this process is, or gets, connected to; Ray shows the progress.

        Args:
            actors: of one thread each; None = one for each CPU.

        Raises:
            TokmargError: no actor can load the bundle, outputs do not arrive where the driver looks, or the cluster is
                gone.
        """
        counts = RunCounts()
        if self.blocks:
            for report in self._reports(actors):
                counts.add(report)
            lost = {block.output for block in self.blocks} - self.output.names()
            if len(lost) > len(counts.failures):
                raise TokmargError(
                    f"{min(lost)}: was written on another node: --output must be a folder that all share"
                )
        return counts

    def _reports(self, actors: int | None) -> Iterator[dict[str, Any]]:
        import ray
        from ray.exceptions import RayError

        chosen, cpus = cpus_of_actor(actors)
        blocks = ray.data.from_arrow([pa.Table.from_pylist([asdict(block)]) for block in self.blocks])
        reports = blocks.map_batches(
            _BlockScorer,
            fn_constructor_args=(self.scoring, self.output),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(chosen, len(self.blocks))),
            num_cpus=cpus,
        )
        try:
            yield from reports.iter_rows()
        except RayError as error:
            raise TokmargError(f"the run on Ray ended: {_cause(error)}; --resume goes on where it ended") from None


def plan_run(
    scoring: WorkerScoring, pattern: str, output: str, *, rows: int | None, fingerprint: dict[str, Any], resume: bool
) -> RayRun:
    """Which blocks of which files are to be scored; the output folder gets the record of the run.

    Args:
        scoring: how.
        pattern: of the input: a file, folder, or pattern; a path or a URL.
        output: folder for one file a block.
        rows: of a block; None = so many that there are some 128 blocks, within reason. A run that is resumed keeps its
            own.
        fingerprint: all that the scores depend on, as JSON.
        resume: go on with the run of the folder.

    Raises:
        TokmargError: there is no input, a file is no Parquet or lacks the column, the folder has another run's outputs,
            or an input has changed since.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        files = list(pool.map(read_footer, find_files(pattern)))
    checked = set()  # each schema once: a check opens the bundle
    for file in files:
        if (schema := file.schema.remove_metadata()) not in checked:
            checked.add(schema)
            _check_columns(scoring, file)
    if rows is None:
        rows = min(max(sum(file.rows for file in files) // _BLOCKS, _FEWEST), _MOST)
    folder = OutputFolder(output)
    names, inputs = folder.names(), {file.url: file.identity for file in files}
    record = {"version": _VERSION, "fingerprint": fingerprint, "rows": rows, "inputs": inputs}
    if RECORD in names:
        there = json.loads(folder.read(RECORD))
        _check_record(there, record, output, resume)
        rows, record["rows"] = there["rows"], there["rows"]
        record["inputs"] = there["inputs"] | inputs
    elif names:
        raise TokmargError(f"--output: {output}: has files, and no run to go on with: give an empty folder")
    folder.write(RECORD, json.dumps(record, indent=1, sort_keys=True).encode())
    blocks = list(blocks_of(files, rows))
    left = [block for block in blocks if block.output not in names]
    return RayRun(scoring, folder, left, len(blocks) - len(left))


def _check_columns(scoring: WorkerScoring, file: InputFile) -> None:
    try:
        scoring.schema(file.schema)
    except TokmargError as error:
        raise TokmargError(f"{file.url}: {error}") from None


def _check_record(there: dict[str, Any], now: dict[str, Any], output: str, resume: bool) -> None:
    """Refuses to mix two runs in one folder."""
    if not resume:
        raise TokmargError(f"--output: {output}: has a run already: --resume goes on with it, or give another folder")
    other = there["fingerprint"]
    if different := sorted(k for k in other | now["fingerprint"] if other.get(k) != now["fingerprint"].get(k)):
        raise TokmargError(f"--resume: {output}: {different[0]} is not what the run began with: give another folder")
    for url, identity in now["inputs"].items():
        if there["inputs"].get(url, identity) != identity:
            raise TokmargError(f"--resume: {url}: has changed since the run began: give another --output")


class _BlockScorer:
    """An actor: blocks in, what became of them out."""

    def __init__(self, scoring: WorkerScoring, output: OutputFolder) -> None:
        self._scoring, self._output = scoring, output
        scoring.guard()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._report(Block(**row)) for row in batch.to_pylist()], _REPORT)

    def _report(self, block: Block) -> dict[str, Any]:
        try:
            scored = self._scoring.table(read_block(block))
            self._output.write_table(block.output, scored)
        except TokmargError as error:  # this block's alone
            return {"failure": str(error)}
        return _counted(scored.column(self._scoring.columns["into"]))


def _counted(results: pa.ChunkedArray) -> dict[str, Any]:
    import pyarrow.compute as pc

    def count(flags: pa.ChunkedArray) -> int:
        return pc.sum(flags).as_py() or 0

    errors = pc.struct_field(results, "error").drop_null()
    types = pc.value_counts(pc.struct_field(errors, "type")).to_pylist()
    first = errors[0].as_py() if len(errors) else None
    return {
        "scored": len(results) - len(errors),
        "flagged": count(pc.struct_field(results, "flagged")),
        "low_coverage": count(pc.less(pc.struct_field(results, "coverage"), LOW_COVERAGE)),
        "not_converged": count(pc.invert(pc.struct_field(results, "converged"))),
        "errors": json.dumps({each["values"]: each["counts"] for each in types}),
        "first_error": first and f"{first['type']}: {first['message']}",
    }


def _cause(error: BaseException) -> str:
    """What went wrong in an actor, without the traceback that Ray puts around it."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
