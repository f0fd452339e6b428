"""Graph contract: the ``graph`` table of a manifest, the shapes and dtypes of the ONNX graph's inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from tokmarg.documents import Fields

__all__ = ["GraphContract"]


@dataclass(frozen=True, slots=True)
class GraphContract:
    """Shapes of a bundle's graph.

    Attributes:
        layers, kv_heads, head_dim: of the key/value cache.
        vocab_size: columns of a ``full`` head.
        head: ``full`` or ``verdict``.
        head_token_ids: token id of each column of a ``verdict`` head, else None.
        kv_dtype: dtype of keys and values.
        sliding_window: tokens that local layers see; set if and only if the graph has a local layer, and so the input
            ``sliding_attention_mask``.
        max_positions: the model's context window in tokens.
        verdict_token_ids: of a ``full`` head: token id of each column of a second, small output layer, for positions
            where only verdict tokens matter (input ``verdict_positions``, output ``verdict_logits``); None if the graph
            has none.
        log_probabilities: the graph also gives log-probabilities of ``verdict_token_ids`` within the whole vocabulary
            (output ``log_probabilities``), so that the logits of the whole vocabulary need not leave the device.
        by_content: attention is computed for each content of a batch on its own (inputs ``attention_rows``,
            ``row_places``, ``key_slots``, ``stack_heads`` and ``own_key_values``), so that its sums do not depend on
            the rest of the batch. Set where later rounding would make a difference visible.
    """

    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    head: Literal["full", "verdict"]
    head_token_ids: tuple[int, ...] | None
    kv_dtype: Literal["float32", "float16"]
    sliding_window: int | None
    max_positions: int
    verdict_token_ids: tuple[int, ...] | None = None
    log_probabilities: bool = False
    by_content: bool = False

    @property
    def columns(self) -> dict[int, int] | None:
        """Token id -> logits column of a ``verdict`` head; None for ``full``."""
        if self.head_token_ids is None:
            return None
        return {token: i for i, token in enumerate(self.head_token_ids)}

    @property
    def cache_parts(self) -> tuple[str, ...]:
        """Names of the cache's tensors, without ``past_key_values.`` or ``present.`` in front."""
        layers = range(self.layers)
        if self.by_content:
            return tuple(map(str, layers))
        return tuple(f"{i}.{part}" for i in layers for part in ("key", "value"))

    def cache_shape(self, tokens: int) -> tuple[int, ...]:
        """Shape of each tensor of a cache of ``tokens`` tokens.

        ``[1, kv_heads, tokens, head_dim]``, keys and values apart; with ``by_content`` one tensor for both,
        ``[tokens * 2 * kv_heads, head_dim]``: for each token the heads of its keys, then those of its values.
        """
        if self.by_content:
            return (tokens * 2 * self.kv_heads, self.head_dim)
        return (1, self.kv_heads, tokens, self.head_dim)

    @classmethod
    def parse(cls, f: Fields) -> GraphContract:
        """Reads the ``graph`` table."""
        f.only(cls.__slots__)
        sizes = {}
        for key in ("layers", "kv_heads", "head_dim", "vocab_size", "max_positions"):
            sizes[key] = f.get(key, int)
            if not 0 < sizes[key] < 2**31:
                raise f.fail(key, f"must be positive, not {sizes[key]}")
        head, kv_dtype = f.get("head", str), f.get("kv_dtype", str)
        if head not in ("full", "verdict"):
            raise f.fail("head", f'must be "full" or "verdict", not {head!r:.60}')
        if kv_dtype not in ("float32", "float16"):
            raise f.fail("kv_dtype", f'must be "float32" or "float16", not {kv_dtype!r:.60}')
        ids, verdict_ids = (_token_ids(f, key, sizes["vocab_size"]) for key in ("head_token_ids", "verdict_token_ids"))
        if (ids is None) != (head == "full"):
            raise f.fail("head_token_ids", "must list token ids with the verdict head, and be null with the full head")
        if verdict_ids is not None and head != "full":
            raise f.fail("verdict_token_ids", "goes with the full head only")
        log_probabilities = f.get("log_probabilities", bool, False)
        if log_probabilities and verdict_ids is None:
            raise f.fail("log_probabilities", "goes with verdict_token_ids only")
        window = f.get("sliding_window", int, None)
        if window is not None and window < 1:
            raise f.fail("sliding_window", f"must be positive, not {window}")
        return cls(
            **sizes,
            head=cast('Literal["full", "verdict"]', head),
            head_token_ids=ids,
            kv_dtype=cast('Literal["float32", "float16"]', kv_dtype),
            sliding_window=window,
            verdict_token_ids=verdict_ids,
            log_probabilities=log_probabilities,
            by_content=f.get("by_content", bool, False),
        )


def _token_ids(f: Fields, key: str, vocab_size: int) -> tuple[int, ...] | None:
    ids = f.get(key, list, None)
    if ids is None:
        return None
    if not ids or not all(type(i) is int and 0 <= i < vocab_size for i in ids):
        raise f.fail(key, f"must be token ids below {vocab_size}")
    if len(set(ids)) != len(ids):
        raise f.fail(key, "names a token id twice")
    return tuple(ids)
