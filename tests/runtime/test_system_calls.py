"""A caller's OSError is not taken for one of the system, wherever it comes up."""

from __future__ import annotations

import ast
import errno
import gc
import math
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import tokmarg
from tokmarg import Guard
from tokmarg.bundle.bundle import Bundle
from tokmarg.system_calls import by_system, file_status, system_errors_suppressed

POLICY = {"exclude": ["B"]}
RUNTIME = Path(tokmarg.__file__).parent


class DeadlineError(TimeoutError):
    """An embedding program's own."""


class StoppedError(InterruptedError):
    """Another one."""


def raised(error: OSError) -> OSError:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        raise error
    return caught.value


def test_who_raised_it(tmp_path: Path) -> None:
    for call in (
        lambda: open(tmp_path / "no"),  # noqa: SIM115
        lambda: (tmp_path / "no").read_bytes(),
        lambda: os.stat(tmp_path / "no"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            exec("call()", {"call": call, "__name__": "tokmarg.bundle"})
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "no").read_bytes()
    assert by_system(caught.value)
    for error in (
        TimeoutError(),
        TimeoutError("mine"),
        TimeoutError(errno.ETIMEDOUT, "mine"),
        InterruptedError(errno.EINTR, "mine"),
        DeadlineError(errno.ETIMEDOUT, "mine"),
        StoppedError(),
        OSError(errno.EIO, "mine"),
    ):
        assert not by_system(raised(error))


def test_a_callers_errors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with system_errors_suppressed():
        (tmp_path / "no").read_bytes()
    with pytest.raises(DeadlineError), system_errors_suppressed():
        raise DeadlineError
    assert file_status(tmp_path / "no") is None
    assert file_status("with\0NUL") is None

    def late(_: object) -> None:
        raise DeadlineError(errno.ETIMEDOUT, "mine")

    monkeypatch.setattr(os, "stat", late)
    with pytest.raises(DeadlineError):
        file_status(tmp_path)
    with pytest.raises(DeadlineError):
        Bundle.open(tmp_path)


# A file that is opened and not yet bound to a name when the exception comes is closed by its destructor, which warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("kind", [TimeoutError, InterruptedError, DeadlineError, StoppedError])
def test_at_random_moments_of_loading(
    word_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[OSError]
) -> None:
    """It comes out as it is, and what was being written to the cache folder is whole or not there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "tokmarg"

    def load() -> object:
        for path in cache.glob("*"):
            path.unlink()
        return Guard.load(word_bundle, device="cpu", threads=1, policy=POLICY).score("gun").to_dict()

    load()
    seconds = math.inf
    for _ in range(5):  # the shortest: where the machine is busy, a timer must not run out after the load
        began = time.perf_counter()
        expected = load()
        seconds = min(seconds, time.perf_counter() - began)
    rng, counts = random.Random(kind.__name__), Counter[str]()

    def lost(unraisable: Any) -> None:
        """Python drops what is raised in a destructor or in a callback of the garbage collector, as Hypothesis has one
        (https://docs.python.org/3/library/sys.html#sys.unraisablehook). None of ours may be among them."""
        files = {Path(frame.filename) for frame in traceback.extract_tb(unraisable.exc_traceback)}
        if isinstance(unraisable.exc_value, kind) and not any(RUNTIME in path.parents for path in files):
            counts["lost"] += 1

    monkeypatch.setattr(sys, "unraisablehook", lost)

    def handler(*_: object) -> None:
        counts["fired"] += 1
        raise kind("mine")

    gc.collect()
    gc.freeze()  # what other tests left: Python loses exceptions raised in its destructors
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(150):
            found: object = None
            unseen = counts["fired"] - counts["lost"]
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 1.1) * seconds)
                found = load()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except BaseException as error:
                signal.setitimer(signal.ITIMER_REAL, 0)
                found = error
            if isinstance(found, BaseException):
                assert (type(found), str(found)) == (kind, "mine"), repr(found)
                counts["raised"] += 1
            else:
                assert found == expected
                assert counts["fired"] - counts["lost"] == unseen, "it was swallowed"
                counts["loaded"] += 1
            assert all(path.suffix in (".safetensors", ".json") for path in cache.glob("*"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        gc.unfreeze()
    assert counts["raised"] > 50


def test_every_place_that_catches_oserror_asks() -> None:
    """The command line is left out, the server's exchange with a client, and an engine's access to its storage by way
    of fsspec, which catches OSError by itself: there is no caller."""
    asked = 0
    without_caller = ("system_calls.py", "exchange.py", "fetched_bundle.py", "parquet_blocks.py")
    for path in sorted(RUNTIME.rglob("*.py")):
        if path.is_relative_to(RUNTIME / "cli") or path.name in without_caller:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            if isinstance(node, ast.ExceptHandler) and node.type is not None:
                caught = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)}
                if {"OSError", "PermissionError", "TimeoutError"} & caught:
                    asked += 1
                    assert {"by_system", "raised_by", "raiser"} & names, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "suppress":
                assert "OSError" not in names, f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute) and node.attr in ("isfile", "isdir", "exists", "is_file", "is_dir"):
                assert path.name in SWALLOWING, f"{path}:{node.lineno}: Python's library catches OSError there"
    assert asked > 10


#: What may ask without passing on a caller's exception: no guard is loaded there.
SWALLOWING = ("replaceable.py", "new_bundle.py", "scratch.py", "installed.py")
