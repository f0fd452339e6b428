"""The calibration document and its published schema, and what a calibrated result is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.support import word_guard
from tests.support.documents import REMOVED, Place, at, edited, places
from tests.support.optional import present
from tests.support.results import marginal
from tokmarg import Result, Thresholds, TokmargError
from tokmarg.calibration.calibration import Calibration
from tokmarg.calibration.calibrators import IDENTITY, Isotonic, Sigmoid
from tokmarg.calibration.label_calibration import Certificate, LabelCalibration, Threshold
from tokmarg.calibration.provenance import BundleProvenance, DataFile, DataProvenance, SearchSettings
from tokmarg.calibration.risk_control import Guarantee
from tokmarg.grammar.grammar import Grammar
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.encoded_record import EncodedRecord
from tokmarg.prompt.labels import Role
from tokmarg.results import Marginal
from tokmarg.score_options import ScoreOptions
from tokmarg.scoring.scorers import ExactScorer, GuardInfo
from tokmarg.tokenizer import Encoder

SCHEMA: dict[str, Any] = json.loads(
    (files("tokmarg.calibration") / "calibration.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = Draft202012Validator(SCHEMA)
FIGURES = {"ece": [0.2, 0.1], "brier": None, "recall": 0.5, "false_positive_rate": None, "precision": 1.0}
#: Temperature 2 for A, flat at 0.3 from 0.4 to 0.8 for B.
HALF, STEPS = Sigmoid(0.5, 0.5, 0.0), Isotonic((0.2, 0.4, 0.8), (0.1, 0.3, 0.3))
CALIBRATION = Calibration(
    "platt",
    BundleProvenance("tests/words", "1" * 64, "2" * 64, "3" * 64),
    DataProvenance("4" * 64, 100, 99, "5" * 64, (DataFile("6" * 64, 60, 0.7), DataFile("7" * 64, 40, 0.3))),
    SearchSettings(1e-3, 256, "window"),
    "max-f1",
    Guarantee("fnr", 0.05, 0.95, True),
    LabelCalibration(
        Sigmoid(1.0, 1.0, math.log(3)), "own", 20, 80, Threshold(0.25, Certificate(20, 1, 0.2)), FIGURES, 0.2, 0.2
    ),
    {
        "A": LabelCalibration(HALF, "own", 11, 80, Threshold(math.inf), {"ece": None, "brier": [0.1, 0.1]}),
        "B": LabelCalibration(STEPS, "pooled", 1, 80, Threshold(0.6), {"ece": None, "brier": None}, 0.1, 0.4),
        "C": LabelCalibration(IDENTITY, "none", 0, 0, None, {"ece": None, "brier": None}),
    },
    {"ece": [0.2, 0.1], "brier": [0.2, 0.1], "recall": 0.5, "false_positive_rate": 0.1, "precision": 1.0},
    "0.1.0",
)
FULL = json.loads(json.dumps(CALIBRATION.to_dict()))
PLACES = list(places(FULL))


def parses(document: object) -> bool:
    try:
        Calibration.parse(document, "c.json")
        return True
    except TokmargError as error:
        message = str(error)
    assert message.startswith("c.json: ")
    assert message.isprintable()
    return False


def test_schema_is_valid_and_closed() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for place in places(SCHEMA):
        part = at(SCHEMA, place)
        if isinstance(part, dict) and "object" in str(part.get("type", "")) and "oneOf" not in part:
            assert "additionalProperties" in part, place


def test_round_trip(tmp_path: Path) -> None:
    VALIDATOR.validate(FULL)
    path = tmp_path / "c.json"
    CALIBRATION.write(path)
    assert Calibration.read(path) == CALIBRATION
    assert json.loads(path.read_text(encoding="utf-8")) == FULL
    assert list(tmp_path.iterdir()) == [path]


def test_what_may_be_left_out() -> None:
    optional = {place for place in PLACES if parses(edited(FULL, place, REMOVED))}
    assert optional == {place for place in PLACES if VALIDATOR.is_valid(edited(FULL, place, REMOVED))} - {
        ("labels", "B", "calibrator", axis, i) for axis in "xy" for i in range(3)
    }
    assert {place[-1] for place in optional} >= {"target", "guarantee", "label_map", "threshold", "certificate", "ece"}
    assert {place[0] for place in optional} <= {"target", "guarantee", "data", "unsafe", "labels", "figures"}


#: What a schema cannot say: numbers that must fit one another.
BEYOND = {"x", "y", "raw", "calibrated", "a", "b", "c", 0, 1, 2}


@pytest.mark.parametrize("value", [None, True, -1, 0, 7, 1.5, "", "text", [], ["x"], {}, {"x": 1}], ids=repr)
def test_mistyped_fields(value: object) -> None:
    refused = 0
    for place in PLACES:
        document = edited(FULL, place, value)
        ours, schema = parses(document), VALIDATOR.is_valid(document)
        assert ours == schema or (schema and BEYOND & set(place)), (place, value, ours)
        refused += not ours
    assert refused > len(PLACES) / 2


def test_unknown_fields() -> None:
    for place in [(), *PLACES]:
        if isinstance(at(FULL, place), dict) and place != ("labels",):
            document = edited(FULL, (*place, "colour"), "red")
            assert not parses(document), place
            assert not VALIDATOR.is_valid(document), place


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("schema_version",), 2, "schema_version: is 2; this tokmarg reads 1"),
        (("method",), "best", "method: must be one of platt, isotonic, temperature, beta, not 'best'"),
        (("bundle", "model"), "A" * 64, "bundle.model: must be 64 hexadecimal digits in lower case"),
        (("data", "records"), -1, "data.records: must be a number of cases, not -1"),
        (("data", "records"), 10**400, "data.records: is a number beyond 64 bits"),
        (("search", "tolerance"), 0, "search.tolerance: must be positive"),
        (("search", "on_overflow"), "cut", 'search.on_overflow: must be "error" or "window"'),
        (("guarantee", "risk"), "tpr", 'guarantee.risk: must be "fnr" or "fpr", not \'tpr\''),
        (("guarantee", "level"), 0, "guarantee.level: must lie strictly between 0 and 1, not 0.0"),
        (("guarantee", "confidence"), 1, "guarantee.confidence: must lie strictly"),
        (("unsafe", "fitted_on"), "luck", "unsafe.fitted_on: must be one of own, pooled, none, not 'luck'"),
        (("unsafe", "calibrator", "a"), -1, "unsafe.calibrator.a: must lie between 0 and"),
        (("unsafe", "threshold", "raw"), 1.5, "unsafe.threshold.raw: must lie between 0 and 1, not 1.5"),
        (("unsafe", "threshold", "raw"), None, "unsafe.threshold.calibrated: must be null where raw is"),
        (("unsafe", "threshold", "calibrated"), 0.4, "unsafe.threshold.calibrated: is 0.4, but the calibrator maps"),
        (("labels", "B", "calibrator", "x", 1), 0.1, "labels.B.calibrator.x: must increase"),
        (("labels", "B", "calibrator", "y", 1), math.nan, "labels.B.calibrator.y.1: must lie between 0 and 1, not nan"),
        (("labels", "A", "figures", "brier"), [0.1], "labels.A.figures.brier: must be the raw and the calibrated"),
        (("labels", "A", "figures", "brier", 1), 2, "labels.A.figures.brier.1: must lie between 0 and 1"),
        (("figures", "recall"), 2, "figures.recall: must lie between 0 and 1, not 2"),
    ],
)
def test_refused_fields(place: Place, value: object, message: str) -> None:
    with pytest.raises(TokmargError) as caught:
        Calibration.parse(edited(FULL, place, value), "c.json")
    assert f"c.json: {message}" in str(caught.value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@settings(max_examples=100)
@given(st.sampled_from([(), *PLACES]), JSON | st.sampled_from(PLACES).map(lambda place: at(FULL, place)))
def test_arbitrary_documents_raise_nothing_else(place: Place, value: object) -> None:
    document = edited(FULL, place, value)
    if parses(document):
        VALIDATOR.validate(document)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"schema_version": 1', "\xff"])
def test_hostile_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TokmargError, match=r"c\.json: ") as caught:
        Calibration.read(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TokmargError, match=r"none\.json: cannot be read: No such file"):
        Calibration.read(tmp_path / "none.json")
    with pytest.raises(TokmargError, match="cannot be read: Is a directory"):
        Calibration.read(tmp_path)
    with (tmp_path / "big.json").open("wb") as stream:
        stream.truncate(17 * 2**20)
    with pytest.raises(TokmargError, match=r"big\.json: larger than 16 MiB"):
        Calibration.read(tmp_path / "big.json")


def result(unsafe: float, a: float, b: float, width: float = 0.0) -> Result:
    def around(p: float) -> Marginal:
        return Marginal(p, max(0.0, p - width), min(1.0, p + width))

    labels = {"A": around(a), "B": around(b), "C": None}
    return Result(7, False, around(unsafe), labels, 0.9, True, "exact", "m", events={"refusal": around(0.4)})


def test_apply_by_hand() -> None:
    found = CALIBRATION.apply(result(0.5, 0.9, 0.3, 0.1))
    assert found.unsafe.probability == pytest.approx(0.75)  # odds 1 times 3
    assert marginal(found, "A").probability == pytest.approx(0.75)  # square root of the odds 9
    assert marginal(found, "B").probability == pytest.approx(0.2)
    assert (marginal(found, "B").lower, marginal(found, "B").upper) == pytest.approx((0.1, 0.3))
    assert found.labels["C"] is None
    assert present(found.events["refusal"]).probability == 0.4
    assert (found.calibrated, found.flagged, found.unsafe.flagged) == (True, True, True)
    row = found.to_dict()
    assert list(row)[-2:] == ["calibrated", "raw"]
    assert row["raw"] == {
        "unsafe": 0.5,
        "labels": {"A": 0.9, "B": 0.3, "C": None},
        "bounds": {"unsafe": [0.4, 0.6], "A": [0.8, 1.0], "B": pytest.approx([0.2, 0.4]), "C": None},
    }
    json.dumps(row, allow_nan=False)


def test_flags_are_decided_on_raw_probabilities() -> None:
    assert CALIBRATION.thresholds() == Thresholds(0.25, {"A": math.inf, "B": 0.6})
    shown = CALIBRATION.shown_thresholds()
    assert shown.unsafe == pytest.approx(0.5)
    assert shown.labels == {"A": math.inf, "B": pytest.approx(0.3)}
    assert not CALIBRATION.apply(result(0.2, 1.0, 0.5)).flagged  # A flags nothing; B is tied with its threshold
    assert marginal(CALIBRATION.apply(result(0.2, 1.0, 0.6)), "B").flagged
    plain = replace(CALIBRATION, unsafe=replace(CALIBRATION.unsafe, threshold=None))
    assert plain.thresholds().unsafe == pytest.approx(0.25)  # calibrated 0.5
    assert plain.shown_thresholds().unsafe == 0.5


@settings(max_examples=100)
@given(*[st.floats(0, 1)] * 6, st.floats(0, 0.2))
def test_users_thresholds_are_those_of_the_shown_probabilities(
    unsafe: float, a: float, b: float, t: float, u: float, v: float, width: float
) -> None:
    limits = Thresholds(t, {"A": u, "B": v})
    found = CALIBRATION.apply(result(unsafe, a, b, width), CALIBRATION.raw_thresholds(limits))
    for shown, limit in ((found.unsafe, t), (marginal(found, "A"), u), (marginal(found, "B"), v)):
        assert shown.flagged == (shown.probability >= limit)
        assert 0 <= shown.lower <= shown.probability <= shown.upper <= 1


def test_guards_that_are_asked_for_one_label_at_a_time(word_bundle: Path) -> None:
    """The highest raw label is the raw `unsafe`, which has a calibrator of its own."""
    encoder = Encoder((word_bundle / "tokenizer.json").read_text(encoding="utf-8"))
    grammar = Grammar.parse([{"choice": [{"text": "safe"}, {"text": "unsafe", "event": "unsafe"}]}], [])
    trie = Trie(grammar, encoder, "<|verdict|>", ("",), ("<|end|>",))
    prompts = tuple(Prompt((), "", (0, 0), (), (0, 0), "user", label) for label in "AB")
    guarded = GuardInfo(("A", "B", "C"), (), "m")
    tries: dict[tuple[Role, str | None], Trie] = {("user", label): trie for label in "AB"}
    limits = CALIBRATION.thresholds()
    scorer = ExactScorer(guarded, tries, limits, ScoreOptions(tolerance=1.0, max_nodes=8), columns=None)
    searches = []
    for prompt, unsafe in zip(prompts, (0.9, 0.3), strict=True):
        search = scorer.search(prompt)
        assert search.wanted(1)
        while wanted := search.wanted(1):  # A's own threshold is never; that of `unsafe` is searched for all the same
            for node in wanted:
                logits = np.full(len(word_guard.VOCAB), -50, dtype=np.float32)
                logits[word_guard.VOCAB["safe"]], logits[word_guard.VOCAB["unsafe"]] = np.log([1 - unsafe, unsafe])
                logits[word_guard.VOCAB["<|end|>"]] = 0
                search.feed(node, logits)
        assert search.result().evaluated == 1
        searches.append(search)
    found = CALIBRATION.apply(scorer.result(EncodedRecord(1, (prompts,), False), [searches]), limits)
    assert found.raw is not None
    assert found.raw.unsafe.probability == pytest.approx(0.9)
    assert found.unsafe.probability == pytest.approx(27 / 28)  # odds 9 times 3
    assert marginal(found, "A").probability == pytest.approx(0.75)
    assert marginal(found, "B").probability == pytest.approx(0.2)
    assert (found.flagged, marginal(found, "A").flagged, marginal(found, "B").flagged) == (True, False, False)


def test_a_full_disk_is_one_with_a_name(tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    resource = pytest.importorskip("resource")
    path, limits = tmp_path / "c.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            CALIBRATION.write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
