"""Entry point of the command line: ``tokmarg`` and ``python -m tokmarg``.

Ctrl-C prints one line and exits with code 130, not with a traceback, also while the command line is imported, before
its own handler (:mod:`tokmarg.cli.process.sigint`) is installed, and after that has ended.
"""

from __future__ import annotations

import os
import signal

__all__ = ["main"]


def main() -> None:
    """Runs the command line, and exits."""
    handles_sigint = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if handles_sigint:
        signal.signal(signal.SIGINT, _abort)
    from .cli import main as run

    try:
        if handles_sigint:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run(prog_name="tokmarg")
    finally:
        if handles_sigint:
            signal.signal(signal.SIGINT, _abort)


def _abort(*_: object) -> None:
    try:
        os.write(2, b"Aborted!\n")
    finally:
        os._exit(130)  # 128 + SIGINT


if __name__ == "__main__":
    main()
