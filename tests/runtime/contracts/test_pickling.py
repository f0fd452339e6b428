"""Every public class is pickled and copied, and errors come back from worker processes as what they are."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import multiprocessing
import os
import pickle
import shutil
import types
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tokmarg
import tokmarg.calibration
import tokmarg.evaluation
import tokmarg.explanation
from tokmarg import AsyncGuard, ContentError, Guard, ScoreOptions, Thresholds, TokmargError
from tokmarg.calibration import Guarantee, Target
from tokmarg.evaluation import calibrate, evaluate, read_labelled
from tokmarg.explanation import VerdictNode, explain

PACKAGES = (tokmarg, tokmarg.calibration, tokmarg.evaluation, tokmarg.explanation)
PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in PACKAGES
    for name in package.__all__
    if inspect.isclass(getattr(package, name))
}
ROWS = "".join(
    f'{{"text": "{text} {n}", "labels": {labels}}}\n'
    for n in range(8)
    for text, labels in (("gun", '["A"]'), ("hello", "[]"), ("idiot", '["B"]'))
)


def pickled(protocol: int, value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy]
COPIES += [partial(pickled, protocol) for protocol in PROTOCOLS]
SECONDS = 120


@pytest.fixture(scope="module")
def samples(word_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[type, Any]:
    """An object of every public class but Guard."""
    data = tmp_path_factory.mktemp("pickling") / "data.jsonl"
    data.write_text(ROWS, encoding="utf-8")
    guard = Guard.load(word_bundle, device="cpu", threads=1)
    error = ContentError("empty_text", "text is empty or blank", id={"row": [1, None]})
    error.add_note("from the upload form")
    evaluation = evaluate(guard, read_labelled(data, guard.labels), samples=3)
    explanation = explain(guard, "gun idiot. hello. gun.", id=7)
    found = [
        *(cls("one line") for cls in PUBLIC.values() if issubclass(cls, TokmargError) and cls is not ContentError),
        *(error, guard.score("gun", id=1), guard.score("gun", method="any-place"), guard.score("gun").unsafe),
        *(guard.prompt("gun"), guard.read("gun"), tokmarg.Record("gun", 3, "user"), ScoreOptions(max_nodes=7)),
        next(iter(guard.moderate(["gun"]))),
        Thresholds(0.3, types.MappingProxyType({"A": 0.2})),
        *(evaluation, evaluation.runs[0], evaluation.examples[0]),
        *(calibrate(guard, data, method="isotonic", target="max-f1"), Target("recall", 0.9), Guarantee("fnr", 0.1)),
        *(explanation, explanation.occlusion, explanation.trees[0], explanation.trees[0].verdicts[0]),
        *(explanation.trees[0].root, explanation.occlusion.segments[0]),
        next(iter((explanation.occlusion.segments[0].effects or {}).values())),
    ]
    return {type(value): value for value in found}


def parts(value: Any) -> Any:
    """A value taken apart into what can be compared."""
    if isinstance(value, BaseException):
        return (type(value), str(value), value.args, parts(vars(value)))
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if dataclasses.is_dataclass(value):
        return (type(value), [parts(getattr(value, field.name)) for field in dataclasses.fields(value)])
    if isinstance(value, Mapping):
        return [(key, parts(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return (type(value), [parts(item) for item in value])
    return repr(value)  # NaN as well


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("how", range(len(COPIES)))
def test_every_public_class_is_pickled_and_copied(samples: dict[type, Any], name: str, how: int) -> None:
    if PUBLIC[name] in (Guard, AsyncGuard):
        pytest.skip("a guard is pickled as a recipe: tests/runtime/test_recipe.py")
    value = samples[PUBLIC[name]]  # a new public class needs a sample
    twin = COPIES[how](value)
    assert type(twin) is type(value)
    assert twin is not value
    assert parts(twin) == parts(value)


def test_verdict_tree_as_deep_as_can_be(samples: dict[type, Any]) -> None:
    node = samples[VerdictNode]
    for _ in range(64):  # MAX_DEPTH is 64
        node = dataclasses.replace(node, children=(node,))
    assert parts(pickle.loads(pickle.dumps(node))) == parts(copy.deepcopy(node)) == parts(node)


# In processes


def fail(error: str) -> None:
    cls = getattr(tokmarg, error)
    raise cls("empty_text", "text is empty", 5) if cls is ContentError else cls("one line")


def score_nothing(folder: str) -> None:
    Guard.load(folder, device="cpu", threads=1).score(" ", id="row 1")


def outcome_of_nothing(folder: str) -> object:
    return list(Guard.load(folder, device="cpu", threads=1).score_many(["gun", " "], on_error="return"))


Submit = Callable[..., Callable[[], Any]]


@pytest.fixture(scope="module", params=["ProcessPoolExecutor", "multiprocessing.Pool"])
def submit(request: pytest.FixtureRequest) -> Iterator[Submit]:
    """Starts a call in a worker process, and returns what waits for its outcome."""
    context = multiprocessing.get_context("spawn")
    if request.param == "multiprocessing.Pool":
        with context.Pool(1) as pool:
            yield lambda call, *args: lambda: pool.apply_async(call, args).get(SECONDS)
    else:
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            yield lambda call, *args: lambda: executor.submit(call, *args).result(SECONDS)


@pytest.mark.parametrize("name", [name for name in tokmarg.__all__ if name.endswith("Error")])
def test_errors_come_back_from_worker_processes(submit: Submit, name: str) -> None:
    with pytest.raises(getattr(tokmarg, name)) as caught:
        submit(fail, name)()
    if isinstance(caught.value, ContentError):
        assert (caught.value.type, str(caught.value), caught.value.id) == ("empty_text", "text is empty", 5)
        assert caught.value.to_dict()["id"] == 5
    else:
        assert str(caught.value) == "one line"


def test_content_that_cannot_be_scored_in_a_worker_process(submit: Submit, word_bundle: Path) -> None:
    with pytest.raises(ContentError, match="is empty or blank") as caught:
        submit(score_nothing, str(word_bundle))()
    assert (caught.value.type, caught.value.id) == ("empty_text", "row 1")
    result, error = submit(outcome_of_nothing, str(word_bundle))()
    assert result.flagged
    assert error.type == "empty_text"


def test_an_async_guard_is_not_pickled(word_bundle: Path) -> None:
    shared = AsyncGuard(Guard.load(word_bundle, device="cpu", threads=1))
    for twin in copy.copy, copy.deepcopy, pickle.dumps:
        with pytest.raises(TokmargError, match="an AsyncGuard cannot be pickled or copied"):
            twin(shared)


def score(guard: Guard, text: str) -> object:
    return guard.score(text), os.getpid()


@pytest.fixture(scope="module")
def guard(word_bundle: Path) -> Guard:
    return Guard.load(word_bundle, device="cpu", threads=1)


def test_guard_handed_to_a_worker_process_scores_there(submit: Submit, guard: Guard) -> None:
    result, process = submit(score, guard, "gun")()
    assert result == guard.score("gun")
    assert process != os.getpid()


def test_guard_whose_bundle_is_missing_there_says_so(submit: Submit, word_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(word_bundle, tmp_path / "bundle")
    guard = Guard.load(folder, device="cpu", threads=1)
    shutil.rmtree(folder)
    with pytest.raises(tokmarg.BundleNotFoundError, match="no such folder") as caught:
        submit(score, guard, "gun")()
    assert str(folder) in str(caught.value)
