"""The library's face: load a bundle, score contents.

The module is long for the overloads and the documented arguments of :class:`Guard`; what the methods do is elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from tokmarg.calibration.calibration import Calibration, default_thresholds, find_calibration
from tokmarg.engine.prompt_cache import CacheStats
from tokmarg.engine.session import Device
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.judging import judged_records
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Content, Conversation, Record
from tokmarg.prompt.policy import Policy
from tokmarg.scoring.exact import ExactSearch

from .errors import ContentError, OptionError, SpecError, TokmargError
from .loading import GuardParts, load_parts
from .moderation import ModeratedText, growing_text, moderated
from .pipeline import Pipeline, freeing_memory, outcomes_of
from .recipe import Recipe, check_manifest, make_recipe, remember, shared
from .results import Method, MethodResult, Result, Thresholds
from .score_options import ExactKeywords, Judge, OnRole, ScoreKeywords, ScoreOptions

__all__ = ["Guard"]

Contents = Iterable[Content | Record | ContentError]


class Guard:
    """A loaded bundle. Safe to use from many threads, in the process that loaded it.

    It is pickled as a recipe: the bundle's name or folder and the load options. What is unpickled loads at first use,
    and each process loads a recipe once (:mod:`tokmarg.recipe`).

    Use :meth:`load`; ``guard.manifest`` says what was loaded, ``guard.spec`` what it judges by (the manifest's spec,
    unless a policy was given), ``guard.device`` where it runs, ``guard.events`` what results tell beyond ``unsafe`` and
    the labels, ``guard.calibration`` what exact results go through (or None).
    """

    _recipe: Recipe | None = None

    def __init__(self, parts: GuardParts) -> None:
        self.path, self.manifest = parts.bundle.path, parts.bundle.manifest
        self.spec, self.calibration = parts.spec, parts.calibration
        self.events = parts.spec.events
        self.device = parts.session.device
        self._parts, self._session = parts, parts.session
        self._pipeline = Pipeline(parts)

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
        prompt_cache: int | str | None = None,
    ) -> Guard:
        """Loads a bundle.

        Args:
            bundle: folder, or name of an installed bundle; None takes $TOKMARG_BUNDLE or the reference guard.
            device: ``auto`` (CUDA where it works, else CPU), ``cpu``, or ``cuda`` (fails where it is not active).
            threads: intra-op threads, 1,024 at most; None takes one per core, within the CPU quota.
            verify: check the sha256 of every file first.
            policy: labels in place of the bundle's (a TOML or JSON file, or the parsed document, see
                :mod:`tokmarg.prompt.policy`). Its prefix is computed once and kept in the user's cache folder.
            calibration: a file (see :mod:`tokmarg.calibration.calibration`) or what was read from one; None takes the
                bundle's own where it has one, False takes none.
            prompt_cache: bytes of keys and values of earlier prompts to keep, such as ``"64 MB"``: a prompt that begins
                like one of them computes only the rest. None keeps nothing.

        Raises:
            BundleNotFoundError, BundleError: no bundle, or a broken one; names file and field.
            TokmargError: the calibration is broken, or was fitted on another model or policy.
            SpecError: the spec or the policy is broken, or does not fit the tokenizer.
            DeviceError: the device is not available.
            OptionError: an argument is of the wrong type or out of range; names it.
        """
        load = partial(load_parts, device=device, threads=threads, verify=verify, prompt_cache=prompt_cache)
        guard = cls(load(bundle, policy=policy, calibration=calibration))
        make = partial(make_recipe, device=device, threads=threads, verify=verify, prompt_cache=prompt_cache)
        guard._recipe = make(bundle, guard.manifest, policy=policy, calibration=guard.calibration)
        return guard

    def cache_stats(self) -> CacheStats | None:
        """What the prompt cache holds and has done; None without one."""
        cache = self._parts.prompt_cache
        return None if cache is None else cache.stats()

    def recalibrated(self, calibration: str | os.PathLike[str] | Calibration | Literal[False] | None = None) -> Guard:
        """The same guard with another calibration, or with the same one read anew; the session is shared.

        Args:
            calibration: as for :meth:`load`.

        Raises:
            TokmargError: the calibration is broken, or was fitted on another model or policy.
        """
        chosen = find_calibration(self._parts.bundle, self.spec, calibration)
        guard = Guard(replace(self._parts, calibration=chosen))
        if self._recipe is not None:
            guard._recipe = replace(self._recipe, calibration=chosen if chosen is not None else False)
        return guard

    def __copy__(self) -> Guard:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)  # the session is shared
        return twin

    def recipe(self) -> Recipe:
        """What the guard is pickled as.

        Raises:
            TokmargError: it was made from parts in memory, which cannot be found again.
        """
        if self._recipe is None:
            raise TokmargError(
                f"this Guard was made from parts in memory ({self.path}) and cannot be pickled or copied deeply: only "
                "what Guard.load makes can be loaded again elsewhere"
            )
        return self._recipe

    def __reduce__(self) -> tuple[Any, ...]:
        recipe = self.recipe()
        if "_parts" in self.__dict__:
            remember(recipe, self)
        return _unpickled, (type(self), recipe)

    if not TYPE_CHECKING:  # type checkers would take every name for an attribute

        def __getattr__(self, name: str) -> object:
            """Attributes of a guard that was unpickled: loads it.

            Not done while it is unpickled: where the bundle is missing, a worker process of multiprocessing could hand
            the error back to nobody, and its pool would wait for ever.
            """
            if self._recipe is not None and not name.startswith("__") and "_parts" not in self.__dict__:
                key = (type(self), self._recipe.sha256())
                self.__dict__.update(shared(key, self._load_recipe).__dict__)
            return object.__getattribute__(self, name)

    def _load_recipe(self) -> Guard:
        recipe = self.recipe()
        guard = recipe.load(type(self).load)
        check_manifest(recipe.bundle, guard.manifest, recipe.manifest)
        return guard

    @property
    def labels(self) -> tuple[str, ...]:
        """Label ids in the policy's order."""
        return tuple(label.id for label in self.spec.labels)

    @property
    def thresholds(self) -> Thresholds:
        """When an exact result counts as flagged where a call says nothing else, on the probabilities that it shows:
        the calibration's thresholds, else the spec's for ``unsafe``."""
        return default_thresholds(self.calibration, self.spec)

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
        prompts = self._pipeline.prompts(self.read(content, role=role).messages)
        if label is None:
            return prompts[0]
        for prompt in prompts:
            if prompt.label == label:
                return prompt
        known = ", ".join(prompt.label for prompt in prompts if prompt.label is not None)
        raise SpecError(f"{self.spec.name} has no prompt for label {label!r:.60} alone (it has: {known or 'none'})")

    def read(self, content: Content, *, role: Role | None = None, on_role: OnRole = "skip") -> Conversation:
        """What the guard's template gets of a content, and what is left out of it; arguments are as for :meth:`score`.

        Raises:
            ContentError: the content cannot be read.
        """
        return self._pipeline.read(Record(content, None, role), on_role)

    @overload
    def score(
        self, content: Content, *, id: object = ..., role: Role | None = ..., **options: Unpack[ExactKeywords]
    ) -> Result: ...

    @overload
    def score(
        self, content: Content, *, id: object = ..., role: Role | None = ..., **options: Unpack[ScoreKeywords]
    ) -> Result | MethodResult: ...

    def score(
        self,
        content: Content,
        *,
        id: object = None,
        role: Role | None = None,
        options: ScoreOptions | None = None,
        **changes: Any,
    ) -> Result | MethodResult:
        """Scores one content.

        Args:
            content: a text, or a list of ``{"role": ..., "content": ...}`` messages as in OpenAI's API; the last one of
                the user or the assistant is judged.
            id: passed through to the result.
            role: role of a bare text (default ``user``).
            options: how to score; the default options if None.
            changes: single options by name, such as ``tolerance=1e-4``; see :class:`tokmarg.ScoreOptions`.

        Returns:
            a :class:`Result` with the method ``exact`` (the default), a :class:`MethodResult` with others.

        Raises:
            ContentError: the content cannot be scored; ``type`` says why.
            OptionError: an option is wrong.
            TokmargError: the method does not go with the bundle.
        """
        (result,) = self.score_many([Record(content, id, role)], options=ScoreOptions.of(options, **changes))
        return result

    @overload
    def score_many(
        self,
        contents: Contents,
        *,
        judge: Judge = ...,
        on_error: Literal["raise"] = ...,
        **options: Unpack[ExactKeywords],
    ) -> Iterator[Result]: ...

    @overload
    def score_many(
        self,
        contents: Contents,
        *,
        judge: Judge = ...,
        on_error: Literal["return"],
        **options: Unpack[ExactKeywords],
    ) -> Iterator[Result | ContentError]: ...

    @overload
    def score_many(
        self,
        contents: Contents,
        *,
        judge: Judge = ...,
        on_error: Literal["raise"] = ...,
        **options: Unpack[ScoreKeywords],
    ) -> Iterator[Result | MethodResult]: ...

    @overload
    def score_many(
        self,
        contents: Contents,
        *,
        judge: Judge = ...,
        on_error: Literal["return"],
        **options: Unpack[ScoreKeywords],
    ) -> Iterator[Result | MethodResult | ContentError]: ...

    def score_many(
        self,
        contents: Contents,
        *,
        judge: Judge = "last",
        options: ScoreOptions | None = None,
        on_error: Literal["raise", "return"] = "raise",
        **changes: Any,
    ) -> Iterator[Result | MethodResult | ContentError]:
        """Scores a stream: lazy in, lazy out, in order, packed inside.

        Args:
            contents: texts, message lists, or :class:`Record` objects that carry an id; a ContentError (of a record
                that could not be read) keeps its place.
            judge: the messages of a conversation that are judged: ``last``, or all (``each``) or those of ``user`` or
                ``assistant``, in the light of those before them: then each has a result, with ``index`` and ``role``.
            on_error: ``raise`` ends the stream at the first content that cannot be scored; ``return`` puts the
                ContentError in its place and goes on.
            options, changes: as for :meth:`score`.

        Raises:
            ContentError: with ``on_error="raise"``.
            OptionError: an option is wrong.
            TokmargError: the method does not go with the bundle, or the guard was loaded in another process.
        """
        if on_error not in ("raise", "return"):
            raise OptionError(f"on_error must be 'raise' or 'return', not {on_error!r:.60}")
        return outcomes_of(self.score_packs(contents, judge=judge, options=options, **changes), on_error == "raise")

    def score_packs(
        self, contents: Contents, *, judge: Judge = "last", options: ScoreOptions | None = None, **changes: Any
    ) -> Iterator[list[Result | MethodResult | ContentError]]:
        """Scores a stream, pack by pack: what shared passes comes out together.

        Where a pack ends depends on the contents from the end of the pack before on, and on nothing else. So a run that
        was cut off and resumed after a whole pack makes the same packs, and the same numbers to the last bit, as one
        that was left alone.

        Args:
            contents: as for :meth:`score_many`; a content that cannot be scored has its ContentError in its place.
            judge: as for :meth:`score_many`; the results of one conversation are in one pack.
            options, changes: as for :meth:`score`.

        Raises:
            OptionError: an option is wrong.
            TokmargError: the method does not go with the bundle, or the guard was loaded in another process.
        """
        chosen = ScoreOptions.of(options, **changes)
        if isinstance(contents, (str, bytes)) or not isinstance(contents, Iterable):
            raise OptionError(f"contents must be an iterable of contents, not {contents!r:.60}: for one, use score")
        self._session.check_process()
        return freeing_memory(self._pipeline.score(judged_records(contents, judge, self.spec), chosen))

    def moderate(
        self,
        chunks: Iterable[str],
        *,
        context: Sequence[Mapping[str, str]] = (),
        role: Role = "assistant",
        options: ScoreOptions | None = None,
        **changes: Any,
    ) -> Iterator[ModeratedText]:
        """Moderates a text while it arrives: yields its parts, each with the result of all the text up to its end.

        Args:
            chunks: of the text, such as a language model's answer; closed at the end, if they can be closed.
            context, role: the messages before it, and whose text it is.
            options, changes: as for :meth:`score`, but that ``tolerance`` is 0.1 where nothing else is said; and
                ``every``, ``sentences`` and ``patience``, see :class:`tokmarg.moderation.ModerationSettings`.

        Raises:
            ContentError, OptionError, TokmargError: as for :meth:`score`.
        """
        text, chosen = growing_text(self._parts.encoder.count, context, role, options, changes)
        return moderated(chunks, text, lambda content: self.score(content, options=chosen))

    def unfold(
        self, contents: Iterable[Content | Record], *, options: ScoreOptions | None = None, **changes: Any
    ) -> Iterator[list[tuple[Prompt, Trie, ExactSearch]] | ContentError]:
        """The searches that give the scores of :meth:`score_many`, packed alike; :mod:`tokmarg.explanation` reads it.

        Nothing is searched further for the sake of a threshold but the default one.

        Yields:
            for each content its prompts, each with the verdict trie and the search that has expanded it; or the error.
        """
        return self._pipeline.unfold(contents, ScoreOptions.of(options, **changes))

    def check_method(self, method: Method) -> None:
        """Checks that a method goes with the bundle.

        Raises:
            TokmargError: it does not; says why.
        """
        self._pipeline.calls.check_method(method)


def _unpickled(kind: type[Guard], recipe: Recipe) -> Guard:
    """A guard that loads its recipe at first use."""
    guard = object.__new__(kind)
    guard._recipe = recipe
    return guard
