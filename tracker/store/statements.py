"""What a writer executes again and again, in words that SQLite and PostgreSQL share."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from tracker.store import rows, tables

_IDS_PER_STATEMENT: Final = 500
_VALUE: Final = re.compile(r":([a-z_0-9]+)")


class Worded:
    """A statement as text for the driver, with names behind colons where values go.

    Having SQLAlchemy word what a run writes, once in each process, took as long as the writing of a whole short run,
    and passing its layers each second as long as the commit: what a writer executes often is worded here.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def execute(self, connection: sa.Connection, values: rows.Row | Sequence[rows.Row]) -> sa.CursorResult[Any]:
        """Execute it, or once for each of one row or more that have the same columns."""
        style = connection.dialect.paramstyle
        if isinstance(values, dict):
            text, names = self._for(values, style)
            return connection.exec_driver_sql(text, _given(values, names))
        text, names = self._for(values[0], style)
        return connection.exec_driver_sql(text, [_given(row, names) for row in values])

    def execute_raw(self, raw: sqlite3.Connection, values: rows.Row) -> None:
        """The same by a connection to a file."""
        text, names = self._for(values, "qmark")
        raw.execute(text, _given(values, names))

    def _for(self, row: rows.Row, style: str) -> tuple[str, Sequence[str] | None]:
        return _for_driver(self._text, style)


class Insert(Worded):
    """Inserts rows, whichever columns they have.

    Args:
        conflict: what is done where the row is there already.
    """

    def __init__(self, table: sa.Table, conflict: str = "") -> None:
        super().__init__(f"INSERT INTO {table.name} ({{columns}}) VALUES ({{values}}) {conflict}".strip())  # noqa: S608 (our names)
        self._texts: dict[tuple[str, ...], str] = {}

    def _for(self, row: rows.Row, style: str) -> tuple[str, Sequence[str] | None]:
        names = tuple(row)
        text = self._texts.get(names)
        if text is None:
            columns, values = ", ".join(map(_quoted, names)), ", ".join(f":{name}" for name in names)
            text = self._texts[names] = self._text.format(columns=columns, values=values)
        return _for_driver(text, style)


class Update(Worded):
    """Sets the columns that the row has beside those of the condition.

    Args:
        where: columns, by the name in the row that holds what they must be.
    """

    def __init__(self, table: sa.Table, where: Mapping[str, str]) -> None:
        condition = " AND ".join(f"{_quoted(column)} = :{name}" for name, column in where.items())
        super().__init__(f"UPDATE {table.name} SET {{changes}} WHERE {condition}")  # noqa: S608 (our names)
        self._where = where
        self._texts: dict[tuple[str, ...], str] = {}

    def _for(self, row: rows.Row, style: str) -> tuple[str, Sequence[str] | None]:
        names = tuple(row)
        text = self._texts.get(names)
        if text is None:
            changes = ", ".join(f"{_quoted(name)} = :{name}" for name in names if name not in self._where)
            text = self._texts[names] = self._text.format(changes=changes)
        return _for_driver(text, style)


def _quoted(name: str) -> str:
    return f'"{name}"'  # "values" is a word of SQL's


@cache
def _for_driver(text: str, style: str) -> tuple[str, Sequence[str] | None]:
    """The text as a driver takes it, and the names of its values in order; None: it takes them by name."""
    marks = {"qmark": "?", "format": "%s", "pyformat": r"%(\1)s", "named": r":\1"}
    names = None if style in ("pyformat", "named") else _VALUE.findall(text)
    return _VALUE.sub(marks[style], text), names


def _given(row: rows.Row, names: Sequence[str] | None) -> rows.Row | tuple[Any, ...]:
    return row if names is None else tuple([row[name] for name in names])


def _key_of(table: sa.Table) -> str:
    return ", ".join(_quoted(column.name) for column in table.primary_key)


def _replacing(table: sa.Table, *columns: str) -> Insert:
    """An insert that gives these columns new values where the row is there already."""
    changes = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in columns)
    return Insert(table, f"ON CONFLICT ({_key_of(table)}) DO UPDATE SET {changes}")


_IF_NEW: Final = "ON CONFLICT DO NOTHING"

INSERT_RUN: Final = Insert(tables.runs, "ON CONFLICT (id) DO UPDATE SET status = 'running', ended_unix_us = NULL")
INSERT_DETAILS: Final = Insert(tables.run_details, _IF_NEW)
INSERT_TAGS: Final = Insert(tables.tags, _IF_NEW)
INSERT_SEGMENT: Final = Insert(tables.segments)
INSERT_CLOCKS: Final = Insert(tables.clock_pairs, _IF_NEW)
INSERT_DEVICE: Final = Insert(tables.devices)
INSERT_HOT: Final = Insert(tables.hot_readings)
INSERT_CHUNKS: Final = Insert(tables.chunks)
INSERT_MARKS: Final = Insert(tables.marks)
INSERT_INTENSITIES: Final = Insert(tables.intensities, _IF_NEW)
PUT_FETCH: Final = _replacing(tables.fetches, "start_unix_us", "end_unix_us", "asked_unix_us")
PUT_SPANS: Final = _replacing(tables.spans, "ended_unix_us", "duration_us", "energy_j", "coverage")
PUT_USES: Final = _replacing(
    tables.pricing_uses, "intensity_id", "zone_origin", "energy_j", "energy_modelled_j", "slots"
)
PUT_PRICINGS: Final = _replacing(
    tables.pricings,
    "created_unix_us",
    "zone",
    "pue",
    "emissions_g",
    "emissions_modelled_g",
    "provider",
    "values_status",
    "price_per_kwh",
    "currency",
)
ADD_TO_SLOTS: Final = Insert(
    tables.slots,
    f"""ON CONFLICT ({_key_of(tables.slots)}) DO UPDATE SET
    twice_energy_nj = slots.twice_energy_nj + excluded.twice_energy_nj,
    covered_us = slots.covered_us + excluded.covered_us,
    max_power_mw = CASE WHEN slots.max_power_mw IS NULL OR excluded.max_power_mw > slots.max_power_mw
        THEN excluded.max_power_mw ELSE slots.max_power_mw END""",
)
UPDATE_RUN: Final = Update(tables.runs, {"of_run": "id"})
UPDATE_DETAILS: Final = Update(tables.run_details, {"of_run": "run_id"})
UPDATE_SEGMENT: Final = Update(tables.segments, {"of_run": "run_id", "of_segment": "segment"})
UPDATE_DEVICES: Final = Update(tables.devices, {"of_run": "run_id", "of_index": "device_index"})
DELETE_HOT: Final = Worded("DELETE FROM hot_readings WHERE run_id = :run_id AND segment = :segment")
NEXT_SEGMENT: Final = Worded("SELECT coalesce(max(segment) + 1, 0) FROM segments WHERE run_id = :run_id")
NEXT_PRICING: Final = Worded("SELECT coalesce(max(seq) + 1, 0) FROM pricings WHERE run_id = :run_id")
DEVICES_OF_RUN: Final = Worded("SELECT host, kind, key, device_index, energy_notes FROM devices WHERE run_id = :run_id")


def id_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Ids in parts that one statement takes: SQLite before 3.32 has 999 parameters."""
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        yield ids[start : start + _IDS_PER_STATEMENT]


def conflict_insert(dialect: str) -> Callable[[sa.Table], sqlite.Insert]:
    """Makes inserts with ON CONFLICT, which the constructs of both dialects offer alike."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return cast(Callable[[sa.Table], sqlite.Insert], postgresql.insert)
    return sqlite.insert
