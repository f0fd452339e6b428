"""What workers score with: pickled without weights, loaded once a process."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.conftest import run_python
from tokmarg import BundleError, Guard, OptionError, TokmargError
from tokmarg.dataframes import score_table
from tokmarg.dataframes.numpy_columns import as_arrow
from tokmarg.dataframes.worker import worker_scoring

TEXTS = ["gun", "hello", None, "idiot gun"]


def messages_table() -> pa.Table:
    """Conversations of one to three messages."""
    turns = [("user", "gun"), ("assistant", "hello idiot"), ("user", "hello")]
    talks = [[{"role": role, "content": text} for role, text in turns[: n % 3 + 1]] for n in range(12)]
    return pa.table({"n": range(12), "messages": talks})


def test_a_process_loads_the_same_guard_once(word_bundle: Path) -> None:
    first = worker_scoring(word_bundle, device="cpu").by_content()
    again = pickle.loads(pickle.dumps(first))
    assert again.guard() is first.guard()
    assert worker_scoring(word_bundle, device="cpu", policy={"exclude": ["B"]}).guard() is not first.guard()
    assert len(pickle.dumps(first)) < 3_000


THERE = """
import pickle, sys
import pyarrow as pa
scoring = pickle.loads(bytes.fromhex(sys.argv[1]))
print(scoring.table(pa.table({"text": ["gun", "hello", None, "idiot gun"]})).to_pylist())
"""


def test_policy_file_and_relative_path_mean_the_same_elsewhere(
    word_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"exclude": ["B"]}))
    monkeypatch.chdir(word_bundle.parent)
    scoring = worker_scoring(word_bundle.name, device="cpu", policy=policy).by_content()
    policy.unlink()
    monkeypatch.chdir(tmp_path)
    done = run_python(THERE, pickle.dumps(scoring).hex())
    assert done.stderr == ""
    guard = Guard.load(word_bundle, device="cpu", threads=1, policy={"exclude": ["B"]})
    assert done.stdout.strip() == str(score_table(guard, pa.table({"text": TEXTS})).to_pylist())


def test_a_guard_is_handed_on_with_one_thread_and_its_policy(word_bundle: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu", threads=2, policy={"exclude": ["B"]})
    there = worker_scoring(guard).guard()
    assert there is not guard
    assert there.labels == ("A", "C")
    assert there._recipe is not None
    assert there._recipe.threads == 1
    with pytest.raises(OptionError, match=r"give them to Guard\.load"):
        worker_scoring(guard, policy={"exclude": ["A"]})


def test_another_bundle_of_the_same_name_is_refused(bundle_copy: Path) -> None:
    scoring = pickle.loads(pickle.dumps(worker_scoring(bundle_copy, device="cpu").by_content()))
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest | {"tokmarg_version": "1"}))
    with pytest.raises(BundleError, match="use the same bundle everywhere"):
        scoring.guard()


def test_a_bundle_that_only_the_nodes_have_is_found_there(word_bundle: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    scoring = worker_scoring(there, device="cpu").by_content()
    shutil.copytree(word_bundle, there)
    assert scoring.guard().score("gun").flagged


def test_the_schema_is_known_before_anything_is_loaded(word_bundle: Path) -> None:
    table = pa.table({"text": TEXTS})
    scoring = worker_scoring(word_bundle, device="cpu", prefix="g_")
    assert scoring.schema(table.schema) == scoring.table(table).schema


def as_engines_have_it(table: pa.Table) -> list[Any]:
    """Batches as Ray and Spark hand them out: arrays of arrays of dicts."""
    talks = [np.array(each, dtype=object) for each in table.column("messages").to_pylist()]
    column = np.empty(len(talks), dtype=object)
    column[:] = talks
    batch = {"n": np.arange(table.num_rows), "messages": column}
    return [batch, pd.DataFrame({name: list(values) for name, values in batch.items()})]


@pytest.mark.parametrize("kind", [0, 1], ids=["numpy", "pandas"])
def test_messages_in_numpy_arrays_are_scored(word_bundle: Path, kind: int) -> None:
    scoring = worker_scoring(word_bundle, device="cpu", messages="messages")
    table = messages_table()
    expected = scoring.table(table).to_pylist()
    assert scoring.table(as_arrow(as_engines_have_it(table)[kind])).to_pylist() == expected
    assert all(row["tokmarg"]["error"] is None for row in expected)


def test_a_column_that_arrow_has_no_type_for_is_named() -> None:
    with pytest.raises(TokmargError, match="column 'odd'"):
        as_arrow({"odd": np.array([object(), 1], dtype=object)})


def test_wrong_arguments_are_named(word_bundle: Path) -> None:
    with pytest.raises(OptionError, match="threads"):
        worker_scoring(word_bundle, threads=0)
    with pytest.raises(OptionError, match="bundle must be a path, a URL"):
        worker_scoring(5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="'tolerence' is no option"):
        worker_scoring(word_bundle, tolerence=1)
