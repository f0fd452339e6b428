"""From a bundle folder to the parts of a guard: tokenizer, prompts, verdict tries, session, prefixes, calibration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.bundle.installed import find_bundle
from tokmarg.bundle.manifest import MANIFEST
from tokmarg.calibration.calibration import Calibration, find_calibration
from tokmarg.engine.prefix import Prefix
from tokmarg.engine.prefix_cache import cached_prefixes, load_prefixes
from tokmarg.engine.prompt_cache import PromptCache, new_prompt_cache
from tokmarg.engine.session import Device, Session
from tokmarg.grammar.branch_priors import BranchPriors
from tokmarg.grammar.checked import check_once
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import PromptBuilder, PromptKey
from tokmarg.prompt.labels import Role
from tokmarg.prompt.policy import Policy, apply_policy
from tokmarg.prompt.spec import Spec

from .arguments import MAX_THREADS, byte_count, check_choice, check_integer, check_path, check_type
from .errors import BundleError, SpecError
from .results import MAX_DEPTH
from .system_calls import by_system
from .tokenizer import Encoder

__all__ = [
    "VERDICT_TOKENS",
    "GuardParts",
    "assemble",
    "build_tries",
    "check_sizes",
    "load_parts",
    "prompt_builder_of",
    "read_encoder",
]

#: Context kept free after the prompt for the verdict, in tokens: at least this many, and this many more than the
#: longest verdict takes (terminators and alternative spellings take a few).
VERDICT_TOKENS, _SPARE_TOKENS = MAX_DEPTH, 8
#: Bytes of a tokenizer.json at most; Gemma 3's, with 262,144 tokens, has 33 million.
_MAX_TOKENIZER = 2**28


@dataclass(frozen=True, slots=True)
class GuardParts:
    """Everything that a :class:`tokmarg.Guard` scores with.

    Attributes:
        bundle: the folder, its manifest read.
        session: the graph on its device.
        spec: what is judged by: the manifest's spec, or that with another policy.
        own_policy: the policy is the bundle's own, for which it has a prefix and branch priors.
        calibration: what exact results go through.
        encoder: the tokenizer.
        prompt_builder: contents -> prompts.
        tries: the verdict trie of every role mode, and of every label where each has a prompt of its own.
        prefixes: role mode -> policy prefix, in the session's store.
        branch_priors: of the manifest.
        prompt_cache: keys and values of earlier prompts, or None; of the kind that the graph's engine takes.
    """

    bundle: Bundle
    session: Session
    spec: Spec
    own_policy: bool
    calibration: Calibration | None
    encoder: Encoder
    prompt_builder: PromptBuilder
    tries: Mapping[PromptKey, Trie]
    prefixes: Mapping[Role, Prefix]
    branch_priors: BranchPriors | None
    prompt_cache: PromptCache[Any] | None = None


def load_parts(
    bundle: str | os.PathLike[str] | None,
    *,
    device: Device,
    threads: int | None,
    verify: bool,
    policy: Policy | None,
    calibration: str | os.PathLike[str] | Calibration | Literal[False] | None,
    prompt_cache: int | str | None = None,
) -> GuardParts:
    """Loads a bundle; arguments and errors as for :meth:`tokmarg.Guard.load`."""
    if bundle is not None:
        check_path("bundle", bundle, ", the name of an installed bundle, or None")
    check_choice("device", device, get_args(Device))
    if threads is not None:
        check_integer("threads", threads, MAX_THREADS)
    check_type("verify", verify, bool, "True or False")
    if policy is not None and not isinstance(policy, Mapping):
        check_path("policy", policy, ", a parsed policy, or None")
    if calibration is not None and calibration is not False and not isinstance(calibration, Calibration):
        check_path("calibration", calibration, ", a tokmarg.calibration.Calibration, False or None")
    cache_bytes = None if prompt_cache is None else byte_count("prompt_cache", prompt_cache)
    opened = Bundle.open(find_bundle(bundle))
    if verify:
        opened.verify()
    spec = None if policy is None else apply_policy(opened.manifest.spec, policy)
    chosen = find_calibration(opened, spec or opened.manifest.spec, calibration)
    encoder = read_encoder(opened)  # first: the session then lies in the memory that this takes for a moment
    parts = assemble(opened, Session(opened, device, threads), spec, chosen, encoder)
    if cache_bytes is None:
        return parts
    return replace(parts, prompt_cache=new_prompt_cache(opened.manifest.graph, cache_bytes))


def assemble(
    bundle: Bundle,
    session: Session,
    spec: Spec | None = None,
    calibration: Calibration | None = None,
    encoder: Encoder | None = None,
) -> GuardParts:
    """The parts of a guard.

    Args:
        bundle: the folder, its manifest read.
        session: of the bundle's graph.
        spec: in place of the manifest's.
        calibration: what exact results go through.
        encoder: the bundle's tokenizer, where it has been read already.

    Raises:
        BundleError, SpecError: the spec does not fit the tokenizer or the graph, or a file is broken.
    """
    manifest, where = bundle.manifest, bundle.path / MANIFEST
    own_policy, spec = spec is None, spec or manifest.spec
    encoder = encoder or read_encoder(bundle)
    builder = prompt_builder_of(spec, encoder, manifest.graph.max_positions)
    try:
        tries = build_tries(builder)
        for trie in set(tries.values()):
            if own_policy:  # the exporter has taken 100 samples
                trie.check(samples=0)
            else:
                check_once(trie, samples=20)
        check_sizes(where, manifest.graph, builder, tries)
    except SpecError as error:
        raise SpecError(f"{where}: spec.verdict{'' if own_policy else ' with the given policy'}: {error}") from None
    prefixes: Mapping[Role, Prefix]
    if own_policy:
        prefixes = load_prefixes(bundle.file("prefix.safetensors"), spec.roles, manifest.graph)
    else:
        prefixes = cached_prefixes(manifest, session, builder.prefixes())
    prefixes = {role: prefix.moved(session.store) for role, prefix in prefixes.items()}  # once, for all passes
    priors = manifest.branch_priors if own_policy else None
    return GuardParts(bundle, session, spec, own_policy, calibration, encoder, builder, tries, prefixes, priors)


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
        if isinstance(error, OSError) and not by_system(error):
            raise
        raise BundleError(f"{tokenizer}: cannot be read: {error}") from None


def prompt_builder_of(spec: Spec, encoder: Encoder, max_positions: int) -> PromptBuilder:
    """The prompt builder of a spec, for a model with a context window of ``max_positions`` tokens."""
    verdicts = [lead + spec.grammar(role).longest() for role in spec.roles for lead in spec.verdict.leads]
    longest = max(len(encoder.encode_verdict(text)) for text in verdicts)
    return PromptBuilder(spec, encoder, max_positions - max(VERDICT_TOKENS, longest + _SPARE_TOKENS))


def build_tries(builder: PromptBuilder) -> dict[PromptKey, Trie]:
    """The verdict trie of every role mode, and of every label where each has a verdict of its own."""
    spec, tries = builder.spec, {}
    made: dict[object, Trie] = {}  # verdicts that are alike, in prompts that end alike
    for role in spec.roles:
        grammar = spec.grammar(role)
        for label in builder.prompt_labels(role):
            tail = builder.tail(role, label)
            key = (grammar.start, grammar.labels, tail)
            if key not in made:
                made[key] = Trie(grammar, builder.encoder, tail, spec.verdict.leads, spec.verdict.terminators)
            tries[role, label] = made[key]
    return tries


def check_sizes(where: Path, graph: GraphContract, builder: PromptBuilder, tries: Mapping[PromptKey, Trie]) -> None:
    """Refuses a policy that leaves no room for content, and tokens that the graph does not know.

    Args:
        where: the manifest, for messages.
        graph: its graph table.
        builder, tries: of the guard.

    Raises:
        BundleError: one of those.
    """
    encoder, columns = builder.encoder, graph.columns
    terminators = builder.spec.verdict.terminators
    ends = [token for text in terminators if (token := encoder.token_id(text)) is not None]
    ends += builder.special_ids()
    for (role, _), trie in tries.items():
        prefix = builder.prefix_ids(role)
        if len(prefix) >= builder.max_tokens:
            raise BundleError(
                f"{where}: graph.max_positions: {graph.max_positions:,} leaves no space for content after the policy's "
                f"{len(prefix):,} tokens"
            )
        first = trie.children(trie.root)  # some guards answer with special tokens
        if (largest := max(encoder.largest_id, *prefix, *first, *ends)) >= graph.vocab_size:
            raise BundleError(
                f"{where}: graph.vocab_size: is {graph.vocab_size:,}, but tokenizer.json has token {largest:,}"
            )
        if columns is not None and (lost := set(trie.vocabulary()) - set(columns)):
            raise BundleError(f"{where}: graph.head_token_ids: lacks token {min(lost)}, which a verdict can use")
