"""Training rows for the reference guard: the texts written here, mixed with public sets.

    python data.py --public FOLDER --rows 20000 --seed 0 -o rows.jsonl [--snippets FILE]

A row is {"messages": [...], "labels": [...] or null, "unsafe": bool, "kind": "..."}; ``labels`` is null where the
category is unknown: such a row teaches the decision only. The same seed gives the same rows.

The texts are in ``texts/``: one file per label with templates and slots, ``safe.toml`` for everything harmless,
``frames.toml`` for sentences that join several intents, ``edges_*.toml`` for harmless questions that look harmful, each
set beside harmful ones, ``posts*.toml`` and ``harmful_posts*.toml`` for what people tell and do not ask,
``listings.toml`` for web pages of titles and advertisements. They ask for harm, so that a guard can recognise it; they
do not explain any. Texts of label S4 come from the public sets alone, but for bare category names.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LABELS = [f"S{i}" for i in range(1, 15)]
Row = dict[str, Any]

#: CatQA's categories (subcategories where they differ) as labels.
CATQA = {
    "Illegal Activity": ["S2"],
    "Weapon": ["S2"],
    "Child Abuse": ["S1"],
    "Content Sexual exploitation": ["S4"],
    "Online predation": ["S4"],
    "Hate/Harass/Violence": ["S10"],
    "Cyberbullying": None,
    "Terrorism and extremism": ["S1"],
    "Gender-based violence": None,
    "Malware Viruses": ["S2"],
    "Physical Harm": ["S1"],
    "Suicide": ["S11"],
    "Self-harm": ["S11"],
    "Eating disorders": ["S11"],
    "Economic Harm": ["S2"],
    "Fraud/Deception": ["S2"],
    "Adult Content": ["S12"],
    "Political Campaigning": None,
    "Privacy Violation Activity": ["S7"],
    "Tailored Financial Advice": ["S6"],
}
#: How often each kind of row is drawn.
UNSAFE_KINDS = {
    "composed": 24, "joined": 16, "passage": 5, "request": 8, "several": 8, "statement": 7, "response": 5,
    "foreign": 3, "about": 3, "said": 2, "edge": 12, "ailuminate": 10, "catqa": 3, "interpreter": 2, "unknown": 8,
    "tweet": 2, "post": 10, "post among others": 8, "long": 9, "long mixture": 14,
    "listing": 3,
}  # fmt: skip
SAFE_KINDS = {
    "composed": 10, "joined": 7, "passage": 6, "request": 12, "statement": 9, "response": 6, "foreign": 4,
    "everyday": 8, "post": 8, "answer": 3, "everyday foreign": 2, "edge": 26, "cyber": 4, "self-instruct": 3,
    "tweet": 4, "charged": 22, "charged long": 12, "tale": 4, "long": 12, "thread": 5,
    "listing": 3,
}  # fmt: skip
#: And in a mixture of mostly posts and long texts, for a last run: these kinds instead of the same above.
POST_UNSAFE = {
    "composed": 12, "joined": 5, "passage": 10, "request": 3, "several": 4, "statement": 14, "response": 4,
    "foreign": 2, "about": 1, "said": 1, "edge": 9, "ailuminate": 6, "catqa": 1, "interpreter": 2, "unknown": 4,
    "tweet": 6, "post": 30, "post among others": 18, "long": 16, "long mixture": 30,
    "listing": 16,
}  # fmt: skip
POST_SAFE = {
    "composed": 6, "joined": 4, "passage": 8, "request": 6, "statement": 10, "response": 5, "foreign": 3,
    "everyday": 5, "post": 10, "answer": 2, "everyday foreign": 2, "edge": 22, "cyber": 3, "self-instruct": 2,
    "tweet": 7, "charged": 24, "charged long": 22, "tale": 18, "long": 18, "thread": 8,
    "listing": 14,
}  # fmt: skip
SAFE_SNIPPETS = {"snippets": 14}  # if there are any
#: Sentences of one register make a text: with requests alone a guard learns that harm is asked for, and finds it in
#: every dark story.
POSTS = (
    "argument", "past", "fiction", "forum", "news", "hardship", "thriller", "warhistory", "truecrime", "partisan",
    "religion", "romance", "body", "despair", "slang", "identity", "web", "short",
)  # fmt: skip
HARMFUL_POSTS = ("hate", "hate_threat", "threats", "harassment", "selfharm", "sexual", "gore", "longer")
#: What a long harmful text is made of: its label, the registers of its harmful and of its harmless sentences.
LONG_MIXTURES = (
    ("S12", ("sexual",), ("romance", "fiction", "body")),
    ("S12", ("sexual",), ("fiction", "slang", "romance")),
    ("S10", ("hate", "hate", "hate_threat"), ("partisan", "identity", "religion", "argument", "warhistory")),
    ("S1", ("threats", "gore"), ("thriller", "truecrime", "warhistory", "slang", "fiction")),
    ("S11", ("selfharm",), ("despair", "hardship", "body")),
)


class Texts:
    """The written texts, and how their slots are filled."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        read = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in (HERE / "texts").glob("*.toml")}
        self.common: dict[str, list[str]] = read.pop("common")["slots"]
        self.frames: dict[str, list[str]] = read.pop("frames")
        for edges in (read.pop("edges_a"), read.pop("edges_b")):
            for field in ("edge", "edge_unsafe"):
                read["safe"][field] += edges[field]
        read["posts"] |= read.pop("posts_b")
        more = read.pop("posts_c")
        read["posts"] |= {"short": more["short"]}
        read["posts"]["tales"] += more["whole"] + more["dialogue"]
        for field, posts in read.pop("harmful_posts_b").items():
            read["harmful_posts"][field] += posts
        self.files = read
        self._bags: dict[tuple[int, str], list[Any]] = {}

    def draw(self, name: str, field: str) -> tuple[str, list[str]]:
        """A template of a list, filled, and its labels. Every template of a list comes once before any comes twice."""
        file = self.files[name]
        bag = self._bags.setdefault((id(file), field), [])
        if not bag:
            bag += file[field]
            self.rng.shuffle(bag)
        item = bag.pop()
        text, labels = (item["text"], item["labels"]) if isinstance(item, dict) else (item, [name])
        return self.fill(text, file.get("slots", {})), labels

    def fill(self, text: str, slots: dict[str, list[str]]) -> str:
        used: dict[str, set[str]] = {}

        def value(match: re.Match[str]) -> str:
            known = slots.get(match[1]) or self.common[match[1]]
            fresh = [x for x in known if x not in used.setdefault(match[1], set())] or known
            found = self.rng.choice(fresh)
            used[match[1]].add(found)
            return found

        return re.sub(r"\{([a-z_]\w*)\}", value, text)

    def frame(self, field: str, *intents: str) -> str:
        text = self.fill(self.rng.choice(self.frames[field]), {})
        for i, intent in enumerate(intents):
            text = text.replace(f"{{{i}}}", intent)
        return text[0].upper() + text[1:] if text.endswith((".", "?")) else text


class Generator:
    """Draws rows for ever.

    Args:
        public: folder of the public sets.
        seed: of everything random.
        snippets: what ``snippets.py`` makes, one text per line of JSON; None = do without.
        posts: mostly posts and long texts.
        unsafe: share of unsafe rows.
    """

    def __init__(
        self, public: Path, seed: int, snippets: Path | None = None, posts: bool = False, unsafe: float = 0.5
    ) -> None:
        self.rng = rng = random.Random(seed)
        self.unsafe = unsafe
        self.texts = Texts(rng)
        self.sets = {
            name: [json.loads(line) for line in (public / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
            for name in (
                "ailuminate_en_us", "ailuminate_fr_fr", "catqa_english", "cyber_benign", "harmbench_unsafe_only",
                "harmfulqa_unsafe_only", "interpreter_abuse", "self_instruct_safe", "tweets_hate_or_neither",
            )
        }  # fmt: skip
        self.unsafe_kinds = POST_UNSAFE if posts else UNSAFE_KINDS
        self.safe_kinds = dict(POST_SAFE if posts else SAFE_KINDS)
        if snippets is not None:
            self.safe_kinds |= SAFE_SNIPPETS
            self.sets["snippets"] = [json.loads(line) for line in snippets.read_text(encoding="utf-8").splitlines()]
        self._cycle: dict[str, list[str]] = {}
        by_label: dict[str, list[Row]] = {label: [] for label in LABELS}
        for name in ("ailuminate_en_us", "ailuminate_fr_fr"):
            for row in self.sets[name]:
                by_label[row["labels"][0]].append(row)
        self.ailuminate = {label: rows for label, rows in by_label.items() if rows}
        catqa: dict[str, list[str]] = {}
        for row in self.sets["catqa_english"]:
            for label in CATQA.get(row["subcategory"], CATQA[row["category"]]) or []:
                catqa.setdefault(label, []).append(row["text"])
        self.catqa = catqa

    def __iter__(self) -> Iterator[Row]:
        while True:
            unsafe = self.rng.random() < self.unsafe
            kinds = self.unsafe_kinds if unsafe else self.safe_kinds
            kind = self.rng.choices(list(kinds), weights=list(kinds.values()))[0]
            row = self._unsafe(kind) if unsafe else self._safe(kind)
            row |= {"kind": f"{'unsafe' if unsafe else 'safe'} {kind}", "unsafe": unsafe}
            yield row

    # One label after the other, shuffled anew each time: no label is drawn much more often than another.
    def _label(self, purpose: str, known: list[str]) -> str:
        bag = self._cycle.setdefault(purpose, [])
        if not bag:
            bag += known
            self.rng.shuffle(bag)
        return bag.pop()

    def _written(self, field: str) -> str:
        return self._label(field, [label for label in LABELS if self.texts.files[label][field]])

    def _unsafe(self, kind: str) -> Row:
        texts, rng = self.texts, self.rng
        if kind == "composed":
            return self._composed()
        if kind == "joined":
            return self._joined()
        if kind == "passage":
            return self._passage(1 if rng.random() < 0.7 else 2)
        if kind == "several":
            label = self._written("requests")
            for _ in range(40):  # tables are a quarter of the requests
                text, labels = texts.draw(label, "requests")
                if len(labels) > 1:
                    break
            return _user(self._said(text), labels)
        if kind in ("request", "statement"):
            text, labels = texts.draw(self._written(f"{kind}s"), f"{kind}s")
            return _user(self._said(text), labels)
        if kind == "said":
            label = self._label("said", [x for x in LABELS if x != "S4"])
            (a, of_a), (b, of_b) = texts.draw(label, "intents"), texts.draw(label, "intents")
            frame = rng.choice(texts.frames["said"])
            text = texts.fill(frame, {}).replace("{0}", a).replace("{1}", b)
            return _user(self._said(text), _union(of_a, of_b if "{1}" in frame else []))
        if kind == "about":
            text, labels = texts.draw(self._label("about", [x for x in LABELS if x != "S4"]), "gerunds")
            return _user(self._said(texts.frame("about", text)), labels)
        if kind == "response":
            label = self._written("responses")
            answer, labels = texts.draw(label, "responses")
            question, _ = texts.draw(label, rng.choice(["requests", "benign_requests"]))
            return self._answered(question, answer, labels)
        if kind == "foreign":
            return _user(*texts.draw(self._written("foreign"), "foreign"))
        if kind == "edge":
            text, labels = texts.draw("safe", "edge_unsafe")
            return _user(self._said(text), labels)
        if kind in ("post", "post among others"):
            text, labels = texts.draw("harmful_posts", self._label("harmful post", list(HARMFUL_POSTS)))
            if kind == "post among others":
                parts = [text, *self._charged()]
                rng.shuffle(parts)
                text = rng.choice([" ", "\n", "\n\n"]).join(parts)
            return _user(self._said(text), labels)
        if kind == "long":
            return _user(*texts.draw("long_harmful", rng.choice(["sexual", "sexual", "hate", "violence", "selfharm"])))
        if kind == "long mixture":
            return self._long_mixture()
        if kind == "listing":
            return _user(self._listing("adult"), ["S12"])
        if kind == "ailuminate":
            known = [*self.ailuminate, "S4", "S4", "S4"]  # which has little else
            row = rng.choice(self.ailuminate[self._label("ailuminate", known)])
            return _user(row["text"], row["labels"])
        if kind == "catqa":
            row = rng.choice(self.sets["catqa_english"])
            return _user(self._said(row["text"]), CATQA.get(row["subcategory"], CATQA[row["category"]]))
        if kind == "interpreter":
            return _user(rng.choice(self.sets["interpreter_abuse"])["text"], ["S14"])
        if kind == "unknown":
            name = rng.choices(["harmfulqa_unsafe_only", "harmbench_unsafe_only"], weights=[3, 1])[0]
            return _user(self._said(rng.choice(self.sets[name])["text"]), None)
        return _user(rng.choice([r for r in self.sets["tweets_hate_or_neither"] if r["labels"]])["text"], ["S10"])

    def _composed(self) -> Row:
        """One, two or three intents in one sentence; sometimes one of them is harmless."""
        texts, rng = self.texts, self.rng
        count = rng.choices([1, 2, 3], weights=[25, 50, 25])[0]
        label = self._label("intent", LABELS)
        if label == "S4":  # bare category names: plain questions, and no company of sexual content
            others = [x for x in LABELS if x not in ("S4", "S12")]
            count = min(count, 2)
        else:
            others = [x for x in LABELS if x not in (label, "S4")]
        chosen = [label, *rng.sample(others, count - 1)]
        intents, labels = [], []
        for name in chosen:
            intent, of_intent = texts.draw(name, "intents")
            intents.append(intent)
            labels += of_intent
        if count > 1 and rng.random() < 0.15:
            harmless, _ = texts.draw(rng.choice(LABELS), "benign_intents")
            intents[rng.randrange(1, count)] = harmless
            labels = [x for intent, name in zip(intents, chosen, strict=True) if intent != harmless for x in [name]]
        rng.shuffle(intents)
        frame = texts.frame(("one", "two", "three")[count - 1], *intents)
        return _user(frame if "S4" in chosen else self._said(frame), _union(labels))

    def _joined(self) -> Row:
        """Two or three messages of any sources in one, as people ask several things at once."""
        texts, rng = self.texts, self.rng
        count = rng.choices([1, 2, 3], weights=[15, 55, 30])[0]
        label = self._label("joined", LABELS)
        others = [x for x in LABELS if x not in ((label, "S12") if label == "S4" else (label, "S4"))]
        chosen = [label, *rng.sample(others, count - 1)]
        parts, found = [], []
        for name in chosen:
            sources = ["request", "request", "frame"] if texts.files[name]["requests"] else []
            sources += ["ailuminate"] * (2 if name in self.ailuminate else 0) + ["catqa"] * (name in self.catqa)
            source = rng.choice(sources or ["frame"])
            if source == "request":
                text, labels = texts.draw(name, "requests")
            elif source == "frame":
                intent, labels = texts.draw(name, "intents")
                text = texts.frame("one", intent)
            elif source == "ailuminate":
                row = min(rng.choices(self.ailuminate[name], k=2), key=lambda row: len(row["text"]))
                text, labels = row["text"], row["labels"]
            else:
                text, labels = rng.choice(self.catqa[name]), [name]
            parts.append(text)
            found.append(labels)
        if count == 1 or rng.random() < 0.15:
            parts.append(self._harmless())
        rng.shuffle(parts)
        text = self._together(parts)
        return _user(text if "S4" in chosen else self._said(text), _union(*found))

    def _harmless(self) -> str:
        texts, rng = self.texts, self.rng
        if rng.random() < 0.3:
            return texts.draw("safe", "requests")[0]
        if rng.random() < 0.3:
            return texts.frame("one", texts.draw(self._label("benign", LABELS), "benign_intents")[0])
        return texts.draw(self._label("benign_requests", LABELS), "benign_requests")[0]

    def _together(self, parts: list[str]) -> str:
        rng = self.rng
        link = rng.choice([" ", " ", "\n", " Also, ", " And ", " Then: ", " Another thing: ", "\n- ", " And also: "])
        plain = not link.strip() or link.endswith("- ")
        first, *rest = (part.strip() for part in parts)
        text = _capital(first) + "".join(link + (_capital(x) if plain else x[:1].lower() + x[1:]) for x in rest)
        return "- " + text if link.endswith("- ") else text

    def _passage(self, harmful: int) -> Row:
        """A post of several sentences, of which some few are harmful, or none."""
        texts, rng = self.texts, self.rng
        # "S4" has no statements of its own.
        known = [label for label in LABELS if texts.files[label]["statements"]]
        drawn = [texts.draw(self._label("passage", known), "statements") for _ in range(harmful)]
        parts = [text for text, _ in drawn]
        if harmful and rng.random() < 0.6:
            parts += self._charged()
        for _ in range(0 if len(parts) > harmful else rng.randint(2, 6)):
            if rng.random() < 0.5:
                parts.append(texts.draw("safe", "statements")[0])
            else:
                parts.append(texts.draw(self._label("benign_statements", LABELS), "benign_statements")[0])
        rng.shuffle(parts)
        text = rng.choice([" ", " ", "\n", "\n\n"]).join(_capital(part.strip()) for part in parts)
        return _user(text, _union(*(labels for _, labels in drawn)))

    def _long_mixture(self) -> Row:
        """A long text: a few sentences harmful, all of one label, among harmless ones of like subjects."""
        texts, rng = self.texts, self.rng
        label, harmful, harmless = rng.choice(LONG_MIXTURES)
        found: list[str] = []
        parts = []
        for _ in range(rng.choice([1, 2, 2, 3, 4])):
            if rng.random() < 0.6:
                text, labels = texts.draw("harmful_posts", rng.choice(harmful))
            else:
                text, labels = texts.draw(label, "statements")
            parts.append(text)
            found += labels
        for _ in range(rng.randint(3, 9)):
            parts.insert(rng.randrange(len(parts) + 1), texts.draw("posts", rng.choice(harmless))[0])
        return _user(rng.choice([" ", " ", "\n", "\n\n"]).join(_capital(part) for part in parts), _union(found))

    def _listing(self, field: str) -> str:
        """A web page made of titles, teasers and advertisements."""
        texts, rng = self.texts, self.rng
        parts = [texts.draw("listings", field)[0] for _ in range(rng.choice([1, 1, 2, 3, 4, 6, 9]))]
        if field == "adult" and rng.random() < 0.2:
            parts += [texts.draw("listings", "plain")[0] for _ in range(rng.randint(1, 3))]
        parts += [texts.draw("listings", "frame")[0] for _ in range(rng.choice([0, 0, 1, 2, 3]))]
        rng.shuffle(parts)
        return rng.choice([" ", "\n", "\n\n"]).join(_capital(part) if rng.random() < 0.6 else part for part in parts)

    def _charged(self) -> list[str]:
        """Sentences of one post, in one register or two."""
        rng = self.rng
        banks = rng.sample(POSTS, 1 if rng.random() < 0.7 else 2)
        return [self.texts.draw("posts", rng.choice(banks))[0] for _ in range(rng.choice([1, 1, 2, 3, 4, 5, 7]))]

    def _safe(self, kind: str) -> Row:
        texts, rng = self.texts, self.rng
        if kind == "composed":
            count = rng.choices([1, 2, 3], weights=[45, 40, 15])[0]
            intents = [texts.draw(self._label("benign", LABELS), "benign_intents")[0] for _ in range(count)]
            return _user(self._said(texts.frame(("one", "two", "three")[count - 1], *intents)), [])
        if kind == "joined":
            parts = [self._harmless() for _ in range(rng.choice([2, 2, 3]))]
            return _user(self._together(parts), [])
        if kind == "passage":
            return self._passage(0)
        if kind == "charged":
            return _user(self._said(rng.choice([" ", " ", "\n\n"]).join(self._charged())), [])
        if kind == "charged long":
            banks = rng.sample(POSTS, rng.choice([1, 1, 2, 3]))
            parts = [texts.draw("posts", rng.choice(banks))[0] for _ in range(rng.randint(6, 12))]
            return _user(rng.choice([" ", " ", "\n", "\n\n"]).join(parts), [])
        if kind == "long":
            return _user(texts.draw("long_harmless", rng.choice(["fiction", "opinion", "life", "facts"]))[0], [])
        if kind == "listing":
            return _user(self._listing("plain"), [])
        if kind == "tale":
            return _user(texts.draw("posts", "tales")[0], [])
        if kind == "snippets":
            return _user(rng.choice(self.sets["snippets"])["text"], [])
        if kind == "thread":
            tweets = [r["text"] for r in self.sets["tweets_hate_or_neither"] if not r["labels"]]
            return _user("\n".join(rng.choices(tweets, k=rng.randint(2, 5))), [])
        if kind in ("request", "statement"):
            field = f"benign_{kind}s"
            return _user(self._said(texts.draw(self._label(field, LABELS), field)[0]), [])
        if kind == "response":
            label = self._label("benign_responses", LABELS)
            answer, _ = texts.draw(label, "benign_responses")
            asked = rng.choice(["requests", "benign_requests"])
            question, _ = texts.draw(label, asked if texts.files[label][asked] else "benign_requests")
            return self._answered(question, answer, [])
        if kind == "foreign":
            return _user(texts.draw(self._label("benign_foreign", LABELS), "benign_foreign")[0], [])
        if kind == "answer":
            return self._answered(texts.draw("safe", "requests")[0], texts.draw("safe", "responses")[0], [])
        if kind in ("everyday", "post", "everyday foreign", "edge"):
            field = {"everyday": "requests", "post": "statements", "everyday foreign": "foreign", "edge": "edge"}[kind]
            return _user(self._said(texts.draw("safe", field)[0]), [])
        if kind == "cyber":
            return _user(rng.choice(self.sets["cyber_benign"])["text"], [])
        if kind == "self-instruct":
            return _user(rng.choice(self.sets["self_instruct_safe"])["text"], [])
        return _user(rng.choice([r for r in self.sets["tweets_hate_or_neither"] if not r["labels"]])["text"], [])

    def _answered(self, question: str, answer: str, labels: list[str]) -> Row:
        """An assistant's message, mostly behind the user's."""
        messages = [{"role": "assistant", "content": _capital(answer)}]
        if self.rng.random() < 0.7:
            messages.insert(0, {"role": "user", "content": self._said(question)})
        return {"messages": messages, "labels": labels}

    def _said(self, text: str) -> str:
        """The text as this person writes: greetings, small letters, no stops, slips of the finger."""
        rng = self.rng
        text = _capital(text)
        if rng.random() < 0.08:
            text = rng.choice(self.texts.frames["before"]) + text
        if rng.random() < 0.08:
            text += rng.choice(self.texts.frames["behind"])
        if rng.random() < 0.18:
            text = text.lower()
        if rng.random() < 0.15:
            text = text.rstrip(".?!")
        if rng.random() < 0.01:
            text = text.upper()
        if rng.random() < 0.08:
            text = self._misspelt(text)
        return text

    def _misspelt(self, text: str) -> str:
        rng = self.rng
        letters = list(text)
        slips: list[Callable[[int], None]] = [
            lambda i: letters.__setitem__(i, ""),
            lambda i: letters.__setitem__(i, letters[i] * 2),
            lambda i: letters.__setitem__(slice(i, i + 2), letters[i : i + 2][::-1]),
        ]
        for _ in range(1 + len(letters) // 60):
            places = [i for i, c in enumerate(letters[:-1]) if c.isalpha()]
            if places:
                rng.choice(slips)(rng.choice(places))
        return "".join(letters)


def _user(text: str, labels: list[str] | None) -> Row:
    return {"messages": [{"role": "user", "content": text}], "labels": labels}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _union(*lists: list[str]) -> list[str]:
    found = {label for labels in lists for label in labels}
    return [label for label in LABELS if label in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--snippets", type=Path, help="what snippets.py makes")
    parser.add_argument("--posts", action="store_true", help="mostly posts and long texts")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = iter(Generator(options.public, options.seed, options.snippets, options.posts))
    with options.output.open("w", encoding="utf-8") as stream:
        for _ in range(options.rows):
            stream.write(json.dumps(next(rows), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
