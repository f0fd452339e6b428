"""Provenance of a calibration: digests of the bundle, the policy and the data, and the settings of the search."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import cast, get_args

from tokmarg.bundle.manifest import Manifest
from tokmarg.documents import Fields
from tokmarg.prompt.spec import Spec
from tokmarg.score_options import OnOverflow, ScoreOptions

from .label_calibration import count, unit

__all__ = ["CALIBRATION", "BundleProvenance", "DataFile", "DataProvenance", "SearchSettings"]

#: The calibration's name in a bundle.
CALIBRATION = "calibration.json"
_DEFAULTS = ScoreOptions()
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BundleProvenance:
    """The bundle and policy that a calibration was fitted on.

    Attributes:
        model_id: the manifest's, for people.
        model: sha256 over the lines "NAME SHA256" of the bundle's files but the calibration, in the order of names.
        spec: sha256 of the manifest's spec, without ``openai``, which changes no score, as JSON with sorted keys and no
            spaces, in ASCII.
        policy: the same of the labels as they are scored, each with id, name, definition, roles and code (if any).
    """

    model_id: str
    model: str
    spec: str
    policy: str

    @classmethod
    def of(cls, manifest: Manifest, spec: Spec) -> BundleProvenance:
        """That of a bundle, scored by a spec that may have another policy than the manifest's."""
        files = [f"{name} {sha256}\n" for name, (sha256, _) in sorted(manifest.files.items()) if name != CALIBRATION]
        labels = [
            {
                "id": label.id,
                "name": label.name,
                "definition": dict(label.definition) if isinstance(label.definition, Mapping) else label.definition,
                "roles": list(label.roles),
                **({} if label.code is None else {"code": label.code}),
            }
            for label in spec.labels
        ]
        spec_data = manifest.data["spec"]
        assert isinstance(spec_data, dict)
        return cls(
            manifest.model_id,
            hashlib.sha256("".join(files).encode()).hexdigest(),
            _digest({key: value for key, value in spec_data.items() if key != "openai"}),
            _digest(labels),
        )

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def parse(cls, f: Fields) -> BundleProvenance:
        """Reads the JSON form."""
        f.only(cls.__slots__)
        return cls(f.get("model_id", str), *(_sha256(f, key) for key in ("model", "spec", "policy")))


@dataclass(frozen=True, slots=True)
class DataFile:
    """One of several files: its sha256, its records, and the share of the mix that it stands for."""

    sha256: str
    records: int
    share: float

    @classmethod
    def parse(cls, f: Fields) -> DataFile:
        """Reads the JSON form."""
        f.only(cls.__slots__)
        return cls(_sha256(f, "sha256"), count(f, "records"), unit(f, "share"))


@dataclass(frozen=True, slots=True)
class DataProvenance:
    """The labelled data that a calibration was fitted on.

    Attributes:
        sha256: of the file; of several, of their bytes one file after the other.
        records: how many it has.
        scored: how many could be scored.
        label_map: sha256 of the label map's file; None without one.
        files: where there are several.
    """

    sha256: str
    records: int
    scored: int
    label_map: str | None = None
    files: tuple[DataFile, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        document = {key: getattr(self, key) for key in ("sha256", "records", "scored", "label_map")}
        return document | ({"files": [asdict(file) for file in self.files]} if self.files else {})

    @classmethod
    def parse(cls, f: Fields) -> DataProvenance:
        """Reads the JSON form."""
        f.only(cls.__slots__)
        label_map = None if f.data.get("label_map") is None else _sha256(f, "label_map")
        files = tuple(DataFile.parse(file) for file in f.tables("files")) if "files" in f.data else ()
        return cls(_sha256(f, "sha256"), count(f, "records"), count(f, "scored"), label_map, files)


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Settings of the search that gave the scores: a guarantee holds for scores that are searched at least as far.

    Attributes:
        tolerance, max_nodes, on_overflow: as in :class:`tokmarg.ScoreOptions`, with the same defaults.
    """

    tolerance: float = _DEFAULTS.tolerance
    max_nodes: int = _DEFAULTS.max_nodes
    on_overflow: OnOverflow = _DEFAULTS.on_overflow

    @classmethod
    def of(cls, options: ScoreOptions) -> SearchSettings:
        """The part of the options that is stored."""
        return cls(options.tolerance, options.max_nodes, options.on_overflow)

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def parse(cls, f: Fields) -> SearchSettings:
        """Reads the JSON form."""
        f.only(cls.__slots__)
        overflow = f.get("on_overflow", str)
        if overflow not in get_args(OnOverflow):
            raise f.fail("on_overflow", f'must be "error" or "window", not {overflow!r:.60}')
        tolerance, max_nodes = unit(f, "tolerance"), count(f, "max_nodes")
        if not tolerance or not max_nodes:
            raise f.fail("max_nodes" if tolerance else "tolerance", "must be positive")
        return cls(tolerance, max_nodes, cast(OnOverflow, overflow))


def _digest(document: object) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _sha256(f: Fields, key: str) -> str:
    value = f.get(key, str)
    if not _SHA256.fullmatch(value):
        raise f.fail(key, f"must be 64 hexadecimal digits in lower case, not {value!r:.60}")
    return value
