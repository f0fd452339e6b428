"""Calibrated bundle: writes a copy of a bundle that contains a calibration."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.manifest import MANIFEST
from tokmarg.calibration.calibration import CALIBRATION, Calibration
from tokmarg.documents import naming
from tokmarg.errors import TokmargError

__all__ = ["write_calibrated_bundle"]


def write_calibrated_bundle(
    bundle: str | os.PathLike[str], calibration: Calibration, folder: str | os.PathLike[str]
) -> None:
    """Writes a copy of a bundle that has the calibration, with its manifest brought up to date.

    Args:
        bundle: its folder; its files are checked against its manifest first.
        calibration: fitted on it.
        folder: the new bundle, which must not exist.

    Raises:
        TokmargError: it exists, or the calibration is another bundle's.
        BundleError: the bundle is damaged.
        OSError: it cannot be written.
    """
    source, folder = Bundle.open(Path(bundle)), Path(folder)
    if os.path.lexists(folder):
        raise TokmargError(f"{folder}: exists already; choose another folder, or a file (.json) beside the bundle")
    calibration.check(source.manifest, source.manifest.spec, "calibration")
    source.verify()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    scratch.mkdir()
    try:
        files = {name: {"sha256": sha, "size": size} for name, (sha, size) in source.manifest.files.items()}
        for name in files:
            if name != CALIBRATION:
                shutil.copyfile(source.file(name), scratch / name)
        calibration.write(scratch / CALIBRATION)
        written = (scratch / CALIBRATION).read_bytes()
        files[CALIBRATION] = {"sha256": hashlib.sha256(written).hexdigest(), "size": len(written)}
        manifest = {**source.manifest.data, "files": files}
        with naming(folder / MANIFEST):
            (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
