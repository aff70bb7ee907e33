"""Reading runs back: queries in, records out.

A run stored as running is judged when it is read (see liveness). Its totals, which its writer computes each minute, are
brought up to its last commit by a function that the caller gives: integrating is not the store's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from tracker.errors import RunNotFoundError, SchemaTooNewError, SettingError, StoreError
from tracker.machine import process_start, this_segment, unix_us
from tracker.records import (
    Basis,
    ClockPair,
    Device,
    IntensityValue,
    Mark,
    Note,
    Reading,
    Run,
    Samples,
    Segment,
    Signal,
    Slot,
    Span,
    datetime_of,
    unix_us_of,
)
from tracker.store import rows as mapping
from tracker.store import tables
from tracker.store.codec import decode_chunk, hot_rows, joined, last_reading, samples_of_hot, since
from tracker.store.liveness import SILENCE_LIMIT_US, is_alive
from tracker.store.opening import Database, open_for_reading, store_errors
from tracker.store.statements import id_parts
from tracker.units import MICROSECONDS_PER_S

if TYPE_CHECKING:
    from tracker.store.filters import Order, RunFilter
    from tracker.store.totals import Group, Grouping, Sums

_NEAR_AMONG: Final = 1_000
_LISTED: Final = 5

_SELECT_RUNS: Final = sa.select(
    tables.runs,
    tables.run_details.c.not_measured,
    tables.run_details.c.warnings,
    tables.run_details.c.provenance,
).join(tables.run_details)
_ID: Final = tables.runs.c.id.label("run_id")


@dataclass(frozen=True, slots=True)
class Tail:
    """Readings of one device in one segment whose energy no slot holds yet, from the last settled one on.

    Attributes:
        samples: empty never; the first one is settled where is_continued.
        is_continued: the slots hold this segment's energy up to the first of the samples.
    """

    device_index: int
    segment: int
    samples: Samples
    is_continued: bool


Spell = tuple[int, int]  # from a segment's start to its last sign of life, in µs since 1970


@dataclass(frozen=True, slots=True)
class Unsettled:
    """What is needed to bring the totals of an unfinished run up to its last commit."""

    devices: tuple[Device, ...]
    slots: tuple[Slot, ...]  # energy settled so far
    tails: tuple[Tail, ...]
    segments: tuple[Segment, ...]
    spells: tuple[Spell, ...]  # of the segments, in their order


Complete = Callable[[Run, Unsettled], Run]


class RunReader:
    """Queries of one database, which is opened at the first of them. Holds no connection between two, and can be
    copied and pickled, because every Run that came from it refers to it.

    Args:
        db: a path or an SQLAlchemy URL.
        complete: brings a run stored as running up to its last commit; None: it is given as last stored.
        here: the process that judges whether writers live; None: this one.
        now_unix_us: the calendar clock.
        process_start: as in liveness.is_alive.
    """

    def __init__(
        self,
        db: str | Path,
        *,
        complete: Complete | None = None,
        here: Segment | None = None,
        now_unix_us: Callable[[], int] = unix_us,
        process_start: Callable[[int], int | None] = process_start,
    ) -> None:
        self._db = db
        self._complete = complete
        self._here = here or this_segment()
        self._now_unix_us = now_unix_us
        self._process_start = process_start
        self._database: Database | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_database": None}

    def runs(
        self,
        wanted: RunFilter | None = None,
        order: Order | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        without: Collection[str] = (),
    ) -> list[Run]:
        """The runs that fit all that is wanted.

        Args:
            wanted: None: every run.
            order: None: newest first.
            limit: at most so many; None: all.
            offset: leave out so many of the first.
            without: ids of runs that are left out, few.

        Raises:
            SettingError: a wrong number.
            StoreError: the database cannot be read.
        """
        # Within, here and below: a process that tracks reads single runs of its own, and would pay for it at its start.
        from tracker.store.filters import EVERY_RUN, NEWEST_FIRST, page_of

        wanted, order = wanted or EVERY_RUN, order or NEWEST_FIRST
        if offset < 0 or (limit is not None and limit < 0):
            raise SettingError("limit and offset must be 0 or more")
        if self._opened().version is None:
            return []
        with self._snapshot() as connection:
            # What is stored of the figures of a run that goes on, or was killed, is up to a minute old.
            is_exact = not wanted.has_bounds and not order.sort.is_figure
            unfinished = [] if is_exact else self._unfinished(connection, wanted, without)
            fits = self._fitting(connection, wanted, tables.runs.c, without)
            if not is_exact:
                fits.append(tables.runs.c.status != "running")
            # Of ids alone: a sort of whole rows, with their details, takes ten times as long.
            query = sa.select(tables.runs.c.id).where(*fits).order_by(*order.clauses(tables.runs.c))

            def fetch(limit: int | None, offset: int) -> list[Run]:
                ids = connection.scalars(query.limit(limit).offset(offset)).all()
                rows = _by_run(connection, _SELECT_RUNS.add_columns(_ID), tables.runs.c.id, ids)
                return self._records(connection, [row for run_id in ids for row in rows[run_id]])

            return page_of(fetch, unfinished, order, limit, offset)

    def count(self, wanted: RunFilter | None = None, *, without: Collection[str] = ()) -> int:
        """How many runs fit; None: of all."""
        from tracker.store.filters import EVERY_RUN

        wanted = wanted or EVERY_RUN
        if self._opened().version is None:
            return 0
        with self._snapshot() as connection:
            unfinished = self._unfinished(connection, wanted, without) if wanted.has_bounds else []
            fits = self._fitting(connection, wanted, tables.runs.c, without)
            if wanted.has_bounds:
                fits.append(tables.runs.c.status != "running")
            query = sa.select(sa.func.count()).select_from(tables.runs).where(*fits)
            return int(connection.execute(query).scalar_one()) + len(unfinished)

    def which(self, wanted: RunFilter, ids: Collection[str]) -> set[str]:
        """Those of a few ids whose runs fit."""
        if not ids or self._opened().version is None:
            return set()
        with self._snapshot() as connection:
            c = tables.runs.c
            fits = self._fitting(connection, wanted, c)
            return set(connection.scalars(sa.select(c.id).where(c.id.in_(list(ids)), *fits)))

    def add_sums(
        self, into: dict[Group, Sums], wanted: RunFilter, by: Sequence[Grouping], *, without: Collection[str] = ()
    ) -> None:
        """Add the sums of the runs that fit, by group.

        Not those of the parts of a run that fits, or of one in without.
        """
        from tracker.store.totals import group_of, left_out_of, summed

        if self._opened().version is None:
            return
        with self._snapshot() as connection:

            def fits(c: Any) -> list[sa.ColumnElement[bool]]:
                return self._fitting(connection, wanted, c, without)

            summed(connection, fits, by, into, without)
            unfinished = self._unfinished(connection, wanted, without)
            parts = left_out_of(connection, fits, [run.id for run in unfinished], without)
            for run in unfinished:
                sums = into[group_of(run, by)]
                if run.id in parts:
                    sums.parts += 1
                else:
                    sums.add_run(run)

    def _fitting(
        self,
        connection: sa.Connection,
        wanted: RunFilter,
        c: Any,
        without: Collection[str] = (),
        *,
        with_bounds: bool = True,
    ) -> list[sa.ColumnElement[bool]]:
        """The conditions of a filter on the columns of runs, or of an alias of it."""
        from tracker.store.filters import conditions

        live_ids = lambda: self._live_ids(connection)  # noqa: E731
        fits = list(conditions(wanted, c, live_ids, self._now_unix_us, with_bounds=with_bounds))
        if without:
            fits.append(c.id.not_in(list(without)))
        return fits

    def _unfinished(self, connection: sa.Connection, wanted: RunFilter, without: Collection[str]) -> list[Run]:
        """The runs that fit of those that have not ended by their own hand, up to their last commit."""
        c = tables.runs.c
        fits = self._fitting(connection, wanted, c, without, with_bounds=False)
        query = _SELECT_RUNS.where(*fits, c.status == "running")
        runs = self._records(connection, connection.execute(query).all())
        return [run for run in runs if wanted.fits_bounds(run)]

    def get(self, reference: str) -> Run:
        """The run with this id, with the only id that begins so, or the newest for "last".

        Raises:
            RunNotFoundError: there is none, or more than one; the message names those that come near.
            StoreError: the database cannot be read.
        """
        reference = mapping.storable(reference)
        database = self._opened()
        if database.version is None:
            raise RunNotFoundError(f"no run {reference!r}: there are no runs in {database.label} yet")
        c = tables.runs.c
        newest_first = sa.select(c.id).order_by(c.started_unix_us.desc(), c.id.desc())
        with self._snapshot() as connection:
            if reference == "last":
                ids = connection.scalars(newest_first.limit(1)).all()
            else:
                ids = connection.scalars(newest_first.where(c.id == reference)).all()
            if not ids:
                starts_so = sa.func.substr(c.id, 1, len(reference)) == reference
                ids = connection.scalars(newest_first.where(starts_so)).all() if reference else []
            if len(ids) != 1:
                recent = connection.scalars(newest_first.limit(_NEAR_AMONG)).all()
                named = connection.scalars(newest_first.where(c.name == reference).limit(_LISTED)).all()
                raise RunNotFoundError(_not_found(reference, ids, recent, named, database.label))
            return self._records(connection, connection.execute(_SELECT_RUNS.where(c.id == ids[0])).all())[0]

    def batch(self, ids: Sequence[str]) -> list[Run]:
        """The runs of these ids, in their order; one that is not there is left out."""
        if not ids or self._opened().version is None:
            return []
        with self._snapshot() as connection:
            found = _by_run(connection, _SELECT_RUNS.add_columns(_ID), tables.runs.c.id, ids)
            return self._records(connection, [row for run_id in ids for row in found[run_id]])

    def seen_through(self, connection: sa.Connection, run_id: str) -> Run:
        """A run as a transaction sees it that is going on; it must be there."""
        return self._records(connection, connection.execute(_SELECT_RUNS.where(tables.runs.c.id == run_id)).all())[0]

    def samples(self, run_id: str) -> list[Samples]:
        """The raw readings, one Samples per segment and device that has any, in this order."""
        return [samples for _, samples in self.each_samples(run_id)]

    def each_samples(self, run_id: str) -> Iterator[tuple[int, Samples]]:
        """As samples, one at a time, since those of a long run fill the memory; with the number of the device."""
        with self._snapshot() as connection:
            for tail in _tails(connection, run_id, devices_of(connection, run_id), everything=True):
                yield tail.device_index, tail.samples

    def running_ids(self) -> list[str]:
        """The runs that go on."""
        if self._opened().version is None:
            return []
        with self._snapshot() as connection:
            return self._live_ids(connection)

    def devices(self, run_id: str) -> tuple[Device, ...]:
        """The devices of a run, in the order that slots number them."""
        with self._snapshot() as connection:
            return devices_of(connection, run_id)

    def device_hosts(self, run_id: str) -> tuple[str, ...]:
        """The machines that the devices of a run are in, in the order of devices."""
        c = tables.devices.c
        query = sa.select(c.host).where(c.run_id == run_id).order_by(c.device_index)
        with self._snapshot() as connection:
            return tuple(connection.scalars(query))

    def last_readings(self, run_id: str, of: Segment) -> dict[tuple[str, str], Reading]:
        """The newest reading of each device of a machine since its boot, by kind and key.

        Args:
            of: a process on that machine.
        """
        last: dict[tuple[str, str], Reading] = {}
        with self._snapshot() as connection:
            here = [
                row.segment
                for row in _segment_rows(connection, [run_id])[run_id]
                if (row.host, row.boot_id) == (mapping.storable(of.host), of.boot_id)
            ]
            for tail in _tails(connection, run_id, devices_of(connection, run_id), everything=False):
                reading = last_reading(tail.samples)
                identity = (tail.samples.device.kind, tail.samples.device.key)
                if tail.segment in here and (identity not in last or last[identity].t_us < reading.t_us):
                    last[identity] = reading
        return last

    def spans(self, run_id: str) -> list[Span]:
        """The spans in order of opening; those of a second segment have numbers from 2**32 on."""
        c = tables.spans.c
        query = sa.select(tables.spans).where(c.run_id == run_id).order_by(c.started_unix_us, c.segment, c.id)
        with self._snapshot() as connection:
            return [mapping.span_of(row) for row in connection.execute(query)]

    def marks(self, run_id: str) -> list[Mark]:
        """The marks in order of time."""
        c = tables.marks.c
        query = sa.select(tables.marks).where(c.run_id == run_id).order_by(c.unix_us, c.segment, c.seq)
        with self._snapshot() as connection:
            return [mapping.mark_of(row) for row in connection.execute(query)]

    def last_mark(self, run_id: str) -> Mark | None:
        """The newest mark of the newest process that made any; None: there is none."""
        c = tables.marks.c
        query = sa.select(tables.marks).where(c.run_id == run_id).order_by(c.segment.desc(), c.seq.desc()).limit(1)
        with self._snapshot() as connection:
            row = connection.execute(query).first()
        return None if row is None else mapping.mark_of(row)

    def notes(self, run_id: str) -> list[Note]:
        """The notes in the order in which they were made."""
        c = tables.notes.c
        query = sa.select(c.unix_us, c.text).where(c.run_id == run_id).order_by(c.seq)
        with self._snapshot() as connection:
            return [Note(datetime_of(unix_us), text) for unix_us, text in connection.execute(query)]

    def slots(self, run_id: str) -> list[Slot]:
        """The energy settled so far, by device and time."""
        with self._snapshot() as connection:
            return _slots(connection, run_id)

    def unsettled(self, run_id: str) -> Unsettled:
        """What a run has stored beyond its totals."""
        with self._snapshot() as connection:
            return _unsettled(connection, run_id)

    def dated_values(
        self, provider: str, zone: str, signal: Signal, basis: Basis, start: datetime, end: datetime
    ) -> list[IntensityValue]:
        """All that a source has said here of a zone at some time within [start, end)."""
        if self._opened().version is None:
            return []
        c = tables.intensities.c
        query = sa.select(tables.intensities).where(
            c.provider == mapping.storable(provider),
            c.zone == mapping.storable(zone),
            c.signal == signal,
            c.basis == basis,
            c.start_unix_us < unix_us_of(end),
            c.end_unix_us > unix_us_of(start),
        )
        with self._snapshot() as connection:
            return [mapping.intensity_of(row) for row in connection.execute(query)]

    def segments(self, run_id: str) -> list[Segment]:
        """The processes that sampled for the run, in order of beginning."""
        with self._snapshot() as connection:
            return [mapping.segment_of(row) for row in _segment_rows(connection, [run_id])[run_id]]

    def _opened(self) -> Database:
        if self._database is None or self._database.version is None:
            self._database = open_for_reading(self._db)
        return self._database

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A connection for queries of other modules, whose queries all see the same moment."""
        with self._snapshot() as connection:
            yield connection

    @contextmanager
    def _snapshot(self) -> Iterator[sa.Connection]:
        """A connection whose queries all see the same moment."""
        database = self._opened()
        try:
            with store_errors(database.label), database.engine.connect() as connection:
                yield connection
        except StoreError as exc:
            if (database.version or 0) <= tables.SCHEMA_VERSION or isinstance(exc, RunNotFoundError):
                raise
            raise SchemaTooNewError(
                f"{database.label}: has schema {database.version} of a newer tracker, which this one (schema "
                f"{tables.SCHEMA_VERSION}) cannot read; update it (pip install -U gpu-energy-tracker)"
            ) from exc

    def _is_alive(self, row: Any, now_unix_us: int) -> bool:
        return row.ended_unix_us is None and is_alive(
            mapping.segment_of(row), row.last_commit_unix_us, now_unix_us, self._here, self._process_start
        )

    def _live_ids(self, connection: sa.Connection) -> list[str]:
        """The runs that are being written now. Few, whereas those that were killed may be many."""
        now_unix_us = self._now_unix_us()
        c, here = tables.segments.c, self._here
        is_recent = c.last_commit_unix_us >= now_unix_us - SILENCE_LIMIT_US
        is_from_here = sa.and_(c.host == here.host, c.boot_id == here.boot_id)
        query = (
            sa.select(tables.segments)
            .join(tables.runs)
            .where(tables.runs.c.status == "running", sa.or_(is_recent, is_from_here))
        )
        return sorted({row.run_id for row in connection.execute(query) if self._is_alive(row, now_unix_us)})

    def _records(self, connection: sa.Connection, rows: Sequence[Any]) -> list[Run]:
        ids = [row.id for row in rows]
        tags = _by_run(connection, sa.select(tables.tags), tables.tags.c.run_id, ids)
        devices = _by_run(
            connection, sa.select(tables.devices).order_by(tables.devices.c.device_index), tables.devices.c.run_id, ids
        )
        uses = _intensity_uses(connection, ids)
        segments = _segment_rows(connection, [row.id for row in rows if row.status == "running"])
        now_unix_us = self._now_unix_us()
        records = []
        for row in rows:
            run = replace(mapping.run_of(row, tags[row.id], devices[row.id], uses[row.id]), source=self)
            if row.status == "running":
                run = self._judged(connection, run, segments[row.id], now_unix_us)
            records.append(run)
        return records

    def _judged(self, connection: sa.Connection, run: Run, segments: Sequence[Any], now_unix_us: int) -> Run:
        """A run stored as running, with its true status and all that it has committed."""
        if not segments:
            return replace(run, status="interrupted")
        # A process that has ended by itself has made its last commit some time after the run's end.
        last_unix_us = max(row.ended_unix_us or row.last_commit_unix_us for row in segments)
        if len(segments) == 1:
            (only,) = segments
            last_boottime_us = only.ended_boottime_us or only.last_commit_boottime_us
            duration_us = last_boottime_us - only.started_boottime_us
            if run.started_at is not None:  # after the first readings: the process was there before
                duration_us -= max(0, unix_us_of(run.started_at) - only.started_unix_us)
        else:
            duration_us = last_unix_us - min(row.started_unix_us for row in segments)
        is_live = any(self._is_alive(row, now_unix_us) for row in segments)
        run = replace(
            run,
            status="running" if is_live else "interrupted",
            ended_at=None if is_live else datetime_of(last_unix_us),
            duration_s=max(duration_us, 0) / MICROSECONDS_PER_S,
        )
        return run if self._complete is None else self._complete(run, _unsettled(connection, run.id))


def _not_found(reference: str, ids: Sequence[str], recent: Sequence[str], named: Sequence[str], label: str) -> str:
    if len(ids) > 1:
        shown = ", ".join(ids[:_LISTED]) + (" …" if len(ids) > _LISTED else "")
        return f"{len(ids)} runs have an id that begins with {reference!r}: {shown}; give more of it"
    if not recent:
        return f"no run {reference!r}: there are no runs in {label} yet"
    if named:
        return f"no run has the id {reference!r} in {label}; of that name, the newest first: {', '.join(named)}"
    near = get_close_matches(reference, recent, n=_LISTED, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else f"the newest is {recent[0]}"
    return f"no run {reference!r} in {label}; {hint}"


def _by_run(
    connection: sa.Connection, query: sa.Select[Any], run_id: sa.Column[Any], ids: Sequence[str]
) -> defaultdict[str, list[Any]]:
    """The rows of these runs, in the query's order."""
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for part in id_parts(ids):
        for row in connection.execute(query.where(run_id.in_(part))):
            found[row.run_id].append(row)
    return found


def _intensity_uses(connection: sa.Connection, ids: Sequence[str]) -> defaultdict[str, list[Any]]:
    """What priced each run in its newest pricing."""
    uses, pricings = tables.pricing_uses.c, tables.pricings.c
    newest = sa.select(sa.func.max(pricings.seq)).where(pricings.run_id == uses.run_id).correlate(tables.pricing_uses)
    query = (
        sa.select(
            uses.run_id,
            uses.zone_origin,
            uses.energy_j,
            uses.energy_modelled_j,
            uses.slots,
            tables.intensities,
        )
        .join(tables.intensities)
        .where(uses.pricing_seq == newest.scalar_subquery())
        .order_by(uses.run_id, uses.position)
    )
    return _by_run(connection, query, uses.run_id, ids)


def _segment_rows(connection: sa.Connection, ids: Sequence[str]) -> defaultdict[str, list[Any]]:
    c = tables.segments.c
    return _by_run(connection, sa.select(tables.segments).order_by(c.segment), c.run_id, ids)


def devices_of(connection: sa.Connection, run_id: str) -> tuple[Device, ...]:
    """The devices of a run, in the order that slots and chunks number them."""
    c = tables.devices.c
    rows = connection.execute(sa.select(tables.devices).where(c.run_id == run_id).order_by(c.device_index))
    return tuple(mapping.device_of(row) for row in rows)


def _slots(connection: sa.Connection, run_id: str) -> list[Slot]:
    c = tables.slots.c
    query = (
        sa.select(c.device_index, c.start_s, c.twice_energy_nj, c.covered_us, c.max_power_mw)
        .where(c.run_id == run_id)
        .order_by(c.device_index, c.start_s)
    )
    return [Slot(*row) for row in connection.execute(query)]


def _unsettled(connection: sa.Connection, run_id: str) -> Unsettled:
    devices = devices_of(connection, run_id)
    rows = _segment_rows(connection, [run_id])[run_id]
    return Unsettled(
        devices=devices,
        slots=tuple(_slots(connection, run_id)),
        tails=tuple(_tails(connection, run_id, devices, everything=False)),
        segments=tuple(mapping.segment_of(row) for row in rows),
        spells=tuple((row.started_unix_us, row.last_commit_unix_us) for row in rows),
    )


def _tails(connection: sa.Connection, run_id: str, devices: Sequence[Device], *, everything: bool) -> Iterator[Tail]:
    """The readings of each segment and device, from the last settled one on or all of them."""
    for row in _segment_rows(connection, [run_id])[run_id]:
        pairs = _clock_pairs(connection, run_id, row.segment)
        hot = hot_of(connection, run_id, row.segment)
        for index, device in enumerate(devices):
            settled_us = None if everything else _settled_us(connection, run_id, row.segment, index)
            pieces = _sealed(connection, run_id, row.segment, index, device, settled_us)
            of_device = hot[hot[:, 0] == index]
            if len(of_device):
                pieces.append(samples_of_hot(device, of_device))
            if not pieces:
                continue
            middle_us = (int(pieces[0].t_us[0]) + int(pieces[-1].t_us[-1])) // 2
            nearest = min(pairs, key=lambda pair: abs(pair.boottime_us - middle_us))
            samples = joined(device, pieces, nearest.unix_offset_us)
            if settled_us is not None:
                samples = since(samples, settled_us)
            if not len(samples):
                continue
            yield Tail(index, row.segment, samples, is_continued=settled_us is not None)


def _sealed(
    connection: sa.Connection, run_id: str, segment: int, device_index: int, device: Device, since_us: int | None
) -> list[Samples]:
    """The chunks that reach to since_us or further, in order of time."""
    c = tables.chunks.c
    query = (
        sa.select(c.payload, c.n, c.format)
        .where(c.run_id == run_id, c.segment == segment, c.device_index == device_index)
        .order_by(c.t0_us)
    )
    if since_us is not None:
        query = query.where(c.t1_us >= since_us)
    return [decode_chunk(payload, n, chunk_format, device) for payload, n, chunk_format in connection.execute(query)]


def _settled_us(connection: sa.Connection, run_id: str, segment: int, device_index: int) -> int | None:
    c = tables.chunks.c
    query = (
        sa.select(c.settled_us)
        .where(c.run_id == run_id, c.segment == segment, c.device_index == device_index)
        .order_by(c.t0_us.desc())
        .limit(1)
    )
    return connection.scalars(query).first()


def hot_of(connection: sa.Connection, run_id: str, segment: int) -> Any:
    """Rows of all devices since the last seal, shape (n, 5)."""
    c = tables.hot_readings.c
    query = sa.select(c.payload).where(c.run_id == run_id, c.segment == segment).order_by(c.seq)
    return hot_rows(b"".join(connection.scalars(query)))


def _clock_pairs(connection: sa.Connection, run_id: str, segment: int) -> list[ClockPair]:
    c = tables.clock_pairs.c
    query = sa.select(c.boottime_us, c.monotonic_us, c.unix_us).where(c.run_id == run_id, c.segment == segment)
    return [ClockPair(*row) for row in connection.execute(query)]


def clock_offsets(connection: sa.Connection, run_id: str, start_us: int, end_us: int) -> list[tuple[int, int]]:
    """Of each segment its number, and what its clock lacks to the calendar in [start_us, end_us), in µs."""
    c = tables.clock_pairs.c
    distance_us = sa.func.abs(c.unix_us - (start_us + end_us) // 2)
    nearest = sa.select(c.unix_us - c.boottime_us).where(c.run_id == run_id).order_by(distance_us).limit(1)
    return [
        (row.segment, connection.execute(nearest.where(c.segment == row.segment)).scalar_one())
        for row in _segment_rows(connection, [run_id])[run_id]
    ]
