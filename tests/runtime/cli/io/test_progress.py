from __future__ import annotations

import io

from tokmarg.cli.io.progress import Progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(stream: io.StringIO) -> str:
    """What stands on the terminal's line at the end."""
    return stream.getvalue().rsplit("\r", 1)[-1].rstrip()


def test_a_short_run_shows_nothing() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, 1000, clock)
    clock.now += 0.9
    progress.update(50, 500)
    progress.clear()
    assert stream.getvalue() == ""


def test_a_long_run_says_how_far_it_is() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, 2000, clock)
    clock.now += 2
    progress.update(1000, 500)
    assert shown(stream) == " 25%  1,000 records, 500.0 per second"


def test_input_of_unknown_size_has_no_percentage() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, None, clock)
    clock.now += 2
    progress.update(10, 0)
    assert shown(stream) == "10 records, 5.0 per second"


def test_updates_are_rare_and_a_shorter_line_hides_the_longer() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, None, clock)
    clock.now += 2
    for records in range(1000, 2000):
        progress.update(records, 0)
    assert stream.getvalue().count("\r") == 1
    clock.now += 10_000
    progress.update(1, 0)
    assert stream.getvalue().endswith(" ")
    progress.clear()
    assert shown(stream) == ""


def test_no_stream_shows_nothing() -> None:
    clock = Clock()
    progress = Progress(None, 10, clock)
    clock.now += 5
    progress.update(1, 1)
    progress.clear()
