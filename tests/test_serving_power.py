"""The power that the page is given, against all readings of the run: the same extremes at any zoom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replayed_run import START, store_replayed

from tracker.curves import power_of, reduced
from tracker.records import unix_us_of
from tracker.serving.power import power_figures
from tracker.session.past import get, reader_with

MINUTES = 12
START_US = unix_us_of(START)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("power") / "runs.db"
    store_replayed(path, "run-1", minutes=MINUTES, without=(4, 5), epochs=1)
    return get("run-1", db=path)


@pytest.fixture(scope="module")
def powers(run):
    pieces = run.samples()
    return [power_of([s for s in pieces if s.device.key == device.key]) for device in run.devices]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, MINUTES * 60_000 - 1000),
    st.integers(1000, MINUTES * 60_000),
    st.integers(1, 1500),
)
def test_any_stretch_in_any_number_of_columns_is_that_of_all_readings(run, powers, start_ms, length_ms, columns):
    start_us = START_US + 1000 * start_ms
    end_us = start_us + 1000 * length_ms

    figures = power_figures(reader_with(run), run, start_us, end_us, columns)

    assert figures["detail"] == "readings"
    told = {device["device_index"]: device for device in figures["devices"]}
    for index, (unix_us, power_w) in enumerate(powers):
        curve = reduced(unix_us, power_w, start_us, end_us, columns)
        if np.isnan(curve.mean_w).all() and index not in told:
            continue
        for name in ("least_w", "most_w", "mean_w"):
            found = np.array(told[index][name], dtype=np.float64)
            np.testing.assert_allclose(found, getattr(curve, name), atol=0.006)
