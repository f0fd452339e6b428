"""Scores tables: Arrow tables, streams of record batches, and whatever frame can become one of them.

pyarrow is imported when a function is called.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.installed import find_bundle
from tokmarg.calibration.calibration import Calibration, find_calibration
from tokmarg.errors import ContentError
from tokmarg.guard import Guard
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Record
from tokmarg.prompt.policy import Policy, apply_policy
from tokmarg.score_options import ScoreOptions

from .extras import check_extra
from .names import COLUMN

if TYPE_CHECKING:
    import pyarrow as pa

    from .placement import Placement

__all__ = ["COLUMN", "result_schema", "score_batches", "score_table", "scored_schema"]

#: Rows of a table whose contents are read at a time.
_ROWS = 1024


def score_table(
    guard: Guard,
    table: Any,
    *,
    text: str | None = None,
    messages: str | None = None,
    role: Role | None = None,
    into: str = COLUMN,
    prefix: str | None = None,
    options: ScoreOptions | None = None,
    **changes: Any,
) -> pa.Table:
    """Scores the rows of a table, and appends the results to it; its own columns stay as they are.

    Args:
        guard: that scores.
        table: a pyarrow table or record batch, a pandas or Polars frame, or anything with ``__arrow_c_stream__``.
        text: column of texts.
        messages: column of conversations: lists of structs with ``role`` and ``content``, or JSON texts. Without
            ``text`` and ``messages``, the columns of these names are read, as far as they are there; of a row that has
            both, one must be null.
        role: of bare texts (default ``user``).
        into: name of the struct column that results become, see :mod:`tokmarg.dataframes.result_type`.
        prefix: results become flat columns instead, whose names begin so.
        options, changes: as for :meth:`tokmarg.Guard.score`.

    Returns:
        the table with the results of :meth:`tokmarg.Guard.score_many`, bit by bit; a row that cannot be scored has its
        error, and null everywhere else.

    Raises:
        OptionError: an argument is wrong.
        TokmargError: a column is missing, of the wrong type, or has the name of a result's; or the method does not go
            with the bundle; or pyarrow is not installed.
    """
    check_extra("arrow", "pyarrow")
    from .frames import as_table

    rows = as_table(table)
    chosen = ScoreOptions.of(options, **changes)
    place = _placement(guard, into, prefix, chosen)
    schema = place.after(rows.schema)
    contents = rows.select(_columns(rows.schema, text, messages, role).names).to_batches(max_chunksize=_ROWS)
    scored = score_batches(
        guard, contents, text=text, messages=messages, role=role, prefix=prefix, into=into, options=chosen
    )
    return _beside(rows, scored, place, schema)


def score_batches(
    guard: Guard,
    batches: Iterable[Any],
    *,
    text: str | None = None,
    messages: str | None = None,
    role: Role | None = None,
    into: str = COLUMN,
    prefix: str | None = None,
    options: ScoreOptions | None = None,
    **changes: Any,
) -> Iterator[pa.RecordBatch]:
    """Scores a stream of record batches: lazy in, lazy out, one batch out for each batch in.

    A batch is read when those before it have not enough rows to fill a pass, so that a few are held at a time, and the
    scores are those of one stream of all rows.

    Args:
        batches: record batches, or what :func:`score_table` takes; a ``pyarrow.RecordBatchReader``.
        guard, text, messages, role, into, prefix, options, changes: as for :func:`score_table`.

    Raises:
        OptionError, TokmargError: as :func:`score_table` does, when the batch comes that is the reason.
    """
    check_extra("arrow", "pyarrow")
    from .frames import batches_of

    chosen = ScoreOptions.of(options, **changes)
    place = _placement(guard, into, prefix, chosen)
    waiting: deque[pa.RecordBatch] = deque()

    def contents() -> Iterator[Record | ContentError]:
        for batch in batches_of(batches):
            place.after(batch.schema)
            columns = _columns(batch.schema, text, messages, role)
            waiting.append(batch)
            yield from columns.of(batch)

    outcomes = guard.score_many(contents(), options=chosen, on_error="return")
    return _scored(outcomes, waiting, place)


def _scored(outcomes: Iterator[Any], waiting: deque[pa.RecordBatch], place: Placement) -> Iterator[pa.RecordBatch]:
    """The batches that wait, each with its outcomes."""
    from .result_array import result_array

    def finished(done: list[Any]) -> pa.RecordBatch:
        import pyarrow as pa

        batch = waiting.popleft()
        columns = place.columns(result_array(done, place.type))
        return pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=place.after(batch.schema))

    done: list[Any] = []
    for outcome in outcomes:
        while not waiting[0].num_rows:
            yield finished([])
        done.append(outcome)
        if len(done) == waiting[0].num_rows:
            yield finished(done)
            done = []
    while waiting:
        yield finished([])


def result_schema(
    guard: Guard | str | os.PathLike[str] | None,
    *,
    into: str = COLUMN,
    prefix: str | None = None,
    policy: Policy | None = None,
    calibration: str | os.PathLike[str] | Calibration | Literal[False] | None = None,
    options: ScoreOptions | None = None,
    **changes: Any,
) -> pa.Schema:
    """The columns that results become, before anything is scored.

    Args:
        guard: a guard, or the bundle that one would be loaded from (of which no weights are read).
        policy, calibration: of a bundle, as for :meth:`tokmarg.Guard.load`.
        into, prefix, options, changes: as for :func:`score_table`.

    Raises:
        BundleNotFoundError, BundleError, SpecError, OptionError, TokmargError: as :meth:`tokmarg.Guard.load` does.
    """
    check_extra("arrow", "pyarrow")
    chosen = ScoreOptions.of(options, **changes)
    return _placement(guard, into, prefix, chosen, policy, calibration).schema


def scored_schema(guard: Guard | str | os.PathLike[str] | None, schema: pa.Schema, **arguments: Any) -> pa.Schema:
    """The schema of a table with its results.

    Args:
        schema: the table's.
        guard, arguments: as for :func:`result_schema`.

    Raises:
        TokmargError: as :func:`result_schema` does, or the table has a column of a result's name.
    """
    check_extra("arrow", "pyarrow")
    into, prefix = arguments.pop("into", COLUMN), arguments.pop("prefix", None)
    policy, calibration = arguments.pop("policy", None), arguments.pop("calibration", None)
    chosen = ScoreOptions.of(arguments.pop("options", None), **arguments)
    return _placement(guard, into, prefix, chosen, policy, calibration).after(schema)


def _placement(
    guard: Guard | str | os.PathLike[str] | None,
    into: str,
    prefix: str | None,
    options: ScoreOptions,
    policy: Policy | None = None,
    calibration: str | os.PathLike[str] | Calibration | Literal[False] | None = None,
) -> Placement:
    from .placement import Placement
    from .result_type import ResultType

    if isinstance(guard, Guard):
        return Placement(into, prefix, ResultType.of(guard.spec, guard.calibration, options.method))
    bundle = Bundle.open(find_bundle(guard))
    spec = bundle.manifest.spec if policy is None else apply_policy(bundle.manifest.spec, policy)
    return Placement(into, prefix, ResultType.of(spec, find_calibration(bundle, spec, calibration), options.method))


def _columns(schema: pa.Schema, text: str | None, messages: str | None, role: Role | None) -> Any:
    from .contents import ContentColumns

    return ContentColumns.choose(schema, text, messages, role)


def _beside(rows: pa.Table, scored: Iterator[pa.RecordBatch], place: Placement, schema: pa.Schema) -> pa.Table:
    """A table with the result columns of its scored batches."""
    import pyarrow as pa

    names = place.schema.names
    results = pa.Table.from_batches([batch.select(names) for batch in scored], place.schema)
    return pa.Table.from_arrays([*rows.columns, *results.columns], schema=schema)
