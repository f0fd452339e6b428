"""A peer's process: started by peers.py, asked in lines of JSON, one question at a time."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class PeerProcess:
    """Runs a script of this folder. An empty line ends it.

    Attributes:
        failed: why it answers no more; empty while it does.
    """

    def __init__(self) -> None:
        self.failed = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self, python: str, script: str, arguments: Sequence[str], threads: int) -> dict[str, Any]:
        """Starts the script; its first answer."""
        command = [python, str(Path(__file__).with_name(script)), *arguments]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=environment,
            )  # fmt: skip
        except OSError as error:
            self.failed = f"not installed: {python}: {error.strerror}"
            return {}
        return self._answer()

    def ask(self, question: object) -> dict[str, Any]:
        """The answer to a question; nothing where there is none."""
        if self.failed or self._process is None:
            return {}
        assert self._process.stdin is not None
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self.failed = "its process has ended"
            return {}
        return self._answer()

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        code = None if line else self._process.wait()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": f"ended with exit code {code}"}
        self.failed = answer.get("failed", "")
        return answer
