"""What the tables of peers.py and shape_peers.py were measured on."""

from __future__ import annotations

import statistics

from graphs import machine


def facts(threads: int, rounds: int, sizes: list[int], prefix: int, load: float) -> str:
    """The machine, the threads, the messages."""
    mean = statistics.mean(sizes)
    return (
        f"{machine()}, {threads} threads; load average before the rounds {load:.1f}. {len(sizes)} messages, half of "
        f"them harmless; {min(sizes)} to {max(sizes)} new tokens each, {mean:.0f} on average, after a cached prefix "
        f"of {prefix}; {rounds} rounds.\n"
    )
