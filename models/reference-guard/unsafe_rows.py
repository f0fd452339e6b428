"""Draws of unsafe rows, one function a kind; ``data.UNSAFE`` is their registry."""

from __future__ import annotations

from composition import (
    FRAMES,
    answer_row,
    bot_row,
    charged_sentences,
    disguised_row,
    harmless_request,
    joined,
    listing_page,
    paragraph,
    passage,
    typed,
    union,
    user_row,
    written,
)
from sources import LABELS, Row, Sources, catqa_labels

HARMFUL_POSTS = ["hate", "hate_threat", "threats", "harassment", "selfharm", "sexual", "gore", "longer"]
#: Mixtures of long texts: label, registers of the harmful sentences, registers of the harmless ones.
LONG_MIXTURES = (
    ("S12", ("sexual",), ("romance", "fiction", "body")),
    ("S12", ("sexual",), ("fiction", "slang", "romance")),
    ("S10", ("hate", "hate", "hate_threat"), ("partisan", "identity", "religion", "argument", "warhistory")),
    ("S1", ("threats", "gore"), ("thriller", "truecrime", "warhistory", "slang", "fiction")),
    ("S11", ("selfharm",), ("despair", "hardship", "body")),
)
NOT_S4 = [label for label in LABELS if label != "S4"]


def composed(sources: Sources) -> Row:
    """One, two or three intents in one sentence; sometimes one of them is harmless."""
    texts, rng = sources.texts, sources.rng
    count = rng.choices([1, 2, 3], weights=[25, 50, 25])[0]
    label = sources.label("intent")
    if label == "S4":  # bare category names: plain questions, and never beside sexual content
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
        labels = [name for intent, name in zip(intents, chosen, strict=True) if intent != harmless]
    rng.shuffle(intents)
    text = texts.frame(FRAMES[count - 1], *intents)
    return user_row(text if "S4" in chosen else typed(sources, text), union(labels))


def joined_messages(sources: Sources) -> Row:
    """Two or three messages of any sources in one, as people ask several things at once."""
    rng = sources.rng
    count = rng.choices([1, 2, 3], weights=[15, 55, 30])[0]
    label = sources.label("joined")
    others = [x for x in LABELS if x not in ((label, "S12") if label == "S4" else (label, "S4"))]
    chosen = [label, *rng.sample(others, count - 1)]
    drawn = [_message_of(sources, name) for name in chosen]
    parts = [text for text, _ in drawn]
    if count == 1 or rng.random() < 0.15:
        parts.append(harmless_request(sources))
    rng.shuffle(parts)
    text = joined(rng, parts)
    return user_row(text if "S4" in chosen else typed(sources, text), union(*(labels for _, labels in drawn)))


def _message_of(sources: Sources, label: str) -> tuple[str, list[str]]:
    """A message of a label from any source that has one, and its labels."""
    texts, rng = sources.texts, sources.rng
    known = ["request", "request", "frame"] if texts.files[label]["requests"] else []
    known += ["ailuminate"] * (2 if label in sources.ailuminate else 0) + ["catqa"] * (label in sources.catqa)
    source = rng.choice(known or ["frame"])
    if source == "request":
        return texts.draw(label, "requests")
    if source == "frame":
        intent, labels = texts.draw(label, "intents")
        return texts.frame("one", intent), labels
    if source == "ailuminate":
        row = min(rng.choices(sources.ailuminate[label], k=2), key=lambda row: len(row["text"]))
        return row["text"], row["labels"]
    return rng.choice(sources.catqa[label]), [label]


def harmful_passage(sources: Sources) -> Row:
    return passage(sources, 1 if sources.rng.random() < 0.7 else 2)


def several(sources: Sources) -> Row:
    """A request with two labels or more."""
    label = sources.label_with("requests")
    for _ in range(40):  # tables are a quarter of the requests
        text, labels = sources.texts.draw(label, "requests")
        if len(labels) > 1:
            break
    return user_row(typed(sources, text), labels)


def request(sources: Sources) -> Row:
    return _written(sources, "requests")


def statement(sources: Sources) -> Row:
    return _written(sources, "statements")


def _written(sources: Sources, field: str) -> Row:
    text, labels = sources.texts.draw(sources.label_with(field), field)
    return user_row(typed(sources, text), labels)


def said(sources: Sources) -> Row:
    """Somebody tells what he did or means to do."""
    texts = sources.texts
    label = sources.label("said", NOT_S4)
    (a, of_a), (b, of_b) = texts.draw(label, "intents"), texts.draw(label, "intents")
    frame = sources.rng.choice(texts.frames["said"])
    text = texts.fill(frame, {}).replace("{0}", a).replace("{1}", b)
    return user_row(typed(sources, text), union(of_a, of_b if "{1}" in frame else []))


def about(sources: Sources) -> Row:
    text, labels = sources.texts.draw(sources.label("about", NOT_S4), "gerunds")
    return user_row(typed(sources, sources.texts.frame("about", text)), labels)


def response(sources: Sources) -> Row:
    texts = sources.texts
    label = sources.label_with("responses")
    answer, labels = texts.draw(label, "responses")
    question, _ = texts.draw(label, sources.rng.choice(["requests", "benign_requests"]))
    return answer_row(sources, question, answer, labels)


def foreign(sources: Sources) -> Row:
    return user_row(*sources.texts.draw(sources.label_with("foreign"), "foreign"))


def post(sources: Sources) -> Row:
    text, labels = sources.texts.draw("harmful_posts", sources.label("harmful post", HARMFUL_POSTS))
    return user_row(typed(sources, text), labels)


def post_among_others(sources: Sources) -> Row:
    """A harmful post among harmless sentences on charged subjects."""
    rng = sources.rng
    text, labels = sources.texts.draw("harmful_posts", sources.label("harmful post", HARMFUL_POSTS))
    parts = [text, *charged_sentences(sources)]
    rng.shuffle(parts)
    text = rng.choice([" ", "\n", "\n\n"]).join(parts)
    return user_row(typed(sources, text), labels)


def long(sources: Sources) -> Row:
    subject = sources.rng.choice(["sexual", "sexual", "hate", "violence", "selfharm"])
    return user_row(*sources.texts.draw("long_harmful", subject))


def long_mixture(sources: Sources) -> Row:
    """A long text: a few sentences harmful, all of one label, among harmless ones of like subjects."""
    texts, rng = sources.texts, sources.rng
    label, harmful, harmless = rng.choice(LONG_MIXTURES)
    present: list[str] = []
    parts: list[str] = []
    for _ in range(rng.choice([1, 2, 2, 3, 4])):
        if rng.random() < 0.6:
            text, labels = texts.draw("harmful_posts", rng.choice(harmful))
        else:
            text, labels = texts.draw(label, "statements")
        parts.append(text)
        present += labels
    for _ in range(rng.randint(3, 9)):
        parts.insert(rng.randrange(len(parts) + 1), texts.draw("posts", rng.choice(harmless))[0])
    return user_row(paragraph(rng, parts), union(present))


def listing(sources: Sources) -> Row:
    return user_row(listing_page(sources, "adult"), ["S12"])


def ailuminate(sources: Sources) -> Row:
    known = [*sources.ailuminate, "S4", "S4", "S4"]  # which has little else
    row = sources.rng.choice(sources.ailuminate[sources.label("ailuminate", known)])
    return user_row(row["text"], row["labels"])


def catqa(sources: Sources) -> Row:
    row = sources.rng.choice(sources.sets["catqa_english"])
    return user_row(typed(sources, row["text"]), catqa_labels(row))


def interpreter(sources: Sources) -> Row:
    return user_row(sources.rng.choice(sources.sets["interpreter_abuse"])["text"], ["S14"])


def unknown(sources: Sources) -> Row:
    """A harmful request of which no set says the category."""
    name = sources.rng.choices(["harmfulqa_unsafe_only", "harmbench_unsafe_only"], weights=[3, 1])[0]
    return user_row(typed(sources, sources.rng.choice(sources.sets[name])["text"]), None)


def disguised(sources: Sources) -> Row:
    """A harmful request of any source, disguised."""
    return disguised_row(sources, lambda: sources.texts.draw(sources.label("disguised", NOT_S4), "intents"), REQUESTS)


def tweet(sources: Sources) -> Row:
    return user_row(sources.rng.choice(sources.hateful_tweets), ["S10"])


def answer(sources: Sources) -> Row:
    return sources.texts.draw_conversation("posts_and_answers", "answers_harmful")


def conversation(sources: Sources) -> Row:
    return sources.texts.draw_conversation("posts_and_answers", "turns_harmful")


def emoji_post(sources: Sources) -> Row:
    row = sources.row("hatemoji", lambda row: bool(row["hateful"]))
    return user_row(row["text"], ["S1", "S10"] if row["type"].startswith("threat") else ["S10"])


def sexist_post(sources: Sources) -> Row:
    row = sources.row("edos", lambda row: bool(row["sexist"]))
    return user_row(row["text"], ["S1", "S10"] if row["category"].startswith("1") else ["S10"])


def implicit_hate(sources: Sources) -> Row:
    return user_row(sources.row("toxigen_demonstrations", lambda row: bool(row["hateful"]))["text"], ["S10"])


def abuse_of_a_bot(sources: Sources) -> Row:
    """What nearly all annotators called abuse; its category is not ours."""
    row = sources.row("convabuse", lambda row: bool(row["abusive"] >= 0.8))
    return bot_row(row, None)


#: What `disguised` draws requests from.
REQUESTS = (
    unknown, catqa, ailuminate, request, request, written("edges", "edge_unsafe"), written("requests", "harmful"),
    written("request_pairs", "harmful"), written("literal_or_not", "literal"), written("compound_requests", "compound"),
)  # fmt: skip
