"""Ctrl-C before anything is scored: one line, exit code 130, no traceback, wherever it comes."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")

#: Presses Ctrl-C when a module is about to be imported, or a function called.
PRESS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
place = os.environ["PRESS"]
def press():
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGINT)
def audit(event, arguments):
    if event == "import" and arguments[0] == place:
        press()
sys.addaudithook(audit)
if place == "callback":  # one of importlib's own, in which Python can only report the interrupt
    import weakref
    class Thing: pass
    thing = Thing()
    def gone(_):
        press()
        for _ in range(1000): pass
    keep = weakref.ref(thing, gone)
    class Finder:
        def find_spec(self, name, *_):
            if name == "tokmarg.guard":
                global thing
                thing = None
    sys.meta_path.insert(0, Finder())
"""
COMMANDS = {
    "score": ["score", "gun"],
    "score a file": ["score", "--input", "IN", "--output", "OUT"],
    "explain": ["explain", "gun"],
    "evaluate": ["evaluate", "--data", "IN"],
    "calibrate": ["calibrate", "--data", "IN"],
    "verify": ["verify", "BUNDLE"],
}


def pressed(place: str, bundle: Path, folder: Path, command: str, start: list[str]) -> tuple[int, str, str]:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(PRESS)
    (folder / "in.jsonl").write_text('{"text": "gun", "labels": ["A"]}\n')
    names = {"IN": str(folder / "in.jsonl"), "OUT": str(folder / "out.jsonl"), "BUNDLE": str(bundle)}
    environment = {
        **os.environ,
        "PRESS": place,
        "TOKMARG_BUNDLE": str(bundle),
        "PYTHONPATH": os.pathsep.join([str(folder / "site"), *filter(None, sys.path)]),
    }
    done = subprocess.run(
        [*start, *(names.get(argument, argument) for argument in COMMANDS[command])],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


MODULE = [sys.executable, "-m", "tokmarg"]
#: What the installed command does.
SCRIPT = [sys.executable, "-c", "import sys\nfrom tokmarg.__main__ import main\nsys.exit(main())"]


@pytest.mark.parametrize(
    ("command", "place"),
    [
        *((command, "tokmarg.guard") for command in COMMANDS),
        *(
            ("score", place)
            for place in (
                *(
                    "click",
                    "tokmarg.cli",
                    "tokmarg.cli.process.exit_codes",
                    "tokmarg.cli.commands.verify",
                    "numpy",
                    "onnxruntime",
                ),
                *("onnxruntime.capi.onnxruntime_pybind11_state", "tokenizers", "safetensors", "callback"),
            )
        ),
        ("calibrate", "tokmarg.evaluation.calibrate"),
        ("evaluate", "tokmarg.evaluation.evaluate"),
        ("explain", "tokmarg.explanation.explain"),
    ],
)
def test_one_line(word_bundle: Path, tmp_path: Path, command: str, place: str) -> None:
    code, out, err = pressed(place, word_bundle, tmp_path, command, MODULE)
    assert (code, err.strip()) == (130, "Aborted!")
    assert [line for line in out.splitlines() if not line.startswith("ok  ")] == []  # what verify says first
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("place", ["click", "tokmarg.cli.process.exit_codes", "tokmarg.guard"])
def test_the_installed_command(word_bundle: Path, tmp_path: Path, place: str) -> None:
    code, out, err = pressed(place, word_bundle, tmp_path, "score", SCRIPT)
    assert (code, out, err.strip()) == (130, "", "Aborted!")


def test_the_installed_command_is_this_one() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"]["tokmarg"] == "tokmarg.__main__:main"


def test_importing_the_package_is_quick_and_changes_no_handler() -> None:
    code = (
        "import signal, sys\nhandler, before = signal.getsignal(signal.SIGINT), set(sys.modules)\n"
        "import tokmarg, tokmarg.__main__\n"
        "assert signal.getsignal(signal.SIGINT) is handler\n"
        "assert not {'click', 'numpy', 'importlib.metadata'} & (set(sys.modules) - before)\nassert tokmarg.__version__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
