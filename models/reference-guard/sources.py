"""Sources of training rows: the templates in ``texts/`` with their slots filled, and the public sets.

``texts/`` holds one file per label with templates and slots; ``safe.toml``, everyday messages without a label;
``frames.toml``, sentences that join several intents; ``edges.toml``, harmless questions that look harmful beside
harmful ones; ``posts.toml`` and ``harmful_posts.toml``, what people tell and do not ask; ``long_*.toml``, long texts;
``listings.toml``, web pages of titles and advertisements; ``threats_and_hate.toml``, ``requests.toml``,
``posts_and_answers.toml``, ``request_pairs.toml``, ``hate_cases.toml``, ``mixed_posts.toml``,
``compound_requests.toml``, ``people_and_history.toml``, ``literal_or_not.toml``, ``opinions.toml`` and
``dark_passages.toml``, harmful texts beside harmless ones in the same words; ``disguises.toml``, what requests of
either kind are put into. They ask for harm, so that a guard can recognise it; they do not explain any. Texts of label
S4 come from the public sets alone, but for bare category names.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LABELS = [f"S{i}" for i in range(1, 15)]
PUBLIC_SETS = (
    "ailuminate_en_us", "ailuminate_fr_fr", "catqa_english", "cyber_benign", "harmbench_unsafe_only",
    "harmfulqa_unsafe_only", "interpreter_abuse", "self_instruct_safe", "tweets_hate_or_neither", "banking_safe",
    "clinc_safe", "convabuse", "edos", "hatemoji", "medical_safe", "social_comments", "toxigen_demonstrations",
)  # fmt: skip
#: Sets of which every tenth row is left to held_out.py, to calibrate the guard with.
CALIBRATED_SETS = (
    "clinc_safe", "banking_safe", "medical_safe", "hatemoji", "edos", "toxigen_demonstrations", "social_comments",
)  # fmt: skip
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
Row = dict[str, Any]


class Texts:
    """The written templates, drawn without repetition, and their slots, filled at random."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        files = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in (HERE / "texts").glob("*.toml")}
        self.common: dict[str, list[str]] = files.pop("common")["slots"]
        self.frames: dict[str, list[str]] = files.pop("frames")
        self.disguises: dict[str, Any] = files.pop("disguises")
        self.files = files
        self._bags: dict[tuple[str, str], list[Any]] = {}

    def draw(self, name: str, field: str) -> tuple[str, list[str]]:
        """A template of a list, filled, and its labels: its own, or the label whose file it is, or none.

        Every template of a list comes once before any comes twice.
        """
        item = self._item(name, field)
        if isinstance(item, dict):
            text, labels = item["text"], item["labels"]
        else:
            text, labels = item, [name] if name in LABELS else []
        return self.fill(text, self.slots(name)), labels

    def draw_conversation(self, name: str, field: str) -> Row:
        """A row of a list of conversations: an answer with the question ``before`` it, or ``messages``, each with its
        role in front ("user: ...")."""
        item = self._item(name, field)
        turns = item.get("messages") or [f"user: {item['before']}", f"assistant: {item['text']}"]
        slots = self.slots(name)
        pairs = [turn.split(": ", 1) for turn in turns]
        messages = [{"role": role, "content": self.fill(text, slots)} for role, text in pairs]
        return {"messages": messages, "labels": item.get("labels", [])}

    def slots(self, name: str) -> dict[str, list[str]]:
        slots: dict[str, list[str]] = self.files[name].get("slots", {})
        return slots

    def _item(self, name: str, field: str) -> Any:
        bag = self._bags.setdefault((name, field), [])
        if not bag:
            bag += self.files[name][field]
            self.rng.shuffle(bag)
        return bag.pop()

    def fill(self, text: str, slots: dict[str, list[str]]) -> str:
        """The template with a value in each slot; a slot that stands twice gets two values."""
        used: dict[str, set[str]] = {}

        def value(match: re.Match[str]) -> str:
            known = slots.get(match[1]) or self.common[match[1]]
            fresh = [x for x in known if x not in used.setdefault(match[1], set())] or known
            chosen = self.rng.choice(fresh)
            used[match[1]].add(chosen)
            return chosen

        return re.sub(r"\{([a-z_]\w*)\}", value, text)

    def frame(self, field: str, *intents: str) -> str:
        """A sentence that carries the intents."""
        text = self.fill(self.rng.choice(self.frames[field]), {})
        for i, intent in enumerate(intents):
            text = text.replace(f"{{{i}}}", intent)
        return text[0].upper() + text[1:] if text.endswith((".", "?")) else text


class Sources:
    """All that rows are drawn from, with the one random generator that decides every draw.

    Args:
        public: folder of the public sets.
        seed: of everything random.
        prose: output of ``prose.py``; None = do without.

    Attributes:
        sets: rows to train on of each public set, by the name of its file.
        held_out: rows that are never drawn, by the name of the set; none of their texts is in ``sets``.
        ailuminate: AILuminate's rows, by their first label.
        catqa: CatQA's questions, by label; those of unknown label are left out.
        hateful_tweets, harmless_tweets: texts.
        prose: texts of each source of ``prose.py``.
    """

    def __init__(self, public: Path, seed: int, prose: Path | None = None) -> None:
        self.rng = random.Random(seed)
        self.texts = Texts(self.rng)
        self.sets = {name: read_jsonl(public / f"{name}.jsonl") for name in PUBLIC_SETS}
        self.held_out = {name: self.sets[name][9::10] for name in CALIBRATED_SETS}
        for name, rows in self.held_out.items():
            texts = {row["text"] for row in rows}
            self.sets[name] = [row for row in self.sets[name] if row["text"] not in texts]
        self.prose: dict[str, list[str]] = {}
        for row in read_jsonl(prose) if prose is not None else []:
            self.prose.setdefault(row["source"], []).append(row["text"])
        tweets = self.sets["tweets_hate_or_neither"]
        self.hateful_tweets = [row["text"] for row in tweets if row["labels"]]
        self.harmless_tweets = [row["text"] for row in tweets if not row["labels"]]
        by_label: dict[str, list[Row]] = {label: [] for label in LABELS}
        for name in ("ailuminate_en_us", "ailuminate_fr_fr"):
            for row in self.sets[name]:
                by_label[row["labels"][0]].append(row)
        self.ailuminate = {label: rows for label, rows in by_label.items() if rows}
        self.catqa: dict[str, list[str]] = {}
        for row in self.sets["catqa_english"]:
            for label in catqa_labels(row) or []:
                self.catqa.setdefault(label, []).append(row["text"])
        self._cycle: dict[str, list[str]] = {}
        self._rows: dict[str, list[Row]] = {}

    def row(self, name: str, keep: Callable[[Row], bool] = lambda row: True) -> Row:
        """A row of a public set: each row that ``keep`` keeps comes once before any comes twice."""
        bag = self._rows.setdefault(name, [])
        while True:
            if not bag:
                bag += self.sets[name]
                self.rng.shuffle(bag)
            if keep(row := bag.pop()):
                return row

    def label(self, purpose: str, known: list[str] = LABELS) -> str:
        """One label after the other, shuffled anew each time: no label is drawn much more often than another."""
        bag = self._cycle.setdefault(purpose, [])
        if not bag:
            bag += known
            self.rng.shuffle(bag)
        return bag.pop()

    def label_with(self, field: str) -> str:
        """A label whose file has templates of this list."""
        return self.label(field, [label for label in LABELS if self.texts.files[label][field]])


def catqa_labels(row: Row) -> list[str] | None:
    """The labels of a row of CatQA; None where its category says none."""
    return CATQA.get(row["subcategory"], CATQA[row["category"]])


def read_jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
