"""A server as users start it, and requests to it without a client library."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from .command_line import COMMAND

__all__ = ["Served", "serving", "with_table"]

#: OpenAI's categories of the word guard's labels; C has none.
TABLE = {"A": ["violence", "illicit/violent"], "B": ["harassment"]}


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = 0
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    def wait(self, text: str, seconds: float = 60) -> str:
        """The line of the log that has the text, once it is there."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in list(self.log):
                if re.search(text, line):
                    return line
            assert self.process.poll() is None, "".join(self.log)
            time.sleep(0.02)
        raise AssertionError(f"no {text!r} in the log: {''.join(self.log)}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (parsed where it is JSON), and headers by lower-case name."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with closing(connection):
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            raw, found = response.read(), {name.lower(): value for name, value in response.getheaders()}
        parsed = json.loads(raw) if found.get("content-type", "").startswith("application/json") else raw.decode()
        return response.status, parsed, found

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        status, answer, _ = self.ask("POST", path, body, {n.replace("_", "-"): v for n, v in headers.items()})
        return status, answer

    def close(self) -> None:
        """After its end."""
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def end(self, seconds: float = 60) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def serving(*arguments: object, **environment: str) -> Iterator[Served]:
    """Starts ``tokmarg serve`` on a free port."""
    command = [*COMMAND, "serve", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    served = Served(process)
    try:
        line = served.wait(r"running on https?://\S+:\d+")
        served.port = int(re.findall(r":(\d+) ", line)[-1])
        yield served
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        served.close()
    assert "Traceback" not in "".join(served.log)


def with_table(bundle: Path) -> Path:
    """Gives a copy of the word guard's bundle OpenAI's categories."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["spec"]["openai"] = TABLE
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return bundle
