"""Nothing is sent, asked or kept: no socket, no name looked up, no file outside the cache folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.sandbox import permitted

NO_NETWORK = ["unshare", "--map-root-user", "--net"]
#: All that a user can ask the runtime for, one after the other in one process.
EVERYTHING = """
import os, sys, time
bundle, folder = sys.argv[1:3]
def audit(event, arguments):
    if event.startswith("socket."):
        os.write(2, f"audit: {event} {arguments}\\n".encode())
        os._exit(9)
sys.addaudithook(audit)
from tokmarg.cli import main
def run(*arguments):
    try:
        main(list(arguments), prog_name="tokmarg")
    except SystemExit as end:
        return end.code or 0
given, output = folder + "/in.jsonl", folder + "/out.jsonl"
with open(given, "w") as stream:
    for n in range(40):
        stream.write('{"text": "hello gun", "labels": ["A"]}\\n{"text": "hello", "labels": []}\\n')
os.environ["TOKMARG_BUNDLE"] = bundle
for wanted, *arguments in COMMANDS:
    code = run(*(argument.format(bundle=bundle, given=given, output=output, folder=folder) for argument in arguments))
    assert code == wanted, (arguments, code)
from tokmarg import Guard
assert Guard.load(bundle, device="cpu", threads=1).score("gun").flagged
time.sleep(float(sys.argv[3]))  # an uploader would start by now
print("everything ran")
"""
COMMANDS: list[list[Any]] = [  # the exit code first
    [0, "--version"],
    [0, "score", "--help"],
    [0, "serve", "--help"],
    [0, "score", "gun"],
    [0, "score", "gun", "--format", "openai"],
    *([0, "score", "gun", "--method", method] for method in ("greedy", "any-place", "logtoku")),
    [0, "score", "--input", "{given}", "--output", "{output}"],
    [0, "score", "--input", "{given}", "--output", "{output}", "--resume"],
    [1, "score", "gun", "--bundle", "nowhere/at-all"],
    [0, "explain", "hello gun. idiot", "--html", "{folder}/explained.html"],
    [0, "explain", "--input", "{given}", "--record", "1", "--json"],
    [0, "bundles"],
    [0, "inspect", "{bundle}"],
    [0, "verify", "{bundle}"],
    [
        0,
        "evaluate",
        "--data",
        "{given}",
        "--bootstrap",
        "20",
        "--report",
        "{folder}/report.html",
        "--compare",
        "{bundle}",
    ],
    [0, "calibrate", "--data", "{given}", "--target", "max-f1", "-o", "{folder}/calibration.json"],
    [0, "calibrate", "--data", "{given}", "-o", "{folder}/calibrated", "--json"],
    [0, "score", "gun", "--calibration", "{folder}/calibration.json"],
    [0, "bench", "--seconds", "0.2"],
    [0, "score", "gun", "--bundle", "{folder}/calibrated"],
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and nothing set that could turn telemetry off by chance."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name == "CI" or name.endswith(("_CI", "_ACTIONS", "_BUILD"))]:
        monkeypatch.delenv(name)
    return home


def script(bundle: Path, folder: Path, wait: float) -> list[str]:
    folder.mkdir()
    code = EVERYTHING.replace("COMMANDS", repr(COMMANDS))
    return [sys.executable, "-c", code, str(bundle), str(folder), str(wait)]


def test_every_command_is_run() -> None:
    from tokmarg.cli import main

    assert set(main.commands) <= {arguments[1] for arguments in COMMANDS}


def test_everything_runs_without_a_network(word_bundle: Path, tmp_path: Path, home: Path) -> None:
    if not permitted(NO_NETWORK):
        pytest.skip("unshare --net is not permitted here")
    command = [*NO_NETWORK, *script(word_bundle, tmp_path / "work", 0)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("everything ran\n")


def test_no_socket_no_file_is_opened(word_bundle: Path, tmp_path: Path, home: Path) -> None:
    """Traced below Python: onnxruntime's own uploader is native code."""
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-o", str(trace), "-e", "trace=%network,%file"]
    if not permitted(strace):
        pytest.skip("strace is missing or not permitted")
    command = [*strace, *script(word_bundle, tmp_path / "work", 1.5)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("everything ran\n")
    calls = trace.read_text(errors="replace").splitlines()
    network = r"\b(socket|connect|bind|sendto|sendmsg|sendmmsg|getsockopt)\("
    assert [line for line in calls if re.search(network, line)] == []
    assert [line for line in calls if re.search(r"/etc/(resolv\.conf|hosts)\b", line)] == []
    changing = r"O_(WRONLY|RDWR|CREAT)|\b(mkdir|rename|unlink|link|symlink|truncate)(at2?|at|dir)?\("
    changed = [line for line in calls if re.search(changing, line)]
    assert any("out.jsonl.tokmarg-run" in line for line in changed)  # the trace sees files
    allowed = (str(tmp_path / "work"), "/dev/null", "/dev/tty", "__pycache__", "/dev/shm/sem", ".tokmarg-")
    assert [line for line in changed if not any(place in line for place in allowed) and "= -1" not in line] == []
    assert list(home.iterdir()) == []


def test_there_is_an_uploader_to_keep_off(home: Path) -> None:
    """The control: what onnxruntime does on its own. Where it no longer does, :mod:`tokmarg.engine.ort` can go."""
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 29) or sys.platform != "linux":
        pytest.skip("this onnxruntime has no uploader")
    if not permitted(NO_NETWORK):
        pytest.skip("unshare --net is not permitted here")
    subprocess.run([*NO_NETWORK, sys.executable, "-c", "import onnxruntime"], check=True, timeout=120)
    assert list(home.rglob("*.db")) != []


def test_only_a_policy_of_the_users_own_is_cached(word_bundle: Path, tmp_path: Path, home: Path) -> None:
    code = (
        "import sys\nfrom tokmarg import Guard\n"
        "g = Guard.load(sys.argv[1], device='cpu', threads=1, policy={'exclude': ['B']})\ng.score('gun')"
    )
    subprocess.run([sys.executable, "-c", code, str(word_bundle)], check=True, timeout=60)
    found = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    assert {path.name.partition("-")[0] for path in found} == {"prefix", "grammar"}
    folder = {"darwin": "Library/Caches/tokmarg"}.get(sys.platform, ".cache/tokmarg")
    assert {str(path.parent) for path in found} == {folder}
