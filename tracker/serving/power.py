"""Power over time for the page: by least, most and mean of each of a picture's columns, however long the run is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tracker.curves import Curve, reduced
from tracker.emissions import SLOT_S
from tracker.records import Run
from tracker.session.account import gap_us_of
from tracker.session.past import interval_s_of
from tracker.store.power import Chunked, KeptExtremes, chunks_of, count_chunks, powers_within, slots_within
from tracker.store.reading import RunReader
from tracker.units import MICROSECONDS_PER_S, TWICE_NANOJOULES_PER_J

if TYPE_CHECKING:
    from tracker.records import FloatColumn, IntColumn

MOST_COLUMNS: Final = 4000
MOST_DECODED: Final = 5000  # chunks: to decode more of them takes longer than a zoom may


def power_figures(
    reader: RunReader, run: Run, start_us: int, end_us: int, columns: int, kept: KeptExtremes | None = None
) -> dict[str, Any]:
    """What the chart of power shows of [start_us, end_us).

    Over much time the extremes are those that each sealed minute was stored with, and the mean that of the energy in
    slots of five minutes; over less, both are of the readings themselves. Nothing is skipped in either.

    Args:
        kept: of earlier looks.

    Returns:
        start_s, end_s, columns; gap_s: readings further apart are a gap; for each device its number, "least_w",
        "most_w" and "mean_w"; None in these: no reading.
    """
    columns = max(1, min(columns, MOST_COLUMNS))
    if count_chunks(reader, run.id, start_us, end_us) <= MOST_DECODED:
        curves = _of_readings(powers_within(reader, run.id, start_us, end_us), start_us, end_us, columns)
        detail = "readings"
    else:
        minutes = chunks_of(reader, run.id, start_us, end_us, kept)
        slots = slots_within(reader, run.id, start_us, end_us)
        curves = of_chunks(minutes, slots, start_us, end_us, columns)
        detail = "minutes"
    return {
        "start_s": start_us / MICROSECONDS_PER_S,
        "end_s": end_us / MICROSECONDS_PER_S,
        "columns": columns,
        "detail": detail,
        "gap_s": gap_us_of(interval_s_of(run)) / MICROSECONDS_PER_S if detail == "readings" else 2 * SLOT_S,
        "devices": [
            {
                "device_index": index,
                "least_w": _plain(curve.least_w),
                "most_w": _plain(curve.most_w),
                "mean_w": _plain(curve.mean_w),
            }
            for index, curve in sorted(curves.items())
        ],
    }


def _of_readings(
    found: Iterable[tuple[int, IntColumn, FloatColumn]], start_us: int, end_us: int, columns: int
) -> dict[int, Curve]:
    by_device: defaultdict[int, list[tuple[IntColumn, FloatColumn]]] = defaultdict(list)
    for index, unix_us, power_w in found:
        by_device[index].append((unix_us, power_w))
    curves = {}
    for index, pieces in by_device.items():
        unix_us, power_w = map(np.concatenate, zip(*pieces, strict=True))
        order = np.argsort(unix_us, kind="stable")
        curves[index] = reduced(unix_us[order], power_w[order], start_us, end_us, columns)
    return curves


def of_chunks(found: Iterable[Chunked], slots: IntColumn, start_us: int, end_us: int, columns: int) -> dict[int, Curve]:
    """Curves from what chunks say of themselves: each one's extremes in every column that it reaches into."""
    least: dict[int, FloatColumn] = {}
    most: dict[int, FloatColumn] = {}
    for chunked in found:
        index = chunked.device_index
        low: FloatColumn = least.setdefault(index, np.full(columns, np.inf))
        high: FloatColumn = most.setdefault(index, np.full(columns, -np.inf))
        first = np.clip((chunked.first_us - start_us) * columns // (end_us - start_us), 0, columns - 1)
        last = np.clip((chunked.last_us - start_us) * columns // (end_us - start_us), 0, columns - 1)
        is_in = (chunked.last_us >= start_us) & (chunked.first_us < end_us) & ~np.isnan(chunked.most_w)
        first, last = first[is_in], last[is_in]
        for step in range(int((last - first).max(initial=0)) + 1):
            reached = first + step
            within = reached <= last
            np.minimum.at(low, reached[within], chunked.least_w[is_in][within])
            np.maximum.at(high, reached[within], chunked.most_w[is_in][within])
    means = _means(slots, start_us, end_us, columns)
    curves = {}
    for index in sorted({*least, *means}):
        nothing = np.full(columns, np.nan)
        extremes = least.get(index, nothing), most.get(index, nothing)
        known = [np.where(np.isinf(values), np.nan, values) for values in extremes]
        curves[index] = Curve(start_us, end_us, known[0], known[1], means.get(index, nothing))
    return curves


def _means(slots: IntColumn, start_us: int, end_us: int, columns: int) -> dict[int, FloatColumn]:
    """By device the mean power of the slots in each column."""
    bounds_us = np.linspace(start_us, end_us, columns + 1)
    middles_us = (bounds_us[1:] + bounds_us[:-1]) / 2
    found = {}
    for index in sorted(set(slots[:, 0].tolist())):
        own = slots[slots[:, 0] == index]
        energy_j = np.concatenate(([0.0], np.cumsum(own[:, 2] / TWICE_NANOJOULES_PER_J)))
        covered_s = np.concatenate(([0.0], np.cumsum(own[:, 3] / MICROSECONDS_PER_S)))
        starts_us = own[:, 1] * MICROSECONDS_PER_S
        # The slots that begin within a column; where a column is shorter than a slot, the one that it lies in.
        first = np.searchsorted(starts_us, bounds_us[:-1])
        last = np.searchsorted(starts_us, bounds_us[1:])
        inside = np.searchsorted(starts_us, middles_us, side="right") - 1
        is_empty = last <= first
        first, last = np.where(is_empty, np.maximum(inside, 0), first), np.where(is_empty, inside + 1, last)
        gone = is_empty & (
            (inside < 0) | (middles_us >= starts_us[np.maximum(inside, 0)] + SLOT_S * MICROSECONDS_PER_S)
        )
        seconds = covered_s[last] - covered_s[first]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (energy_j[last] - energy_j[first]) / seconds
        found[index] = np.where(gone | (seconds <= 0), np.nan, mean)
    return found


def _plain(values: FloatColumn) -> list[float | None]:
    """Watts to 10 mW, None for NaN: what JSON has."""
    return [None if value != value else round(value, 2) for value in values.tolist()]
