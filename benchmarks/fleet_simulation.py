"""A large run on paper: how long, and how much is done twice, where some nodes are slow and nodes are lost.

    python benchmarks/fleet_simulation.py --json fleet.json --rows 100000000 --nodes 64 --cores 16

Blocks of rows go to whichever actor is free; their times are drawn from those that ``benchmarks/fleet.py`` measured
(``--json``), scaled to the block. A share of the nodes is slower by a factor, for good. A node is lost at random, with
the blocks in flight on it; a new one comes after ``--replace`` seconds. Nothing else is modelled, neither storage nor
network.
"""

from __future__ import annotations

import argparse
import heapq
import json
from pathlib import Path

import numpy as np

#: Seconds of batches of 64 rows where nothing was measured: 25 rows a second and actor, by a quarter more or less.
DEFAULT = 64 / 25 * np.random.default_rng(1).lognormal(0, 0.25, 1000)


class Run:
    """One run, event by event.

    Args:
        seconds: times of batches that were measured.
        batch: rows of those.
        given: of the command line.
        block: rows of a block.
    """

    def __init__(self, seconds: np.ndarray, batch: int, given: argparse.Namespace, block: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._parts = max(1, block // batch)
        self._seconds, self._given = seconds * (block / (self._parts * batch)), given
        self.blocks = -(-given.rows // block)
        slow = self._random.random(given.nodes) < given.slow
        self._factor = np.where(slow, given.factor, 1.0)
        # A block's time is a sum of many batches': by the central limit, or drawn where they are few.
        self._mean, self._deviation = self._seconds.mean(), self._seconds.std()

    def _draw(self, node: int) -> float:
        if self._parts <= 16:
            time = self._random.choice(self._seconds, self._parts).sum()
        else:
            spread = self._deviation * self._parts**0.5
            time = max(self._random.normal(self._mean * self._parts, spread), 0.0)
        return float(time * self._factor[node])

    def play(self) -> dict[str, float]:
        """Hours, the share of work done twice, nodes lost, and hours if nothing were slow or lost."""
        given = self._given
        waiting, done, lost, wasted, useful = self.blocks, 0, 0, 0.0, 0.0
        flight: list[dict[int, float]] = [{} for _ in range(given.nodes)]  # node -> actor -> begin of its block
        era = [0] * given.nodes
        events: list[tuple[float, int, str, int, int, int]] = []
        count = 0

        def post(time: float, kind: str, node: int, actor: int = 0) -> None:
            nonlocal count
            count += 1
            heapq.heappush(events, (time, count, kind, node, actor, era[node]))

        for node in range(given.nodes):
            for actor in range(given.cores):
                post(given.start, "free", node, actor)
            post(self._lifetime(), "lost", node)
        now = 0.0
        while done < self.blocks:
            now, _, kind, node, actor, when = heapq.heappop(events)
            if when != era[node]:
                continue  # of a node that is lost
            if kind == "lost":
                lost += 1
                waiting += len(flight[node])
                wasted += sum(now - begin for begin in flight[node].values())
                idle = [(n, a) for n in range(given.nodes) for a in range(given.cores) if n != node]
                flight[node].clear()
                era[node] += 1
                for other, free in idle:
                    if free not in flight[other]:
                        post(now, "free", other, free)
                for free in range(given.cores):
                    post(now + given.replace + given.start, "free", node, free)
                post(now + given.replace + self._lifetime(), "lost", node)
                continue
            if kind == "done":
                done += 1
                useful += now - flight[node].pop(actor)
            if waiting and actor not in flight[node]:
                waiting -= 1
                flight[node][actor] = now
                post(now + self._draw(node), "done", node, actor)
        ideal = self.blocks * self._mean * self._parts / (given.nodes * given.cores)
        return {"hours": now / 3600, "ideal": ideal / 3600, "twice": wasted / useful, "lost": lost}

    def _lifetime(self) -> float:
        return float(self._random.exponential(self._given.lifetime * 3600)) if self._given.lifetime else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="of benchmarks/fleet.py")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--cores", type=int, default=16, help="actors of a node")
    parser.add_argument("--start", type=float, default=15, help="seconds until an actor has its guard")
    parser.add_argument("--replace", type=float, default=300, help="seconds until a lost node has a successor")
    parser.add_argument("--lifetime", type=float, default=24, help="hours that a node lives on average; 0: for ever")
    parser.add_argument("--slow", type=float, default=0.05, help="share of slow nodes")
    parser.add_argument("--factor", type=float, default=2.0, help="by which they are slower")
    parser.add_argument("--blocks", default="128,1024,8192,65536", help="rows of a block")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    seconds, batch = DEFAULT, 64
    if given.json:
        found = json.loads(given.json.read_text())
        batch = found["batch"]
        seconds = np.concatenate([each["ray"]["seconds_of_batches"] for each in found["rounds"] if "ray" in each])
        seconds = seconds[: max(1, len(seconds) - 1)]  # the last batch of a file is a part of one
    print("| rows of a block | blocks | hours | with no slow or lost nodes | work done twice | nodes lost |")
    print("|---|---|---|---|---|---|")
    for block in map(int, given.blocks.split(",")):
        runs = [Run(seconds, batch, given, block, seed) for seed in range(given.seeds)]
        played = [run.play() for run in runs]
        mean = {name: np.mean([each[name] for each in played]) for name in played[0]}
        print(
            f"| {block:,} | {runs[0].blocks:,} | {mean['hours']:.2f} | {mean['ideal']:.2f} | {mean['twice']:.2%} | "
            f"{mean['lost']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
