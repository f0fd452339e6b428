"""The recipe of a guard: the bundle and the load options, from which another process loads the same guard.

A guard is pickled as its recipe, a few kilobytes, and not as its weights. A process loads each recipe once, however
many closures and tasks bring it: :func:`shared` keeps the last few.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

from tokmarg.bundle.installed import DEFAULT_BUNDLE, installed_bundles
from tokmarg.bundle.manifest import MANIFEST, Manifest
from tokmarg.calibration.calibration import Calibration
from tokmarg.documents import document_sha256
from tokmarg.engine.session import Device
from tokmarg.prompt.policy import Policy, read_policy

from .errors import BundleError
from .system_calls import file_status

__all__ = ["Recipe", "check_manifest", "lasting_name", "make_recipe", "manifest_sha256", "remember", "shared"]

T = TypeVar("T")
#: Guards that a process keeps because it was handed their recipes, the last ones used.
_KEPT = 4


@dataclass(frozen=True, slots=True)
class Recipe:
    """What :meth:`tokmarg.Guard.load` was called with, as it means the same elsewhere.

    Attributes:
        bundle: name of an installed bundle, or absolute path of a folder.
        manifest: :func:`manifest_sha256` of the bundle that was loaded.
        device, threads, verify, prompt_cache: as for ``Guard.load``.
        policy: the parsed document.
        calibration: what was found, the bundle's own as well; False for none.
    """

    bundle: str
    manifest: str
    device: Device
    threads: int | None
    verify: bool
    policy: Mapping[str, object] | None
    calibration: Calibration | Literal[False]
    prompt_cache: int | str | None

    def load(self, load: Callable[..., T]) -> T:
        """The guard, by a ``Guard.load``.

        Raises:
            BundleNotFoundError: the bundle is not there in this process.
            TokmargError: as for ``Guard.load``.
        """
        return load(
            self.bundle,
            device=self.device,
            threads=self.threads,
            verify=self.verify,
            policy=self.policy,
            calibration=self.calibration,
            prompt_cache=self.prompt_cache,
        )

    def sha256(self) -> str:
        """Of all that the recipe says."""
        calibration = self.calibration and self.calibration.to_dict()
        options = [self.device, self.threads, self.verify, self.policy, calibration, self.prompt_cache]
        return document_sha256([self.bundle, self.manifest, *options])


def make_recipe(
    bundle: str | os.PathLike[str] | None,
    manifest: Manifest,
    *,
    device: Device,
    threads: int | None,
    verify: bool,
    policy: Policy | None,
    calibration: Calibration | None,
    prompt_cache: int | str | None,
) -> Recipe:
    """The recipe of a guard that was just loaded.

    Args:
        bundle: as given to ``Guard.load``.
        manifest: of the bundle that was found.
        device, threads, verify, policy, prompt_cache: as given.
        calibration: as found.

    Raises:
        SpecError: the policy's file cannot be read any more.
    """
    document = None if policy is None else dict(read_policy(policy)[0])
    return Recipe(
        lasting_name(bundle),
        manifest_sha256(manifest),
        device,
        threads,
        verify,
        document,
        calibration if calibration is not None else False,
        prompt_cache,
    )


def manifest_sha256(manifest: Manifest) -> str:
    """sha256 of a manifest's content, which has those of all other files of its bundle."""
    return document_sha256(manifest.data)


def check_manifest(bundle: str, manifest: Manifest, expected: str) -> None:
    """Checks that a bundle which was found is the one that was meant.

    Args:
        bundle: as it was asked for.
        manifest: of what was found.
        expected: :func:`manifest_sha256` of what was meant.

    Raises:
        BundleError: it is another.
    """
    if manifest_sha256(manifest) != expected:
        raise BundleError(
            f"{bundle}: {MANIFEST} is not that of the bundle where this came from: use the same bundle everywhere"
        )


def lasting_name(bundle: str | os.PathLike[str] | None) -> str:
    """A bundle's name or path as it is understood in another folder and environment."""
    given = os.fspath(bundle) if bundle is not None else os.environ.get("TOKMARG_BUNDLE") or DEFAULT_BUNDLE
    if file_status(given) is None and given in installed_bundles():
        return given
    return os.path.abspath(given)


@dataclass(slots=True)
class _Shared:
    """The guards of a process by recipe."""

    lock: Any = field(default_factory=threading.RLock)
    kept: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)
    own: WeakValueDictionary[Hashable, Any] = field(default_factory=WeakValueDictionary)


_shared = _Shared()


def _forget() -> None:
    """In a forked child: guards of the parent are of no use there, and another thread may have held the lock."""
    global _shared
    _shared = _Shared()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # after engine/session.py's, which keeps the parent's sessions


def remember(recipe: Recipe, guard: object) -> None:
    """Has :func:`shared` give out a guard that this process has loaded already, as long as it is there."""
    _shared.own[type(guard), recipe.sha256()] = guard


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """What is kept under a key, loaded if this process has not got it; the last few are kept.

    Args:
        key: says all that the loaded depends on; a guard's class and the sha256 of its recipe.
        load: loads it; threads that ask at the same time wait for one load.
    """
    with _shared.lock:
        loaded: T | None = _shared.own.get(key) or _shared.kept.get(key)
        if loaded is None:
            loaded = load()
        _shared.kept[key] = loaded
        _shared.kept.move_to_end(key)
        while len(_shared.kept) > _KEPT:
            _shared.kept.popitem(last=False)
        return loaded
