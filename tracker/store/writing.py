"""Writing a run: its row at once, its readings each second, sealed chunks and slots each minute, its end."""

from __future__ import annotations

import copy
import ctypes
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from tracker.errors import StoreError
from tracker.machine import clock_pair
from tracker.records import (
    ClockPair,
    Device,
    DeviceEnergy,
    IntensityUse,
    IntensityValue,
    Mark,
    Run,
    RunStatus,
    Samples,
    Segment,
    Slot,
    Span,
    unix_us_of,
)
from tracker.store import rows, tables
from tracker.store import statements as sql
from tracker.store.codec import HOT_COLUMNS, hot_bytes
from tracker.store.opening import BEGIN, Database, checkpoint, driver_connection, store_errors
from tracker.store.overlaps import overlapping_runs, unfinished_runs

if TYPE_CHECKING:
    from tracker.store.intensities import Fetch

# Connections inherited over a fork: SQLite forbids even to close them in the child, which their end would do. Closed
# within a transaction of the parent's it would roll that back, and damage the database (measured).
_inherited: Final[list[sa.Connection]] = []


@dataclass(frozen=True, slots=True)
class Chunk:
    """Readings of one device to be sealed: all that were committed since the last seal, or more.

    Attributes:
        device_index: position among the writer's devices.
        samples: the readings, at least one.
        settled_us: the slots written with this seal, and those before it, hold the device's energy up to this
            reading; None: they hold none of this segment yet. A dead run's energy is integrated from here on.
    """

    device_index: int
    samples: Samples
    settled_us: int | None


# A run as all its segments together give it, seen from within a transaction.
Whole = Callable[[sa.Connection, str], Run]

# Of several processes of a run the worst counts. One that was interrupted may be the victim of one that failed.
_FROM_BEST_TO_WORST: Final[tuple[RunStatus, ...]] = ("finished", "interrupted", "failed")


class RunWriter:
    """Writes one segment of a run through one connection; for one thread at a time.

    begin comes first, then add_devices, commit_second and seal in any order, finish and close. A call that raises
    StoreError has written nothing and may be repeated, with more. Devices are numbered in the order of add_devices.

    Args:
        database: where to.
        whole: sums a run over its segments, for totals that hold beside other processes; None: only this segment's.
    """

    def __init__(self, database: Database, whole: Whole | None = None) -> None:
        self._database = database
        self._whole = whole
        self._connection: sa.Connection | None = None
        self._run_id = ""
        self._host = ""
        self._segment = 0
        self._begun_before: Sequence[str] = ()
        self._pricing_seq = 0
        self._uses: Sequence[IntensityUse] | None = ()  # of the pricing, as it stands; None: not known
        self._hot_seq = 0
        self._mark_seq = 0
        self._indices: list[int] = []  # of the writer's devices among the run's
        self._keeps_numbers = True  # these are the writer's own
        self._index_of: dict[tuple[str, str], int] = {}  # the same, by kind and key
        self._notes_before: dict[int, tuple[str, ...]] = {}  # of the run's devices, by segments before this one

    @property
    def has_joined(self) -> bool:
        """Whether others have begun the run."""
        return self._segment > 0

    def begin(self, run: Run, segment: Segment, argv: Sequence[str] | None = None) -> None:
        """Put the run on record as running, or take up an existing run of this id with one more segment.

        Args:
            run: what is known at the start; of an existing run the name, tags and start stay as they are.
            segment: this process.
            argv: the command line, secrets masked; None: not to be stored.

        Raises:
            StoreError: as in all methods here, when the database cannot take it.
        """
        if run.started_at is None:
            raise StoreError(f"run {run.id} has no start and cannot be stored")
        self._run_id, self._host = run.id, segment.host
        with self._transaction() as connection:
            self._begun_before = unfinished_runs(connection)
            self._insert_run(connection, run, argv)
            self._segment = sql.NEXT_SEGMENT.execute(connection, {"run_id": run.id}).scalar_one()
            self._pricing_seq = sql.NEXT_PRICING.execute(connection, {"run_id": run.id}).scalar_one()
            sql.INSERT_SEGMENT.execute(connection, self._of_segment() | rows.segment_row(segment))
            self._write_clocks(connection, segment.started)
            self._write_pricing(connection, run, segment.started)

    def moved_to(self, database: Database) -> RunWriter:
        """A writer that goes on with the run in another database, into which all of it has been copied."""
        other = copy.copy(self)
        other._database, other._connection = database, None
        return other

    @contextmanager
    def as_it_is(self) -> Iterator[sa.Connection]:
        """A transaction to read what is written here, also where the file has no name any more."""
        if self._connection is None:
            raise StoreError(f"{self._database.label}: nothing has been written there")
        self._connection.info[BEGIN] = "BEGIN"  # SQLite refuses even the right to write such a file
        with store_errors(self._database.label), self._connection.begin():
            yield self._connection

    def count_segments(self) -> int:
        """How many processes have been in the run."""
        with self._reading() as connection:
            query = sa.select(sa.func.count()).where(tables.segments.c.run_id == self._run_id)
            return int(connection.execute(query).scalar_one())

    def overlapping_runs(self, run: Run, now: ClockPair) -> list[str]:
        """Ids of other runs that a GPU of this one was charged to meanwhile."""
        keys = [rows.storable(device.key) for device in run.devices if device.kind == "gpu"]
        if not keys or run.started_at is None:
            return []
        with self._reading() as connection:
            from_us = unix_us_of(run.started_at)
            return overlapping_runs(
                connection, self._run_id, run.parent_id, keys, from_us, now.unix_us, self._begun_before
            )

    def set_start(self, started_at: datetime) -> None:
        """State the run's true start, which is known only after the first readings; not where others have begun it."""
        if self._segment:
            return
        with self._transaction() as connection:
            start = {"of_run": self._run_id, "started_unix_us": unix_us_of(started_at)}
            sql.UPDATE_RUN.execute(connection, start)

    def add_devices(self, devices: Sequence[Device]) -> None:
        """Add devices that a sensor has found. One that the run knows from this host keeps its number there."""
        with self._transaction() as connection:
            held = sql.DEVICES_OF_RUN.execute(connection, {"run_id": self._run_id}).all()
            known = {(row.host, row.kind, row.key): row.device_index for row in held}
            notes = {row.device_index: rows.notes_of(row.energy_notes) for row in held}
            indices = []
            for device in devices:
                row = rows.device_row(device, self._host)
                identity = (row["host"], row["kind"], row["key"])
                if identity not in known:
                    known[identity] = len(known)
                    row |= {"run_id": self._run_id, "device_index": known[identity]}
                    sql.INSERT_DEVICE.execute(connection, row)
                indices.append(known[identity])
        self._indices += indices
        self._keeps_numbers = self._indices == list(range(len(self._indices)))
        for device, index in zip(devices, indices, strict=True):
            self._index_of[device.kind, device.key] = index
            self._notes_before[index] = notes.get(index, ())

    def commit_second(
        self, readings: array[int], now: ClockPair, *, spans: Sequence[Span] = (), marks: Sequence[Mark] = ()
    ) -> None:
        """Commit what has come in since the last commit; it survives the end of the process.

        Args:
            readings: rows made by codec.append_reading; may be empty: the run is alive nonetheless.
            now: when that is.
            spans: opened or closed since.
            marks: since.
        """
        payload = hot_bytes(self._renumbered(readings))
        hot_row = {"run_id": self._run_id, "segment": self._segment, "seq": self._hot_seq, "payload": payload}
        if self._database.path is not None and self._connection is not None and not spans and not marks:
            # Past SQLAlchemy: most of what a second's commit costs is its layers, cold in the cache.
            with store_errors(self._database.label):
                raw = driver_connection(self._connection)
                try:
                    raw.execute("BEGIN IMMEDIATE")
                    if payload:
                        sql.INSERT_HOT.execute_raw(raw, hot_row)
                    sql.UPDATE_SEGMENT.execute_raw(raw, self._commit_values(now))
                    raw.execute("COMMIT")
                except BaseException:
                    if raw.in_transaction:
                        raw.execute("ROLLBACK")
                    raise
        else:
            with self._transaction() as connection:
                if payload:
                    sql.INSERT_HOT.execute(connection, hot_row)
                self._write_progress(connection, now, spans, marks)
        self._hot_seq += 1
        self._mark_seq += len(marks)

    def seal(
        self,
        run: Run,
        chunks: Sequence[Chunk],
        slots: Sequence[Slot],
        now: ClockPair,
        *,
        spans: Sequence[Span] = (),
        marks: Sequence[Mark] = (),
    ) -> None:
        """Replace all committed seconds by chunks, add to the slots and store the totals; survives a power cut.

        Args:
            run: the run as computed up to now; the totals of its devices are matched by kind and key.
            chunks: hold every reading committed since the last seal.
            slots: what is to be added to each slot since the last seal, not the slot's whole.
            now: when that is.
            spans: opened, closed or with energy known since the last commit.
            marks: since the last commit.
        """
        with self._transaction(is_durable=True) as connection:
            self._settle(connection, chunks, slots, now)
            self._write_progress(connection, now, spans, marks)
            whole = self._of_all_segments(connection, run)
            self._write_totals(connection, replace(whole or run, status="running"), now, is_whole=whole is not None)
        self._mark_seq += len(marks)
        self._checkpoint()

    def finish(
        self,
        run: Run,
        chunks: Sequence[Chunk],
        slots: Sequence[Slot],
        now: ClockPair,
        *,
        spans: Sequence[Span] = (),
        marks: Sequence[Mark] = (),
    ) -> Run:
        """Seal what is left, store the final record and end the segment. Arguments: as for seal.

        Returns:
            the record as stored: of a run of several processes their sum, still running where another is.
        """
        # Which was before now: the last readings and whatever holds up this commit come after it.
        since_us = 0 if run.ended_at is None else max(0, now.unix_us - unix_us_of(run.ended_at))
        ended = {
            "of_run": self._run_id,
            "of_segment": self._segment,
            "ended_boottime_us": now.boottime_us - since_us,
            "ended_monotonic_us": now.monotonic_us - since_us,
            "ended_unix_us": now.unix_us - since_us,
            "status": run.status,
        }
        with self._transaction(is_durable=True) as connection:
            self._settle(connection, chunks, slots, now)
            self._write_progress(connection, now, spans, marks)
            sql.UPDATE_SEGMENT.execute(connection, ended)
            whole = self._of_all_segments(connection, run)
            if whole is not None:
                run = whole if whole.status == "running" else replace(whole, status=self._joint_status(connection))
            self._write_totals(connection, run, now, is_whole=whole is not None)
        self._mark_seq += len(marks)
        self._checkpoint()
        return run

    def _of_all_segments(self, connection: sa.Connection, run: Run) -> Run | None:
        """The run as all its segments give it, with what this one has to say; None where this is the only one."""
        if self._whole is None:
            return None
        others = tables.segments.c
        query = sa.select(others.segment).where(others.run_id == self._run_id, others.segment != self._segment).limit(1)
        if connection.execute(query).first() is None:
            return None
        self._write_devices(connection, [(self._index_of[own.kind, own.key], own) for own in run.devices])
        whole = self._whole(connection, self._run_id)
        return replace(
            whole,
            not_measured=tuple(dict.fromkeys((*whole.not_measured, *run.not_measured))),
            warnings=tuple(dict.fromkeys((*whole.warnings, *run.warnings))),
            provenance={**whole.provenance, **run.provenance},
        )

    def _joint_status(self, connection: sa.Connection) -> RunStatus:
        """The worst end among the last segment and those that it ran beside; earlier ones were continued by it."""
        c = tables.segments.c
        query = sa.select(c.started_unix_us, c.last_commit_unix_us, c.status).where(c.run_id == self._run_id)
        segments = connection.execute(query).all()
        newest_start_us = max(row.started_unix_us for row in segments)
        ends: list[RunStatus] = [
            row.status or "interrupted" for row in segments if row.last_commit_unix_us >= newest_start_us
        ]
        return max(ends, key=_FROM_BEST_TO_WORST.index)

    def add_slots(self, connection: sa.Connection, slots: Iterable[rows.Row]) -> None:
        """Add to the energy of slots, within a transaction; the rows are those of tables.slots."""
        more = list(slots)
        if more:
            sql.ADD_TO_SLOTS.execute(connection, more)

    def restate(self, connection: sa.Connection, run_id: str) -> None:
        """Work the totals of a run out anew from all its segments, within a transaction that has added some."""
        assert self._whole is not None
        self._run_id = run_id
        self._pricing_seq = sql.NEXT_PRICING.execute(connection, {"run_id": run_id}).scalar_one()
        of_run = {"of_run": run_id}
        sql.UPDATE_RUN.execute(connection, of_run | {"status": "running"})  # so that it is judged anew
        run = self._whole(connection, run_id)
        if run.status != "running":
            run = replace(run, status=self._joint_status(connection))
        self._write_totals(connection, run, clock_pair(), is_whole=True)

    def known_intensities(
        self, provider: str, zone: str, start: datetime, end: datetime
    ) -> tuple[list[IntensityValue], Fetch | None]:
        """What anybody has learnt from a source about [start, end), and when it was last asked."""
        from tracker.store.intensities import known_values, last_fetch  # loaded by whoever has a source to ask

        with self._transaction() as connection:
            return known_values(connection, provider, zone, start, end), last_fetch(connection, provider, zone)

    def add_intensities(
        self, provider: str, zone: str, values: Sequence[IntensityValue], fetch: Fetch
    ) -> list[IntensityValue]:
        """Keep what a source has answered; returns the values as they stand in the database."""
        from tracker.store.intensities import add_values, note_fetch

        with self._transaction() as connection:
            note_fetch(connection, provider, zone, fetch)
            return add_values(connection, values)

    def close(self) -> None:
        """Close the connection. The last one of a file moves its WAL into it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with store_errors(self._database.label):
                connection.close()

    def forget_after_fork(self) -> None:
        """Let go of the parent's connection in a forked child, without closing it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _inherited.append(connection)
            # One reference too many: the end of the interpreter clears the list above, and would close it then.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    def abandon(self) -> None:
        """Let go of a connection whose descriptors are the program's by now: it must not be closed, ever."""
        if self._connection is not None:
            import ctypes

            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))  # not at the interpreter's end either
            self._connection = None

    @contextmanager
    def _transaction(self, *, is_durable: bool = False) -> Iterator[sa.Connection]:
        with store_errors(self._database.label):
            if self._connection is None:
                self._connection = self._database.engine.connect()
            connection = self._connection
            # A second's commit may be lost in a power cut, a seal's not: only that waits for the disk. EXTRA: with FULL
            # a rollback journal that was removed may come back, and take the commit back (seen in test_power_loss).
            waits = is_durable and self._database.path is not None
            if waits:
                driver_connection(connection).execute("PRAGMA synchronous=EXTRA")
            try:
                with connection.begin():
                    yield connection
            except BaseException:
                self._uses = None  # it may have been written and taken back
                raise
            finally:
                if waits:
                    driver_connection(connection).execute("PRAGMA synchronous=NORMAL")

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads, and so waits for nobody."""
        with store_errors(self._database.label):
            if self._connection is None:
                self._connection = self._database.engine.connect()
            self._connection.info[BEGIN] = "BEGIN"
            try:
                with self._connection.begin():
                    yield self._connection
            finally:
                del self._connection.info[BEGIN]

    def _checkpoint(self) -> None:
        if self._connection is not None:
            with store_errors(self._database.label):
                checkpoint(self._database, self._connection)

    def _of_segment(self) -> rows.Row:
        return {"run_id": self._run_id, "segment": self._segment}

    def _renumbered(self, readings: array[int]) -> array[int]:
        """The readings with the run's numbers of devices, which differ where the run had devices before."""
        if self._keeps_numbers:
            return readings
        renumbered = array("q", readings)
        for at in range(0, len(renumbered), len(HOT_COLUMNS)):
            renumbered[at] = self._indices[renumbered[at]]
        return renumbered

    def _insert_run(self, connection: sa.Connection, run: Run, argv: Sequence[str] | None) -> None:
        sql.INSERT_RUN.execute(connection, rows.run_row(run) | {"status": "running"})
        sql.INSERT_DETAILS.execute(
            connection,
            {"run_id": run.id, "argv": None if argv is None else rows.json_of(argv)} | rows.details_row(run),
        )
        if run.tags:
            sql.INSERT_TAGS.execute(
                connection,
                [
                    {"run_id": run.id, "key": rows.storable(key), "value": rows.storable(value)}
                    for key, value in run.tags.items()
                ],
            )

    def _write_clocks(self, connection: sa.Connection, now: ClockPair) -> None:
        clocks = {"boottime_us": now.boottime_us, "monotonic_us": now.monotonic_us, "unix_us": now.unix_us}
        sql.INSERT_CLOCKS.execute(connection, self._of_segment() | clocks)

    def _commit_values(self, now: ClockPair) -> rows.Row:
        return {
            "of_run": self._run_id,
            "of_segment": self._segment,
            "last_commit_boottime_us": now.boottime_us,
            "last_commit_unix_us": now.unix_us,
        }

    def _write_progress(
        self, connection: sa.Connection, now: ClockPair, spans: Sequence[Span], marks: Sequence[Mark]
    ) -> None:
        of_segment = self._of_segment()
        sql.UPDATE_SEGMENT.execute(connection, self._commit_values(now))
        if marks:
            sql.INSERT_MARKS.execute(
                connection,
                [of_segment | {"seq": seq} | rows.mark_row(mark) for seq, mark in enumerate(marks, self._mark_seq)],
            )
        if spans:
            sql.PUT_SPANS.execute(connection, [of_segment | rows.span_row(span) for span in spans])

    def _settle(
        self, connection: sa.Connection, chunks: Sequence[Chunk], slots: Sequence[Slot], now: ClockPair
    ) -> None:
        sql.DELETE_HOT.execute(connection, self._of_segment())
        self._write_clocks(connection, now)
        if chunks:
            of_segment = self._of_segment()
            sql.INSERT_CHUNKS.execute(
                connection,
                [
                    of_segment
                    | {"device_index": self._indices[chunk.device_index]}
                    | rows.chunk_row(chunk.samples, chunk.settled_us)
                    for chunk in chunks
                ],
            )
        self.add_slots(
            connection,
            (
                {
                    "run_id": self._run_id,
                    "device_index": self._indices[slot.device_index],
                    "start_s": slot.start_s,
                    "twice_energy_nj": slot.twice_energy_nj,
                    "covered_us": slot.covered_us,
                    "max_power_mw": slot.max_power_mw,
                }
                for slot in slots
            ),
        )

    def _write_totals(self, connection: sa.Connection, run: Run, now: ClockPair, *, is_whole: bool) -> None:
        """is_whole: the run's devices are all of its devices, in their order."""
        of_run = {"of_run": self._run_id}
        sql.UPDATE_RUN.execute(connection, of_run | rows.totals_row(run, now) | {"status": run.status})
        sql.UPDATE_DETAILS.execute(connection, of_run | rows.details_row(run))
        if is_whole:
            self._write_devices(connection, list(enumerate(run.devices)))
        else:
            self._write_devices(connection, [(self._index_of[own.kind, own.key], own) for own in run.devices])
        self._write_pricing(connection, run, now)

    def _write_devices(self, connection: sa.Connection, devices: Sequence[tuple[int, DeviceEnergy]]) -> None:
        """The totals of devices, by their number in the run."""
        if devices:
            of_run = {"of_run": self._run_id}
            sql.UPDATE_DEVICES.execute(
                connection,
                [
                    of_run | {"of_index": index} | rows.device_totals_row(device, self._notes_before.get(index, ()))
                    for index, device in devices
                ],
            )

    def _write_pricing(self, connection: sa.Connection, run: Run, now: ClockPair) -> None:
        """The pricing by this writer, replaced as the run goes on, so that a killed run has one."""
        if not run.intensity:
            return
        write_pricing(connection, run, self._pricing_seq, now.unix_us, before=self._uses)
        self._uses = run.intensity


def write_pricing(
    connection: sa.Connection, run: Run, seq: int, unix_us: int, *, before: Sequence[IntensityUse] | None = ()
) -> None:
    """Put a run's emissions and what priced them on record, as its pricing of this number.

    Args:
        before: what this pricing holds already: a run of weeks has thousands of uses, of which the last few change;
            None: that is not known.
    """
    provider = run.provenance.get("grid", {}).get("provider")
    sql.PUT_PRICINGS.execute(connection, _pricing_row(run, seq, unix_us, "run", provider))
    c = tables.pricing_uses.c
    if before is None or len(before) > len(run.intensity):
        kept = 0 if before is None else len(run.intensity)
        connection.execute(
            tables.pricing_uses.delete().where(c.run_id == run.id, c.pricing_seq == seq, c.position >= kept)
        )
    _write_uses(
        connection,
        (
            (run.id, seq, position, use)
            for position, use in enumerate(run.intensity)
            if before is None or position >= len(before) or use != before[position]
        ),
    )


def write_new_pricings(
    connection: sa.Connection, pricings: Sequence[tuple[Run, int, str | None]], unix_us: int, reason: str
) -> None:
    """Put pricings of many runs on record, none of which is there yet.

    Args:
        pricings: each run as priced, the number of its pricing, and who was asked.
    """
    if not pricings:
        return
    sql.PUT_PRICINGS.execute(
        connection, [_pricing_row(run, seq, unix_us, reason, provider) for run, seq, provider in pricings]
    )
    _write_uses(
        connection,
        ((run.id, seq, position, use) for run, seq, _ in pricings for position, use in enumerate(run.intensity)),
    )


def _pricing_row(run: Run, seq: int, unix_us: int, reason: str, provider: str | None) -> rows.Row:
    return {
        "run_id": run.id,
        "seq": seq,
        "created_unix_us": unix_us,
        "reason": reason,
        "zone": run.zone.zone if run.zone else None,
        "pue": run.pue,
        "emissions_g": run.emissions_g,
        "emissions_modelled_g": run.emissions_modelled_g,
        "provider": provider,
        "values_status": run.emissions_status,
        **rows.price_columns(run),
    }


def _write_uses(connection: sa.Connection, uses: Iterable[tuple[str, int, int, IntensityUse]]) -> None:
    """Uses of values in a run's pricing, by id of the run, number of the pricing and position in it."""
    values: dict[IntensityValue, rows.Row] = {}
    written = []
    for run_id, seq, position, use in uses:
        row = values.get(use.value)
        if row is None:
            row = values[use.value] = rows.intensity_row(use.value)
        key = {"run_id": run_id, "pricing_seq": seq, "position": position}
        written.append(key | rows.intensity_use_row(use, row["id"]))
    if written:
        sql.INSERT_INTENSITIES.execute(connection, list(values.values()))
        sql.PUT_USES.execute(connection, written)
