"""Everything that the bytes of an output depend on, so that a run is gone on with only if nothing of it changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tokmarg.version import installed_version

if TYPE_CHECKING:
    from tokmarg.guard import Guard
    from tokmarg.results import Thresholds

__all__ = ["foresee", "identify", "refusal"]

#: Options of ``tokmarg score`` that change no byte of the output, or are recorded by what they mean.
UNRECORDED = frozenset({
    "texts", "path", "output", "resume", "fail_on_flagged",
    "bundle", "threshold", "thresholds_file", "input_format", "output_format", "device", "threads",
    "calibration_file",
})  # fmt: skip
#: Whose arithmetic and text handling the numbers are.
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers")


def identify(
    options: Mapping[str, Any],
    guard: Guard,
    thresholds: Thresholds,
    *,
    input: tuple[int, str],
    input_format: str,
    output_format: str,
) -> dict[str, Any]:
    """What a run is, as JSON.

    Args:
        options: all options of the command; those in :data:`UNRECORDED` are left out.
        guard: the loaded guard.
        thresholds: as they are used, wherever they come from.
        input: size and sha256 of the input.
        input_format, output_format: as they are used.
    """
    from tokmarg.engine.batch_invariant import BatchInvariantEngine
    from tokmarg.engine.packed import PackedEngine

    return {
        **foresee(options, input, input_format, output_format),
        "bundle": _bundle(guard, options["no_verify"]),
        "--no-verify": options["no_verify"],
        "device": guard.device,
        "thresholds": asdict(thresholds),
        "calibration": _calibration(guard),
        "packs": [[engine.pack_contents, engine.pack_tokens] for engine in (PackedEngine, BatchInvariantEngine)],
    }


def foresee(
    options: Mapping[str, Any], input: tuple[int, str], input_format: str, output_format: str
) -> dict[str, Any]:
    """What of :func:`identify` is known before the guard is loaded."""
    run: dict[str, Any] = {
        "input": list(input),
        "input format": input_format,
        "output format": output_format,
        # How work is split among threads may change a last digit.
        "threads": options["threads"] or f"one per core of {os.cpu_count()}",
        "versions": {"tokmarg": installed_version(), **_versions()},
    }
    own = {name: value for name, value in options.items() if name not in UNRECORDED and name != "no_verify"}
    return run | {f"--{name.replace('_', '-')}": value for name, value in own.items()}


def refusal(before: Mapping[str, Any], now: Mapping[str, Any], whole: bool = True) -> str | None:
    """Why a run cannot be gone on with: what differs; None if nothing does. ``now`` may be a part only."""
    for name in [*now, *(name for name in before if whole and name not in now)]:
        old, new = before.get(name), now.get(name)
        if old != new:
            if name in ("input", "bundle", "calibration"):
                return f"the {name} is not what it was in the first run"
            return f"{name:.100}: {_short(new)}, but {_short(old)} in the first run"
    return None


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{', '.join(f'{name} {item}' for name, item in value.items()):.300}"
    return "not given" if value is None else f"{value!s:.300}"


def _bundle(guard: Guard, unverified: bool) -> list[Any]:
    """The sha256 of the manifest, which has those of all other files; if nobody compared them, sizes and times too."""
    manifest = (guard.path / "manifest.json").read_bytes()
    known: list[Any] = [hashlib.sha256(manifest).hexdigest()]
    if unverified:
        for name in sorted(guard.manifest.files):
            status = (guard.path / name).stat()
            known.append([name, status.st_size, status.st_mtime_ns])
    return known


def _calibration(guard: Guard) -> str | None:
    if guard.calibration is None:
        return None
    return hashlib.sha256(json.dumps(guard.calibration.to_dict(), sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError

    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
