"""What a worker process of an engine scores with: which guard, which columns, which options.

Made on the driver, or in the worker; pickled, it carries no weights. A process loads the guard once, at first use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokmarg.arguments import MAX_THREADS, check_integer, check_path
from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.installed import find_bundle
from tokmarg.bundle.manifest import Manifest
from tokmarg.calibration.calibration import Calibration
from tokmarg.documents import document_sha256
from tokmarg.engine.session import Device
from tokmarg.errors import BundleNotFoundError, OptionError
from tokmarg.guard import Guard
from tokmarg.prompt.labels import Role
from tokmarg.prompt.policy import Policy, read_policy
from tokmarg.recipe import check_manifest, lasting_name, manifest_sha256, shared
from tokmarg.score_options import ScoreOptions

from .fetched_bundle import fetch_bundle, is_url, manifest_sha256_at
from .scoring import COLUMN, score_batches, score_table, scored_schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["WorkerScoring", "worker_scoring"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerScoring:
    """How the rows of a table are scored in whatever process this comes to.

    Attributes:
        bundle: name, folder or URL of a bundle.
        load: further arguments of :meth:`tokmarg.Guard.load`.
        content: :func:`tokmarg.recipe.manifest_sha256` that the bundle must have; None where nobody has seen it yet.
        manifest_sha256: that a bundle at a URL must have, see :func:`tokmarg.dataframes.fetched_bundle.fetch_bundle`.
        columns: arguments of :func:`tokmarg.dataframes.score_table` that name columns.
        options: of scoring.
    """

    bundle: str
    load: Mapping[str, Any]
    content: str | None = None
    manifest_sha256: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    options: ScoreOptions = field(default_factory=ScoreOptions)

    def guard(self) -> Guard:
        """The guard, which this process loads once.

        Raises:
            TokmargError: as :meth:`tokmarg.Guard.load` does, or the bundle cannot be fetched.
        """
        by_value = {name: _frozen(self.load[name]) for name in ("policy", "calibration")}
        load = {**self.load, **by_value}
        return shared((self.bundle, self.content, self.manifest_sha256, *sorted(load.items())), self._loaded)

    def _loaded(self) -> Guard:
        if not is_url(self.bundle):
            guard = Guard.load(self.bundle, **self.load)
            if self.content is not None:
                check_manifest(self.bundle, guard.manifest, self.content)
            return guard
        # Fetching has checked the sha256 of every file, also of those that were there.
        return Guard.load(self._folder(), **{**self.load, "verify": False})

    def _folder(self) -> Path:
        if is_url(self.bundle):
            return fetch_bundle(self.bundle, manifest_sha256=self.manifest_sha256)
        return find_bundle(self.bundle)

    def table(self, table: Any) -> pa.Table:
        """A table with its results; as :func:`tokmarg.dataframes.score_table`."""
        return score_table(self.guard(), table, **self.columns, options=self.options)

    def batches(self, batches: Iterable[Any]) -> Iterator[pa.RecordBatch]:
        """Record batches with their results; as :func:`tokmarg.dataframes.score_batches`."""
        return score_batches(self.guard(), batches, **self.columns, options=self.options)

    def manifest(self) -> Manifest:
        """The bundle's manifest, for which no weights are read.

        Raises:
            BundleNotFoundError, BundleError, TokmargError: as :meth:`guard` does.
        """
        return Bundle.open(self._folder()).manifest

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema of a table with its results, for which no weights are read.

        Raises:
            TokmargError: the bundle is not there, or a column is missing or cannot hold contents; names it.
        """
        self.check_columns(schema)
        into = {name: self.columns[name] for name in ("into", "prefix")}
        given = {name: self.load[name] for name in ("policy", "calibration")}
        return scored_schema(self._folder(), schema, **into, **given, options=self.options)

    def check_columns(self, schema: pa.Schema) -> None:
        """Checks that a table has the columns with contents; no bundle is needed.

        Raises:
            TokmargError: one is missing or cannot hold contents; names it.
        """
        from .contents import ContentColumns

        ContentColumns.choose(schema, **{name: self.columns[name] for name in ("text", "messages", "role")})

    def by_content(self) -> WorkerScoring:
        """The same for other machines: policy and calibration by content, a folder by its absolute path.

        A bundle that is to be seen from here must be the same there: a run has one, although it may change meanwhile.

        Raises:
            TokmargError: the policy, the calibration, or the manifest at the URL cannot be read.
        """
        policy, calibration = self.load["policy"], self.load["calibration"]
        if policy is not None:
            policy = dict(read_policy(policy)[0])
        if calibration and not isinstance(calibration, Calibration):
            calibration = Calibration.read(calibration)
        changed = replace(self, load={**self.load, "policy": policy, "calibration": calibration})
        if is_url(self.bundle):
            return replace(changed, manifest_sha256=self.manifest_sha256 or manifest_sha256_at(self.bundle))
        bundle, content = lasting_name(self.bundle), self.content
        with suppress(BundleNotFoundError):  # nodes may have what the driver has not
            content = content or manifest_sha256(Bundle.open(find_bundle(bundle)).manifest)
        return replace(changed, bundle=bundle, content=content)


def worker_scoring(
    bundle: Guard | str | os.PathLike[str] | None = None,
    *,
    manifest_sha256: str | None = None,
    threads: int = 1,
    device: Device = "auto",
    verify: bool = True,
    policy: Policy | None = None,
    calibration: str | os.PathLike[str] | Calibration | Literal[False] | None = None,
    text: str | None = None,
    messages: str | None = None,
    role: Role | None = None,
    into: str = COLUMN,
    prefix: str | None = None,
    options: ScoreOptions | None = None,
    **changes: Any,
) -> WorkerScoring:
    """How the workers of an engine score.

    Args:
        bundle: name of an installed bundle or folder, found on every machine; or a URL that fsspec knows, fetched once
            a machine; or a guard, handed on as its recipe. None takes $TOKMARG_BUNDLE or the reference
            guard.
        manifest_sha256: of the bundle at the URL; another one is refused.
        threads: of each worker.
        device, verify, policy, calibration: as for :meth:`tokmarg.Guard.load`; not with a loaded guard.
        text, messages, role, into, prefix, options, changes: as for :func:`tokmarg.dataframes.score_table`.

    Raises:
        OptionError: an argument is wrong.
    """
    check_integer("threads", threads, MAX_THREADS)
    load = {"threads": threads, "device": device, "verify": verify, "policy": policy, "calibration": calibration}
    columns = {"text": text, "messages": messages, "role": role, "into": into, "prefix": prefix}
    make = partial(WorkerScoring, columns=columns, options=ScoreOptions.of(options, **changes))
    if isinstance(bundle, Guard):
        if (device, verify, policy, calibration, manifest_sha256) != ("auto", True, None, None, None):
            raise OptionError("device, verify, policy and calibration are those of the guard: give them to Guard.load")
        recipe = bundle.recipe()
        load = {name: getattr(recipe, name) for name in [*load, "prompt_cache"]} | {"threads": threads}
        return make(bundle=recipe.bundle, load=load, content=recipe.manifest)
    if bundle is not None:
        check_path("bundle", bundle, ", a URL, the name of an installed bundle, a guard, or None")
    named = lasting_name(bundle) if bundle is None else os.fspath(bundle)
    return make(bundle=named, load=load, manifest_sha256=manifest_sha256)


def _frozen(value: object) -> object:
    """A policy or calibration as a part of a key."""
    if value is None or isinstance(value, (bool, str, os.PathLike)):
        return str(value)
    document = value.to_dict() if isinstance(value, Calibration) else value
    return document_sha256(document)
