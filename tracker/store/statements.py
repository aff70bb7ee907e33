"""What a writer executes again and again, as statements that are built once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from tracker.store import rows, tables

_IDS_PER_STATEMENT: Final = 500


class Statements:
    """What a writer executes again and again, built once for a dialect: building them costs more than running them."""

    def __init__(self, dialect: str) -> None:
        insert = conflict_insert(dialect)
        self.run = insert(tables.runs).on_conflict_do_update(
            index_elements=["id"], set_={"status": "running", "ended_unix_us": None}
        )
        self.details = insert(tables.run_details).on_conflict_do_nothing()
        self.tags = insert(tables.tags).on_conflict_do_nothing()
        self.clocks = insert(tables.clock_pairs).on_conflict_do_nothing()
        self.intensities = insert(tables.intensities).on_conflict_do_nothing()
        self.fetch = _replacing(insert(tables.fetches), "start_unix_us", "end_unix_us", "asked_unix_us")
        self.spans = _replacing(insert(tables.spans), "ended_unix_us", "duration_us", "energy_j", "coverage")
        self.use = _replacing(
            insert(tables.pricing_uses), "intensity_id", "zone_origin", "energy_j", "energy_modelled_j", "slots"
        )
        self.pricing = _replacing(
            insert(tables.pricings),
            "created_unix_us",
            "zone",
            "pue",
            "emissions_g",
            "emissions_modelled_g",
            "provider",
            "values_status",
        )
        slots = insert(tables.slots)
        held, more = tables.slots.c, slots.excluded
        is_higher = sa.or_(held.max_power_mw.is_(None), more.max_power_mw > held.max_power_mw)
        self.slots = slots.on_conflict_do_update(
            index_elements=list(tables.slots.primary_key),
            set_={
                "twice_energy_nj": held.twice_energy_nj + more.twice_energy_nj,
                "covered_us": held.covered_us + more.covered_us,
                "max_power_mw": sa.case((is_higher, more.max_power_mw), else_=held.max_power_mw),
            },
        )
        of_run: sa.BindParameter[str] = sa.bindparam("of_run")
        c = tables.segments.c
        self.segment = tables.segments.update().where(c.run_id == of_run, c.segment == sa.bindparam("of_segment"))
        self.totals = tables.runs.update().where(tables.runs.c.id == of_run)
        self.new_details = tables.run_details.update().where(tables.run_details.c.run_id == of_run)
        devices = tables.devices.c
        self.device_totals = tables.devices.update().where(
            devices.run_id == of_run, devices.device_index == sa.bindparam("of_index")
        )


class PerSecond:
    """A statement as text for the driver: going through SQLAlchemy's layers each second would cost as much again."""

    def __init__(self, statement: sa.Insert | sa.Update, columns: Sequence[str], dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=list(columns))
        self._text = str(compiled)
        self._names: Sequence[str] | None = compiled.positiontup

    def execute(self, connection: sa.Connection, values: rows.Row) -> None:
        connection.exec_driver_sql(self._text, self._given(values))

    def execute_raw(self, raw: sqlite3.Connection, values: rows.Row) -> None:
        raw.execute(self._text, self._given(values))

    def _given(self, values: rows.Row) -> rows.Row | tuple[Any, ...]:
        return values if self._names is None else tuple(values[name] for name in self._names)


def id_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Ids in parts that one statement takes: SQLite before 3.32 has 999 parameters."""
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        yield ids[start : start + _IDS_PER_STATEMENT]


@cache
def statements_of(dialect: str) -> Statements:
    """The statements for a dialect, made once."""
    return Statements(dialect)


def conflict_insert(dialect: str) -> Callable[[sa.Table], sqlite.Insert]:
    """Makes inserts with ON CONFLICT, which the constructs of both dialects offer alike."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return cast(Callable[[sa.Table], sqlite.Insert], postgresql.insert)
    return sqlite.insert


def _replacing(insert: sqlite.Insert, *columns: str) -> sqlite.Insert:
    """An insert that gives these columns new values where the row is there already."""
    return insert.on_conflict_do_update(
        index_elements=list(insert.table.primary_key), set_={name: insert.excluded[name] for name in columns}
    )
