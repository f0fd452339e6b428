"""Composition of rows: messages put together from drawn texts, and the noise of how people type."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from sources import LABELS, Row, Sources

#: Registers of harmless posts. Sentences of one register make a text: with requests alone a guard learns that harm is
#: asked for, and finds it in every dark story.
REGISTERS = (
    "argument", "past", "fiction", "forum", "news", "hardship", "thriller", "warhistory", "truecrime", "partisan",
    "religion", "romance", "body", "despair", "slang", "identity", "web", "short",
)  # fmt: skip
FRAMES = ("one", "two", "three")  # of so many intents
_LEET = str.maketrans("aeiostAEIOST", "431057431057")


def user_row(text: str, labels: list[str] | None) -> Row:
    """A row of one user message; labels None = unsafe, category unknown."""
    return {"messages": [{"role": "user", "content": text}], "labels": labels}


def written(name: str, field: str, *, as_typed: bool = True) -> Callable[[Sources], Row]:
    """What draws the texts of a list of a file in ``texts/``, with their labels; harmless ones have none."""

    def draw(sources: Sources) -> Row:
        text, labels = sources.texts.draw(name, field)
        return user_row(typed(sources, text) if as_typed else text, labels)

    return draw


def bot_row(row: Row, labels: list[str] | None) -> Row:
    """A row of ConvAbuse: what a person said to a chat bot, after the bot's turn."""
    turns = [("assistant", row["before"].strip()), ("user", row["text"])]
    return {"messages": [{"role": role, "content": text} for role, text in turns if text], "labels": labels}


def answer_row(sources: Sources, question: str, answer: str, labels: list[str]) -> Row:
    """An assistant's message, mostly after the user's."""
    messages = [{"role": "assistant", "content": capitalised(answer)}]
    if sources.rng.random() < 0.7:
        messages.insert(0, {"role": "user", "content": typed(sources, question)})
    return {"messages": messages, "labels": labels}


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def union(*lists: list[str]) -> list[str]:
    """The labels of all lists, in the order of LABELS."""
    present = {label for labels in lists for label in labels}
    return [label for label in LABELS if label in present]


def typed(sources: Sources, text: str) -> str:
    """The text as a person types it: greetings, small letters, no stops, slips of the finger, tricks of spelling."""
    rng = sources.rng
    text = capitalised(text)
    if rng.random() < 0.08:
        text = rng.choice(sources.texts.frames["before"]) + text
    if rng.random() < 0.08:
        text += rng.choice(sources.texts.frames["after"])
    if rng.random() < 0.18:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip(".?!")
    if rng.random() < 0.02:
        text = text.upper()
    if rng.random() < 0.08:
        text = misspelt(rng, text)
    elif rng.random() < 0.05:
        text = rng.choice([leet, spaced, drawn_out])(rng, text)
    elif rng.random() < 0.05:
        text = respelt(sources, text)
    return text


def misspelt(rng: random.Random, text: str) -> str:
    """The text with one slip per 60 characters: a letter left out, doubled or swapped with the next."""
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


def leet(rng: random.Random, text: str) -> str:
    """The text with digits for some letters, as in `h4te sp3ech`."""
    return "".join(c.translate(_LEET) if rng.random() < 0.6 else c for c in text)


def spaced(rng: random.Random, text: str) -> str:
    """The text with something between the letters of one word or two: `t h e s e`, `w.o.r.d.s`."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    between = rng.choice([" ", ".", "-", "*", "_"])
    for i in rng.sample(long, min(len(long), rng.choice([1, 2]))):
        words[i] = between.join(words[i])
    return " ".join(words)


def drawn_out(rng: random.Random, text: str) -> str:
    """The text with a letter of every fourth word or so drawn out: `pleeeease`."""
    words = text.split(" ")
    for i, word in enumerate(words):
        vowels = [j for j, c in enumerate(word) if c in "aeiou"]
        if vowels and rng.random() < 0.25:
            j = rng.choice(vowels)
            words[i] = word[:j] + word[j] * rng.randint(3, 5) + word[j + 1 :]
    return " ".join(words)


def respelt(sources: Sources, text: str) -> str:
    """The text with informal spellings of common words: `wots ya favourite film`."""
    words = sources.texts.disguises["words"]

    def informal(match: re.Match[str]) -> str:
        known = words.get(match[0].lower())
        return sources.rng.choice(known) if known and sources.rng.random() < 0.7 else match[0]

    return re.sub(r"[A-Za-z']+", informal, text)


def disguised_sentence(sources: Sources, text: str) -> str:
    """A request inside a pretext, a plea, a layout, or an ordinary message around it."""
    return _disguised(sources, "around_question", capitalised(text.strip()))


def disguised_clause(sources: Sources, clause: str) -> str:
    """A bare infinitive phrase without "to" in a sentence of any dialect or register."""
    return _disguised(sources, "around_clause", clause)


def disguised_row(
    sources: Sources, clause: Callable[[], tuple[str, list[str]]], requests: Sequence[Callable[[Sources], Row]]
) -> Row:
    """A row of a request in a disguise, respelt now and then.

    Args:
        sources: of everything.
        clause: draws a bare infinitive phrase, with its labels.
        requests: draw rows of one message each, a sentence.
    """
    rng = sources.rng
    if rng.random() < 0.4:
        phrase, labels = clause()
        text = disguised_clause(sources, phrase)
    else:
        row = rng.choice(requests)(sources)
        text, labels = disguised_sentence(sources, row["messages"][0]["content"]), row["labels"]
    return user_row(respelt(sources, text) if rng.random() < 0.2 else text, labels)


def _disguised(sources: Sources, field: str, text: str) -> str:
    disguises = sources.texts.disguises
    return sources.texts.fill(sources.rng.choice(disguises[field]), disguises["slots"]).replace("{0}", text)


def paragraph(rng: random.Random, parts: list[str]) -> str:
    """Sentences of one text."""
    return rng.choice([" ", " ", "\n", "\n\n"]).join(capitalised(part) for part in parts)


def joined(rng: random.Random, parts: list[str]) -> str:
    """Several requests in one message."""
    link = rng.choice([" ", " ", "\n", " Also, ", " And ", " Then: ", " Another thing: ", "\n- ", " And also: "])
    plain = not link.strip() or link.endswith("- ")
    first, *rest = (part.strip() for part in parts)
    text = capitalised(first) + "".join(link + (capitalised(x) if plain else x[:1].lower() + x[1:]) for x in rest)
    return "- " + text if link.endswith("- ") else text


def harmless_request(sources: Sources) -> str:
    texts, rng = sources.texts, sources.rng
    if rng.random() < 0.3:
        return texts.draw("safe", "requests")[0]
    if rng.random() < 0.3:
        return texts.frame("one", texts.draw(sources.label("benign"), "benign_intents")[0])
    return texts.draw(sources.label("benign_requests"), "benign_requests")[0]


def charged_sentences(sources: Sources) -> list[str]:
    """Harmless sentences of one post on a charged subject, in one register or two."""
    rng = sources.rng
    registers = rng.sample(REGISTERS, 1 if rng.random() < 0.7 else 2)
    return [sources.texts.draw("posts", rng.choice(registers))[0] for _ in range(rng.choice([1, 1, 2, 3, 4, 5, 7]))]


def passage(sources: Sources, harmful: int) -> Row:
    """A post of several sentences, ``harmful`` of which are harmful."""
    texts, rng = sources.texts, sources.rng
    # "S4" has no statements of its own.
    known = [label for label in LABELS if texts.files[label]["statements"]]
    drawn = [texts.draw(sources.label("passage", known), "statements") for _ in range(harmful)]
    parts = [text for text, _ in drawn]
    if harmful and rng.random() < 0.6:
        parts += charged_sentences(sources)
    for _ in range(0 if len(parts) > harmful else rng.randint(2, 6)):
        if rng.random() < 0.5:
            parts.append(texts.draw("safe", "statements")[0])
        else:
            parts.append(texts.draw(sources.label("benign_statements"), "benign_statements")[0])
    rng.shuffle(parts)
    return user_row(paragraph(rng, [part.strip() for part in parts]), union(*(labels for _, labels in drawn)))


def listing_page(sources: Sources, field: str) -> str:
    """A web page made of titles, teasers and advertisements."""
    texts, rng = sources.texts, sources.rng
    parts = [texts.draw("listings", field)[0] for _ in range(rng.choice([1, 1, 2, 3, 4, 6, 9]))]
    if field == "adult" and rng.random() < 0.2:
        parts += [texts.draw("listings", "plain")[0] for _ in range(rng.randint(1, 3))]
    parts += [texts.draw("listings", "frame")[0] for _ in range(rng.choice([0, 0, 1, 2, 3]))]
    rng.shuffle(parts)
    return rng.choice([" ", "\n", "\n\n"]).join(capitalised(part) if rng.random() < 0.6 else part for part in parts)
