"""Prompt builder: messages to the exact prompt text and token ids that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

from tokmarg.errors import BundleError, ContentError
from tokmarg.tokenizer import Encoder, Encoding, Piece

from .labels import ROLES, Role
from .messages import Message
from .spec import Spec
from .token_borders import CHUNK, token_borders

__all__ = ["Prompt", "PromptBuilder", "PromptKey"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt exactly as it is scored; feed ``token_ids`` to any engine to check a score.

    Attributes:
        token_ids: the whole prompt, special tokens included; the verdict follows it.
        text: the whole prompt; special tokens of the scaffold by their name.
        content_span: characters ``[start, end)`` of ``text`` from the first message's first to the last message's
            last character.
        message_spans: the same for each message. In these spans no special token is recognised.
        content_token_span: ``[start, end)`` in ``token_ids``: the tokens that overlap ``content_span``.
        role: the role that is judged (the last message's).
        label: the label of the prompt, for guards that have one prompt per label; None = all labels.
    """

    token_ids: tuple[int, ...]
    text: str
    content_span: tuple[int, int]
    message_spans: tuple[tuple[int, int], ...]
    content_token_span: tuple[int, int]
    role: Role
    label: str | None = None


class PromptBuilder:
    """Builds the prompts of one spec with one tokenizer.

    Args:
        spec: the guard's spec.
        encoder: its tokenizer.
        max_tokens: the longest prompt after which a verdict still fits, in tokens.
    """

    def __init__(self, spec: Spec, encoder: Encoder, max_tokens: int) -> None:
        self.spec, self.encoder, self.max_tokens = spec, encoder, max_tokens
        self._scaffolds: dict[Role, dict[str | None, tuple[str, str]]] = {}
        for role in spec.roles:
            policies = spec.policies(role)
            self._scaffolds[role] = {
                policy[0].id if spec.aggregate == "max" else None: spec.scaffold(role, policy) for policy in policies
            }

    def check(self, messages: Sequence[Message]) -> Role:
        """The role mode of a conversation, or ContentError where the template cannot hold it."""
        role = self._judged_role(messages)
        template, turn = self.spec.template, 0
        for i, message in enumerate(messages):
            if message.role not in template.messages:
                raise ContentError(
                    "unsupported_conversation", f"{self.spec.name} has no place for {message.role} messages"
                )
            if message.role not in ROLES:
                continue
            if template.turns != "any" and message.role != ROLES[turn % 2]:
                raise ContentError(
                    "unsupported_conversation",
                    f"{self.spec.name} needs turns user, assistant, user, ...: "
                    f"message {i + 1} is {message.role}, not {ROLES[turn % 2]}",
                )
            turn += 1
        if template.turns == "pair" and turn > 2:
            raise ContentError(
                "unsupported_conversation",
                f"{self.spec.name} judges one user message and at most one assistant message after it, "
                f"not {turn} messages",
            )
        return role

    def _judged_role(self, messages: Sequence[Message]) -> Role:
        """The role of the last message, which is judged.

        Raises:
            ContentError: the guard cannot judge it.
        """
        for role in self.spec.roles:
            if role == messages[-1].role:
                return role
        raise ContentError("unsupported_conversation", f"{self.spec.name} cannot judge {messages[-1].role} messages")

    def prompt_labels(self, role: Role) -> tuple[str | None, ...]:
        """The label of each prompt of a content, one prompt per label; (None,) = all labels in one prompt."""
        return tuple(self._scaffolds[role])

    def prompts(self, messages: Sequence[Message]) -> tuple[Prompt, ...]:
        """The prompts for a conversation, whatever their length: one for each of :meth:`prompt_labels`.

        Raises:
            ContentError: the template cannot hold the conversation, or it is so long that it cannot possibly fit.
        """
        role = self.check(messages)
        # Cheaper than tokenising megabytes to find out: no token is longer than `longest_token` characters.
        characters = sum(len(m.content) for m in messages)
        if characters > self.max_tokens * self.encoder.longest_token or self._is_certainly_too_long(
            messages, characters
        ):
            raise self.too_long(f"{characters:,} characters")
        if len(messages) > self.max_tokens:
            raise self.too_long(f"{len(messages):,} messages")
        return tuple(self._prompt(messages, role, label) for label in self.prompt_labels(role))

    def _prompt(self, messages: Sequence[Message], role: Role, label: str | None) -> Prompt:
        pieces, spans = self._pieces(messages, self._scaffolds[role][label])
        try:
            encoding = self.encoder.encode(pieces)
        except BundleError as error:  # not the scaffold: it was encoded when the bundle was loaded
            raise ContentError("not_encodable", str(error)) from None
        span = (spans[0][0], spans[-1][1])
        return Prompt(
            token_ids=tuple(encoding.ids),
            text="".join(p.text for p in pieces),
            content_span=span,
            message_spans=tuple(spans),
            content_token_span=_overlap(encoding, span),
            role=role,
            label=label,
        )

    def _is_certainly_too_long(self, messages: Sequence[Message], characters: int) -> bool:
        """Whether a content is certainly too long; tokenises only as many chunks as it takes to know.

        In chunks a text has a few more tokens per cut than as a whole; hence the margin.
        """
        if characters <= 2 * CHUNK:
            return False
        count = 0
        for message in messages:
            for at in range(0, len(message.content), CHUNK):
                count += self.encoder.count(message.content[at : at + CHUNK])
                if count > 1.25 * self.max_tokens + CHUNK // 256:
                    return True
        return False

    def check_tokens(self, messages: Sequence[Message], most: int) -> None:
        """Checks a content against a limit of its own, in tokens of its messages' texts; counts no further than that.

        Raises:
            ContentError: it has more tokens; ``not_encodable``.
        """
        error = ContentError(
            "content_too_long",
            f"the content has more than {most:,} tokens, which max_tokens (--max-tokens) allows for one content",
        )
        if sum(len(message.content) for message in messages) > most * self.encoder.longest_token:
            raise error
        borders = chain.from_iterable(token_borders(self.encoder, message.content) for message in messages)
        if next(islice(borders, most, None), None) is not None:
            raise error

    def too_long(self, size: str) -> ContentError:
        """The error for a content of ``size`` that does not fit."""
        return ContentError(
            "content_too_long",
            f"the content is {size}; prompt and content may take {self.max_tokens:,} tokens",
        )

    def prefixes(self) -> dict[Role, tuple[int, ...]]:
        """:meth:`prefix_ids` of every role mode."""
        return {role: self.prefix_ids(role) for role in self.spec.roles}

    def prefix_ids(self, role: Role) -> tuple[int, ...]:
        """Token ids of the policy prefix: the scaffold up to the first message's text.

        A prompt may share fewer of them, where its content merges with the scaffold's last characters.
        """
        before, _ = self._scaffolds[role][self.prompt_labels(role)[0]]  # the same for every label
        first: Role = "user" if "user" in self.spec.template.messages else "assistant"
        head = self.spec.template.messages[first].split("{{content}}")[0]
        return tuple(self.encoder.encode([Piece(before + head, False)]).ids)

    def special_ids(self) -> set[int]:
        """Ids of the special tokens that prompts can hold."""
        texts = [text for prompts in self._scaffolds.values() for pair in prompts.values() for text in pair]
        return {
            i for text in [*texts, *self.spec.template.messages.values()] for i in self.encoder.special_ids_in(text)
        }

    def tail(self, role: Role, label: str | None = None) -> str:
        """Scaffold text after the prompt's last special token: what the verdict may merge with."""
        closing = self.spec.template.messages[role].split("{{content}}")[1]
        return self.encoder.tail(closing + self._scaffolds[role][label][1])

    def _pieces(
        self, messages: Sequence[Message], scaffold: tuple[str, str]
    ) -> tuple[list[Piece], list[tuple[int, int]]]:
        """The prompt's pieces, scaffold and content in turn, and each message's character span in the joined text."""
        template = self.spec.template
        before, after = scaffold
        pieces = [Piece(before, False)]
        spans = []
        at = len(before)
        for message in messages:
            text = message.content.strip() if template.strip else message.content
            head, foot = template.messages[message.role].split("{{content}}")
            pieces += [Piece(head, False), Piece(text, True), Piece(foot, False)]
            spans.append((at + len(head), at + len(head) + len(text)))
            at += len(head) + len(text) + len(foot)
        # Scaffold pieces that touch are one piece, so that a special token across their border is recognised.
        joined = [pieces[0]]
        for piece in [*pieces[1:], Piece(after, False)]:
            if joined[-1].is_content == piece.is_content:
                joined[-1] = Piece(joined[-1].text + piece.text, piece.is_content)
            else:
                joined.append(piece)
        return joined, spans


def _overlap(encoding: Encoding, span: tuple[int, int]) -> tuple[int, int]:
    """``[start, end)`` of the tokens that overlap a span of characters; (0, 0) if none does."""
    inside = [i for i, (a, b) in enumerate(encoding.offsets) if a < span[1] and b > span[0]]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


#: Role mode of a prompt, and its label (None: the prompt has all labels). Prompts of one key share a verdict trie.
PromptKey = tuple[Role, str | None]
