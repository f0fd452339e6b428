"""The library's face: load a bundle, score content."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypedDict, Unpack, overload

from . import methods, windows
from .bundle import MANIFEST, Bundle, find_bundle
from .encoding import Encoder
from .engine import PACK_CONTENTS, PACK_TOKENS, Engine, Job
from .errors import BundleError, ContentError, SpecError, TokmargError
from .firstlabel import FirstLabel
from .freepath import Reader
from .grammar import UNSAFE
from .marginals import Bounds, Marginals, Search
from .methods import UNCERTAINTIES, WHOLE_VOCABULARY, Scoring
from .policy import Policy, apply_policy
from .prefix import cached_prefixes, read_prefixes
from .prompt import Content, Message, Prompt, Prompter, messages_of
from .result import MAX_DEPTH, METHODS, Marginal, Method, MethodResult, Result, Thresholds
from .session import Device, Session
from .spec import Role, Spec
from .trie import Trie

__all__ = ["Guard", "Record"]

#: Room kept behind the prompt for the verdict, in tokens: at least this many, and this many more than the longest
#: verdict takes (terminators and alternative spellings take a few).
VERDICT_ROOM, _SPARE_ROOM = MAX_DEPTH, 8


@dataclass(frozen=True, slots=True)
class Record:
    """A content with its id; ``role`` is the role of a bare text."""

    content: Content
    id: object = None
    role: Role | None = None


@dataclass(frozen=True, slots=True)
class _Ready:
    """A record whose prompts (several when in windows) are encoded."""

    id: object
    prompts: tuple[Prompt, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Way:
    """How one call scores: the search for a prompt of a role mode, and the result of a record's searches."""

    search: Callable[[Role], Any]
    result: Callable[[_Ready, Sequence[Any]], Result | MethodResult]


class _Options(TypedDict, total=False):
    """Options that :meth:`Guard.score` and :meth:`Guard.score_many` share."""

    tolerance: float
    max_nodes: int
    top_p: float
    eps: float
    max_depth: int
    thresholds: Thresholds | None
    on_overflow: Literal["error", "window"]


class Guard:
    """A loaded bundle. Safe to use from many threads.

    Use :meth:`load`; ``guard.manifest`` says what was loaded, ``guard.spec`` what it judges by (the manifest's spec,
    unless a policy was given), ``guard.device`` where it runs, ``guard.events`` what results tell beyond ``unsafe`` and
    the labels.
    """

    def __init__(self, bundle: Bundle, session: Session, spec: Spec | None = None) -> None:
        self.path = bundle.path
        self.manifest = bundle.manifest
        self.device = session.device
        self.spec = spec or bundle.manifest.spec
        graph = bundle.manifest.graph
        tokenizer = bundle.file("tokenizer.json")
        try:
            self._encoder = Encoder(tokenizer.read_text(encoding="utf-8"), str(tokenizer))
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{tokenizer}: cannot be read: {error}") from None
        self._prompter = build_prompter(self.spec, self._encoder, graph.max_positions)
        self._columns = graph.columns
        self.events = self.spec.events
        self._tries = {role: build_trie(self._prompter, role) for role in self.spec.roles}
        self._check_sizes()
        if spec is None:
            self._prefixes = read_prefixes(bundle.file("prefix.safetensors"), self.spec.roles, graph)
        else:
            for trie in self._tries.values():
                trie.check(samples=20)  # the exporter has done so for the bundle's own policy
            self._prefixes = cached_prefixes(bundle.manifest, session, self._prompter)
        self._engine = Engine(session, self._prefixes)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        device: Device = "auto",
        threads: int | None = None,
        verify: bool = True,
        policy: Policy | None = None,
    ) -> Guard:
        """Loads a bundle.

        Args:
            bundle: folder, or name of an installed bundle; None takes $TOKMARG_BUNDLE or the reference guard.
            device: ``auto`` (CUDA where it works, else CPU), ``cpu``, or ``cuda`` (fails where it is not active).
            threads: intra-op threads; None takes one per core.
            verify: check the sha256 of every file first.
            policy: labels in place of the bundle's (a TOML or JSON file, or the parsed document, see
                :mod:`tokmarg.policy`). Its prefix is computed once and kept in the user's cache folder.

        Raises:
            BundleNotFoundError, BundleError: no bundle, or a broken one; names file and field.
            SpecError: the spec or the policy is broken, or does not fit the tokenizer.
            DeviceError: the device is not available.
        """
        opened = Bundle.open(find_bundle(bundle))
        if verify:
            opened.verify()
        spec = None if policy is None else apply_policy(opened.manifest.spec, policy)
        return cls(opened, Session(opened, device, threads), spec)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label ids in the policy's order."""
        return tuple(label.id for label in self.spec.labels)

    def prompt(self, content: Content, *, role: Role | None = None) -> Prompt:
        """The prompt of a content, exactly as it is scored.

        Raises:
            ContentError: the content cannot be scored.
        """
        prompt = self._prompter.prompt(messages_of(content, role))
        if len(prompt.token_ids) > self._prompter.max_tokens:
            raise self._prompter.too_long(f"{len(prompt.token_ids):,} tokens with the prompt")
        return prompt

    @overload
    def score(
        self,
        content: Content,
        *,
        id: object = ...,
        role: Role | None = ...,
        method: Literal["exact"] = ...,
        **options: Unpack[_Options],
    ) -> Result: ...

    @overload
    def score(
        self,
        content: Content,
        *,
        id: object = ...,
        role: Role | None = ...,
        method: Method,
        **options: Unpack[_Options],
    ) -> Result | MethodResult: ...

    def score(
        self,
        content: Content,
        *,
        id: object = None,
        role: Role | None = None,
        method: Method = "exact",
        tolerance: float = 1e-3,
        max_nodes: int = 256,
        top_p: float = 0.99,
        eps: float = 0.01,
        max_depth: int = 20,
        thresholds: Thresholds | None = None,
        on_overflow: Literal["error", "window"] = "error",
    ) -> Result | MethodResult:
        """Scores one content.

        Args:
            content: a text, or a list of ``{"role": ..., "content": ...}`` messages; the last one is judged.
            id: passed through to the result.
            role: role of a bare text (default ``user``).
            method: ``exact`` gives a :class:`Result`, the others (:mod:`tokmarg.methods`) a :class:`MethodResult`.
            tolerance: ``exact``: widest interval that counts as converged, a probability.
            max_nodes: ``exact``: trie nodes to expand at most.
            top_p: ``any-place``: mass of the nucleus.
            eps: ``any-place``: least mass of a path that is followed.
            max_depth: ``any-place``: most tokens of a path that is followed; ``greedy``, ``token``, ``fixed-place``:
                most tokens to generate. 64 at most.
            thresholds: when the content counts as flagged (default: unsafe >= 0.5).
            on_overflow: what to do with content beyond the context window.

        Raises:
            ContentError: the content cannot be scored; ``type`` says why.
            TokmargError: the method does not go with the bundle.
        """
        (result,) = self.score_many(
            [Record(content, id, role)],
            method=method,
            tolerance=tolerance,
            max_nodes=max_nodes,
            top_p=top_p,
            eps=eps,
            max_depth=max_depth,
            thresholds=thresholds,
            on_overflow=on_overflow,
        )
        return result

    @overload
    def score_many(
        self,
        contents: Iterable[Content | Record],
        *,
        method: Literal["exact"] = ...,
        on_error: Literal["raise"] = ...,
        **options: Unpack[_Options],
    ) -> Iterator[Result]: ...

    @overload
    def score_many(
        self,
        contents: Iterable[Content | Record],
        *,
        method: Method,
        on_error: Literal["raise"] = ...,
        **options: Unpack[_Options],
    ) -> Iterator[Result | MethodResult]: ...

    @overload
    def score_many(
        self,
        contents: Iterable[Content | Record | ContentError],
        *,
        method: Literal["exact"] = ...,
        on_error: Literal["return"],
        **options: Unpack[_Options],
    ) -> Iterator[Result | ContentError]: ...

    @overload
    def score_many(
        self,
        contents: Iterable[Content | Record | ContentError],
        *,
        method: Method,
        on_error: Literal["return"],
        **options: Unpack[_Options],
    ) -> Iterator[Result | MethodResult | ContentError]: ...

    def score_many(
        self,
        contents: Iterable[Content | Record | ContentError],
        *,
        method: Method = "exact",
        tolerance: float = 1e-3,
        max_nodes: int = 256,
        top_p: float = 0.99,
        eps: float = 0.01,
        max_depth: int = 20,
        thresholds: Thresholds | None = None,
        on_overflow: Literal["error", "window"] = "error",
        on_error: Literal["raise", "return"] = "raise",
    ) -> Iterator[Result | MethodResult | ContentError]:
        """Scores a stream: lazy in, lazy out, in order, packed inside.

        Args:
            contents: texts, message lists, or :class:`Record` objects that carry an id; a ContentError (of a record
                that could not be read) keeps its place.
            on_error: ``raise`` ends the stream at the first content that cannot be scored; ``return`` puts the
                ContentError in its place and goes on.
            method, tolerance, max_nodes, top_p, eps, max_depth, thresholds, on_overflow: as for :meth:`score`.

        Raises:
            ContentError: with ``on_error="raise"``.
            TokmargError: the method does not go with the bundle.
        """
        if not tolerance > 0 or max_nodes < 1:
            raise ValueError(f"tolerance must be > 0 and max_nodes >= 1, not {tolerance!r} and {max_nodes!r}")
        if not (0 < top_p <= 1 and 0 <= eps <= 1 and 1 <= max_depth <= MAX_DEPTH):
            raise ValueError(
                f"top_p must lie in (0, 1], eps in [0, 1] and max_depth in [1, {MAX_DEPTH}], "
                f"not {top_p!r}, {eps!r} and {max_depth!r}"
            )
        self.check_method(method)
        limits = thresholds or Thresholds()
        if unknown := sorted(set(limits.labels) - set(self.labels)):
            raise SpecError(f"threshold for {unknown[0]!r}, which is no label of {self.spec.name}")
        if method == "exact":
            way = self._exact(limits, tolerance=tolerance, max_nodes=max_nodes)
        else:
            way = self._other(method, limits, top_p=top_p, eps=eps, max_depth=max_depth)
        records = (self._ready(content, on_overflow) for content in contents)
        for pack in _packs(records, self._new_tokens):
            for outcome in self._score_pack(pack, way):
                if isinstance(outcome, ContentError) and on_error == "raise":
                    raise outcome
                yield outcome

    def check_method(self, method: Method) -> None:
        """Checks that a method goes with the bundle.

        Raises:
            TokmargError: it does not; says why.
        """
        if method not in METHODS:
            raise TokmargError(f"method {method!r:.60} is not one of {', '.join(METHODS)}")
        if method in WHOLE_VOCABULARY and self._columns is not None:
            raise TokmargError(
                f"{self.path}: method {method} reads the probabilities of the whole vocabulary, but the bundle has "
                "the verdict head: export it with --head full"
            )
        if method in UNCERTAINTIES:
            for role, reader in self._readers.items():
                try:
                    FirstLabel(reader.trie)
                except SpecError as error:
                    raise SpecError(f"{self.path}: method {method}: {error} ({role} messages)") from None

    def _exact(self, limits: Thresholds, *, tolerance: float, max_nodes: int) -> _Way:
        settings: dict[str, Any] = {
            "tolerance": tolerance,
            "max_nodes": max_nodes,
            "thresholds": {**limits.labels, UNSAFE: limits.unsafe},
            "columns": self._columns,
        }

        def result(ready: _Ready, searches: Sequence[Search]) -> Result:
            return self._result(ready, windows.join([search.result() for search in searches]), limits)

        return _Way(lambda role: Search(self._tries[role], **settings), result)

    def _other(self, method: Method, limits: Thresholds, **settings: Any) -> _Way:
        scorings = {
            role: Scoring(method, reader, columns=self._columns, **settings) for role, reader in self._readers.items()
        }

        def result(ready: _Ready, searches: Sequence[Any]) -> MethodResult:
            scoring = scorings[ready.prompts[0].role]
            scores = methods.join([scoring.scores(search) for search in searches])
            own = {} if scores.uncertainty is not None else limits.labels
            return MethodResult(
                id=ready.id,
                flagged=scores.values[UNSAFE] >= limits.unsafe
                or any(scores.values.get(label, -1.0) >= limit for label, limit in own.items()),
                scores={event: scores.values.get(event) for event in (*self.labels, UNSAFE)},
                converged=scores.complete,
                method=method,
                model=self.manifest.model_id,
                truncated=ready.truncated,
                verdict=scores.verdict,
                uncertainty=scores.uncertainty,
                evaluated_nodes=scores.evaluated,
            )

        return _Way(lambda role: scorings[role].search(), result)

    @cached_property
    def _readers(self) -> dict[Role, Reader]:
        terminators = self.spec.verdict.terminators
        return {role: Reader(trie, self._encoder, terminators) for role, trie in self._tries.items()}

    def _ready(self, content: Content | Record | ContentError, on_overflow: str) -> _Ready | ContentError:
        if isinstance(content, ContentError):
            return content
        record = content if isinstance(content, Record) else Record(content)
        try:
            messages = messages_of(record.content, record.role)
            if on_overflow == "window":
                return self._windowed(record, messages)
            return _Ready(record.id, (self.prompt(record.content, role=record.role),), False)
        except ContentError as error:
            error.id = record.id
            return error

    def _windowed(self, record: Record, messages: Sequence[Message]) -> _Ready:
        try:
            return _Ready(record.id, (self.prompt(record.content, role=record.role),), False)
        except ContentError as error:
            if error.type != "content_too_long":
                raise
        prompts = tuple(windows.windows(self._prompter, messages))
        if not prompts:  # a tokenizer may drop every character of a text
            raise ContentError("empty_text", "the last message has no tokens")
        return _Ready(record.id, prompts, True)

    def _new_tokens(self, ready: _Ready) -> int:
        return sum(len(p.token_ids) - self._prefixes[p.role].shared(p.token_ids) for p in ready.prompts)

    def _score_pack(
        self, pack: Sequence[_Ready | ContentError], way: _Way
    ) -> Iterator[Result | MethodResult | ContentError]:
        jobs: dict[int, list[Job[Any]]] = {}
        by_role: dict[Role, list[Job[Any]]] = {}
        for i, ready in enumerate(pack):
            if isinstance(ready, ContentError):
                continue
            for prompt in ready.prompts:
                job = Job(prompt.token_ids, way.search(prompt.role))
                jobs.setdefault(i, []).append(job)
                by_role.setdefault(prompt.role, []).append(job)
        for role, of_role in by_role.items():
            # Windows of one long content are run one by one: together they would not fit the memory of a pass.
            for group in _groups(of_role):
                self._engine.run(role, group)
        for i, ready in enumerate(pack):
            if isinstance(ready, ContentError):
                yield ready
            elif errors := [job.error for job in jobs[i] if job.error is not None]:
                errors[0].id = ready.id
                yield errors[0]
            else:
                yield way.result(ready, [job.search for job in jobs[i]])

    def _result(self, ready: _Ready, marginals: Marginals, limits: Thresholds) -> Result:
        def marginal(bounds: Bounds | None, threshold: float | None) -> Marginal | None:
            if bounds is None:
                return None
            flagged = threshold is not None and bounds.middle >= threshold
            return Marginal(bounds.middle, bounds.lower, bounds.upper, flagged)

        unsafe = marginal(marginals.bounds[UNSAFE], limits.unsafe)
        assert unsafe is not None
        labels = {k: marginal(marginals.bounds.get(k), limits.labels.get(k)) for k in self.labels}
        events = {k: marginal(marginals.bounds.get(k), None) for k in self.events}
        return Result(
            id=ready.id,
            flagged=unsafe.flagged or any(m.flagged for m in labels.values() if m is not None),
            unsafe=unsafe,
            labels=labels,
            coverage=marginals.coverage,
            converged=marginals.converged,
            method="exact",
            model=self.manifest.model_id,
            truncated=ready.truncated,
            evaluated_nodes=marginals.evaluated,
            events=events,
        )

    def _check_sizes(self) -> None:
        """Refuses a policy that leaves no room for content, and tokens that the graph does not know."""
        graph, spec, where = self.manifest.graph, self.spec, self.path / MANIFEST
        ends = [token for text in spec.verdict.terminators if (token := self._encoder.token_id(text)) is not None]
        for role, trie in self._tries.items():
            prefix = self._prompter.prefix_ids(role)
            if len(prefix) >= self._prompter.max_tokens:
                raise BundleError(
                    f"{where}: graph.max_positions: {graph.max_positions:,} leaves no room for content behind the "
                    f"policy's {len(prefix):,} tokens"
                )
            first = trie.children(trie.root)  # some guards answer with special tokens
            if (largest := max(self._encoder.largest_id, *prefix, *first, *ends)) >= graph.vocab_size:
                raise BundleError(
                    f"{where}: graph.vocab_size: is {graph.vocab_size:,}, but tokenizer.json has token {largest:,}"
                )
            if self._columns is not None and (lost := set(trie.vocabulary()) - set(self._columns)):
                raise BundleError(f"{where}: graph.head_token_ids: lacks token {min(lost)}, which a verdict can use")


def build_prompter(spec: Spec, encoder: Encoder, max_positions: int) -> Prompter:
    """The prompter of a spec, for a model with a context window of ``max_positions`` tokens."""
    verdicts = [lead + spec.grammar(role).longest() for role in spec.roles for lead in spec.verdict.leads]
    longest = max(len(encoder.encode_verdict(text)) for text in verdicts)
    return Prompter(spec, encoder, max_positions - max(VERDICT_ROOM, longest + _SPARE_ROOM))


def build_trie(prompter: Prompter, role: Role) -> Trie:
    """The verdict trie of a role mode."""
    spec = prompter.spec
    return Trie(spec.grammar(role), prompter.encoder, prompter.tail(role), spec.verdict.leads, spec.verdict.terminators)


def _packs(records: Iterable[_Ready | ContentError], new_tokens: Any) -> Iterator[list[_Ready | ContentError]]:
    """Consecutive records that share passes. Where a pack ends depends on the records alone."""
    pack: list[_Ready | ContentError] = []
    tokens = 0
    for record in records:
        size = 0 if isinstance(record, ContentError) else new_tokens(record)
        if pack and (tokens + size > PACK_TOKENS or len(pack) == PACK_CONTENTS):
            yield pack
            pack, tokens = [], 0
        pack.append(record)
        tokens += size
    if pack:
        yield pack


def _groups(jobs: Sequence[Job[Any]]) -> Iterator[list[Job[Any]]]:
    """Jobs split so that prompts longer than a pass run alone."""
    for long, group in itertools.groupby(jobs, lambda job: len(job.token_ids) > 2 * PACK_TOKENS):
        if long:
            yield from ([job] for job in group)
        else:
            yield list(group)
