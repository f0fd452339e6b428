"""A headless Chromium by the WebDriver protocol (https://www.w3.org/TR/webdriver2/), as much as the tests need."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Browser"]

_SWITCHES = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-extensions", "--disable-sync", "--no-first-run",
    "--window-size=1280,1000",
]  # fmt: skip


class Browser:
    """A context manager.

    Args:
        scratch: a folder for the browser's profile.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to this machine

    @staticmethod
    def is_there() -> bool:
        return bool(shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("google-chrome")))

    def __enter__(self) -> Browser:
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._driver.stdout is not None
        port = next(
            found[1] for line in self._driver.stdout if (found := re.search(r"successfully on port (\d+)", line))
        )
        self._root = f"http://127.0.0.1:{port}"
        options = {
            "args": [*_SWITCHES, f"--user-data-dir={self._scratch}"],
            "binary": shutil.which("chromium") or shutil.which("google-chrome"),
        }
        asked = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        try:
            session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": asked}})["sessionId"]
        except BaseException:
            self._end()
            raise
        self._root += f"/session/{session}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._send("DELETE", "", None)
        finally:
            self._end()

    def _end(self) -> None:
        self._driver.terminate()
        self._driver.wait(30)
        assert self._driver.stdout is not None
        self._driver.stdout.close()

    def open(self, url: str) -> None:
        """Opens a page and waits until its script has drawn."""
        self.start(url, "return document.querySelectorAll('svg, .charts .note').length >= 4")

    def start(self, url: str, ready: str) -> None:
        """Opens a page and waits for a script to return something true."""
        self._send("POST", "/url", {"url": url})
        self.until(ready)

    def run(self, script: str, *arguments: object) -> Any:
        """What a script returns; it finds the arguments in ``arguments``."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str, *arguments: object) -> None:
        """Waits for a script to return something true."""
        end = time.monotonic() + 60
        while not self.run(script, *arguments):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def settle(self) -> None:
        """Waits for what has been changed to be drawn."""
        code = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(1)))"
        self._send("POST", "/execute/async", {"script": code, "args": []})

    def press(self, keys: str) -> None:
        """Types keys where the focus is (the codes of https://www.w3.org/TR/webdriver2/#keyboard-actions)."""
        actions = [
            step for key in keys for step in ({"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})
        ]
        self._send("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})
        self.settle()

    def command(self, name: str, **parameters: object) -> Any:
        """A command of the DevTools protocol."""
        return self._send("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """The browser's log since it was last read: ``browser`` (the console) or ``performance`` (the network)."""
        return list(self._send("POST", "/se/log", {"type": kind}))

    def _send(self, method: str, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with self._opener.open(request, timeout=300) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None
