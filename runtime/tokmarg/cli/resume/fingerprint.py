"""The fingerprint of a run: all that its output depends on. A run is resumed only if its fingerprint is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from tokmarg.documents import document_sha256
from tokmarg.engine.cores import default_threads
from tokmarg.version import VERSION

if TYPE_CHECKING:
    from tokmarg.guard import Guard
    from tokmarg.results import Thresholds

__all__ = ["fingerprint", "partial_fingerprint", "versions"]

#: Options of ``tokmarg score`` that change no byte of the output, or are recorded by what they mean.
UNRECORDED = frozenset({
    "texts", "path", "output", "resume", "fail_on_flagged",
    "bundle", "threshold", "thresholds_file", "input_format", "output_format", "device", "threads",
    "calibration_file", "engine", "workers", "block_rows",
})  # fmt: skip
#: The libraries whose arithmetic and text handling the scores depend on: module -> packages that it may come from.
_LIBRARIES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "numpy": ("numpy",),
    "tokenizers": ("tokenizers",),
}


def fingerprint(
    options: Mapping[str, Any],
    guard: Guard,
    thresholds: Thresholds,
    *,
    input: tuple[int, str],
    input_format: str,
    output_format: str,
) -> dict[str, Any]:
    """The fingerprint of a run, as JSON.

    Args:
        options: all options of the command; those in :data:`UNRECORDED` are left out.
        guard: the loaded guard.
        thresholds: as used, wherever they come from.
        input: size and sha256 of the input.
        input_format, output_format: as used.
    """
    from tokmarg.engine.batch import PACK_SIZES
    from tokmarg.engine.batch_invariant import BatchInvariantEngine

    return {
        **partial_fingerprint(options, input, input_format, output_format),
        "bundle": _bundle(guard, options["no_verify"]),
        "--no-verify": options["no_verify"],
        "device": guard.device,
        "thresholds": asdict(thresholds),
        "calibration": _calibration(guard),
        "packs": [
            *map(list, PACK_SIZES.values()),
            [BatchInvariantEngine.pack_contents, BatchInvariantEngine.pack_tokens],
        ],
    }


def partial_fingerprint(
    options: Mapping[str, Any], input: tuple[int, str], input_format: str, output_format: str
) -> dict[str, Any]:
    """The part of :func:`fingerprint` that is known before the guard is loaded."""
    run: dict[str, Any] = {
        "input": list(input),
        "input format": input_format,
        "output format": output_format,
        # How work is split among threads may change a last digit.
        "threads": options["threads"] or f"one per core of {default_threads()}",
        "versions": {"tokmarg": VERSION, **versions()},
    }
    recorded = {name: value for name, value in options.items() if name not in UNRECORDED and name != "no_verify"}
    return run | {f"--{name.replace('_', '-')}": value for name, value in recorded.items()}


def _bundle(guard: Guard, unverified: bool) -> list[Any]:
    """The sha256 of the manifest, which holds those of all other files; for unverified files sizes and times too."""
    manifest = (guard.path / "manifest.json").read_bytes()
    identity: list[Any] = [hashlib.sha256(manifest).hexdigest()]
    if unverified:
        for name in sorted(guard.manifest.files):
            status = (guard.path / name).stat()
            identity.append([name, status.st_size, status.st_mtime_ns])
    return identity


def _calibration(guard: Guard) -> str | None:
    if guard.calibration is None:
        return None
    return document_sha256(guard.calibration.to_dict())


def versions() -> dict[str, str]:
    """The versions of the libraries that scores depend on, of every package that is installed.

    A frozen application has no package metadata. There the imported module says its version, which is marked as such:
    a run of an application is not taken for one of the packages.
    """
    versions = {}
    for module, packages in _LIBRARIES.items():
        of_packages = {}
        for package in packages:
            with suppress(PackageNotFoundError):
                of_packages[package] = version(package)
        versions.update(of_packages or {module: f"{_module_version(module)} (no package metadata)"})
    return versions


def _module_version(name: str) -> str:
    if name == "onnxruntime":
        from tokmarg.engine.ort import ort  # imports it with its telemetry off

        return str(ort.__version__)
    return str(import_module(name).__version__)
