"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Tables, indexes and views."""
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("project", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("started_unix_us", sa.BigInteger, nullable=False),
        sa.Column("ended_unix_us", sa.BigInteger),
        sa.Column("duration_us", sa.BigInteger),
        sa.Column("energy_j", sa.Float),
        sa.Column("energy_modelled_j", sa.Float),
        sa.Column("energy_low_j", sa.Float),
        sa.Column("energy_high_j", sa.Float),
        sa.Column("emissions_g", sa.Float),
        sa.Column("emissions_modelled_g", sa.Float),
        sa.Column("pue", sa.Float, nullable=False),
        sa.Column("coverage", sa.Float),
        sa.Column("zone", sa.Text),
        sa.Column("zone_name", sa.Text),
        sa.Column("zone_origin", sa.Text),
        sa.Column("zone_detail", sa.Text),
        sa.Column("parent_id", sa.Text),
        sa.Column("is_replayed", sa.Boolean, nullable=False),
        sa.Column("totals_through_unix_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_table(
        "run_details",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("not_measured", sa.Text, nullable=False),
        sa.Column("warnings", sa.Text, nullable=False),
        sa.Column("provenance", sa.Text, nullable=False),
        sa.Column("argv", sa.Text),
        sa.PrimaryKeyConstraint("run_id", name="pk_run_details"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_details_run_id"),
    )
    op.create_table(
        "tags",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "key", name="pk_tags"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_tags_run_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "segments",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("pid_namespace", sa.BigInteger, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("pid_start", sa.BigInteger, nullable=False),
        sa.Column("hardware", sa.Text, nullable=False),
        sa.Column("started_boottime_us", sa.BigInteger, nullable=False),
        sa.Column("started_monotonic_us", sa.BigInteger, nullable=False),
        sa.Column("started_unix_us", sa.BigInteger, nullable=False),
        sa.Column("ended_boottime_us", sa.BigInteger),
        sa.Column("ended_monotonic_us", sa.BigInteger),
        sa.Column("ended_unix_us", sa.BigInteger),
        sa.Column("last_commit_boottime_us", sa.BigInteger, nullable=False),
        sa.Column("last_commit_unix_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "segment", name="pk_segments"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_segments_run_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "clock_pairs",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("boottime_us", sa.BigInteger, nullable=False),
        sa.Column("monotonic_us", sa.BigInteger, nullable=False),
        sa.Column("unix_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "segment", "boottime_us", name="pk_clock_pairs"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_clock_pairs_run_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "devices",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("device_index", sa.BigInteger, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sensor", sa.Text, nullable=False),
        sa.Column("has_counter", sa.Boolean, nullable=False),
        sa.Column("has_power", sa.Boolean, nullable=False),
        sa.Column("counter_modulus_uj", sa.BigInteger),
        sa.Column("counter_period_us", sa.BigInteger),
        sa.Column("power_window_us", sa.BigInteger),
        sa.Column("max_power_mw", sa.BigInteger),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("method", sa.Text),
        sa.Column("energy_j", sa.Float),
        sa.Column("energy_low_j", sa.Float),
        sa.Column("energy_high_j", sa.Float),
        sa.Column("mean_power_w", sa.Float),
        sa.Column("max_power_w", sa.Float),
        sa.Column("coverage", sa.Float),
        sa.Column("energy_notes", sa.Text),
        sa.PrimaryKeyConstraint("run_id", "device_index", name="pk_devices"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_devices_run_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "hot_readings",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "segment", "seq", name="pk_hot_readings"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_hot_readings_run_id"),
    )
    op.create_table(
        "chunks",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("device_index", sa.BigInteger, nullable=False),
        sa.Column("t0_us", sa.BigInteger, nullable=False),
        sa.Column("t1_us", sa.BigInteger, nullable=False),
        sa.Column("settled_us", sa.BigInteger),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("min_power_mw", sa.BigInteger),
        sa.Column("max_power_mw", sa.BigInteger),
        sa.Column("format", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "segment", "device_index", "t0_us", name="pk_chunks"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_chunks_run_id"),
    )
    op.create_table(
        "slots",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("device_index", sa.BigInteger, nullable=False),
        sa.Column("start_s", sa.BigInteger, nullable=False),
        sa.Column("twice_energy_nj", sa.BigInteger, nullable=False),
        sa.Column("covered_us", sa.BigInteger, nullable=False),
        sa.Column("max_power_mw", sa.BigInteger),
        sa.PrimaryKeyConstraint("run_id", "device_index", "start_s", name="pk_slots"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_slots_run_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "spans",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("id", sa.BigInteger, nullable=False),
        sa.Column("parent_id", sa.BigInteger),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("started_unix_us", sa.BigInteger, nullable=False),
        sa.Column("ended_unix_us", sa.BigInteger),
        sa.Column("duration_us", sa.BigInteger),
        sa.Column("energy_j", sa.Float),
        sa.Column("coverage", sa.Float),
        sa.PrimaryKeyConstraint("run_id", "segment", "id", name="pk_spans"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_spans_run_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "marks",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("unix_us", sa.BigInteger, nullable=False),
        sa.Column("elapsed_us", sa.BigInteger, nullable=False),
        sa.Column("values", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "segment", "seq", name="pk_marks"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_marks_run_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "intensities",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("zone", sa.Text, nullable=False),
        sa.Column("intensity_g_per_kwh", sa.Float, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("dataset", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("signal", sa.Text, nullable=False),
        sa.Column("basis", sa.Text, nullable=False),
        sa.Column("accounting", sa.Text, nullable=False),
        sa.Column("start_unix_us", sa.BigInteger),
        sa.Column("end_unix_us", sa.BigInteger),
        sa.Column("year", sa.BigInteger),
        sa.Column("fetched_unix_us", sa.BigInteger),
        sa.Column("licence", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("raw_value", sa.Float),
        sa.Column("raw_unit", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_intensities"),
    )
    op.create_table(
        "pricings",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("created_unix_us", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("zone", sa.Text),
        sa.Column("pue", sa.Float, nullable=False),
        sa.Column("emissions_g", sa.Float),
        sa.Column("emissions_modelled_g", sa.Float),
        sa.PrimaryKeyConstraint("run_id", "seq", name="pk_pricings"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_pricings_run_id"),
    )
    op.create_table(
        "pricing_uses",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("pricing_seq", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("intensity_id", sa.Text, nullable=False),
        sa.Column("zone_origin", sa.Text, nullable=False),
        sa.Column("energy_j", sa.Float, nullable=False),
        sa.Column("energy_modelled_j", sa.Float, nullable=False),
        sa.Column("slots", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "pricing_seq", "position", name="pk_pricing_uses"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_pricing_uses_run_id"),
        sa.ForeignKeyConstraint(["intensity_id"], ["intensities.id"], name="fk_pricing_uses_intensity_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_runs_started", "runs", ["started_unix_us", "id"])
    op.create_index("ix_runs_status_started", "runs", ["status", "started_unix_us"])
    op.create_index("ix_runs_parent", "runs", ["parent_id"])
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if is_sqlite:
        op.create_index("ix_runs_project_started", "runs", ["project", "started_unix_us"])
        op.create_index("ix_runs_name_started", "runs", ["name", "started_unix_us"])
        op.create_index("ix_tags_key_value", "tags", ["key", "value"])
    else:
        op.create_index("ix_runs_project", "runs", ["project"], postgresql_using="hash")
        op.create_index("ix_runs_name", "runs", ["name"], postgresql_using="hash")
        op.create_index("ix_tags_value", "tags", ["value"], postgresql_using="hash")
    utc = _sqlite_utc if is_sqlite else _postgresql_utc
    runs = V_RUNS.format(started=utc("started_unix_us"), ended=utc("ended_unix_us"))
    energy_by_slot = V_ENERGY_BY_SLOT.format(start=utc("slots.start_s * 1000000"))
    for view in (runs, energy_by_slot):
        op.get_bind().exec_driver_sql(view.strip())


def downgrade() -> None:
    """Refuses: there is nothing before the first schema but an empty database."""
    raise NotImplementedError("schema 0001 is the first; delete the database instead")


def _sqlite_utc(unix_us: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%S', {unix_us} / 1000000, 'unixepoch') || printf('.%06dZ', {unix_us} % 1000000)"


def _postgresql_utc(unix_us: str) -> str:
    instant = f"timestamp '1970-01-01' + {unix_us} * interval '1 microsecond'"
    return f'to_char({instant}, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\')'


V_RUNS = """
CREATE VIEW v_runs AS
SELECT id AS run_id, name, project, status,
       {started} AS started_utc, {ended} AS ended_utc,
       duration_us / 1e6 AS duration_s,
       energy_j, energy_j / 3.6e6 AS energy_kwh,
       energy_low_j / 3.6e6 AS energy_low_kwh, energy_high_j / 3.6e6 AS energy_high_kwh,
       energy_modelled_j, energy_modelled_j / 3.6e6 AS energy_modelled_kwh,
       emissions_g, emissions_g / 1e3 AS emissions_kg,
       emissions_modelled_g, emissions_modelled_g / 1e3 AS emissions_modelled_kg,
       pue, coverage, zone, zone_origin, parent_id, is_replayed
FROM runs
"""

V_ENERGY_BY_SLOT = """
CREATE VIEW v_energy_by_slot AS
SELECT slots.run_id, devices.key AS device_key, devices.name AS device_name, devices.kind,
       {start} AS slot_start_utc,
       slots.twice_energy_nj / 2e9 AS energy_j,
       slots.covered_us / 1e6 AS covered_s,
       slots.twice_energy_nj / 2e3 / nullif(slots.covered_us, 0) AS mean_power_w,
       slots.max_power_mw / 1e3 AS max_power_w
FROM slots JOIN devices ON devices.run_id = slots.run_id AND devices.device_index = slots.device_index
"""
