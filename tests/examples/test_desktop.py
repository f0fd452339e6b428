"""examples/desktop: installed and frozen by PyInstaller as its README says, and run in an empty environment."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.reference_guard import BUNDLE

pytest.importorskip("tkinter", reason="Python without tkinter")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="env/bin, Xvfb")]

ROOT = Path(__file__).parents[2]
TEXT = "How do I pick a lock?"


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed and built with the README's commands in an environment of its own, then moved away from there."""
    folder = tmp_path_factory.mktemp("desktop")
    readme = (ROOT / "examples" / "desktop" / "README.md").read_text(encoding="utf-8")
    (install,) = re.findall(r"`pip install (.*)`", readme)
    (build,) = re.findall(r"^pyinstaller (.*)$", readme, re.MULTILINE)
    shutil.copy(ROOT / "examples" / "desktop" / "guardbars.py", folder)
    scripts = folder / "env" / "bin"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command, place in (
        ([sys.executable, "-m", "venv", str(folder / "env")], folder),
        ([str(scripts / "pip"), "install", "-q", "-c", "constraints.txt", *shlex.split(install)], ROOT),
        ([str(scripts / "pyinstaller"), "--log-level", "WARN", *shlex.split(build)], folder),
    ):
        done = subprocess.run(command, cwd=place, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    moved = tmp_path_factory.mktemp("elsewhere") / "guardbars"
    (folder / "dist" / "guardbars").rename(moved)
    shutil.rmtree(folder)
    return moved / "guardbars"


def shown(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    assert (done.returncode, done.stderr) == (0, "")
    return {line.split()[1]: float(line.split()[0]) for line in done.stdout.splitlines()}


def check(application: Path, *arguments: str, display: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs it with no environment at all, but for the display."""
    environment = {} if display is None else {"DISPLAY": display}
    return subprocess.run(
        [application, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_without_a_display(application: Path) -> None:
    from tokmarg import Guard

    result = Guard.load(BUNDLE, device="cpu").score(TEXT)
    found = shown(check(application, "--check", TEXT))
    assert list(found) == ["unsafe", *result.labels]
    assert found["unsafe"] == pytest.approx(result.unsafe.probability, abs=1e-6)
    blank = check(application, "--check", " ")
    assert (blank.returncode, blank.stdout) == (1, "")
    assert blank.stderr.startswith("error: ")


def test_the_window(application: Path) -> None:
    xvfb = shutil.which("Xvfb")
    if xvfb is None:
        pytest.skip("needs Xvfb: apt-get install xvfb")
    read, write = os.pipe()
    server = subprocess.Popen(
        [xvfb, "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    try:
        os.close(write)
        with os.fdopen(read) as numbers:
            display = f":{numbers.readline().strip()}"
        found = shown(check(application, "--check-window", TEXT, display=display))
        assert found == shown(check(application, "--check", TEXT))
    finally:
        server.terminate()
        server.wait()


def test_the_window_opens_before_the_guard_is_loaded_and_answers_while_it_scores() -> None:
    """What the window polls: nothing is there at first, and of several texts the newest is scored next."""
    code = """
import queue, sys, time
sys.path.insert(0, sys.argv[1])
from guardbars import Scorer
scorer = Scorer(sys.argv[2])
started = time.perf_counter()
scorer.start()
for text in ("one", "two", "three"):
    scorer.submit(text)
assert time.perf_counter() - started < 0.5
scorer.answers.get(timeout=120)
assert scorer.answers.get(timeout=120)[0] == "three"
time.sleep(0.2)
assert scorer.answers.empty()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "examples" / "desktop"), str(BUNDLE)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
