"""Calibrated bundle: writes a copy of a bundle that contains a calibration."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from tokmarg.arguments import check_path, check_type
from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.manifest import MANIFEST
from tokmarg.bundle.new_bundle import new_bundle
from tokmarg.bundle.replaceable import check_output
from tokmarg.calibration.calibration import CALIBRATION, Calibration
from tokmarg.documents import naming

__all__ = ["write_calibrated_bundle"]


def write_calibrated_bundle(
    bundle: str | os.PathLike[str],
    calibration: Calibration,
    folder: str | os.PathLike[str],
    *,
    force: bool = False,
) -> None:
    """Writes a copy of a bundle that has the calibration, with its manifest brought up to date.

    Args:
        bundle: its folder; its files are checked against its manifest first.
        calibration: fitted on it.
        folder: the new bundle. It takes the place of nothing, of an empty folder or, by force, of another bundle, once
            it is whole.
        force: whether a bundle that is there is replaced.

    Raises:
        TokmargError: the folder is, contains or lies in the bundle, is a link, or holds something that is not replaced;
            or the calibration is another bundle's.
        BundleError: the bundle is damaged.
        OptionError: an argument is of the wrong type; names it.
        OSError: the new bundle cannot be written; names the file.
    """
    check_path("bundle", bundle)
    check_type("calibration", calibration, Calibration, "a tokmarg.calibration.Calibration")
    check_path("folder", folder)
    check_type("force", force, bool, "True or False")
    source, folder = Bundle.open(Path(bundle)), Path(folder)
    sources = [("the bundle", source.path)]
    check_output(folder, sources, force=force)
    calibration.check(source.manifest, source.manifest.spec, "calibration")
    source.verify()
    with new_bundle(folder, sources, force=force) as new:
        new.folder.mkdir()
        files = {name: {"sha256": sha, "size": size} for name, (sha, size) in source.manifest.files.items()}
        for name in files:
            if name != CALIBRATION:
                with naming(folder / name):
                    shutil.copyfile(source.file(name), new.folder / name)
        calibration.write(new.folder / CALIBRATION)
        written = (new.folder / CALIBRATION).read_bytes()
        files[CALIBRATION] = {"sha256": hashlib.sha256(written).hexdigest(), "size": len(written)}
        manifest = {**source.manifest.data, "files": files}
        with naming(folder / MANIFEST):
            (new.folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        new.finish()
