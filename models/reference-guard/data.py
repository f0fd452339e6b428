"""Training rows for the reference guard: the written texts, mixed with public sets.

    python data.py --public FOLDER --rows 20000 --seed 0 -o rows.jsonl [--snippets FILE]

A row is {"messages": [...], "labels": [...] or null, "unsafe": bool, "kind": "..."}; ``labels`` is null where the
category is unknown: such a row teaches the decision only. The same seed gives the same rows.

A kind of row is one entry of :data:`UNSAFE` or :data:`SAFE`: its weights and the function that draws it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import safe_rows as safe
import unsafe_rows as unsafe
from sources import Row, Sources


class Kind(NamedTuple):
    """How often a kind of row is drawn, and how.

    Attributes:
        weight: in the usual mixture, relative to the other kinds of its side.
        posts_weight: in the mixture of mostly posts and long texts (``--posts``), for a last run.
        draw: a row with "messages" and "labels".
    """

    weight: int
    posts_weight: int
    draw: Callable[[Sources], Row]


# The order is part of what a seed gives.
UNSAFE = {
    "composed": Kind(24, 12, unsafe.composed),
    "joined": Kind(16, 5, unsafe.joined_messages),
    "passage": Kind(5, 10, unsafe.harmful_passage),
    "request": Kind(8, 3, unsafe.request),
    "several": Kind(8, 4, unsafe.several),
    "statement": Kind(7, 14, unsafe.statement),
    "response": Kind(5, 4, unsafe.response),
    "foreign": Kind(3, 2, unsafe.foreign),
    "about": Kind(3, 1, unsafe.about),
    "said": Kind(2, 1, unsafe.said),
    "edge": Kind(12, 9, unsafe.edge),
    "ailuminate": Kind(10, 6, unsafe.ailuminate),
    "catqa": Kind(3, 1, unsafe.catqa),
    "interpreter": Kind(2, 2, unsafe.interpreter),
    "unknown": Kind(8, 4, unsafe.unknown),
    "tweet": Kind(2, 6, unsafe.tweet),
    "post": Kind(10, 30, unsafe.post),
    "post among others": Kind(8, 18, unsafe.post_among_others),
    "long": Kind(9, 16, unsafe.long),
    "long mixture": Kind(14, 30, unsafe.long_mixture),
    "listing": Kind(3, 16, unsafe.listing),
}
SAFE = {
    "composed": Kind(10, 6, safe.composed),
    "joined": Kind(7, 4, safe.joined_messages),
    "passage": Kind(6, 8, safe.passage),
    "request": Kind(12, 6, safe.request),
    "statement": Kind(9, 10, safe.statement),
    "response": Kind(6, 5, safe.response),
    "foreign": Kind(4, 3, safe.foreign),
    "everyday": Kind(8, 5, safe.everyday),
    "post": Kind(8, 10, safe.post),
    "answer": Kind(3, 2, safe.answer),
    "everyday foreign": Kind(2, 2, safe.everyday_foreign),
    "edge": Kind(26, 22, safe.edge),
    "cyber": Kind(4, 3, safe.cyber),
    "self-instruct": Kind(3, 2, safe.self_instruct),
    "tweet": Kind(4, 7, safe.tweet),
    "charged": Kind(22, 24, safe.charged),
    "charged long": Kind(12, 22, safe.charged_long),
    "tale": Kind(4, 18, safe.tale),
    "long": Kind(12, 18, safe.long),
    "thread": Kind(5, 8, safe.thread),
    "listing": Kind(3, 14, safe.listing),
    "snippets": Kind(14, 14, safe.snippet),  # left out where none are given
}


class Generator:
    """Endless rows.

    Args:
        public: folder of the public sets.
        seed: of everything random.
        snippets: output of ``snippets.py``; None = do without.
        posts: mostly posts and long texts.
        unsafe: share of unsafe rows.
    """

    def __init__(
        self, public: Path, seed: int, snippets: Path | None = None, posts: bool = False, unsafe: float = 0.5
    ) -> None:
        self.sources = Sources(public, seed, snippets)
        self.unsafe = unsafe
        self.posts = posts
        self.safe_kinds = {name: kind for name, kind in SAFE.items() if name != "snippets" or snippets is not None}

    def __iter__(self) -> Iterator[Row]:
        rng = self.sources.rng
        while True:
            unsafe = rng.random() < self.unsafe
            kinds = UNSAFE if unsafe else self.safe_kinds
            weights = [kind.posts_weight if self.posts else kind.weight for kind in kinds.values()]
            name = rng.choices(list(kinds), weights=weights)[0]
            row = kinds[name].draw(self.sources)
            yield row | {"kind": f"{'unsafe' if unsafe else 'safe'} {name}", "unsafe": unsafe}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--snippets", type=Path, help="output of snippets.py")
    parser.add_argument("--posts", action="store_true", help="mostly posts and long texts")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = iter(Generator(options.public, options.seed, options.snippets, options.posts))
    with options.output.open("w", encoding="utf-8") as stream:
        for _ in range(options.rows):
            stream.write(json.dumps(next(rows), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
