"""What stands in for values that a source does not have."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.intensity.filling import LONGEST_HOLE, filled
from tracker.records import EPOCH, IntensityValue

HOUR = timedelta(hours=1)


def hour(n, g_per_kwh, length=1, **more):
    start = EPOCH + n * HOUR
    value = IntensityValue("JP", g_per_kwh, "grid", "history", "final", "average", "direct")
    return replace(value, **{"start": start, "end": start + length * HOUR, **more})


def between(values, first, last):
    found = filled(values, EPOCH + first * HOUR, EPOCH + last * HOUR)
    return [((v.start - EPOCH) / HOUR, (v.end - EPOCH) / HOUR, v.intensity_g_per_kwh) for v in found]


def test_a_missing_hour_is_the_mean_of_its_neighbours_and_says_so():
    # Case 301: null for one hour between 355 and 396.
    values = [hour(9, 355), hour(11, 396), hour(12, 391)]

    assert between(values, 9.5, 12.5) == [(10, 11, 375.5)]
    (one,) = filled(values, EPOCH + 9.5 * HOUR, EPOCH + 12.5 * HOUR)
    assert (one.status, one.provider, one.raw_value) == ("estimated", "grid (filled)", None)
    assert "no value" in one.note


def test_the_last_value_stands_in_for_what_is_not_told_yet_but_not_for_long():
    assert between([hour(0, 100)], 0, 2) == [(1, 2, 100)]
    assert between([hour(0, 100)], 0, 9) == [(1, 4, 100)]


def test_the_first_value_stands_in_for_a_short_time_before_it_only():
    assert between([hour(2, 100)], 0, 3) == [(0, 2, 100)]
    assert between([hour(4, 100)], 0, 5) == []


def test_a_long_hole_is_not_bridged():
    assert between([hour(0, 100), hour(5, 300)], 0, 6) == [(1, 4, 100)]


def test_bases_are_not_averaged():
    assert between([hour(0, 100), hour(2, 300, basis="lifecycle")], 0, 3) == []


def test_a_forecast_beside_a_hole_leaves_it_a_forecast():
    (one,) = filled([hour(0, 100), hour(2, 300, status="forecast")], EPOCH, EPOCH + 3 * HOUR)
    assert one.status == "forecast"


def test_nothing_known_fills_nothing():
    assert between([], 0, 3) == []


@pytest.mark.parametrize("order", [1, -1])
def test_of_revisions_the_best_stands_beside_a_hole(order):
    late = hour(0, 80, status="provisional", fetched_at=EPOCH + 9 * HOUR)
    early = hour(0, 100, status="provisional", fetched_at=EPOCH + 8 * HOUR)
    assert between([late, early, hour(0, 500, status="forecast")][::order], 0, 2) == [(1, 2, 80)]


@given(st.sets(st.integers(0, 30)), st.integers(0, 20), st.integers(1, 12))
def test_what_is_filled_overlaps_no_value_and_lies_within_three_hours_of_one(known, first, length):
    values = [hour(n, 100 + n) for n in known]
    for start, end, g_per_kwh in between(values, first, first + length):
        assert first <= start < end <= first + length
        assert all(end <= n or start >= n + 1 for n in known)
        assert min(min(abs(start - n - 1), abs(end - n)) for n in known) <= LONGEST_HOLE / HOUR
        assert 100 <= g_per_kwh <= 130
