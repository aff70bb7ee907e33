"""The schema, in SQLAlchemy Core. It changes together with a file in migrations/versions; a test compares the two.

Calendar instants are integer µs since 1970 UTC (`…_unix_us`), sample instants µs of CLOCK_BOOTTIME. JSON is text that
Python's json reads (it may hold NaN, as a loss can). Nothing here needs more than SQLite 3.26, or is SQLite's alone.

`runs` is kept narrow: totals and sorts over 100 000 runs read all of it, so what is long (`run_details`) lies apart.
Tables of short rows are WITHOUT ROWID: one tree to write instead of two. Those with a payload are not, because such a
tree puts rows above a quarter page into overflow pages.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    event,
)

SCHEMA_VERSION: Final = 4

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)


def _of_run() -> Column[str]:
    return Column("run_id", Text, ForeignKey("runs.id"), primary_key=True)


def _key(name: str) -> Column[int]:
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


runs: Final = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text),
    Column("project", Text),
    Column("status", Text, nullable=False),  # as last written: "running" stays behind a killed process
    Column("started_unix_us", BigInteger, nullable=False),
    Column("ended_unix_us", BigInteger),
    Column("duration_us", BigInteger),
    Column("energy_j", Float),
    Column("energy_modelled_j", Float),
    Column("energy_low_j", Float),
    Column("energy_high_j", Float),
    Column("emissions_g", Float),
    Column("emissions_modelled_g", Float),
    Column("pue", Float, nullable=False),
    Column("coverage", Float),
    Column("zone", Text),
    Column("zone_name", Text),
    Column("zone_origin", Text),
    Column("zone_detail", Text),
    Column("parent_id", Text),  # no foreign key: the parent may be in another database
    Column("is_replayed", Boolean, nullable=False),
    Column("totals_through_unix_us", BigInteger),  # how far the totals above go, while the run goes on
    Column("price_per_kwh", Float),  # in currency; cost is energy × PUE × this
    Column("currency", Text),
)
Index("ix_runs_started", runs.c.started_unix_us, runs.c.id)
Index("ix_runs_status_started", runs.c.status, runs.c.started_unix_us)
Index("ix_runs_parent", runs.c.parent_id)
# PostgreSQL refuses B-tree entries above 2.7 kB, and names may have 10 000 letters; its hash indexes, which keep none
# of them, are made at the end of this module.
Index("ix_runs_project_started", runs.c.project, runs.c.started_unix_us).ddl_if(dialect="sqlite")
Index("ix_runs_name_started", runs.c.name, runs.c.started_unix_us).ddl_if(dialect="sqlite")

run_details: Final = Table(
    "run_details",
    metadata,
    _of_run(),
    Column("not_measured", Text, nullable=False),  # JSON, as are the others
    Column("warnings", Text, nullable=False),
    Column("provenance", Text, nullable=False),
    Column("argv", Text),  # secrets masked; NULL: not stored
)

tags: Final = Table(
    "tags",
    metadata,
    _of_run(),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)
Index("ix_tags_key_value", tags.c.key, tags.c.value).ddl_if(dialect="sqlite")

segments: Final = Table(
    "segments",
    metadata,
    _of_run(),
    _key("segment"),
    Column("host", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("pid_namespace", BigInteger, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("pid_start", BigInteger, nullable=False),
    Column("hardware", Text, nullable=False),  # JSON
    Column("started_boottime_us", BigInteger, nullable=False),
    Column("started_monotonic_us", BigInteger, nullable=False),
    Column("started_unix_us", BigInteger, nullable=False),
    Column("ended_boottime_us", BigInteger),
    Column("ended_monotonic_us", BigInteger),
    Column("ended_unix_us", BigInteger),
    Column("last_commit_boottime_us", BigInteger, nullable=False),
    Column("last_commit_unix_us", BigInteger, nullable=False),
    Column("status", Text),  # how this process left the run; NULL: it has not, or was killed
    sqlite_with_rowid=False,
)

clock_pairs: Final = Table(
    "clock_pairs",
    metadata,
    _of_run(),
    _key("segment"),
    _key("boottime_us"),
    Column("monotonic_us", BigInteger, nullable=False),
    Column("unix_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

devices: Final = Table(
    "devices",
    metadata,
    _of_run(),
    _key("device_index"),
    Column("host", Text, nullable=False),  # "intel-rapl:0" is another device on another host
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("sensor", Text, nullable=False),
    Column("has_counter", Boolean, nullable=False),
    Column("has_power", Boolean, nullable=False),
    Column("counter_modulus_uj", BigInteger),
    Column("counter_period_us", BigInteger),
    Column("power_window_us", BigInteger),
    Column("max_power_mw", BigInteger),
    Column("attributes", Text, nullable=False),  # JSON
    Column("notes", Text, nullable=False),  # JSON
    # As last computed; NULL in method: not yet.
    Column("method", Text),
    Column("energy_j", Float),
    Column("energy_low_j", Float),
    Column("energy_high_j", Float),
    Column("mean_power_w", Float),
    Column("max_power_w", Float),
    Column("coverage", Float),
    Column("energy_notes", Text),  # JSON
    sqlite_with_rowid=False,
)

# One row per commit, not per reading: the readings of all devices since the commit before, until they are sealed.
hot_readings: Final = Table(
    "hot_readings",
    metadata,
    _of_run(),
    _key("segment"),
    _key("seq"),
    Column("payload", LargeBinary, nullable=False),  # codec.hot_bytes
)

chunks: Final = Table(
    "chunks",
    metadata,
    _of_run(),
    _key("segment"),
    _key("device_index"),
    _key("t0_us"),
    Column("t1_us", BigInteger, nullable=False),
    Column("settled_us", BigInteger),  # the slots hold this device's energy up to here; NULL: none of it yet
    Column("n", BigInteger, nullable=False),
    Column("min_power_mw", BigInteger),
    Column("max_power_mw", BigInteger),
    Column("format", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),  # codec.encode_chunk
)

slots: Final = Table(
    "slots",
    metadata,
    _of_run(),
    _key("device_index"),
    _key("start_s"),
    Column("twice_energy_nj", BigInteger, nullable=False),
    Column("covered_us", BigInteger, nullable=False),
    Column("max_power_mw", BigInteger),
    sqlite_with_rowid=False,
)

spans: Final = Table(
    "spans",
    metadata,
    _of_run(),
    _key("segment"),
    _key("id"),
    Column("parent_id", BigInteger),
    Column("name", Text, nullable=False),
    Column("attributes", Text, nullable=False),  # JSON
    Column("started_unix_us", BigInteger, nullable=False),
    Column("ended_unix_us", BigInteger),
    Column("duration_us", BigInteger),
    Column("energy_j", Float),
    Column("coverage", Float),
    sqlite_with_rowid=False,
)

marks: Final = Table(
    "marks",
    metadata,
    _of_run(),
    _key("segment"),
    _key("seq"),
    Column("unix_us", BigInteger, nullable=False),
    Column("elapsed_us", BigInteger, nullable=False),
    Column("values", Text, nullable=False),  # JSON
    sqlite_with_rowid=False,
)

# What people, and `tracker db prune`, have to say of a run afterwards.
notes: Final = Table(
    "notes",
    metadata,
    _of_run(),
    _key("seq"),
    Column("unix_us", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    sqlite_with_rowid=False,
)

# Append-only, and one row for all runs that use the same value: the key is a hash of all the rest. A better value for
# the same stretch of time is a row more, with a higher revision.
intensities: Final = Table(
    "intensities",
    metadata,
    Column("id", Text, primary_key=True),
    Column("zone", Text, nullable=False),
    Column("intensity_g_per_kwh", Float, nullable=False),
    Column("provider", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("signal", Text, nullable=False),
    Column("basis", Text, nullable=False),
    Column("accounting", Text, nullable=False),
    Column("start_unix_us", BigInteger),
    Column("end_unix_us", BigInteger),
    Column("year", BigInteger),
    Column("fetched_unix_us", BigInteger),
    Column("licence", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("raw_value", Float),
    Column("raw_unit", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default="0"),
)
Index("ix_intensities_series", intensities.c.provider, intensities.c.zone, intensities.c.start_unix_us)

# When a source was last asked for a zone, by whichever process, so that the others need not.
fetches: Final = Table(
    "fetches",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("zone", Text, primary_key=True),
    Column("start_unix_us", BigInteger, nullable=False),
    Column("end_unix_us", BigInteger, nullable=False),
    Column("asked_unix_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Every pricing of a run is kept; the one with the highest seq is shown, and its totals stand in runs too.
pricings: Final = Table(
    "pricings",
    metadata,
    _of_run(),
    _key("seq"),
    Column("created_unix_us", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("zone", Text),
    Column("pue", Float, nullable=False),
    Column("emissions_g", Float),
    Column("emissions_modelled_g", Float),
    Column("provider", Text),  # who was asked for the values; NULL: nobody
    Column("values_status", Text),  # the worst of them, as in Run.emissions_status
    Column("price_per_kwh", Float),
    Column("currency", Text),
)

pricing_uses: Final = Table(
    "pricing_uses",
    metadata,
    _of_run(),
    _key("pricing_seq"),
    _key("position"),
    Column("intensity_id", Text, ForeignKey("intensities.id"), nullable=False),
    Column("zone_origin", Text, nullable=False),
    Column("energy_j", Float, nullable=False),
    Column("energy_modelled_j", Float, nullable=False),
    Column("slots", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Alembic's own table, so that a database made here and one made by the migrations are the same.
alembic_version: Final = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), primary_key=True),
)
alembic_version.primary_key.name = "alembic_version_pkc"

_V_RUNS: Final = """
CREATE VIEW v_runs AS
SELECT id AS run_id, name, project, status,
       {started} AS started_utc, {ended} AS ended_utc,
       duration_us / 1e6 AS duration_s,
       energy_j, energy_j / 3.6e6 AS energy_kwh,
       energy_low_j / 3.6e6 AS energy_low_kwh, energy_high_j / 3.6e6 AS energy_high_kwh,
       energy_modelled_j, energy_modelled_j / 3.6e6 AS energy_modelled_kwh,
       emissions_g, emissions_g / 1e3 AS emissions_kg,
       emissions_modelled_g, emissions_modelled_g / 1e3 AS emissions_modelled_kg,
       pue, coverage, zone, zone_origin, parent_id, is_replayed,
       energy_j / 3.6e6 * pue * price_per_kwh AS cost,
       energy_modelled_j / 3.6e6 * pue * price_per_kwh AS cost_modelled,
       price_per_kwh, currency
FROM runs
"""

_V_ENERGY_BY_SLOT: Final = """
CREATE VIEW v_energy_by_slot AS
SELECT slots.run_id, devices.key AS device_key, devices.name AS device_name, devices.kind,
       {start} AS slot_start_utc,
       slots.twice_energy_nj / 2e9 AS energy_j,
       slots.covered_us / 1e6 AS covered_s,
       slots.twice_energy_nj / 2e3 / nullif(slots.covered_us, 0) AS mean_power_w,
       slots.max_power_mw / 1e3 AS max_power_w
FROM slots JOIN devices ON devices.run_id = slots.run_id AND devices.device_index = slots.device_index
"""


def _sqlite_utc(unix_us: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%S', {unix_us} / 1000000, 'unixepoch') || printf('.%06dZ', {unix_us} % 1000000)"


def _postgresql_utc(unix_us: str) -> str:
    # In whole µs: a float of seconds would round.
    instant = f"timestamp '1970-01-01' + {unix_us} * interval '1 microsecond'"
    return f'to_char({instant}, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\')'


def view_texts(dialect: str) -> tuple[str, ...]:
    """The statements that make the views, for "sqlite" or "postgresql"."""
    utc = _sqlite_utc if dialect == "sqlite" else _postgresql_utc
    return (
        _V_RUNS.format(started=utc("started_unix_us"), ended=utc("ended_unix_us")).strip(),
        _V_ENERGY_BY_SLOT.format(start=utc("slots.start_s * 1000000")).strip(),
    )


# As text: Index(postgresql_using=…) imports every PostgreSQL driver's dialect, asyncio among them (35 ms).
_POSTGRESQL_INDEXES: Final = (
    "CREATE INDEX ix_runs_project ON runs USING hash (project)",
    "CREATE INDEX ix_runs_name ON runs USING hash (name)",
    "CREATE INDEX ix_tags_value ON tags USING hash (value)",
)


@event.listens_for(metadata, "after_create")
def _create_hash_indexes(_: MetaData, connection: Connection, **__: Any) -> None:
    if connection.dialect.name == "postgresql":
        for statement in _POSTGRESQL_INDEXES:
            connection.exec_driver_sql(statement)


@event.listens_for(metadata, "after_create")
def _create_views(_: MetaData, connection: Connection, **__: Any) -> None:
    for statement in view_texts(connection.dialect.name):
        connection.exec_driver_sql(statement)
