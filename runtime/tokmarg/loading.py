"""What a guard is put together from: the tokenizer, the prompts, the verdict tries, and whether they fit the graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import PromptBuilder
from tokmarg.prompt.spec import Spec
from tokmarg.scoring.scorers import PromptKey

from .errors import BundleError
from .results import MAX_DEPTH
from .tokenizer import Encoder

__all__ = ["VERDICT_ROOM", "build_tries", "check_sizes", "prompt_builder_of", "read_encoder"]

#: Room kept behind the prompt for the verdict, in tokens: at least this many, and this many more than the longest
#: verdict takes (terminators and alternative spellings take a few).
VERDICT_ROOM, _SPARE_ROOM = MAX_DEPTH, 8
#: Bytes of a tokenizer.json at most; Gemma 3's, with 262,144 tokens, has 33 million.
_MAX_TOKENIZER = 2**28


def read_encoder(bundle: Bundle) -> Encoder:
    """The encoder of a bundle's tokenizer.

    Raises:
        BundleError: ``tokenizer.json`` is missing, too large or no tokenizer; names it.
    """
    tokenizer = bundle.file("tokenizer.json")
    if (size := tokenizer.stat().st_size) > _MAX_TOKENIZER:
        raise BundleError(f"{tokenizer}: is {size:,} bytes, more than {_MAX_TOKENIZER:,}")
    try:
        return Encoder(tokenizer.read_text(encoding="utf-8"), str(tokenizer))
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{tokenizer}: cannot be read: {error}") from None


def prompt_builder_of(spec: Spec, encoder: Encoder, max_positions: int) -> PromptBuilder:
    """The prompter of a spec, for a model with a context window of ``max_positions`` tokens."""
    verdicts = [lead + spec.grammar(role).longest() for role in spec.roles for lead in spec.verdict.leads]
    longest = max(len(encoder.encode_verdict(text)) for text in verdicts)
    return PromptBuilder(spec, encoder, max_positions - max(VERDICT_ROOM, longest + _SPARE_ROOM))


def build_tries(prompter: PromptBuilder) -> dict[PromptKey, Trie]:
    """The verdict trie of every role mode, and of every label where each has a verdict of its own."""
    spec, found = prompter.spec, {}
    for role in spec.roles:
        grammar = spec.grammar(role)
        for label in prompter.prompt_labels(role):
            tail = prompter.tail(role, label)
            found[role, label] = Trie(grammar, prompter.encoder, tail, spec.verdict.leads, spec.verdict.terminators)
    return found


def check_sizes(where: Path, graph: GraphContract, prompter: PromptBuilder, tries: Mapping[PromptKey, Trie]) -> None:
    """Refuses a policy that leaves no room for content, and tokens that the graph does not know.

    Args:
        where: the manifest, for messages.
        graph: its graph table.
        prompter, tries: of the guard.

    Raises:
        BundleError: one of those.
    """
    encoder, columns = prompter.encoder, graph.columns
    terminators = prompter.spec.verdict.terminators
    ends = [token for text in terminators if (token := encoder.token_id(text)) is not None]
    ends += prompter.special_ids()
    for (role, _), trie in tries.items():
        prefix = prompter.prefix_ids(role)
        if len(prefix) >= prompter.max_tokens:
            raise BundleError(
                f"{where}: graph.max_positions: {graph.max_positions:,} leaves no room for content behind the policy's "
                f"{len(prefix):,} tokens"
            )
        first = trie.children(trie.root)  # some guards answer with special tokens
        if (largest := max(encoder.largest_id, *prefix, *first, *ends)) >= graph.vocab_size:
            raise BundleError(
                f"{where}: graph.vocab_size: is {graph.vocab_size:,}, but tokenizer.json has token {largest:,}"
            )
        if columns is not None and (lost := set(trie.vocabulary()) - set(columns)):
            raise BundleError(f"{where}: graph.head_token_ids: lacks token {min(lost)}, which a verdict can use")
