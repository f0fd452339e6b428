"""The library's face: load a bundle, score contents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NoReturn, Unpack, overload

from tokmarg.calibration.calibration import Calibration
from tokmarg.engine.cpu import release_free_memory
from tokmarg.engine.session import Device
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Content, Record, messages_of
from tokmarg.prompt.policy import Policy
from tokmarg.scoring.exact import ExactSearch

from .errors import ContentError, OptionError, SpecError, TokmargError
from .loading import GuardParts, load_parts
from .pipeline import Pipeline
from .results import Method, MethodResult, Result
from .score_options import ExactKeywords, ScoreKeywords, ScoreOptions

__all__ = ["Guard"]

Contents = Iterable[Content | Record | ContentError]


class Guard:
    """A loaded bundle. Safe to use from many threads, in the process that loaded it; it cannot be pickled.

    Use :meth:`load`; ``guard.manifest`` says what was loaded, ``guard.spec`` what it judges by (the manifest's spec,
    unless a policy was given), ``guard.device`` where it runs, ``guard.events`` what results tell beyond ``unsafe`` and
    the labels, ``guard.calibration`` what exact results go through (or None).
    """

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
    ) -> Guard:
        """Loads a bundle.

        Args:
            bundle: folder, or name of an installed bundle; None takes $TOKMARG_BUNDLE or the reference guard.
            device: ``auto`` (CUDA where it works, else CPU), ``cpu``, or ``cuda`` (fails where it is not active).
            threads: intra-op threads, 1,024 at most; None takes one per core.
            verify: check the sha256 of every file first.
            policy: labels in place of the bundle's (a TOML or JSON file, or the parsed document, see
                :mod:`tokmarg.prompt.policy`). Its prefix is computed once and kept in the user's cache folder.
            calibration: a file (see :mod:`tokmarg.calibration.calibration`) or what was read from one; None takes the
                bundle's own where it has one, False takes none.

        Raises:
            BundleNotFoundError, BundleError: no bundle, or a broken one; names file and field.
            TokmargError: the calibration is broken, or was fitted on another model or policy.
            SpecError: the spec or the policy is broken, or does not fit the tokenizer.
            DeviceError: the device is not available.
            OptionError: an argument is of the wrong type or out of range; names it.
        """
        return cls(
            load_parts(bundle, device=device, threads=threads, verify=verify, policy=policy, calibration=calibration)
        )

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
        prompts = self._pipeline.prompts(messages_of(content, role))
        if label is None:
            return prompts[0]
        for prompt in prompts:
            if prompt.label == label:
                return prompt
        known = ", ".join(prompt.label for prompt in prompts if prompt.label is not None)
        raise SpecError(f"{self.spec.name} has no prompt for label {label!r:.60} alone (it has: {known or 'none'})")

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
            content: a text, or a list of ``{"role": ..., "content": ...}`` messages; the last one is judged.
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
        self, contents: Contents, *, on_error: Literal["raise"] = ..., **options: Unpack[ExactKeywords]
    ) -> Iterator[Result]: ...

    @overload
    def score_many(
        self, contents: Contents, *, on_error: Literal["return"], **options: Unpack[ExactKeywords]
    ) -> Iterator[Result | ContentError]: ...

    @overload
    def score_many(
        self, contents: Contents, *, on_error: Literal["raise"] = ..., **options: Unpack[ScoreKeywords]
    ) -> Iterator[Result | MethodResult]: ...

    @overload
    def score_many(
        self, contents: Contents, *, on_error: Literal["return"], **options: Unpack[ScoreKeywords]
    ) -> Iterator[Result | MethodResult | ContentError]: ...

    def score_many(
        self,
        contents: Contents,
        *,
        options: ScoreOptions | None = None,
        on_error: Literal["raise", "return"] = "raise",
        **changes: Any,
    ) -> Iterator[Result | MethodResult | ContentError]:
        """Scores a stream: lazy in, lazy out, in order, packed inside.

        Args:
            contents: texts, message lists, or :class:`Record` objects that carry an id; a ContentError (of a record
                that could not be read) keeps its place.
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
        return _outcomes(self.score_packs(contents, options=options, **changes), on_error == "raise")

    def score_packs(
        self, contents: Contents, *, options: ScoreOptions | None = None, **changes: Any
    ) -> Iterator[list[Result | MethodResult | ContentError]]:
        """Scores a stream, pack by pack: what shared passes comes out together.

        Where a pack ends depends on the contents from the end of the pack before on, and on nothing else. So a run that
        was cut off and resumed after a whole pack makes the same packs, and the same numbers to the last bit, as one
        that was left alone.

        Args:
            contents: as for :meth:`score_many`; a content that cannot be scored has its ContentError in its place.
            options, changes: as for :meth:`score`.

        Raises:
            OptionError: an option is wrong.
            TokmargError: the method does not go with the bundle, or the guard was loaded in another process.
        """
        chosen = ScoreOptions.of(options, **changes)
        if isinstance(contents, (str, bytes)) or not isinstance(contents, Iterable):
            raise OptionError(f"contents must be an iterable of contents, not {contents!r:.60}: for one, use score")
        self._session.check_process()
        return _freeing_memory(self._pipeline.score(contents, chosen))

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
        self._pipeline.check_method(method)


def _outcomes(
    packs: Iterator[list[Result | MethodResult | ContentError]], raising: bool
) -> Iterator[Result | MethodResult | ContentError]:
    for pack in packs:
        for outcome in pack:
            if raising and isinstance(outcome, ContentError):
                raise outcome
            yield outcome


def _freeing_memory(packs: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """The packs; after the last one free memory goes back to the system."""
    count = 0
    for pack in packs:
        count += len(pack)
        yield pack
    if count > 1:  # one content leaves little behind, and the next one takes that
        release_free_memory()
