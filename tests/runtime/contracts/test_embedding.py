"""A guard inside an application: threads, asyncio, fork, pickle, memory, and what of the process stays as it was."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import run_python
from tokmarg import DeviceError, Guard

TEXTS = [f"{'gun ' * (n % 5)}{'idiot ' * (n % 3)}hello{' noise' * (n % 2)}" for n in range(48)]


@pytest.fixture(scope="module")
def guard(word_bundle: Path) -> Guard:
    return Guard.load(word_bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def expected(guard: Guard) -> list[dict[str, object]]:
    return [guard.score(text).to_dict() for text in TEXTS]


# Threads and asyncio


def test_sixteen_threads_give_the_same_results(
    guard: Guard, expected: list[dict[str, object]], word_bundle: Path
) -> None:
    fresh = Guard.load(word_bundle, device="cpu", threads=1)  # its tries unfold while all threads are at it

    def score_all(first: int) -> list[dict[str, object]]:
        order = TEXTS[first:] + TEXTS[:first]
        found = [fresh.score(text).to_dict() for text in order]
        return found[len(TEXTS) - first :] + found[: len(TEXTS) - first]

    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(score_all, range(0, 48, 3)):
            assert found == expected


def test_streams_in_threads_do_not_mix(guard: Guard, expected: list[dict[str, object]]) -> None:
    def stream(_: int) -> list[dict[str, object]]:
        return [result.to_dict() for result in guard.score_many(TEXTS)]

    with ThreadPoolExecutor(16) as pool:
        first, *others = pool.map(stream, range(16))
    assert all(other == first for other in others)  # the same packs: the same to the last bit
    for packed, alone in zip(first, expected, strict=True):
        assert packed["labels"] == pytest.approx(alone["labels"], abs=1e-5)


def test_asyncio(guard: Guard, expected: list[dict[str, object]]) -> None:
    async def score_all() -> list[dict[str, object]]:
        results = await asyncio.gather(*(asyncio.to_thread(guard.score, text) for text in TEXTS))
        return [result.to_dict() for result in results]

    assert asyncio.run(score_all()) == expected


# Other processes

FORK = """
import os, sys, warnings
warnings.simplefilter("ignore")
from tokmarg import Guard, TokmargError
guard = Guard.load(sys.argv[1], device="cpu", threads=2)
stream = guard.score_many(["gun"] * 100)
next(stream)
child = os.fork()
if child == 0:
    for use in (lambda: guard.score("gun"), lambda: guard.prompt("gun"), lambda: list(stream)):
        try:
            use()
        except TokmargError as error:
            assert f"was loaded in process {os.getppid()} and cannot be used in process {os.getpid()}" in str(error)
            assert "Guard.load" in str(error)
        else:
            sys.exit(7)
    own = Guard.load(sys.argv[1], device="cpu", threads=2)
    assert own.score("gun").flagged
    del own, guard, stream, use  # the parent's session must not be torn down here, where its threads are missing
    sys.exit(3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 3, status
assert guard.score("gun").flagged
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_is_refused_may_load_its_own_and_ends(word_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(word_bundle)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def score_in_child(folder: str) -> bool:
    return Guard.load(folder, device="cpu", threads=1).score("gun").flagged


def test_spawned_processes_load_their_own(word_bundle: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(score_in_child, [str(word_bundle)]) is True


def test_shallow_copy_shares_the_session(guard: Guard, expected: list[dict[str, object]]) -> None:
    assert copy.copy(guard).score(TEXTS[3]).to_dict() == expected[3]


def test_results_are_pickled(guard: Guard) -> None:
    result = guard.score("gun")
    assert pickle.loads(pickle.dumps(result)) == result


def test_session_knows_its_process(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 1)
    with pytest.raises(DeviceError, match="cannot be used in process 1"):
        guard.score("gun")


# Memory

MEMORY = """
import gc, sys
from tokmarg import Guard
def resident():
    gc.collect()
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * 4096
guard = Guard.load(sys.argv[1], device="cpu", threads=1)
texts = [f"{'gun ' * (n % 11)}{'idiot ' * (n % 7)}hello" for n in range(77)]
count = int(sys.argv[2])
def score(count):
    for n in range(count):
        guard.score(texts[n % 77])
score(count // 4)
before = resident()
score(count)
print(resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_scores_leak_no_memory(word_bundle: Path, count: int) -> None:
    done = run_python(MEMORY, str(word_bundle), str(count))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2 << 20  # 1 KiB per score would be 2 MiB; the allocator's own noise is a few hundred KiB


def test_guard_that_is_dropped_is_gone(word_bundle: Path) -> None:
    import weakref

    guard = Guard.load(word_bundle, device="cpu", threads=1)
    guard.score("gun", method="any-place")
    gone = weakref.ref(guard)
    del guard
    gc.collect()
    assert gone() is None


# The process it lives in

STATE = """
import csv, decimal, json, locale, logging, os, random, signal, sys, threading, warnings
import numpy
def state():
    return {
        "environment": dict(os.environ),
        "signals": {s.name: str(signal.getsignal(s)) for s in signal.valid_signals() if isinstance(s, signal.Signals)},
        "wakeup": (lambda fd: (signal.set_wakeup_fd(fd), fd)[1])(signal.set_wakeup_fd(-1)),
        "logging": [logging.root.level, list(map(str, logging.root.handlers)), logging.root.manager.disable,
                    logging.raiseExceptions, str(logging.lastResort)],
        "loggers": {n: [l.level, str(l.handlers), l.propagate] for n, l in logging.root.manager.loggerDict.items()
                    if isinstance(l, logging.Logger) and (l.handlers or l.level or not l.propagate)},
        "warnings": list(map(str, warnings.filters)),
        "hooks": [str(sys.excepthook), str(sys.unraisablehook), str(threading.excepthook), str(sys.displayhook)],
        "folder": os.getcwd(), "mask": (lambda mask: (os.umask(mask), mask)[1])(os.umask(0)),
        "csv": csv.field_size_limit(), "recursion": sys.getrecursionlimit(), "locale": locale.setlocale(locale.LC_ALL),
        "random": str(random.getstate()), "numpy": str(numpy.random.get_state()), "errors": numpy.geterr(),
        "print": str(numpy.get_printoptions()), "switch": sys.getswitchinterval(),
        "digits": sys.get_int_max_str_digits(),
        "path": list(sys.path), "stdout": [id(sys.stdout), id(sys.stderr), id(sys.stdin)],
        "threads": [t.name for t in threading.enumerate()], "decimal": str(decimal.getcontext()),
    }
before = state()
import tokmarg
from tokmarg import Guard, Thresholds
guard = Guard.load(sys.argv[1], device="cpu", threads=1)
guard.score("gun idiot", thresholds=Thresholds(0.3))
for method in ("greedy", "any-place", "logtoku"):
    guard.score("gun", method=method)
list(guard.score_many(["gun", "", "boom boom"], on_error="return"))
guard.prompt("gun")
Guard.load(sys.argv[1], device="cpu", threads=1, policy={"exclude": ["B"]}).score("gun")
after = state()
print(json.dumps([name for name in before if before[name] != after[name]]))
"""


@pytest.mark.parametrize("telemetry", [None, "0", "1"])
def test_process_stays_as_it_was(word_bundle: Path, tmp_path: Path, telemetry: str | None) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    if telemetry is not None:
        environment["ORT_DISABLE_TELEMETRY"] = telemetry
    done = subprocess.run(
        [sys.executable, "-c", STATE, str(word_bundle)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == []
