"""Changes to runs that have ended: tags, notes, raw samples dropped, whole runs deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from tracker.errors import StoreError
from tracker.machine import NANOSECONDS_PER_MICROSECOND
from tracker.records import datetime_of
from tracker.store import rows, tables
from tracker.store.opening import Database, driver_connection, open_for_writing, store_errors
from tracker.store.statements import id_parts

# What hangs on a run, before what it hangs on.
_OF_RUNS: Final = (
    tables.pricing_uses,
    tables.pricings,
    tables.marks,
    tables.spans,
    tables.slots,
    tables.chunks,
    tables.hot_readings,
    tables.devices,
    tables.clock_pairs,
    tables.segments,
    tables.tags,
    tables.notes,
    tables.run_details,
)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning drops, or would drop."""

    runs: int
    samples: int
    payload_bytes: int


class Editor:
    """Changes runs of one database. Nothing here looks whether a run goes on: the caller does.

    Raises:
        StoreError: in all methods, when the database cannot be changed.
    """

    def __init__(self, db: str | Path) -> None:
        self._database = open_for_writing(db)

    def tag(self, run_id: str, wanted: Mapping[str, str], unwanted: Sequence[str] = ()) -> None:
        """Set tags, and remove others; one that is not there is no error."""
        c = tables.tags.c
        names = [rows.storable(name) for name in (*wanted, *unwanted)]
        with _transaction(self._database) as connection:
            connection.execute(tables.tags.delete().where(c.run_id == run_id, c.key.in_(names)))
            if wanted:
                connection.execute(
                    tables.tags.insert(),
                    [
                        {"run_id": run_id, "key": rows.storable(name), "value": rows.storable(value)}
                        for name, value in wanted.items()
                    ],
                )

    def note(self, run_id: str, text: str) -> None:
        """Add a note."""
        with _transaction(self._database) as connection:
            _add_note(connection, run_id, text)

    def delete(self, run_ids: Sequence[str]) -> None:
        """Delete runs with all that hangs on them; intensities stay, as others may use them."""
        with _transaction(self._database) as connection:
            for ids in id_parts(run_ids):
                for table in _OF_RUNS:
                    connection.execute(table.delete().where(table.c.run_id.in_(ids)))
                connection.execute(tables.runs.delete().where(tables.runs.c.id.in_(ids)))

    def ended_before(self, unix_us: int) -> list[str]:
        """Runs that ended before then and have raw samples, oldest first; none that was left open."""
        runs, chunks = tables.runs.c, tables.chunks.c
        has_samples = sa.select(chunks.run_id).where(chunks.run_id == runs.id).exists()
        query = sa.select(runs.id).where(runs.ended_unix_us < unix_us, runs.status != "running", has_samples)
        with store_errors(self._database.label), self._database.engine.connect() as connection:
            return list(connection.scalars(query.order_by(runs.started_unix_us)))

    def samples_of(self, run_ids: Sequence[str]) -> Pruned:
        """How much their raw samples are."""
        c = tables.chunks.c
        samples = size_bytes = 0
        with store_errors(self._database.label), self._database.engine.connect() as connection:
            for ids in id_parts(run_ids):
                query = sa.select(
                    sa.func.coalesce(sa.func.sum(c.n), 0), sa.func.coalesce(sa.func.sum(sa.func.length(c.payload)), 0)
                )
                counted = connection.execute(query.where(c.run_id.in_(ids))).one()
                samples += counted[0]
                size_bytes += counted[1]
        return Pruned(len(run_ids), samples, size_bytes)

    def drop_samples(self, run_id: str) -> None:
        """Drop a run's raw samples; slots, spans, marks and totals stay, and a note says what was done."""
        c = tables.chunks.c
        with _transaction(self._database) as connection:
            connection.execute(tables.chunks.delete().where(c.run_id == run_id))
            hot = tables.hot_readings
            connection.execute(hot.delete().where(hot.c.run_id == run_id))
            _add_note(connection, run_id, "raw samples dropped (tracker db prune); its energy per slot is kept")

    def shrink(self) -> None:
        """Give the space of what was deleted back to the file system; others must not be writing."""
        if self._database.path is None:
            return
        with store_errors(self._database.label), self._database.engine.connect() as connection:
            driver_connection(connection).execute("VACUUM")

    def size_bytes(self) -> int | None:
        """Of the file with its log; None: it is a server's."""
        path = self._database.path
        return None if path is None else path.stat().st_size + self._database.wal_bytes()


def _add_note(connection: sa.Connection, run_id: str, text: str) -> None:
    c = tables.notes.c
    next_seq = sa.select(sa.func.coalesce(sa.func.max(c.seq) + 1, 0)).where(c.run_id == run_id)
    connection.execute(
        tables.notes.insert(),
        {
            "run_id": run_id,
            "seq": connection.execute(next_seq).scalar_one(),
            "unix_us": time.time_ns() // NANOSECONDS_PER_MICROSECOND,
            "text": rows.storable(text),
        },
    )


@contextmanager
def _transaction(database: Database) -> Iterator[sa.Connection]:
    with store_errors(database.label), database.engine.connect() as connection, connection.begin():
        yield connection


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a database, as far as counting tells."""

    runs: int
    running: int
    samples: int
    oldest: str | None
    newest: str | None


def contents(database: Database) -> Contents:
    """Count what a database holds.

    Raises:
        StoreError: it cannot be read.
    """
    if database.version is None:
        return Contents(0, 0, 0, None, None)
    runs, chunks = tables.runs.c, tables.chunks.c
    with store_errors(database.label), database.engine.connect() as connection:
        count, oldest_us, newest_us = connection.execute(
            sa.select(sa.func.count(), sa.func.min(runs.started_unix_us), sa.func.max(runs.started_unix_us))
        ).one()
        running = connection.execute(sa.select(sa.func.count()).where(runs.status == "running")).scalar_one()
        samples = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(chunks.n), 0))).scalar_one()
    times = [None if us is None else datetime_of(us).isoformat() for us in (oldest_us, newest_us)]
    return Contents(count, running, samples, times[0], times[1])


def checked_note(text: str) -> str:
    """A note that says something.

    Raises:
        StoreError: it is empty, or longer than a page.
    """
    text = text.strip()
    if not text or len(text) > _LONGEST_NOTE:
        raise StoreError(f"a note has 1 to {_LONGEST_NOTE} letters, this one {len(text)}")
    return text


_LONGEST_NOTE: Final = 10_000
