"""The power that the page is given, against all readings of the run: the same extremes at any zoom."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replayed_run import START, store_replayed
from stored_runs import BOOT_US, a_run, after, chunks, writer_of
from stored_runs import START as FIRST

from tracker.curves import power_of, reduced
from tracker.records import unix_us_of
from tracker.serving.power import power_figures
from tracker.session.past import get, reader_with
from tracker.store.power import KeptExtremes, chunks_of
from tracker.store.reading import RunReader

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


def test_what_is_kept_grows_with_the_run_and_is_read_anew_where_chunks_have_gone(tmp_path):
    path = tmp_path / "runs.db"
    writer = writer_of(path)
    kept = KeptExtremes()
    reader = RunReader(path)

    def seen() -> list[tuple[int, list[float]]]:
        both = [chunks_of(reader, "run-1", unix_us_of(FIRST), unix_us_of(FIRST) + 10**10, k) for k in (kept, None)]
        told = [[(c.device_index, c.first_us.tolist(), c.most_w.tolist()) for c in found] for found in both]
        assert repr(told[0]) == repr(told[1])  # NaN is what it is not equal to
        return [(index, most_w) for index, _, most_w in told[0]]

    assert seen() == [(0, []), (1, [])]
    for minute in range(3):
        writer.seal(a_run(), chunks(range(60 * minute, 60 * minute + 60)), [], after(60 * minute + 60))
        assert len(seen()[0][1]) == minute + 1
    writer.finish(a_run(status="finished"), [], [], after(180))
    writer.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM chunks WHERE t0_us < ?", (BOOT_US + 100 * 10**6,))

    assert len(seen()[0][1]) == 1
