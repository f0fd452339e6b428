"""Training rows for the reference guard: the written texts, mixed with public sets.

    python data.py --public FOLDER --rows 20000 --seed 0 -o rows.jsonl [--prose FILE]

A row is {"messages": [...], "labels": [...] or null, "unsafe": 0.0 to 1.0, "kind": "..."}; ``labels`` is null where
the category is unknown: such a row teaches the decision only. ``unsafe`` is the P(unsafe) to train towards. The same
seed gives the same rows.

A kind of row is one entry of :data:`UNSAFE`, :data:`SAFE` or :data:`RUDE`: its weight and the function that draws it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import rude_rows as rude
import safe_rows as safe
import unsafe_rows as unsafe
from composition import written
from sources import Row, Sources, write_jsonl


class Kind(NamedTuple):
    """How often a kind of row is drawn, relative to the other kinds of its table, and how."""

    weight: int
    draw: Callable[[Sources], Row]


# The order is part of what a seed gives. `written` names a list of a file in texts/.
UNSAFE = {
    "composed": Kind(18, unsafe.composed),
    "joined": Kind(12, unsafe.joined_messages),
    "passage": Kind(1, unsafe.harmful_passage),
    "request": Kind(4, unsafe.request),
    "several": Kind(4, unsafe.several),
    "statement": Kind(3, unsafe.statement),
    "response": Kind(1, unsafe.response),
    "foreign": Kind(1, unsafe.foreign),
    "about": Kind(1, unsafe.about),
    "said": Kind(1, unsafe.said),
    "edge": Kind(9, written("edges", "edge_unsafe")),
    "ailuminate": Kind(7, unsafe.ailuminate),
    "catqa": Kind(2, unsafe.catqa),
    "interpreter": Kind(1, unsafe.interpreter),
    "unknown": Kind(4, unsafe.unknown),
    "tweet": Kind(2, unsafe.tweet),
    "post": Kind(4, unsafe.post),
    "post among others": Kind(2, unsafe.post_among_others),
    "long": Kind(2, unsafe.long),
    "long mixture": Kind(2, unsafe.long_mixture),
    "listing": Kind(1, unsafe.listing),
    "plain request": Kind(9, written("requests", "harmful")),
    "rewritten request": Kind(8, written("requests", "rewritten")),
    "threat": Kind(9, written("threats_and_hate", "threats")),
    "hate": Kind(6, written("threats_and_hate", "hate")),
    "cruelty": Kind(3, written("threats_and_hate", "cruel")),
    "self-harm": Kind(5, written("posts_and_answers", "selfharm")),
    "sexual": Kind(3, written("posts_and_answers", "sexual")),
    "violence": Kind(2, written("posts_and_answers", "violence")),
    "long post": Kind(2, written("posts_and_answers", "long_harmful", as_typed=False)),
    "answer": Kind(2, unsafe.answer),
    "conversation": Kind(1, unsafe.conversation),
    "emoji post": Kind(32, unsafe.emoji_post),
    "sexist post": Kind(18, unsafe.sexist_post),
    "implicit hate": Kind(6, unsafe.implicit_hate),
    "abuse of a bot": Kind(1, unsafe.abuse_of_a_bot),
    "pair": Kind(8, written("request_pairs", "harmful")),
    "disguised": Kind(6, written("request_pairs", "disguised")),
    "hate case": Kind(7, written("hate_cases", "hate")),
    "emoji case": Kind(7, written("hate_cases", "emoji_hate", as_typed=False)),
    "mixed post": Kind(6, written("mixed_posts", "harmful", as_typed=False)),
    "compound": Kind(28, written("compound_requests", "compound")),
    "disguised any": Kind(16, unsafe.disguised),
    "private facts": Kind(8, written("people_and_history", "private")),
    "history repeated": Kind(6, written("people_and_history", "repeat_history")),
    "literal": Kind(12, written("literal_or_not", "literal")),
    "discrimination": Kind(7, written("literal_or_not", "real_discrimination")),
    "hateful opinion": Kind(8, written("opinions", "hateful", as_typed=False)),
    "threat in a text": Kind(3, written("opinions", "threats_in_text", as_typed=False)),
    "self-harm passage": Kind(6, written("dark_passages", "self_harm", as_typed=False)),
    "erotic passage": Kind(5, written("dark_passages", "erotic", as_typed=False)),
    "violent passage": Kind(5, written("dark_passages", "violent", as_typed=False)),
    "menace": Kind(14, written("threats_and_technical", "threats")),
    "technical": Kind(7, written("threats_and_technical", "technical_harmful")),
    "hate contrast": Kind(10, written("hate_contrasts", "hate")),
    "emoji contrast": Kind(10, written("hate_contrasts", "emoji_hate", as_typed=False)),
    "story": Kind(10, written("long_stories", "harmful", as_typed=False)),
    "web page": Kind(10, written("long_pages", "harmful", as_typed=False)),
}
SAFE = {
    "composed": Kind(4, safe.composed),
    "joined": Kind(2, safe.joined_messages),
    "passage": Kind(1, safe.passage),
    "request": Kind(4, safe.request),
    "statement": Kind(2, safe.statement),
    "response": Kind(1, safe.response),
    "foreign": Kind(1, safe.foreign),
    "everyday": Kind(3, written("safe", "requests")),
    "post": Kind(1, written("safe", "statements")),
    "answer": Kind(1, safe.answer),
    "everyday foreign": Kind(1, written("safe", "foreign")),
    "edge": Kind(14, written("edges", "edge")),
    "cyber": Kind(2, safe.cyber),
    "self-instruct": Kind(2, safe.self_instruct),
    "tweet": Kind(4, safe.tweet),
    "charged": Kind(4, safe.charged),
    "charged long": Kind(1, safe.charged_long),
    "tale": Kind(1, written("posts", "tales", as_typed=False)),
    "long": Kind(1, safe.long),
    "thread": Kind(1, safe.thread),
    "listing": Kind(1, safe.listing),
    "loaded": Kind(11, written("requests", "loaded")),
    "wrapped": Kind(6, written("requests", "wrapped_harmless")),
    "plain request": Kind(10, written("requests", "plain")),
    "not threat": Kind(7, written("threats_and_hate", "not_threats")),
    "not hate": Kind(7, written("threats_and_hate", "not_hate")),
    "not self-harm": Kind(3, written("posts_and_answers", "not_selfharm")),
    "not sexual": Kind(3, written("posts_and_answers", "not_sexual")),
    "not violence": Kind(4, written("posts_and_answers", "not_violence")),
    "long post": Kind(2, written("posts_and_answers", "long_harmless", as_typed=False)),
    "written answer": Kind(3, safe.written_answer),
    "conversation": Kind(1, safe.conversation),
    "emoji post": Kind(32, safe.emoji_post),
    "post on women": Kind(16, safe.post_on_women),
    "neutral on group": Kind(6, safe.neutral_on_group),
    "to a bot": Kind(3, safe.to_a_bot),
    "civil comment": Kind(2, safe.civil_comment),
    "assistant request": Kind(8, safe.assistant_request),
    "medical": Kind(4, safe.medical),
    "pair": Kind(8, written("request_pairs", "harmless")),
    "disguised": Kind(5, written("request_pairs", "disguised_harmless")),
    "hate case": Kind(9, written("hate_cases", "not_hate")),
    "emoji case": Kind(7, written("hate_cases", "emoji_harmless", as_typed=False)),
    "mixed post": Kind(8, written("mixed_posts", "harmless", as_typed=False)),
    "compound": Kind(9, written("compound_requests", "compound_harmless")),
    "disguised any": Kind(14, safe.disguised),
    "public facts": Kind(4, written("people_and_history", "public")),
    "fictional facts": Kind(7, written("people_and_history", "fictional")),
    "history": Kind(5, written("people_and_history", "history")),
    "homonym": Kind(8, written("literal_or_not", "homonyms")),
    "figurative": Kind(7, written("literal_or_not", "figurative")),
    "harmless target": Kind(6, written("literal_or_not", "harmless_targets")),
    "odd group": Kind(6, written("literal_or_not", "odd_groups")),
    "opinion": Kind(10, written("opinions", "not_hateful", as_typed=False)),
    "no threat": Kind(3, written("opinions", "no_threats", as_typed=False)),
    "not self-harm passage": Kind(7, written("dark_passages", "not_self_harm", as_typed=False)),
    "not erotic passage": Kind(6, written("dark_passages", "not_erotic", as_typed=False)),
    "not violent passage": Kind(6, written("dark_passages", "not_violent", as_typed=False)),
    "no menace": Kind(10, written("threats_and_technical", "not_threats")),
    "technical": Kind(14, written("threats_and_technical", "technical")),
    "hate contrast": Kind(14, written("hate_contrasts", "not_hate")),
    "emoji contrast": Kind(12, written("hate_contrasts", "emoji_harmless", as_typed=False)),
    "story": Kind(9, written("long_stories", "harmless", as_typed=False)),
    "web page": Kind(9, written("long_pages", "harmless", as_typed=False)),
    "prose": Kind(7, safe.prose),  # left out where none is given
}
RUDE = {
    "insult": Kind(6, rude.insult),
    "toxic comment": Kind(4, rude.toxic_comment),
    "rude to a bot": Kind(1, rude.rude_to_a_bot),
}
#: P(unsafe) that rude rows are trained towards, and their share of all rows.
RUDE_TARGET = 0.4
RUDE_SHARE = 0.06


class Generator:
    """Endless rows.

    Args:
        public: folder of the public sets.
        seed: of everything random.
        prose: output of ``prose.py``; None = do without.
        unsafe: share of unsafe rows among those that are not rude.
    """

    def __init__(self, public: Path, seed: int, prose: Path | None = None, unsafe: float = 0.5) -> None:
        self.sources = Sources(public, seed, prose)
        safe_kinds = {name: kind for name, kind in SAFE.items() if name != "prose" or prose is not None}
        rest = 1 - RUDE_SHARE
        self._tables = [("unsafe", UNSAFE, 1.0), ("safe", safe_kinds, 0.0), ("rude", RUDE, RUDE_TARGET)]
        self._shares = [rest * unsafe, rest * (1 - unsafe), RUDE_SHARE]

    def __iter__(self) -> Iterator[Row]:
        rng = self.sources.rng
        while True:
            side, kinds, target = rng.choices(self._tables, weights=self._shares)[0]
            name = rng.choices(list(kinds), weights=[kind.weight for kind in kinds.values()])[0]
            yield kinds[name].draw(self.sources) | {"kind": f"{side} {name}", "unsafe": target}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prose", type=Path, help="output of prose.py")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = iter(Generator(options.public, options.seed, options.prose))
    write_jsonl(options.output, itertools.islice(rows, options.rows))


if __name__ == "__main__":
    main()
