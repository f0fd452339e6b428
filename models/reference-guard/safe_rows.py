"""Draws of safe rows, one function a kind; ``data.SAFE`` is their registry."""

from __future__ import annotations

from composition import (
    FRAMES,
    REGISTERS,
    answer_row,
    bot_row,
    charged_sentences,
    disguised_row,
    harmless_request,
    joined,
    listing_page,
    typed,
    user_row,
    written,
)
from composition import passage as composed_passage
from sources import Row, Sources


def composed(sources: Sources) -> Row:
    """One, two or three harmless intents in one sentence."""
    texts = sources.texts
    count = sources.rng.choices([1, 2, 3], weights=[45, 40, 15])[0]
    intents = [texts.draw(sources.label("benign"), "benign_intents")[0] for _ in range(count)]
    return user_row(typed(sources, texts.frame(FRAMES[count - 1], *intents)), [])


def joined_messages(sources: Sources) -> Row:
    parts = [harmless_request(sources) for _ in range(sources.rng.choice([2, 2, 3]))]
    return user_row(joined(sources.rng, parts), [])


def passage(sources: Sources) -> Row:
    return composed_passage(sources, 0)


def request(sources: Sources) -> Row:
    return _look_alike(sources, "benign_requests")


def statement(sources: Sources) -> Row:
    return _look_alike(sources, "benign_statements")


def _look_alike(sources: Sources, field: str) -> Row:
    return user_row(typed(sources, sources.texts.draw(sources.label(field), field)[0]), [])


def response(sources: Sources) -> Row:
    texts = sources.texts
    label = sources.label("benign_responses")
    answer, _ = texts.draw(label, "benign_responses")
    field = sources.rng.choice(["requests", "benign_requests"])
    question, _ = texts.draw(label, field if texts.files[label][field] else "benign_requests")
    return answer_row(sources, question, answer, [])


def foreign(sources: Sources) -> Row:
    return user_row(sources.texts.draw(sources.label("benign_foreign"), "benign_foreign")[0], [])


def answer(sources: Sources) -> Row:
    question, _ = sources.texts.draw("safe", "requests")
    return answer_row(sources, question, sources.texts.draw("safe", "responses")[0], [])


def cyber(sources: Sources) -> Row:
    return user_row(sources.rng.choice(sources.sets["cyber_benign"])["text"], [])


def self_instruct(sources: Sources) -> Row:
    return user_row(sources.rng.choice(sources.sets["self_instruct_safe"])["text"], [])


def disguised(sources: Sources) -> Row:
    """A harmless request of any source in what harmful ones are disguised with."""

    def clause() -> tuple[str, list[str]]:
        return sources.texts.draw(sources.label("benign disguised"), "benign_intents")[0], []

    return disguised_row(sources, clause, REQUESTS)


def tweet(sources: Sources) -> Row:
    return user_row(sources.rng.choice(sources.harmless_tweets), [])


def charged(sources: Sources) -> Row:
    link = sources.rng.choice([" ", " ", "\n\n"])
    return user_row(typed(sources, link.join(charged_sentences(sources))), [])


def charged_long(sources: Sources) -> Row:
    rng = sources.rng
    registers = rng.sample(REGISTERS, rng.choice([1, 1, 2, 3]))
    parts = [sources.texts.draw("posts", rng.choice(registers))[0] for _ in range(rng.randint(6, 12))]
    return user_row(rng.choice([" ", " ", "\n", "\n\n"]).join(parts), [])


def long(sources: Sources) -> Row:
    subject = sources.rng.choice(["fiction", "opinion", "life", "facts"])
    return user_row(sources.texts.draw("long_harmless", subject)[0], [])


def thread(sources: Sources) -> Row:
    return user_row("\n".join(sources.rng.choices(sources.harmless_tweets, k=sources.rng.randint(2, 5))), [])


def listing(sources: Sources) -> Row:
    return user_row(listing_page(sources, "plain"), [])


def written_answer(sources: Sources) -> Row:
    return sources.texts.draw_conversation("posts_and_answers", "answers_harmless")


def conversation(sources: Sources) -> Row:
    return sources.texts.draw_conversation("posts_and_answers", "turns_harmless")


def emoji_post(sources: Sources) -> Row:
    return user_row(sources.row("hatemoji", lambda row: not row["hateful"])["text"], [])


def post_on_women(sources: Sources) -> Row:
    return user_row(sources.row("edos", lambda row: not row["sexist"])["text"], [])


def neutral_on_group(sources: Sources) -> Row:
    return user_row(sources.row("toxigen_demonstrations", lambda row: not row["hateful"])["text"], [])


def to_a_bot(sources: Sources) -> Row:
    return bot_row(sources.row("convabuse", lambda row: bool(row["abusive"] == 0)), [])


def civil_comment(sources: Sources) -> Row:
    return user_row(sources.row("social_comments", lambda row: not row["toxic"])["text"], [])


def assistant_request(sources: Sources) -> Row:
    """What people ask assistants and banks."""
    name = sources.rng.choices(["clinc_safe", "banking_safe"], weights=[3, 1])[0]
    return user_row(sources.row(name)["text"], [])


def medical(sources: Sources) -> Row:
    """A question of medical research, mostly without its abstract."""
    question, _, abstract = sources.row("medical_safe")["text"].partition("? ")
    count = sources.rng.choice([0, 0, 1, 2, 4])
    return user_row(f"{question}? " + " ".join(abstract.split(". ")[:count]), [])


def prose(sources: Sources) -> Row:
    """Jokes, essays, scripture, manual pages, code, reviews."""
    text = sources.rng.choice(sources.prose[sources.rng.choice(list(sources.prose))])
    return user_row(text, [])


#: What `disguised` draws requests from.
REQUESTS = (
    assistant_request, medical, self_instruct, cyber, request, request, written("edges", "edge"),
    written("requests", "plain"), written("requests", "loaded"), written("request_pairs", "harmless"),
    written("literal_or_not", "homonyms"), written("compound_requests", "compound_harmless"),
)  # fmt: skip
