"""The power of a run's devices over a stretch of time, read with no more of the database than a picture needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from tracker.emissions import SLOT_S
from tracker.records import Samples
from tracker.store import tables
from tracker.store.codec import decode_chunk, joined, samples_of_hot
from tracker.store.reading import RunReader, clock_offsets, devices_of, hot_of
from tracker.units import MICROSECONDS_PER_S, MILLIWATTS_PER_W

if TYPE_CHECKING:
    from tracker.records import FloatColumn, IntColumn


@dataclass(frozen=True, slots=True, eq=False)
class Chunked:
    """What the chunks of one device say of themselves.

    Attributes:
        first_us, last_us: (k,) int64, calendar instants of the first and last reading of each, µs since 1970.
        least_w, most_w: (k,) float64, of the power in each; NaN where it has none.
    """

    device_index: int
    first_us: IntColumn
    last_us: IntColumn
    least_w: FloatColumn
    most_w: FloatColumn


def count_chunks(reader: RunReader, run_id: str, start_us: int, end_us: int) -> int:
    """How many chunks of all devices reach into [start_us, end_us), calendar instants."""
    total = 0
    with reader.snapshot() as connection:
        for segment, offset_us in clock_offsets(connection, run_id, start_us, end_us):
            query = sa.select(sa.func.count()).where(
                *_within(run_id, segment, start_us - offset_us, end_us - offset_us)
            )
            total += int(connection.execute(query).scalar_one())
    return total


def chunks_of(reader: RunReader, run_id: str, start_us: int, end_us: int) -> list[Chunked]:
    """What the chunks in [start_us, end_us) say of themselves, by device and segment; and what is not sealed yet."""
    found = []
    c = tables.chunks.c
    with reader.snapshot() as connection:
        for segment, offset_us in clock_offsets(connection, run_id, start_us, end_us):
            query = (
                sa.select(c.device_index, c.t0_us, c.t1_us, c.min_power_mw, c.max_power_mw)
                .where(*_within(run_id, segment, start_us - offset_us, end_us - offset_us))
                .order_by(c.device_index, c.t0_us)
            )
            rows = np.array([tuple(row) for row in connection.execute(query)], dtype=np.float64).reshape(-1, 5)
            for index in sorted(set(rows[:, 0].astype(int).tolist())):
                own = rows[rows[:, 0] == index]
                edges_us = own[:, 1:3].astype(np.int64) + offset_us
                watts = own[:, 3:5] / MILLIWATTS_PER_W
                found.append(Chunked(index, edges_us[:, 0], edges_us[:, 1], watts[:, 0], watts[:, 1]))
        found.extend(_unsealed(connection, run_id, start_us, end_us))
    return found


def samples_within(reader: RunReader, run_id: str, start_us: int, end_us: int) -> list[tuple[int, Samples]]:
    """The readings of the chunks that reach into [start_us, end_us), and those not sealed yet, by device's number."""
    found: list[tuple[int, Samples]] = []
    c = tables.chunks.c
    with reader.snapshot() as connection:
        devices = devices_of(connection, run_id)
        for segment, offset_us in clock_offsets(connection, run_id, start_us, end_us):
            query = (
                sa.select(c.device_index, c.payload, c.n, c.format)
                .where(*_within(run_id, segment, start_us - offset_us, end_us - offset_us))
                .order_by(c.device_index, c.t0_us)
            )
            pieces: dict[int, list[Samples]] = {}
            for index, payload, n, chunk_format in connection.execute(query):
                pieces.setdefault(index, []).append(decode_chunk(payload, n, chunk_format, devices[index]))
            hot = hot_of(connection, run_id, segment)
            for index in sorted(set(hot[:, 0].tolist())):
                pieces.setdefault(index, []).append(samples_of_hot(devices[index], hot[hot[:, 0] == index]))
            found.extend((index, joined(devices[index], own, offset_us)) for index, own in pieces.items())
    return found


def slots_within(reader: RunReader, run_id: str, start_us: int, end_us: int) -> IntColumn:
    """The slots with known energy that reach into [start_us, end_us).

    Returns:
        (k, 4) int64: device's number, start in s since 1970, twice the energy in nJ, covered time in µs.
    """
    c = tables.slots.c
    query = sa.select(c.device_index, c.start_s, c.twice_energy_nj, c.covered_us).where(
        c.run_id == run_id,
        c.covered_us > 0,
        c.start_s >= start_us // MICROSECONDS_PER_S - SLOT_S,
        c.start_s <= end_us // MICROSECONDS_PER_S,
    )
    with reader.snapshot() as connection:
        rows = connection.execute(query.order_by(c.device_index, c.start_s)).all()
    return np.array([tuple(row) for row in rows], dtype=np.int64).reshape(-1, 4)


def _unsealed(connection: sa.Connection, run_id: str, start_us: int, end_us: int) -> Iterator[Chunked]:
    for segment, offset_us in clock_offsets(connection, run_id, start_us, end_us):
        hot = hot_of(connection, run_id, segment)
        for index in sorted(set(hot[:, 0].tolist())):
            own = hot[hot[:, 0] == index]
            instants_us = own[:, 1] + offset_us
            powers = np.where(own[:, 2] >= 0, own[:, 2] / MILLIWATTS_PER_W, np.nan)
            yield Chunked(index, instants_us, instants_us, powers, powers)


def _within(run_id: str, segment: int, start_us: int, end_us: int) -> list[Any]:
    c = tables.chunks.c
    return [c.run_id == run_id, c.segment == segment, c.t1_us >= start_us, c.t0_us < end_us]
