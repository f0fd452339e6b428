"""Calibrations fitted on a guard's scores, and the guard with its calibration."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.optional import present
from tokmarg import Guard, OptionError, Thresholds, TokmargError
from tokmarg.bundle.bundle import Bundle
from tokmarg.calibration import Guarantee, with_prior
from tokmarg.calibration.calibrators import Sigmoid
from tokmarg.calibration.provenance import SearchSettings
from tokmarg.evaluation import calibrate
from tokmarg.score_options import ScoreOptions

ROWS = [("gun", ["A"]), ("idiot", ["B"]), ("gun idiot", ["A", "B"]), ("hello", []), ("noise hello", [])]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled records of which some are wrong."""
    rows = [{"text": " ".join([text] * (1 + i % 3)), "labels": labels} for i in range(24) for text, labels in ROWS]
    for i in range(0, len(rows), 7):
        rows[i]["labels"] = [] if rows[i]["labels"] else ["A"]
    path = tmp_path_factory.mktemp("data") / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_guard_goes_by_its_calibration(word_bundle: Path, data: Path, tmp_path: Path) -> None:
    raw = Guard.load(word_bundle, device="cpu", threads=1)
    calibration = calibrate(raw, data, target="max-f1")
    assert calibration.search == SearchSettings()
    assert (calibration.data.records, calibration.data.scored) == (120, 120)
    calibration.write(tmp_path / "c.json")
    guard = Guard.load(word_bundle, device="cpu", threads=1, calibration=tmp_path / "c.json")
    assert guard.calibration == calibration
    for text in ("gun", "hello", "idiot noise"):
        plain, found = raw.score(text), guard.score(text)
        assert found == calibration.apply(raw.score(text, thresholds=calibration.thresholds()))
        assert found.raw is not None
        assert found.raw.unsafe.probability == plain.unsafe.probability
        assert (plain.calibrated, plain.raw, found.calibrated) == (False, None, True)
        assert found.unsafe.probability == calibration.unsafe.calibrator(plain.unsafe.probability)
        for limit in (0.1, 0.5, found.unsafe.probability):
            assert guard.score(text, thresholds=Thresholds(limit)).flagged == (found.unsafe.probability >= limit)
        other = guard.score(text, method="token")
        assert other == raw.score(text, method="token")  # does not apply
    again = calibrate(guard, data, target="max-f1")  # raw scores are what is fitted
    assert again == calibration


def test_a_guard_takes_a_base_rate(word_bundle: Path, data: Path) -> None:
    raw = Guard.load(word_bundle, device="cpu", threads=1)
    calibration = calibrate(raw, data)
    guard = Guard.load(word_bundle, device="cpu", threads=1, calibration=calibration)
    shifted = present(with_prior(calibration, 0.02))
    for text in ("gun", "hello", "idiot noise", "noise"):
        found = guard.score(text, prior=0.02)
        assert found == shifted.apply(raw.score(text, thresholds=shifted.thresholds()))
        assert present(found.raw).unsafe.probability == raw.score(text).unsafe.probability
        assert found.flagged == (found.unsafe.probability >= 0.5)  # the calibration has no thresholds of its own
        limit = Thresholds(found.unsafe.probability)
        assert guard.score(text, prior=0.02, thresholds=limit).flagged
        assert found == guard.score(text, options=ScoreOptions(prior=0.02))
    usual = present(calibration.unsafe.share)
    assert guard.score("gun", prior=usual).unsafe.probability == pytest.approx(guard.score("gun").unsafe.probability)
    assert calibrate(guard, data, prior=0.02) == calibration  # raw scores are what is fitted
    for wrong, options in ((raw, ScoreOptions(prior=0.02)), (guard, ScoreOptions(prior=0.02, method="token"))):
        with pytest.raises(TokmargError, match=r"^prior"):
            wrong.score("gun", options=options)


def test_weights_are_for_files(word_bundle: Path, data: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu", threads=1)
    twice = calibrate(guard, [data, data], weights=[3, 1])
    once = calibrate(guard, data)
    assert twice.unsafe.share == pytest.approx(present(once.unsafe.share))
    p = [0.001, 0.1, 0.5, 0.9, 0.999]
    assert twice.labels["A"].calibrator(p) == pytest.approx(once.labels["A"].calibrator(p), abs=0.02)
    assert [(file.records, file.share) for file in twice.data.files] == [(120, 0.75), (120, 0.25)]
    assert (once.data.files, calibrate(guard, [data]).data) == ((), once.data)
    for files, weights in (
        ([data], [1, 2]),
        ([data, data], [1, 0]),
        ([data], 1),
        ([data], ["1"]),
        ([data], [math.inf]),
    ):
        with pytest.raises(OptionError, match=r"^weights"):
            calibrate(guard, files, weights=weights)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"^guarantee .* weights"):
        calibrate(guard, [data], weights=[1], guarantee=Guarantee("fnr", 0.2))
    with pytest.raises(OptionError, match=r"^data must name at least one file"):
        calibrate(guard, [])


def test_options_are_stored(word_bundle: Path, data: Path) -> None:
    """Of the options, those of the search; exact raw scores are calibrated, whatever method and thresholds say."""
    guard = Guard.load(word_bundle, device="cpu", threads=1)
    calls: list[tuple[int, int]] = []
    options = ScoreOptions(method="token", thresholds=Thresholds(0.7), max_nodes=64)
    calibration = calibrate(
        guard, data, options=options, on_overflow="window", progress=lambda done, total: calls.append((done, total))
    )
    assert calibration.search == SearchSettings(max_nodes=64, on_overflow="window")
    assert calls == [(done, 120) for done in range(1, 121)]
    assert calibration.labels == calibrate(guard, data, max_nodes=64).labels


def test_expansion_goes_on_at_raw_thresholds(word_bundle: Path, data: Path) -> None:
    """A calibrated threshold that lies in the raw interval makes no search; its raw counterpart does."""
    raw = Guard.load(word_bundle, device="cpu", threads=1)
    calibration = calibrate(raw, data)
    shifted = replace(
        calibration, unsafe=replace(calibration.unsafe, calibrator=Sigmoid(1.0, 1.0, -5.0), threshold=None)
    )
    guard = Guard.load(word_bundle, device="cpu", threads=1, calibration=shifted)
    wide: dict[str, Any] = {"tolerance": 1.0, "max_nodes": 64}
    assert raw.score("gun", **wide, thresholds=Thresholds(0.0)).evaluated_nodes == 0
    point = raw.score("gun").unsafe.probability
    image = float(shifted.unsafe.calibrator(point))
    assert guard.score("gun", **wide, thresholds=Thresholds(image * 0.9)).unsafe.flagged
    assert guard.score("gun", **wide, thresholds=Thresholds(image * 0.9)).converged
    assert not guard.score("gun", **wide, thresholds=Thresholds(image * 1.1)).unsafe.flagged
    assert guard.score("gun", **wide, thresholds=Thresholds(image * 1.1)).evaluated_nodes > 0


def test_windows_are_joined_before_they_are_mapped(word_bundle: Path, data: Path) -> None:
    raw = Guard.load(word_bundle, device="cpu", threads=1)
    guard = Guard.load(word_bundle, device="cpu", threads=1, calibration=calibrate(raw, data, method="beta"))
    text = "hello " * 100 + "gun"
    found, plain = guard.score(text, on_overflow="window"), raw.score(text, on_overflow="window")
    assert found.truncated
    assert found.raw is not None
    assert guard.calibration is not None
    assert found.raw.unsafe.probability == plain.unsafe.probability
    for label in ("A", "B"):
        mapped_marginal, raw_marginal = found.labels[label], plain.labels[label]
        assert mapped_marginal is not None
        assert raw_marginal is not None
        assert mapped_marginal.probability == guard.calibration.labels[label].calibrator(raw_marginal.probability)


def test_other_bundles_and_policies_are_refused(word_bundle: Path, data: Path, tmp_path: Path) -> None:
    calibration = calibrate(Guard.load(word_bundle, device="cpu", threads=1), data)
    manifest = Bundle.open(word_bundle).manifest
    policy = {"exclude": ["B"]}
    with pytest.raises(
        TokmargError, match=r"calibration: bundle\.policy: was fitted on another policy than that of tes"
    ):
        Guard.load(word_bundle, device="cpu", policy=policy, calibration=calibration)
    for part in ("model", "spec"):
        other = replace(calibration, bundle=replace(calibration.bundle, **{part: "0" * 64}))
        other.write(tmp_path / "c.json")
        with pytest.raises(
            TokmargError, match=rf"c\.json: bundle\.{part}: was fitted on another {part} than"
        ) as caught:
            Guard.load(word_bundle, device="cpu", calibration=tmp_path / "c.json")
        assert "calibration=False" in str(caught.value)
    short = replace(calibration, labels={"A": calibration.labels["A"]})
    with pytest.raises(TokmargError, match="calibration: labels: must be A, B, C, in this order"):
        short.check(manifest, manifest.spec, "calibration")
