"""What an export says of itself: on a terminal how much is left, in a pipe one line a stage."""

from __future__ import annotations

import pytest

from tokmarg_export.progress import Progress, Silent


def run(progress: Progress, clock: list[float]) -> None:
    progress("loading")
    clock[0] += 3
    progress("writing")
    for share, seconds in ((0.001, 0.6), (0.01, 0.1), (0.25, 19.3), (0.5, 60.0)):
        clock[0] += seconds
        progress.share(share)
    clock[0] += 80
    progress.done()
    progress.done()


def test_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    run(Progress(2, terminal=True, clock=lambda: clock[0]), clock)
    lines = capsys.readouterr().err.split("\n")
    shown = [part.rstrip() for part in lines[1].split("\r")[1:]]
    assert lines[0].split("\r")[1:] == ["[1/2] loading ...", "[1/2] loading ... 3 s"]
    assert shown == [
        "[2/2] writing ...",
        "[2/2] writing ... 0%",  # too early to know for how long
        "[2/2] writing ... 25%, about 1 min 00 s left",
        "[2/2] writing ... 50%, about 1 min 20 s left",
        "[2/2] writing ... 2 min 40 s",
    ]
    assert lines[2:] == [""]
    widths = [len(part) for part in lines[1].split("\r")[1:]]
    assert widths[-1] >= len(shown[-2])  # nothing of a longer line is left


def test_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    run(Progress(2, terminal=False, clock=lambda: clock[0]), clock)
    assert capsys.readouterr() == ("", "[1/2] loading\n[2/2] writing\n")


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    run(Silent(), [0.0])
    assert capsys.readouterr() == ("", "")
