"""How many verdict nodes a pass carries: each search names the nodes (:mod:`tokmarg.scoring.exact`), at most so many.

More nodes take fewer passes, and more of them turn out not to be needed. Results do not depend on these numbers.
"""

from __future__ import annotations

__all__ = ["packed_first", "packed_later", "single_first", "single_later"]

#: Packed engine: nodes by one content.
_NODES = 32
#: And in the first pass, after the prompts: most guards leave a benign content a probability of some hundredths, which
#: the first level of labels settles. A pass of its own for those costs more than they do beside the prompt.
_NODES_FIRST = 12
#: Batch-invariant engine: nodes by one content in the pass that ends its prompt, and in later ones. Not chosen by how
#: long passes take on the machine at hand: which nodes share a pass shows in the last bits, which are the same on all
#: machines of a kind. Nor need they be, as the best numbers hardly depend on it. For 60 harmful rows judged by the
#: reference guard, 8 to 24 nodes and then 48 to 96 all cost within 7 % of the least, both where a pass costs 10 rows,
#: as with 135 million parameters on two cores, and where it costs 28, as with a billion.
_CONTENT_NODES_FIRST, _CONTENT_NODES = 12, 48
#: Nodes that a search is always allowed in later passes.
_LEAST = 4


def packed_first(sequences: int, together: int) -> int:
    """Nodes for each of the sequences that share a pass, in the one that carries their prompts; about ``together`` for
    all of them."""
    return max(1, min(_NODES_FIRST, together // sequences))


def packed_later(sequences: int, together: int) -> int:
    """Nodes for each of the sequences that share a pass, after their prompts."""
    return max(_LEAST, min(_NODES, together // max(1, sequences)))


def single_first(sequences: int) -> int:
    """Nodes for each sequence of one content, in the pass that ends its prompts."""
    return max(1, _CONTENT_NODES_FIRST // sequences)


def single_later(sequences: int) -> int:
    """Nodes for each sequence of one content, in later passes."""
    return max(_LEAST, _CONTENT_NODES // max(1, sequences))
