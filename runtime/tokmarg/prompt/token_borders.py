"""Token borders of texts of any length, found chunk by chunk and only as far as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from tokmarg.errors import BundleError, ContentError
from tokmarg.tokenizer import Encoder, Piece

__all__ = ["CHUNK", "token_borders"]

#: Characters of a chunk: longer contents are counted or split chunk by chunk before they are encoded as a whole.
CHUNK = 2**16
#: Tokens at the end of a chunk whose borders may depend on what follows.
_UNCERTAIN = 64


def token_borders(encoder: Encoder, text: str) -> Iterator[tuple[int, int]]:
    """Characters ``[start, end)`` of each token of a text; long texts are encoded chunk by chunk.

    Raises:
        ContentError: ``not_encodable``.
    """
    at = 0
    while at < len(text):
        try:
            offsets = encoder.encode([Piece(text[at : at + CHUNK], True)]).offsets
        except BundleError as error:
            raise ContentError("not_encodable", str(error)) from None
        if at + CHUNK < len(text):
            # Half of a chunk's tokens are kept in any case: it may have fewer than the uncertain ones.
            offsets = offsets[: max(len(offsets) - _UNCERTAIN, (len(offsets) + 1) // 2)]
        yield from ((at + start, at + end) for start, end in offsets)
        at += max(offsets[-1][1] if offsets else CHUNK, 1)
