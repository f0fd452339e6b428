"""Storage that fsspec reaches: the file system behind a path or a URL, and errors of it in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokmarg.errors import TokmargError

if TYPE_CHECKING:
    import fsspec

__all__ = ["one_line", "open_storage"]


def open_storage(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or a URL, and the path in it, without a slash at its end.

    Raises:
        TokmargError: the protocol's package is not installed, or nobody knows the protocol.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise TokmargError(f"{url}: {one_line(error)}") from None
    return system, str(path).rstrip("/")


def one_line(error: BaseException) -> str:
    """The message of an error on one line; its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
