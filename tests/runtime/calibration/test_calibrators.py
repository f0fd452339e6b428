"""Calibrators: monotone, within [0, 1], bit-exact through JSON, and inverted to the last bit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokmarg.calibration.calibrators import IDENTITY, Calibrator, Isotonic, Sigmoid, inverse, parse_calibrator
from tokmarg.documents import Fields
from tokmarg.errors import TokmargError

UNIT = st.floats(0, 1)
WEIGHT = st.floats(1e-3, 50)
SIGMOIDS = st.builds(Sigmoid, WEIGHT, WEIGHT, st.floats(-20, 20))
KNOTS = st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=8, unique_by=lambda knot: knot[0])
ISOTONICS = KNOTS.map(lambda k: Isotonic(tuple(sorted(x for x, _ in k)), tuple(sorted(y for _, y in k))))
CALIBRATORS = st.one_of(st.just(IDENTITY), SIGMOIDS, ISOTONICS)


def parsed(document: object) -> Calibrator:
    return parse_calibrator(Fields(document, "c.json", TokmargError))


@settings(max_examples=200)
@given(CALIBRATORS, st.lists(UNIT, min_size=2, max_size=30))
@example(Sigmoid(1, 1, 0), [0.0, 5e-324, 1e-300, 0.5, 1 - 2**-53, 1.0])
def test_monotone_within_0_and_1(calibrator: Calibrator, p: list[float]) -> None:
    found = calibrator(np.sort(p))
    assert found.min() >= 0
    assert found.max() <= 1
    assert (np.diff(found) >= 0).all()


@settings(max_examples=200)
@given(SIGMOIDS, UNIT, st.integers(1, 200))
def test_neighbouring_doubles_keep_their_order(calibrator: Sigmoid, p: float, steps: int) -> None:
    ladder = [p]
    for _ in range(steps):
        ladder.append(min(1.0, math.nextafter(ladder[-1], 1)))
    assert (np.diff(calibrator(ladder)) >= 0).all()


@settings(max_examples=100)
@given(SIGMOIDS, st.lists(st.floats(1e-6, 1 - 1e-6).map(lambda x: round(x, 6)), min_size=2, unique=True))
def test_a_sigmoid_makes_no_ties_where_doubles_have_room(calibrator: Sigmoid, p: list[float]) -> None:
    inner = calibrator(p)
    room = (inner > 1e-300) & (inner < 1 - 1e-6)
    kept = np.array(p)[room]
    assert len(np.unique(inner[room])) == len(kept)
    assert (np.argsort(kept) == np.argsort(inner[room])).all()


@settings(max_examples=100)
@given(CALIBRATORS, st.lists(UNIT, max_size=20))
def test_json_keeps_every_bit(calibrator: Calibrator, p: list[float]) -> None:
    again = parsed(json.loads(json.dumps(calibrator.to_dict())))
    assert again == calibrator
    assert (again(p) == calibrator(p)).all()


@settings(max_examples=150)
@given(CALIBRATORS, UNIT, UNIT)
@example(Isotonic((0.2, 0.4), (0.1, 0.1)), 0.1, 0.0)
@example(Sigmoid(1, 1, -20), 1.0, 1.0)
def test_inverse_decides_alike(calibrator: Calibrator, value: float, p: float) -> None:
    raw = inverse(calibrator, value)
    assert (float(calibrator(p)) >= value) == (p >= raw)
    if 0 < raw <= 1:  # the smallest that does
        assert float(calibrator(raw)) >= value
        assert float(calibrator(math.nextafter(raw, 0))) < value
    assert math.isinf(raw) == (float(calibrator(1.0)) < value)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.731, 0.999])
def test_sigmoids_by_hand(p: float) -> None:
    assert float(Sigmoid(1, 1, 0)(p)) == pytest.approx(p)  # temperature 1
    odds = p / (1 - p)
    assert float(Sigmoid(2, 2, 0)(p)) == pytest.approx(odds**2 / (1 + odds**2))
    assert float(Sigmoid(1, 1, math.log(3))(p)) == pytest.approx(3 * odds / (1 + 3 * odds))
    beta = math.exp(0.4) * p**2 / (1 - p) ** 0.5
    assert float(Sigmoid(2, 0.5, 0.4)(p)) == pytest.approx(beta / (1 + beta))


def test_isotonic_by_hand() -> None:
    found = Isotonic((0.2, 0.4, 0.8), (0.1, 0.3, 0.3))([0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0])
    assert found == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"kind": "step"}, "kind: must be identity, sigmoid, isotonic or shifted, not 'step'"),
        ({}, "kind: is missing"),
        ({"kind": "identity", "a": 1}, "a: is not a known field"),
        ({"kind": "sigmoid", "a": 0, "b": 0, "c": 1}, "a: and b are both 0"),
        ({"kind": "sigmoid", "a": -1, "b": 0, "c": 1}, "a: must lie between 0 and"),
        ({"kind": "sigmoid", "a": 1, "b": math.nan, "c": 1}, "b: must lie between 0 and"),
        ({"kind": "sigmoid", "a": 1, "b": 1, "c": math.inf}, "c: must lie between"),
        ({"kind": "sigmoid", "a": 1, "b": 1, "c": "0"}, "c: must be a number"),
        ({"kind": "isotonic", "x": [], "y": []}, "x: is empty"),
        ({"kind": "isotonic", "x": [0.1, 0.2], "y": [0.1]}, "y: has 1 numbers, x has 2"),
        ({"kind": "isotonic", "x": [0.2, 0.2], "y": [0.1, 0.2]}, "x: must increase"),
        ({"kind": "isotonic", "x": [0.1, 0.2], "y": [0.2, 0.1]}, "y: must not decrease"),
        ({"kind": "isotonic", "x": [0.1, 2], "y": [0.1, 0.2]}, r"x\.1: must lie between 0 and 1, not 2"),
        ({"kind": "isotonic", "x": [0.1, [0.2]], "y": [0.1, 0.2]}, r"x\.1: must be a number, not a list"),
    ],
)
def test_malformed(document: object, message: str) -> None:
    with pytest.raises(TokmargError, match=message):
        parsed(document)
