"""Power reduced to columns: no reading lies outside its column's least and most, at any width."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import GPU, PACKAGE, after

from tracker.curves import power_of, reduced
from tracker.records import Reading
from tracker.store.codec import append_reading, hot_bytes, hot_rows, samples_of_hot

readings = st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 700)), max_size=60).map(sorted)


@given(readings, st.integers(1, 80), st.integers(0, 900), st.integers(1, 300))
def test_every_reading_lies_within_its_column_and_both_ends_of_it_are_readings(given_readings, columns, start, length):
    t = np.array([at for at, _ in given_readings], dtype=np.int64)
    w = np.array([value for _, value in given_readings])
    end = start + length

    curve = reduced(t, w, start, end, columns)

    by_column = {}
    for at, value in given_readings:
        if start <= at < end:
            by_column.setdefault((at - start) * columns // length, []).append(value)
    for column in range(columns):
        found = (curve.least_w[column], curve.most_w[column], curve.mean_w[column])
        if column not in by_column:
            assert all(map(np.isnan, found))
        else:
            values = by_column[column]
            assert found[:2] == (min(values), max(values)) and found[2] == pytest.approx(np.mean(values))


@pytest.mark.parametrize(("end", "columns"), [(0, 5), (-1, 5), (10, 0)])
def test_a_curve_of_nothing_is_refused(end, columns):
    with pytest.raises(ValueError, match="column"):
        reduced(np.array([1]), np.array([1.0]), 0, end, columns)


def samples(device, *given_readings):
    rows = array("q")
    for reading in given_readings:
        append_reading(rows, 0, reading)
    return samples_of_hot(device, hot_rows(hot_bytes(rows)))


def test_a_counter_alone_gives_the_mean_power_between_its_readings_and_none_over_a_wrap():
    us = after(0).boottime_us
    piece = samples(
        PACKAGE,
        *(Reading(us + n * 1_000_000, counter_uj=counter) for n, counter in enumerate((0, 50_000_000, 10, 20_000_010))),
    )

    _, power_w = power_of([piece])

    assert power_w.tolist() == [50.0, 20.0]


def test_power_readings_of_several_processes_come_in_order_of_time():
    us = after(0).boottime_us
    early = samples(GPU, Reading(us, 100_000), Reading(us + 1_000_000, 200_000))
    late = samples(GPU, Reading(us + 2_000_000, 300_000))

    unix_us, power_w = power_of([late, early])

    assert power_w.tolist() == [100.0, 200.0, 300.0] and (np.diff(unix_us) > 0).all()
    assert power_of([])[0].size == 0
