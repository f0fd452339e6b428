"""Guards are pickled as recipes, and each process loads a recipe once."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import run_python
from tokmarg import BundleError, BundleNotFoundError, Guard, TokmargError
from tokmarg.bundle.bundle import Bundle
from tokmarg.engine.session import Session
from tokmarg.loading import assemble
from tokmarg.recipe import shared

POLICY = {"exclude": ["B"]}


def load(folder: str | Path, **options: object) -> Guard:
    return Guard.load(folder, device="cpu", threads=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("twin", [lambda guard: pickle.loads(pickle.dumps(guard)), copy.deepcopy])
def test_a_twin_in_the_same_process_shares_the_session(word_bundle: Path, twin: Callable[[Guard], Guard]) -> None:
    guard = load(word_bundle)
    other = twin(guard)
    assert other._session is guard._session
    assert other.score("gun") == guard.score("gun")


def test_a_recipe_is_small_and_has_no_weights(word_bundle: Path) -> None:
    assert len(pickle.dumps(load(word_bundle))) < 2_000


THERE = """
import pickle, sys
first, second = (pickle.loads(bytes.fromhex(each)) for each in sys.argv[1:3])
print(first.score("gun idiot").to_dict() == second.score("gun idiot").to_dict())
print(first._session is second._session, first.labels, first.score("gun idiot").to_dict())
"""


def test_another_process_loads_a_recipe_once_with_its_policy(
    word_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(POLICY))
    monkeypatch.chdir(word_bundle.parent)
    guard = load(word_bundle.name, policy=policy)  # by relative paths
    policy.unlink()
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(guard).hex()
    done = run_python(THERE, pickled, pickle.dumps(load(word_bundle, policy=POLICY)).hex())
    assert done.stderr == ""
    alike, rest = done.stdout.splitlines()
    assert alike == "True"
    assert rest == f"True ('A', 'C') {guard.score('gun idiot').to_dict()}"


def test_other_options_are_another_guard(word_bundle: Path) -> None:
    guard = load(word_bundle, policy=POLICY)
    plain = pickle.loads(pickle.dumps(load(word_bundle)))
    assert pickle.loads(pickle.dumps(guard)).labels == ("A", "C")
    assert plain.labels == ("A", "B", "C")
    assert pickle.loads(pickle.dumps(guard.recalibrated(False))).labels == ("A", "C")


def test_a_bundle_that_is_gone_or_another_is_named(bundle_copy: Path) -> None:
    pickled = pickle.dumps(load(bundle_copy))
    there = json.loads((bundle_copy / "manifest.json").read_text())
    (bundle_copy / "manifest.json").write_text(json.dumps(there | {"tokmarg_version": "1"}))
    with pytest.raises(BundleError, match="is not that of the bundle where this came from"):
        pickle.loads(pickled).score("gun")
    shutil.rmtree(bundle_copy)
    guard = pickle.loads(pickled)  # unpickling never fails: who could be told?
    with pytest.raises(BundleNotFoundError, match="no such folder") as caught:
        guard.score("gun")
    assert str(bundle_copy) in str(caught.value)
    assert pickle.dumps(guard) == pickled


def test_a_guard_made_from_parts_says_why_it_is_not_pickled(word_bundle: Path) -> None:
    bundle = Bundle.open(word_bundle)
    guard = Guard(assemble(bundle, Session(bundle, "cpu", 1)))
    for how in pickle.dumps, copy.deepcopy:
        with pytest.raises(TokmargError, match=r"made from parts .* only what Guard\.load makes") as caught:
            how(guard)
        assert "\n" not in str(caught.value)


def test_unknown_attributes_are_attribute_errors(word_bundle: Path) -> None:
    guard = pickle.loads(pickle.dumps(load(word_bundle)))
    assert not hasattr(guard, "__array__")  # numpy and pyarrow ask such questions, which need no weights
    assert "_parts" not in vars(guard)
    assert not hasattr(guard, "nothing")


def test_threads_that_ask_at_once_wait_for_one_load() -> None:
    loads: list[object] = []

    class Loaded:
        pass

    def loading() -> Loaded:
        loads.append(threading.get_ident())
        return Loaded()

    found: list[Loaded] = []
    threads = [threading.Thread(target=lambda: found.append(shared("key", loading))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len(set(map(id, found))) == 1


FORK = """
import os, pickle, sys
from tokmarg import Guard
guard = Guard.load(sys.argv[1], device="cpu", threads=1)
pickled = pickle.dumps(guard)
pickle.loads(pickled).score("gun")
if (child := os.fork()) == 0:
    print(pickle.loads(pickled).score("gun").flagged, flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
def test_a_forked_child_loads_its_own(word_bundle: Path) -> None:
    done = run_python(FORK, str(word_bundle))
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)
