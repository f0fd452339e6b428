"""Who may ask: bearer tokens from a file, and the name under which a caller gets its share."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from pathlib import Path

from starlette.requests import Request

from tokmarg.errors import TokmargError
from tokmarg.system_calls import by_system

from .problems import RequestError

__all__ = ["Access", "is_loopback"]

#: Bytes of a token file at most.
_MAX_FILE = 2**20
#: Characters that a token has at least: a guess must not succeed.
_LEAST = 16


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """Checks tokens.

    Args:
        path: a text file with a token on each line; blank lines and those that begin with # are none. None lets
            everybody in.

    Raises:
        TokmargError: the file cannot be read, has no token, or one that is too short.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._digests: tuple[bytes, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Reads the file again; what was there before stays where that fails."""
        if self._path is not None:
            self._digests = _read(self._path)

    def client(self, request: Request) -> str:
        """Who asks: a name of the token, or the address where everybody may.

        Raises:
            RequestError: 401, the token is missing or unknown.
        """
        if self._path is None:
            return request.client.host if request.client is not None else ""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = request.headers.get("x-api-key", "")  # LiteLLM's guardrails
        given, known = _digest(token.strip()), False
        for digest in self._digests:  # all of them, whichever it is
            known |= hmac.compare_digest(given, digest)
        if not known:
            what = "is not known" if token else "is missing: send it as Authorization: Bearer TOKEN"
            raise RequestError(401, f"the token {what}", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return given.hex()[:16]


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise TokmargError(f"{path}: larger than {_MAX_FILE // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        if not by_system(error):
            raise
        raise TokmargError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise TokmargError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from None
    digests = []
    for number, line in enumerate(text.splitlines(), 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if len(token) < _LEAST or not token.isascii() or " " in token:
            raise TokmargError(f"{path}:{number}: a token has at least {_LEAST} characters, all ASCII and no spaces")
        digests.append(_digest(token))
    if not digests:
        raise TokmargError(f"{path}: holds no token")
    return tuple(digests)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
