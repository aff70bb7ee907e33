"""Which intensity holds when, and the greenest window: against a walk over each minute."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.curve import Step, greenest, mean_of, steps_of
from tracker.errors import SettingError
from tracker.records import IntensityValue

START = datetime(2026, 11, 25, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def value(g_per_kwh: float, start_min: int, end_min: int, **fields) -> IntensityValue:
    span = {"start": START + start_min * MINUTE, "end": START + end_min * MINUTE}
    return IntensityValue("GB", g_per_kwh, "neso", "x", **{"status": "forecast", **span, **fields})


@st.composite
def curves(draw):
    """Steps of whole minutes, some of them left out."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    values, at = [], 0
    for length in lengths:
        if draw(st.integers(0, 5)):
            values.append(value(draw(st.integers(0, 500)), at, at + length))
        at += length
    return values, at


def by_minute(values, minutes):
    found = [None] * minutes
    for one in values:
        for minute in range(int((one.start - START) / MINUTE), min(minutes, int((one.end - START) / MINUTE))):
            found[minute] = one.intensity_g_per_kwh
    return found


@given(curves(), st.integers(1, 60))
def test_no_window_that_begins_at_a_full_minute_is_greener_than_the_greenest(curve, length):
    values, minutes = curve
    length = min(length, minutes)
    steps = steps_of(values, START, START + minutes * MINUTE)
    levels = by_minute(values, minutes)
    means = [
        (Fraction(sum(levels[at : at + length]), length), at)
        for at in range(minutes - length + 1)
        if None not in levels[at : at + length]
    ]

    found = greenest(steps, START, START + minutes * MINUTE, length * MINUTE)

    if not means:
        assert found is None
    else:
        least, _ = min(means)
        assert found.intensity_g_per_kwh == pytest.approx(float(least), abs=1e-9)
        first = min(at for mean, at in means if mean == least)
        assert found.start == START + first * MINUTE
        assert found.end - found.start == length * MINUTE


@given(curves())
def test_steps_are_the_values_in_order_without_the_holes(curve):
    values, minutes = curve

    steps = steps_of(values[::-1], START, START + minutes * MINUTE)

    assert [(step.start, step.end, step.value.intensity_g_per_kwh) for step in steps] == [
        (one.start, one.end, one.intensity_g_per_kwh) for one in values
    ]


def test_the_better_value_holds_and_steps_end_where_they_are_cut():
    forecast, actual = value(100, 0, 60), value(200, 20, 40, status="final")

    steps = steps_of([actual, forecast], START + 10 * MINUTE, START + 50 * MINUTE)

    assert [(int((step.start - START) / MINUTE), step.value.intensity_g_per_kwh) for step in steps] == [
        (10, 100),
        (20, 200),
        (40, 100),
    ]
    assert steps[-1].end == START + 50 * MINUTE


def test_a_window_begins_between_steps_where_that_is_best():
    steps = steps_of([value(100, 0, 60), value(10, 60, 90), value(100, 90, 200)], START, START + 200 * MINUTE)

    found = greenest(steps, START, START + 200 * MINUTE, 40 * MINUTE)

    assert found.start == START + 50 * MINUTE  # the first that holds all of the low step
    assert found.intensity_g_per_kwh == pytest.approx((10 * 30 + 100 * 10) / 40)
    assert mean_of(steps, START, 60 * MINUTE).intensity_g_per_kwh == 100
    assert mean_of(steps, START + 190 * MINUTE, 60 * MINUTE) is None


@pytest.mark.parametrize("length", [timedelta(0), -MINUTE, 61 * MINUTE])
def test_a_window_that_cannot_be_is_refused(length):
    steps = [Step(START, START + 60 * MINUTE, value(1, 0, 60))]

    with pytest.raises(SettingError, match="window"):
        greenest(steps, START, START + 60 * MINUTE, length)


def test_average_and_marginal_make_no_curve():
    with pytest.raises(ValueError, match="marginal"):
        steps_of([value(1, 0, 9), replace(value(1, 9, 10), signal="marginal")], START, START + 9 * MINUTE)
