"""The calibration document, ``calibration.json``: in a bundle, or beside one (schema: calibration.schema.json).

It holds one calibrator and at most one threshold for ``unsafe`` and for every label, what they were fitted on, and the
figures reached. It fits one bundle, policy and search only: the digests in ``bundle`` say which. Thresholds are
decided on raw probabilities (``raw``), of which ``calibrated`` is the image; the two agree but for the flat parts of
an isotonic map.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from tokmarg.arguments import check_path
from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.manifest import Manifest
from tokmarg.documents import Fields, read_document
from tokmarg.errors import TokmargError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.prompt.spec import Spec
from tokmarg.results import CALIBRATIONS, CalibrationMethod, Marginal, Raw, Result, Thresholds, any_flagged
from tokmarg.whole_file import write_whole

from .calibrators import Calibrator, inverse
from .label_calibration import LabelCalibration, parse_figures, unit
from .provenance import CALIBRATION, BundleProvenance, DataProvenance, SearchSettings
from .risk_control import Guarantee, Risk

__all__ = ["CALIBRATION", "Calibration", "default_thresholds", "find_calibration"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibrators and thresholds of one bundle.

    Attributes:
        method: how the calibrators were fitted.
        bundle: the bundle and policy it is for.
        data: the file it was fitted on.
        search: how far scores were searched.
        target: what thresholds were chosen for, such as ``fpr<=0.01``.
        guarantee: of the certified thresholds.
        unsafe: of P(unsafe), which is calibrated on its own.
        labels: label id -> its calibration, in the policy's order.
        figures: over all labels together: ``ece`` and ``brier``; of ``flagged`` against ``unsafe``, where there are
            thresholds, ``recall``, ``false_positive_rate`` and ``precision`` on the data themselves.
        tokmarg_version: that wrote it.
    """

    method: CalibrationMethod
    bundle: BundleProvenance
    data: DataProvenance
    search: SearchSettings
    target: str | None
    guarantee: Guarantee | None
    unsafe: LabelCalibration
    labels: Mapping[str, LabelCalibration]
    figures: Mapping[str, object]
    tokmarg_version: str

    def of(self, name: str) -> LabelCalibration:
        """The calibration of a label, or of ``unsafe``."""
        return self.unsafe if name == UNSAFE else self.labels[name]

    def thresholds(self) -> Thresholds:
        """Its own thresholds, on raw probabilities; ``unsafe`` from a calibrated 0.5 where it has none."""
        labels = {k: each.threshold.raw for k, each in self.labels.items() if each.threshold is not None}
        own = self.unsafe.threshold
        return Thresholds(inverse(self.unsafe.calibrator, 0.5) if own is None else own.raw, labels)

    def shown_thresholds(self) -> Thresholds:
        """Its own thresholds, on calibrated probabilities."""

        def shown(of: LabelCalibration, raw: float) -> float:
            return math.inf if math.isinf(raw) else float(of.calibrator(raw))

        raw = self.thresholds()
        unsafe = 0.5 if self.unsafe.threshold is None else shown(self.unsafe, raw.unsafe)
        return Thresholds(unsafe, {k: shown(self.labels[k], value) for k, value in raw.labels.items()})

    def raw_thresholds(self, thresholds: Thresholds) -> Thresholds:
        """Thresholds on calibrated probabilities, as thresholds on raw ones that decide alike."""
        labels = {k: inverse(self.labels[k].calibrator, value) for k, value in thresholds.labels.items()}
        return Thresholds(inverse(self.unsafe.calibrator, thresholds.unsafe), labels)

    def apply(self, result: Result, limits: Thresholds | None = None) -> Result:
        """The calibrated result.

        Args:
            result: raw, from the guard it fits. What a guard tells beyond ``unsafe`` and labels stays raw.
            limits: thresholds on raw probabilities; its own by default.
        """
        limits = limits or self.thresholds()
        raw_unsafe = _decided(result.unsafe, limits.unsafe)
        raw_labels = {k: m and _decided(m, limits.labels.get(k, math.inf)) for k, m in result.labels.items()}
        return replace(
            result,
            flagged=any_flagged(raw_unsafe, raw_labels.values()),
            unsafe=self.calibrated(UNSAFE, raw_unsafe),
            labels={k: m and self.calibrated(k, m) for k, m in raw_labels.items()},
            calibrated=True,
            raw=Raw(raw_unsafe, raw_labels),
        )

    def calibrated(self, name: str, raw: Marginal) -> Marginal:
        """The calibrated marginal of a label, or of ``unsafe``."""
        return _mapped(raw, self.of(name).calibrator)

    def check(self, manifest: Manifest, spec: Spec, where: str) -> None:
        """Refuses a calibration that was fitted on something else.

        Raises:
            TokmargError: model, spec or policy differ; says which, and the way out.
        """
        given, labels = BundleProvenance.of(manifest, spec), tuple(label.id for label in spec.labels)
        for name, actual, fitted in (
            ("model", given.model, self.bundle.model),
            ("spec", given.spec, self.bundle.spec),
            ("policy", given.policy, self.bundle.policy),
        ):
            if actual != fitted:
                raise TokmargError(
                    f"{where}: bundle.{name}: was fitted on another {name} than that of {manifest.model_id} "
                    f"({fitted[:12]}, not {actual[:12]}): calibrate this bundle, or score raw (--calibration none, "
                    "calibration=False)"
                )
        if tuple(self.labels) != labels:
            raise TokmargError(f"{where}: labels: must be {', '.join(labels) or 'empty'}, in this order")

    def to_dict(self) -> dict[str, object]:
        """The JSON document."""
        guarantee = self.guarantee
        return {
            "schema_version": SCHEMA_VERSION,
            "tokmarg_version": self.tokmarg_version,
            "method": self.method,
            "bundle": self.bundle.to_dict(),
            "data": self.data.to_dict(),
            "search": self.search.to_dict(),
            "target": self.target,
            "guarantee": guarantee
            and {
                "risk": guarantee.risk,
                "level": guarantee.level,
                "confidence": guarantee.confidence,
                "simultaneous": guarantee.simultaneous,
            },
            "unsafe": self.unsafe.to_dict(),
            "labels": {label: each.to_dict() for label, each in self.labels.items()},
            "figures": dict(self.figures),
        }

    @classmethod
    def parse(cls, data: object, where: str) -> Calibration:
        """Reads a document.

        Raises:
            TokmargError: a field is missing, unknown or malformed; names file and field.
        """
        f = Fields(data, where, TokmargError)
        version = f.get("schema_version", int)
        if version != SCHEMA_VERSION:
            raise f.fail("schema_version", f"is {version}; this tokmarg reads {SCHEMA_VERSION}: upgrade or calibrate")
        f.only(["schema_version", *cls.__slots__])
        method = f.get("method", str)
        if method not in CALIBRATIONS:
            raise f.fail("method", f"must be one of {', '.join(CALIBRATIONS)}, not {method!r:.60}")
        table = f.table("labels")
        return cls(
            method,
            BundleProvenance.parse(f.table("bundle")),
            DataProvenance.parse(f.table("data")),
            SearchSettings.parse(f.table("search")),
            f.get("target", str, None),
            _guarantee(f),
            LabelCalibration.parse(f.table("unsafe")),
            {label: LabelCalibration.parse(table.table(label)) for label in table.data},
            parse_figures(f),
            f.get("tokmarg_version", str),
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Calibration:
        """Reads a file.

        Raises:
            TokmargError: it cannot be read or is malformed; names file and field.
        """
        check_path("path", path)
        return cls.parse(read_document(path, TokmargError, format="json"), str(Path(path)))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes a file; one that is there is replaced, whole or not at all.

        Raises:
            OSError: it cannot be written; names it.
            OptionError: ``path`` is no path.
        """
        check_path("path", path)
        write_whole(path, (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())


def default_thresholds(calibration: Calibration | None, spec: Spec) -> Thresholds:
    """When an exact result counts as flagged where nobody says otherwise, on the probabilities that it shows: the
    calibration's thresholds, else the spec's for ``unsafe``."""
    return Thresholds(spec.threshold) if calibration is None else calibration.shown_thresholds()


def find_calibration(
    bundle: Bundle, spec: Spec, given: str | os.PathLike[str] | Calibration | Literal[False] | None
) -> Calibration | None:
    """The given calibration (False: none), else the bundle's own.

    Raises:
        TokmargError: it cannot be read, is malformed, or was fitted on another bundle or policy.
    """
    if given is False or (given is None and CALIBRATION not in bundle.manifest.files):
        return None
    if isinstance(given, Calibration):
        calibration, where = given, "calibration"
    else:
        path = bundle.file(CALIBRATION) if given is None else given
        calibration, where = Calibration.read(path), str(path)
    calibration.check(bundle.manifest, spec, where)
    return calibration


def _guarantee(f: Fields) -> Guarantee | None:
    if f.get("guarantee", dict, None) is None:
        return None
    table = f.table("guarantee")
    table.only(["risk", "level", "confidence", "simultaneous"])
    risk = table.get("risk", str)
    if risk not in ("fnr", "fpr"):
        raise table.fail("risk", f'must be "fnr" or "fpr", not {risk!r:.60}')
    values = {key: unit(table, key) for key in ("level", "confidence")}
    for key, value in values.items():
        if value in (0, 1):
            raise table.fail(key, f"must lie strictly between 0 and 1, not {value!r}")
    return Guarantee(cast(Risk, risk), **values, simultaneous=table.get("simultaneous", bool))


def _decided(marginal: Marginal, threshold: float) -> Marginal:
    return Marginal(marginal.probability, marginal.lower, marginal.upper, marginal.probability >= threshold)


def _mapped(raw: Marginal, calibrator: Calibrator) -> Marginal:
    lower, middle, upper = calibrator([raw.lower, raw.probability, raw.upper]).tolist()
    return Marginal(min(max(middle, lower), upper), lower, upper, raw.flagged)
