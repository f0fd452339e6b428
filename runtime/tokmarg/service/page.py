"""The page at ``/``: a text's probabilities, and its explanation as ``tokmarg explain --html`` draws it.

The page is one file that asks nobody but this server. Its one script is allowed by its hash, in a content security
policy that forbids any other; the explanation stands in a frame in which no script runs.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tokmarg.explanation import explain, html_page
from tokmarg.prompt.labels import ROLES

from .exchange import Asked, json_object
from .hosting import GuardHost, HostedGuard
from .problems import RequestError

__all__ = ["ExplanationPage", "page_answer"]

#: Tokens of a text that is explained, and parts of it that are left out, at most: each part is another content.
_MAX_TOKENS, _MAX_SEGMENTS = 512, 32


def page_answer() -> Callable[[Request], Response]:
    """What answers with the page."""
    text = (files("tokmarg.service") / "page.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}

    def page(_: Request) -> Response:
        return HTMLResponse(text, headers=headers)

    return page


class ExplanationPage:
    """``POST /explanation``: the explanation of a text as a page. One at a time; each takes many contents' work.

    Args:
        host: the guards.
    """

    def __init__(self, host: GuardHost) -> None:
        self._host = host
        self._pool = ThreadPoolExecutor(1, "tokmarg-explain")

    async def __call__(self, asked: Asked) -> Response:
        data = json_object(asked.body)
        hosted = self._host.of(data.get("model"))
        text, role = data.get("text"), data.get("role")
        if not isinstance(text, str):
            raise RequestError(400, f"text must be a text, not {text!r:.60}", param="text")
        if role is not None and role not in ROLES:
            raise RequestError(400, f"role must be one of {', '.join(ROLES)}, not {role!r:.60}", param="role")
        work = partial(_explained, hosted, text, role)
        return HTMLResponse(await asyncio.get_running_loop().run_in_executor(self._pool, work))


def _explained(hosted: HostedGuard, text: str, role: object) -> str:
    limit = min(_MAX_TOKENS, hosted.options.max_tokens or _MAX_TOKENS)
    options = replace(hosted.options, max_tokens=limit, on_overflow="error")
    known = next((each for each in ROLES if each == role), None)
    guard = hosted.guard.guard
    return html_page(explain(guard, text, role=known, options=options, depth=1, most_segments=_MAX_SEGMENTS))
