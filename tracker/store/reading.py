"""Reading runs back: queries in, records out.

A run stored as running is judged when it is read (see liveness). Its totals, which its writer computes each minute, are
brought up to its last commit by a function that the caller gives: integrating is not the store's business.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from datetime import time as time_of_day
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args

import sqlalchemy as sa

from tracker.errors import RunNotFoundError, SchemaTooNewError, SettingError, StoreError
from tracker.machine import NANOSECONDS_PER_MICROSECOND, process_start, this_segment
from tracker.records import (
    ClockPair,
    Device,
    Mark,
    Note,
    Reading,
    Run,
    RunStatus,
    Samples,
    Segment,
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
from tracker.units import MICROSECONDS_PER_S

_IDS_PER_QUERY: Final = 500  # SQLite before 3.32 takes 999 parameters
_NEAR_AMONG: Final = 1_000
_LISTED: Final = 5

_SELECT_RUNS: Final = sa.select(
    tables.runs,
    tables.run_details.c.not_measured,
    tables.run_details.c.warnings,
    tables.run_details.c.provenance,
).join(tables.run_details)


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


def instant_us(when: datetime | date | str) -> int:
    """Microseconds since 1970 of an instant as people give it.

    Text is ISO 8601. What has no offset, text, date or datetime, is in the local time of this process, as everywhere
    in Python; a day alone is its first moment.

    Raises:
        SettingError: the text is no date.
    """
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when.strip())
        except ValueError:
            raise SettingError(f"{when!r} is no date; write 2026-11-01 or 2026-11-01T08:30+01:00") from None
    elif not isinstance(when, datetime):
        when = datetime.combine(when, time_of_day())
    return unix_us_of(when.astimezone() if when.tzinfo is None else when)


def _unix_us() -> int:
    return time.time_ns() // NANOSECONDS_PER_MICROSECOND


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
        now_unix_us: Callable[[], int] = _unix_us,
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
        *,
        project: str | None = None,
        name: str | None = None,
        status: RunStatus | None = None,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        tags: Mapping[str, str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Run]:
        """The runs that fit all that is given, newest first.

        Args:
            project: exactly this one; likewise name and every tag.
            status: as judged now.
            since: started then or later; how instants are read: instant_us.
            until: started before then.
            limit: at most so many; None: all.
            offset: leave out so many of the newest.

        Raises:
            SettingError: a wrong status, date or number.
            StoreError: the database cannot be read.
        """
        if status is not None and status not in get_args(RunStatus):
            raise SettingError(f"status {status!r} is none of {', '.join(get_args(RunStatus))}")
        if offset < 0 or (limit is not None and limit < 0):
            raise SettingError("limit and offset must be 0 or more")
        c = tables.runs.c
        query = _SELECT_RUNS.order_by(c.started_unix_us.desc(), c.id.desc()).limit(limit).offset(offset)
        for column, text in ((c.project, project), (c.name, name)):
            if text is not None:
                query = query.where(column == mapping.storable(text))
        if since is not None:
            query = query.where(c.started_unix_us >= instant_us(since))
        if until is not None:
            query = query.where(c.started_unix_us < instant_us(until))
        of_tag = tables.tags.c
        for key, value in (tags or {}).items():
            tagged = sa.select(of_tag.run_id).where(
                of_tag.key == mapping.storable(key), of_tag.value == mapping.storable(value)
            )
            query = query.where(c.id.in_(tagged))
        if self._opened().version is None:
            return []
        with self._snapshot() as connection:
            if status in ("running", "interrupted"):
                is_live = c.id.in_(self._live_ids(connection))
                is_open = c.status == "running"
                if status == "running":
                    query = query.where(is_open, is_live)
                else:
                    query = query.where(sa.or_(c.status == status, sa.and_(is_open, sa.not_(is_live))))
            elif status is not None:
                query = query.where(c.status == status)
            return self._records(connection, connection.execute(query).all())

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
                raise RunNotFoundError(_not_found(reference, ids, recent, database.label))
            return self._records(connection, connection.execute(_SELECT_RUNS.where(c.id == ids[0])).all())[0]

    def seen_through(self, connection: sa.Connection, run_id: str) -> Run:
        """A run as a transaction sees it that is going on; it must be there."""
        return self._records(connection, connection.execute(_SELECT_RUNS.where(tables.runs.c.id == run_id)).all())[0]

    def samples(self, run_id: str) -> list[Samples]:
        """The raw readings, one Samples per segment and device that has any, in this order."""
        return [samples for _, samples in self.each_samples(run_id)]

    def each_samples(self, run_id: str) -> Iterator[tuple[int, Samples]]:
        """As samples, one at a time, since those of a long run fill the memory; with the number of the device."""
        with self._snapshot() as connection:
            for tail in _tails(connection, run_id, _devices(connection, run_id), everything=True):
                yield tail.device_index, tail.samples

    def devices(self, run_id: str) -> tuple[Device, ...]:
        """The devices of a run, in the order that slots number them."""
        with self._snapshot() as connection:
            return _devices(connection, run_id)

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
            for tail in _tails(connection, run_id, _devices(connection, run_id), everything=False):
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

    def segments(self, run_id: str) -> list[Segment]:
        """The processes that sampled for the run, in order of beginning."""
        with self._snapshot() as connection:
            return [mapping.segment_of(row) for row in _segment_rows(connection, [run_id])[run_id]]

    def _opened(self) -> Database:
        if self._database is None or self._database.version is None:
            self._database = open_for_reading(self._db)
        return self._database

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
        last_unix_us = max(row.last_commit_unix_us for row in segments)
        if len(segments) == 1:
            (only,) = segments
            duration_us = only.last_commit_boottime_us - only.started_boottime_us
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


def _not_found(reference: str, ids: Sequence[str], recent: Sequence[str], label: str) -> str:
    if len(ids) > 1:
        shown = ", ".join(ids[:_LISTED]) + (" …" if len(ids) > _LISTED else "")
        return f"{len(ids)} runs have an id that begins with {reference!r}: {shown}; give more of it"
    if not recent:
        return f"no run {reference!r}: there are no runs in {label} yet"
    near = get_close_matches(reference, recent, n=_LISTED, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else f"the newest is {recent[0]}"
    return f"no run {reference!r} in {label}; {hint}"


def _by_run(
    connection: sa.Connection, query: sa.Select[Any], run_id: sa.Column[Any], ids: Sequence[str]
) -> defaultdict[str, list[Any]]:
    """The rows of these runs, in the query's order."""
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for start in range(0, len(ids), _IDS_PER_QUERY):
        for row in connection.execute(query.where(run_id.in_(ids[start : start + _IDS_PER_QUERY]))):
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


def _devices(connection: sa.Connection, run_id: str) -> tuple[Device, ...]:
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
    devices = _devices(connection, run_id)
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
        hot = _hot(connection, run_id, row.segment)
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


def _hot(connection: sa.Connection, run_id: str, segment: int) -> Any:
    """Rows of all devices since the last seal, shape (n, 5)."""
    c = tables.hot_readings.c
    query = sa.select(c.payload).where(c.run_id == run_id, c.segment == segment).order_by(c.seq)
    return hot_rows(b"".join(connection.scalars(query)))


def _clock_pairs(connection: sa.Connection, run_id: str, segment: int) -> list[ClockPair]:
    c = tables.clock_pairs.c
    query = sa.select(c.boottime_us, c.monotonic_us, c.unix_us).where(c.run_id == run_id, c.segment == segment)
    return [ClockPair(*row) for row in connection.execute(query)]
