"""Exit codes of the command line; the help of ``tokmarg`` lists them for users."""

from __future__ import annotations

__all__ = ["DONE", "FAILED", "FLAGGED", "INTERRUPTED", "PIPE_CLOSED"]

DONE = 0
FAILED = 1
#: With ``--fail-on-flagged``. 2 is click's, for wrong usage.
FLAGGED = 3
INTERRUPTED = 130  # 128 + SIGINT, as shells count
PIPE_CLOSED = 141  # 128 + SIGPIPE: what `yes | head` ends with
