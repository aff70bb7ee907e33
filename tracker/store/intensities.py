"""Intensities over time in the database: what each source has said, append-only, and when it was asked.

All processes that use a database share them. A value that a source gives again unchanged is no new row; one that
differs is, with the next revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from tracker.records import IntensityValue, unix_us_of
from tracker.store import rows, tables
from tracker.store.opening import open_for_reading, open_for_writing, store_errors
from tracker.store.statements import INSERT_INTENSITIES, PUT_FETCH

_Stretch = tuple[str, str, str, int, int]  # provider, zone, signal, start and end


@dataclass(frozen=True, slots=True)
class Fetch:
    """The last time that a source was asked for a zone, with success: for which stretch, and when."""

    start_unix_us: int
    end_unix_us: int
    asked_unix_us: int


def known_values(
    connection: sa.Connection, provider: str, zone: str, start: datetime, end: datetime
) -> list[IntensityValue]:
    """All that a source has said of [start, end), every revision, in order of time and revision."""
    c = tables.intensities.c
    query = (
        sa.select(tables.intensities)
        .where(
            c.provider == rows.storable(provider),
            c.zone == rows.storable(zone),
            c.start_unix_us < unix_us_of(end),
            c.end_unix_us > unix_us_of(start),
        )
        .order_by(c.start_unix_us, c.revision, c.id)
    )
    return [rows.intensity_of(row) for row in connection.execute(query)]


def add_values(connection: sa.Connection, values: Sequence[IntensityValue]) -> list[IntensityValue]:
    """Keep what a source has answered, within a transaction that writes.

    Args:
        values: dated ones, of one provider and zone.

    Returns:
        The values as they stand in the database: one that says nothing new is the earlier row.
    """
    if not values:
        return []
    edges = [edge for value in values for edge in (value.start, value.end) if edge is not None]
    held: dict[_Stretch, list[IntensityValue]] = {}
    for value in known_values(connection, values[0].provider, values[0].zone, min(edges), max(edges)):
        held.setdefault(_stretch_of(value), []).append(value)
    stored, new = [], []
    for value in values:
        revisions = held.setdefault(_stretch_of(value), [])
        if revisions and _said(revisions[-1]) == _said(value):
            stored.append(revisions[-1])
            continue
        new.append(rows.intensity_row(value) | {"revision": len(revisions)})
        revisions.append(value)
        stored.append(value)
    if new:
        INSERT_INTENSITIES.execute(connection, new)
    return stored


def last_fetch(connection: sa.Connection, provider: str, zone: str) -> Fetch | None:
    """When this source was last asked for this zone by anybody who uses the database; None: never."""
    c = tables.fetches.c
    row = connection.execute(
        sa.select(c.start_unix_us, c.end_unix_us, c.asked_unix_us).where(
            c.provider == rows.storable(provider), c.zone == rows.storable(zone)
        )
    ).first()
    return None if row is None else Fetch(*row)


def note_fetch(connection: sa.Connection, provider: str, zone: str, fetch: Fetch) -> None:
    """Keep that it was asked, within a transaction that writes."""
    key = {"provider": rows.storable(provider), "zone": rows.storable(zone)}
    columns = {
        "start_unix_us": fetch.start_unix_us,
        "end_unix_us": fetch.end_unix_us,
        "asked_unix_us": fetch.asked_unix_us,
    }
    PUT_FETCH.execute(connection, key | columns)


def _said(value: IntensityValue) -> IntensityValue:
    """A value without the time of the answer, which differs each time."""
    return replace(value, fetched_at=None)


def _stretch_of(value: IntensityValue) -> _Stretch:
    assert value.start is not None and value.end is not None
    return value.provider, value.zone, value.signal, unix_us_of(value.start), unix_us_of(value.end)


class SharedValues:
    """What the processes that use a database have learnt of intensities, outside of any run.

    Args:
        db: a path or an SQLAlchemy URL.

    Raises:
        StoreError: in all methods, when the database cannot be read or written.
    """

    def __init__(self, db: str | Path) -> None:
        self._db = db
        self._reading = open_for_reading(db)

    @property
    def exists(self) -> bool:
        """Whether there is a database that can hold them."""
        return self._reading.version is not None and self._reading.version >= tables.SCHEMA_VERSION

    def known(self, provider: str, zone: str, start: datetime, end: datetime) -> list[IntensityValue]:
        """As known_values."""
        if self._reading.version is None:
            return []
        with store_errors(self._reading.label), self._reading.engine.connect() as connection:
            return known_values(connection, provider, zone, start, end)

    def last_fetch(self, provider: str, zone: str) -> Fetch | None:
        """As last_fetch."""
        if not self.exists:
            return None
        with store_errors(self._reading.label), self._reading.engine.connect() as connection:
            return last_fetch(connection, provider, zone)

    def add(self, values: Sequence[IntensityValue], zone: str = "", fetch: Fetch | None = None) -> None:
        """Keep what a source has answered, and when it was asked for a zone."""
        if not values:
            return
        database = open_for_writing(self._db)
        with store_errors(database.label), database.engine.connect() as connection, connection.begin():
            add_values(connection, values)
            if fetch is not None:
                note_fetch(connection, values[0].provider, zone, fetch)
