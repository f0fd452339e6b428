"""The library's face: load a bundle, score content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Literal, NoReturn, TypedDict, Unpack, cast, overload

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.installed import find_bundle
from tokmarg.bundle.manifest import MANIFEST
from tokmarg.calibration.document import Calibration, find_calibration
from tokmarg.engine.cpu import release_free_memory
from tokmarg.engine.packed import engine_for
from tokmarg.engine.prefix_cache import cached_prefixes, load_prefixes
from tokmarg.engine.session import Device, Session
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.injection import Suspicions
from tokmarg.prompt.messages import Content, Record, messages_of
from tokmarg.prompt.policy import Policy, apply_policy
from tokmarg.prompt.spec import Role, Spec
from tokmarg.prompt.windows import EncodedRecord
from tokmarg.scoring.exact import ExactSearch
from tokmarg.scoring.first_label import FirstLabel
from tokmarg.scoring.free_decoding import Reader
from tokmarg.scoring.methods import UNCERTAINTIES, WHOLE_VOCABULARY
from tokmarg.scoring.scorers import ExactScorer, GuardInfo, MethodScorer, PromptKey, Scorer

from .errors import ContentError, SpecError, TokmargError
from .loading import build_tries, check_sizes, prompt_builder_of, read_encoder
from .pipeline import Pipeline
from .results import MAX_DEPTH, METHODS, Method, MethodResult, Result, Thresholds
from .score_options import OnOverflow
from .tokenizer import Encoder

__all__ = ["Guard", "Record"]


class _Options(TypedDict, total=False):
    """Options that :meth:`Guard.score` and :meth:`Guard.score_many` share."""

    tolerance: float
    max_nodes: int
    top_p: float
    eps: float
    max_depth: int
    thresholds: Thresholds | None
    on_overflow: OnOverflow


class Guard:
    """A loaded bundle. Safe to use from many threads, in the process that loaded it; it cannot be pickled.

    Use :meth:`load`; ``guard.manifest`` says what was loaded, ``guard.spec`` what it judges by (the manifest's spec,
    unless a policy was given), ``guard.device`` where it runs, ``guard.events`` what results tell beyond ``unsafe`` and
    the labels, ``guard.calibration`` what exact results go through (or None).
    """

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        spec: Spec | None = None,
        calibration: Calibration | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        self.path = bundle.path
        self.manifest = bundle.manifest
        self._session = session
        self.device = session.device
        self.spec = spec or bundle.manifest.spec
        self.calibration = calibration
        self._limits = Thresholds(self.spec.threshold) if calibration is None else calibration.thresholds()
        graph = bundle.manifest.graph
        self._encoder = encoder or read_encoder(bundle)
        self._prompter = prompt_builder_of(self.spec, self._encoder, graph.max_positions)
        self._columns = graph.columns
        self.events = self.spec.events
        try:
            self._tries = build_tries(self._prompter)
            check_sizes(self.path / MANIFEST, graph, self._prompter, self._tries)
            for trie in self._tries.values() if spec is not None else ():
                trie.check(samples=20)  # the exporter has done so for the bundle's own policy
        except SpecError as error:
            where = self.path / MANIFEST
            raise SpecError(f"{where}: spec.verdict{' with the given policy' * (spec is not None)}: {error}") from None
        if spec is None:
            self._prefixes = load_prefixes(bundle.file("prefix.safetensors"), self.spec.roles, graph)
        else:
            self._prefixes = cached_prefixes(bundle.manifest, session, self._prompter.prefixes())
        # Once and for all passes to the place where they run.
        self._prefixes = {role: prefix.moved(session.store) for role, prefix in self._prefixes.items()}
        self._guesses = bundle.manifest.guesses if spec is None else None  # of the bundle's own policy
        suspicions = Suspicions(self.spec, self._encoder)
        engine = engine_for(session, spec is None)
        self._packer = Pipeline(self._prompter, suspicions, self._prefixes, engine)
        self._guarded = GuardInfo(self.labels, self.events, bundle.manifest.model_id)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        device: Device = "auto",
        threads: int | None = None,
        verify: bool = True,
        policy: Policy | None = None,
        calibration: str | os.PathLike[str] | Calibration | Literal[False] | None = None,
    ) -> Guard:
        """Loads a bundle.

        Args:
            bundle: folder, or name of an installed bundle; None takes $TOKMARG_BUNDLE or the reference guard.
            device: ``auto`` (CUDA where it works, else CPU), ``cpu``, or ``cuda`` (fails where it is not active).
            threads: intra-op threads; None takes one per core.
            verify: check the sha256 of every file first.
            policy: labels in place of the bundle's (a TOML or JSON file, or the parsed document, see
                :mod:`tokmarg.prompt.policy`). Its prefix is computed once and kept in the user's cache folder.
            calibration: a file (see :mod:`tokmarg.calibration.document`) or what was read from one; None takes the
                bundle's own where it has one, False takes none.

        Raises:
            BundleNotFoundError, BundleError: no bundle, or a broken one; names file and field.
            TokmargError: the calibration is broken, or was fitted on another model or policy.
            SpecError: the spec or the policy is broken, or does not fit the tokenizer.
            DeviceError: the device is not available.
        """
        opened = Bundle.open(find_bundle(bundle))
        if verify:
            opened.verify()
        spec = None if policy is None else apply_policy(opened.manifest.spec, policy)
        found = find_calibration(opened, spec or opened.manifest.spec, calibration)
        encoder = read_encoder(opened)  # first: the session then lies in the memory that this takes for a moment
        return cls(opened, Session(opened, device, threads), spec, found, encoder)

    def __copy__(self) -> Guard:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)  # the session is shared
        return twin

    def __reduce__(self) -> NoReturn:
        raise TokmargError(
            f"a Guard cannot be pickled or copied deeply: hand its folder on instead, {str(self.path)!r}, and call "
            "Guard.load in the other process"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Label ids in the policy's order."""
        return tuple(label.id for label in self.spec.labels)

    def prompt(self, content: Content, *, role: Role | None = None, label: str | None = None) -> Prompt:
        """The prompt of a content, exactly as it is scored.

        Args:
            content: as for :meth:`score`.
            role: role of a bare text.
            label: which prompt, of guards that have one for each label (the first label's by default).

        Raises:
            ContentError: the content cannot be scored.
            SpecError: there is no prompt for that label.
        """
        self._session.check_process()
        prompts = self._packer.whole(messages_of(content, role))
        if label is None:
            return prompts[0]
        for prompt in prompts:
            if prompt.label == label:
                return prompt
        asked = ", ".join(prompt.label for prompt in prompts if prompt.label is not None)
        raise SpecError(f"{self.spec.name} has no prompt for label {label!r:.60} alone (it has: {asked or 'none'})")

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
        on_overflow: OnOverflow = "error",
    ) -> Result | MethodResult:
        """Scores one content.

        Args:
            content: a text, or a list of ``{"role": ..., "content": ...}`` messages; the last one is judged.
            id: passed through to the result.
            role: role of a bare text (default ``user``).
            method: ``exact`` gives a :class:`Result`, the others (:mod:`tokmarg.scoring.methods`) a
            :class:`MethodResult`.
            tolerance: ``exact``: widest interval that counts as converged, a probability.
            max_nodes: ``exact``: trie nodes to expand at most.
            top_p: ``any-place``: mass of the nucleus.
            eps: ``any-place``: least mass of a path that is followed.
            max_depth: ``any-place``: most tokens of a path that is followed; ``greedy``, ``token``, ``fixed-place``:
                most tokens to generate. 64 at most.
            thresholds: when the content counts as flagged (default: the calibration's, else unsafe >= the spec's
                threshold, which is 0.5 but where the spec says otherwise), on the probabilities that the result shows.
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
        on_overflow: OnOverflow = "error",
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
            TokmargError: the method does not go with the bundle, or the guard was loaded in another process.
        """
        for pack in self.score_packs(
            contents,
            method=method,
            tolerance=tolerance,
            max_nodes=max_nodes,
            top_p=top_p,
            eps=eps,
            max_depth=max_depth,
            thresholds=thresholds,
            on_overflow=on_overflow,
        ):
            for outcome in pack:
                if isinstance(outcome, ContentError) and on_error == "raise":
                    raise outcome
                yield outcome

    def score_packs(
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
        on_overflow: OnOverflow = "error",
    ) -> Iterator[list[Result | MethodResult | ContentError]]:
        """Scores a stream, pack by pack: what shared passes comes out together.

        Where a pack ends depends on the contents from the end of the pack before on, and on nothing else. So a run that
        was cut off and goes on behind a whole pack makes the same packs, and the same numbers to the last bit, as one
        that was left alone.

        Args:
            contents, method, tolerance, max_nodes, top_p, eps, max_depth, thresholds, on_overflow: as for
                :meth:`score_many`; a content that cannot be scored has its ContentError in its place.

        Raises:
            TokmargError: the method does not go with the bundle, or the guard was loaded in another process.
        """
        if not tolerance > 0 or max_nodes < 1:
            raise ValueError(f"tolerance must be > 0 and max_nodes >= 1, not {tolerance!r} and {max_nodes!r}")
        if not (0 < top_p <= 1 and 0 <= eps <= 1 and 1 <= max_depth <= MAX_DEPTH):
            raise ValueError(
                f"top_p must lie in (0, 1], eps in [0, 1] and max_depth in [1, {MAX_DEPTH}], "
                f"not {top_p!r}, {eps!r} and {max_depth!r}"
            )
        self._session.check_process()
        self.check_method(method)
        if thresholds and (unknown := sorted(set(thresholds.labels) - set(self.labels))):
            raise SpecError(f"threshold for {unknown[0]!r}, which is no label of {self.spec.name}")
        way: Scorer[Any] = self._way(
            method, thresholds, tolerance, max_nodes, top_p=top_p, eps=eps, max_depth=max_depth
        )
        records = (self._packer.ready(content, on_overflow) for content in contents)
        count = 0
        for pack in self._packer.packs(records):
            outcomes: list[Result | MethodResult | ContentError] = []
            for ready, searches in zip(pack, self._packer.run(pack, way.search), strict=True):
                if isinstance(ready, EncodedRecord) and not isinstance(searches, ContentError):
                    outcomes.append(way.result(ready, searches))
                else:
                    outcomes.append(cast(ContentError, searches))
            count += len(pack)
            yield outcomes
        if count > 1:  # one content leaves little behind, and the next one takes that
            release_free_memory()

    def unfold(
        self, contents: Iterable[Content | Record], *, tolerance: float = 1e-3, max_nodes: int = 256
    ) -> Iterator[list[tuple[Prompt, Trie, ExactSearch]] | ContentError]:
        """What stands behind the scores of :meth:`score_many`, packed alike; :mod:`tokmarg.explanation` reads it.

        Yields:
            for each content its prompts, each with the verdict trie and the search that has expanded it; or the error.
        """
        way = self._way("exact", Thresholds(), tolerance, max_nodes)
        for pack in self._packer.packs(self._packer.ready(content, "error") for content in contents):
            for ready, searches in zip(pack, self._packer.run(pack, way.search), strict=True):
                if isinstance(ready, EncodedRecord) and not isinstance(searches, ContentError):
                    found = zip(ready.windows[0], searches[0], strict=True)
                    yield [(prompt, self._tries[prompt.role, prompt.label], search) for prompt, search in found]
                else:
                    yield cast(ContentError, searches)

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
            for (role, _), reader in self._readers.items():
                try:
                    FirstLabel(reader.trie)
                except SpecError as error:
                    raise SpecError(f"{self.path}: method {method}: {error} ({role} messages)") from None

    def _way(
        self, method: Method, thresholds: Thresholds | None, tolerance: float, max_nodes: int, **settings: Any
    ) -> ExactScorer | MethodScorer:
        if method != "exact":
            limits = thresholds or Thresholds(self.spec.threshold)
            return MethodScorer(self._guarded, self._readers, method, limits, columns=self._columns, **settings)
        if thresholds is None:
            limits = self._limits
        else:
            limits = thresholds if self.calibration is None else self.calibration.raw_thresholds(thresholds)
        return ExactScorer(
            self._guarded,
            self._tries,
            limits,
            tolerance=tolerance,
            max_nodes=max_nodes,
            columns=self._columns,
            calibration=self.calibration,
            guesses=self._guesses,
        )

    @cached_property
    def _readers(self) -> dict[PromptKey, Reader]:
        terminators = self.spec.verdict.terminators
        return {asked: Reader(trie, self._encoder, terminators) for asked, trie in self._tries.items()}
