"""Folding run files into a database: what could not be written there is added, never copied over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from tracker.errors import StoreError
from tracker.records import Run
from tracker.store import tables
from tracker.store.opening import Database, open_for_reading, open_for_writing, store_errors
from tracker.store.reading import RunReader
from tracker.store.statements import conflict_insert
from tracker.store.writing import RunWriter, Whole

_ROWS_AT_ONCE: Final = 200
_IDENTITY: Final = ("host", "boot_id", "pid_namespace", "pid", "pid_start", "started_boottime_us")

# What hangs on a run as it is, and what hangs on one of its segments.
_OF_RUN: Final = (tables.run_details, tables.tags, tables.notes)
_OF_SEGMENT: Final = (tables.clock_pairs, tables.hot_readings, tables.chunks, tables.spans, tables.marks)


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of a run file.

    Attributes:
        runs: ids of those that are now whole in the database.
        kept: why others are not, by id; "" for the file as a whole.
    """

    runs: tuple[str, ...]
    kept: Mapping[str, str]


def merge(db: str | Path, file: Path, whole: Whole) -> Merged:
    """Add the runs of a run file to a database, one transaction a run; doing it again changes nothing.

    A run that both have is joined: segments and devices are told by what they are, not by their numbers. A run whose
    writer lives is left alone.

    Args:
        db: a path or an SQLAlchemy URL.
        file: left as it is.
        whole: sums a run over its segments.

    Raises:
        StoreError: the database cannot be written, or the file not be read.
    """
    target = open_for_writing(db)
    if not file.is_file():
        raise StoreError(f"{file}: there is no such file")
    source = open_for_reading(file)
    if source.path == target.path:
        raise StoreError(f"{file}: is the database itself")
    merged, kept = [], {}
    ids: Sequence[str] = ()
    if source.version is not None:
        with store_errors(source.label), source.engine.connect() as given:
            ids = given.scalars(sa.select(tables.runs.c.id)).all()
    for run in RunReader(file).batch(ids):  # not runs(): it imports what filters, and this may be a thread of ours
        if run.status == "running":
            kept[run.id] = "it is still being written"
            continue
        with store_errors(source.label), source.engine.connect() as given:
            _merge_run(target, given, run.id, whole)
        merged.append(run.id)
    return Merged(tuple(merged), kept)


def _merge_run(target: Database, given: sa.Connection, run_id: str, whole: Whole) -> None:
    with store_errors(target.label), target.engine.connect() as connection, connection.begin():
        insert = conflict_insert(connection.dialect.name)
        is_new = not connection.execute(sa.select(tables.runs.c.id).where(tables.runs.c.id == run_id)).first()
        segments, has_new_segments = _numbers(given, connection, tables.segments, run_id, _IDENTITY)
        outdated = _outdated(given, connection, run_id, segments)
        if not is_new and not has_new_segments and not outdated:
            return  # it was merged before
        devices, _ = _numbers(given, connection, tables.devices, run_id, ("host", "kind", "key"))
        if outdated:
            _clear(connection, run_id, outdated, devices.values())
        run = next(_rows(given, tables.runs, run_id, column="id"), None)
        if run is None:
            raise StoreError(f"run {run_id} cannot be read any more")
        connection.execute(insert(tables.runs).on_conflict_do_nothing(), run)
        for table in _OF_RUN:
            _add(connection, insert, table, _rows(given, table, run_id))
        for table, numbers, column in (
            (tables.segments, segments, "segment"),
            (tables.devices, devices, "device_index"),
        ):
            _add(connection, insert, table, _renumbered(_rows(given, table, run_id), {column: numbers}))
        for table in _OF_SEGMENT:
            numbers_of = {"segment": segments, "device_index": devices}
            _add(connection, insert, table, _renumbered(_rows(given, table, run_id), numbers_of))
        _add(connection, insert, tables.intensities, _intensities(given, run_id))
        if is_new:
            _add(connection, insert, tables.pricings, _rows(given, tables.pricings, run_id))
            _add(connection, insert, tables.pricing_uses, _rows(given, tables.pricing_uses, run_id))
        slots = _renumbered(_rows(given, tables.slots, run_id), {"device_index": devices})
        writer = RunWriter(target, whole)
        writer.add_slots(connection, slots)
        if not is_new:
            writer.restate(connection, run_id)


def copy_run(given: sa.Connection, target: Database, run_id: str) -> None:
    """Put a run into a database that has none of its id, as it stands, whoever writes it.

    Raises:
        StoreError: the target cannot be written.
    """

    def refused(_: sa.Connection, run_id: str) -> Run:
        raise StoreError(f"run {run_id} is there already")

    _merge_run(target, given, run_id, refused)


def _numbers(
    given: sa.Connection, connection: sa.Connection, table: sa.Table, run_id: str, identity: tuple[str, ...]
) -> tuple[dict[int, int], bool]:
    """The target's numbers of the source's segments or devices, and whether any of them is new there."""
    number = "segment" if table is tables.segments else "device_index"

    def known(of: sa.Connection) -> dict[tuple[Any, ...], int]:
        query = sa.select(*(table.c[name] for name in (*identity, number))).where(table.c.run_id == run_id)
        return {tuple(row[:-1]): row[-1] for row in of.execute(query.order_by(table.c[number]))}

    here, there = known(connection), known(given)
    is_any_new = not there.keys() <= here.keys()
    next_number = max(here.values(), default=-1) + 1
    for key in there:
        if key not in here:
            here[key] = next_number
            next_number += 1
    return {old: here[key] for key, old in there.items()}, is_any_new


def _outdated(given: sa.Connection, connection: sa.Connection, run_id: str, segments: Mapping[int, int]) -> list[int]:
    """The target's segments that the source holds to a later commit: their run moved there while it went on."""
    c = tables.segments.c
    query = sa.select(c.segment, c.last_commit_unix_us).where(c.run_id == run_id)
    here = {row.segment: row.last_commit_unix_us for row in connection.execute(query)}
    there = {segments[row.segment]: row.last_commit_unix_us for row in given.execute(query)}
    return [number for number, last_us in there.items() if number in here and last_us > here[number]]


def _clear(connection: sa.Connection, run_id: str, segments: list[int], devices: Iterable[int]) -> None:
    """Make room for segments that the source holds whole, and for all energy of their machine's devices."""
    for table in (tables.segments, *_OF_SEGMENT):
        connection.execute(table.delete().where(table.c.run_id == run_id, table.c.segment.in_(segments)))
    slots = tables.slots
    connection.execute(slots.delete().where(slots.c.run_id == run_id, slots.c.device_index.in_(list(devices))))


def _rows(given: sa.Connection, table: sa.Table, run_id: str, column: str = "run_id") -> Iterator[dict[str, Any]]:
    result = given.execution_options(yield_per=_ROWS_AT_ONCE).execute(sa.select(table).where(table.c[column] == run_id))
    for row in result.mappings():
        yield dict(row)


def _intensities(given: sa.Connection, run_id: str) -> Iterator[dict[str, Any]]:
    used = sa.select(tables.pricing_uses.c.intensity_id).where(tables.pricing_uses.c.run_id == run_id)
    for row in given.execute(sa.select(tables.intensities).where(tables.intensities.c.id.in_(used))).mappings():
        yield dict(row)


def _renumbered(
    found: Iterator[dict[str, Any]], numbers_of: Mapping[str, Mapping[int, int]]
) -> Iterator[dict[str, Any]]:
    for row in found:
        yield row | {column: numbers[row[column]] for column, numbers in numbers_of.items() if column in row}


def _add(connection: sa.Connection, insert: Any, table: sa.Table, found: Iterator[dict[str, Any]]) -> None:
    statement = insert(table).on_conflict_do_nothing()
    batch: list[dict[str, Any]] = []
    for row in found:
        batch.append(row)
        if len(batch) == _ROWS_AT_ONCE:
            connection.execute(statement, batch)
            batch = []
    if batch:
        connection.execute(statement, batch)
