"""``tokmarg`` and ``python -m tokmarg`` are :func:`main`.

Importing the command line takes a moment, in which Ctrl-C would end in a traceback; until the command line deals with
it itself (:mod:`tokmarg.cli.process.sigint`), and when it is done, it is one line and exit code 130 all the same.
"""

from __future__ import annotations

import os
import signal

__all__ = ["main"]


def main() -> None:
    """Runs the command line, and exits."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _abort)
    from .cli import main as run

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run(prog_name="tokmarg")
    finally:
        if ours:
            signal.signal(signal.SIGINT, _abort)


def _abort(*_: object) -> None:
    try:
        os.write(2, b"Aborted!\n")
    finally:
        os._exit(130)  # 128 + SIGINT


if __name__ == "__main__":
    main()
