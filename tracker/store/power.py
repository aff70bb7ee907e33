"""The power of a run's devices over a stretch of time, read with no more of the database than a picture needs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

from tracker.curves import power_of
from tracker.emissions import SLOT_S
from tracker.records import Device, Samples
from tracker.store import tables
from tracker.store.codec import decode_chunk, decode_powers, joined, samples_of_hot
from tracker.store.reading import RunReader, clock_offsets, devices_of, hot_of
from tracker.units import MICROSECONDS_PER_S, MILLIWATTS_PER_W

if TYPE_CHECKING:
    from tracker.records import FloatColumn, IntColumn

_MOST_KEPT: Final = 256  # devices; of a week at 1 s each takes 0.3 MB


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


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The conditions on the chunks of one device in one segment, and what its clock lacks to the calendar."""

    segment: int
    device_index: int
    offset_us: int
    within: tuple[sa.ColumnElement[bool], ...]


def count_chunks(reader: RunReader, run_id: str, start_us: int, end_us: int) -> int:
    """How many chunks of all devices reach into [start_us, end_us), calendar instants; at most one more of each."""
    total = 0
    with reader.snapshot() as connection:
        for stretch in _stretches(connection, run_id, start_us, end_us):
            query = sa.select(sa.func.count()).select_from(tables.chunks).where(*stretch.within)
            total += int(connection.execute(query).scalar_one())
    return total


class KeptExtremes:
    """What the chunks of the runs that were looked at last say of themselves: a zoom reads only what has come since.

    May be used by several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: OrderedDict[tuple[str, int, int], FloatColumn] = OrderedDict()  # by run, segment and device

    def rows(self, connection: sa.Connection, run_id: str, segment: int, device_index: int) -> FloatColumn:
        """The chunks of a device in order of time.

        Returns:
            (k, 4) float64: first and last reading on the machine's own clock in µs, least and most power in mW.
        """
        c = tables.chunks.c
        key = run_id, segment, device_index
        of_device = (c.run_id == run_id, c.segment == segment, c.device_index == device_index)
        count, last_us = connection.execute(sa.select(sa.func.count(), sa.func.max(c.t0_us)).where(*of_device)).one()
        with self._lock:
            held = self._rows.get(key)
        if held is not None and len(held) and len(held) < count:
            held = np.concatenate((held, _extremes(connection, (*of_device, c.t0_us > int(held[-1, 0])))))
        if held is None or len(held) != count or (count and int(held[-1, 0]) != last_us):  # merged or pruned meanwhile
            held = _extremes(connection, of_device)
        with self._lock:
            self._rows[key] = held
            self._rows.move_to_end(key)
            while len(self._rows) > _MOST_KEPT:
                self._rows.popitem(last=False)
        return held


def _extremes(connection: sa.Connection, within: Sequence[sa.ColumnElement[bool]]) -> FloatColumn:
    c = tables.chunks.c
    query = sa.select(c.t0_us, c.t1_us, c.min_power_mw, c.max_power_mw).where(*within).order_by(c.t0_us)
    return np.array([tuple(row) for row in connection.execute(query)], dtype=np.float64).reshape(-1, 4)


def chunks_of(
    reader: RunReader, run_id: str, start_us: int, end_us: int, kept: KeptExtremes | None = None
) -> list[Chunked]:
    """What the chunks in [start_us, end_us) say of themselves, by device and segment; and what is not sealed yet.

    Args:
        kept: of earlier looks; grows.
    """
    kept = kept or KeptExtremes()
    found = []
    with reader.snapshot() as connection:
        devices = range(len(devices_of(connection, run_id)))
        for segment, offset_us in clock_offsets(connection, run_id, start_us, end_us):
            for index in devices:
                rows = kept.rows(connection, run_id, segment, index)
                rows = rows[(rows[:, 1] >= start_us - offset_us) & (rows[:, 0] < end_us - offset_us)]
                edges_us, watts = rows[:, :2].astype(np.int64) + offset_us, rows[:, 2:] / MILLIWATTS_PER_W
                found.append(Chunked(index, edges_us[:, 0], edges_us[:, 1], watts[:, 0], watts[:, 1]))
        found.extend(_unsealed(connection, run_id, start_us, end_us))
    return found


def powers_within(
    reader: RunReader, run_id: str, start_us: int, end_us: int
) -> Iterator[tuple[int, IntColumn, FloatColumn]]:
    """The power of the chunks that reach into [start_us, end_us), and of what is not sealed yet, by segment and device.

    As curves.power_of gives it: where no power is known, from the counter.

    Yields:
        the device's number, (n,) int64 calendar instants in µs, (n,) float64 in W.
    """
    c = tables.chunks.c
    with reader.snapshot() as connection:
        devices = devices_of(connection, run_id)
        for segment, of_segment in groupby(
            _stretches(connection, run_id, start_us, end_us), key=lambda stretch: stretch.segment
        ):
            hot = hot_of(connection, run_id, segment)
            for stretch in of_segment:
                query = sa.select(c.min_power_mw, c.payload, c.n, c.format).where(*stretch.within).order_by(c.t0_us)
                sealed = connection.execute(query).all()
                device = devices[stretch.device_index]
                newest = samples_of_hot(device, hot[hot[:, 0] == stretch.device_index])
                if sealed or len(newest):
                    yield stretch.device_index, *_power(device, sealed, newest, stretch.offset_us)


def _power(device: Device, sealed: Sequence[Any], newest: Samples, offset_us: int) -> tuple[IntColumn, FloatColumn]:
    with_power = [(row.payload, row.n, row.format) for row in sealed if row.min_power_mw is not None]
    if not with_power:
        pieces = [decode_chunk(row.payload, row.n, row.format, device) for row in sealed]
        return power_of([joined(device, [*pieces, newest], offset_us)])
    t_us, power_mw, known = decode_powers(with_power)
    instants_us = np.concatenate((t_us[known], newest.t_us[newest.power_known])) + offset_us
    return instants_us, np.concatenate((power_mw[known], newest.power_mw[newest.power_known])) / MILLIWATTS_PER_W


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


def _stretches(connection: sa.Connection, run_id: str, start_us: int, end_us: int) -> Iterator[_Stretch]:
    """The chunks of each segment and device that may reach into [start_us, end_us)."""
    c = tables.chunks.c
    devices = range(len(devices_of(connection, run_id)))
    for segment, offset_us in clock_offsets(connection, run_id, start_us, end_us):
        for index in devices:
            of_device = [c.run_id == run_id, c.segment == segment, c.device_index == index]
            # The one that goes on at the start began before it. All by the index: no earlier row is looked at.
            before = sa.select(sa.func.max(c.t0_us)).where(*of_device, c.t0_us <= start_us - offset_us)
            first_us = connection.execute(before).scalar_one()
            reaches = [
                c.t0_us >= (start_us - offset_us if first_us is None else first_us),
                c.t0_us < end_us - offset_us,
            ]
            yield _Stretch(segment, index, offset_us, (*of_device, *reaches))
