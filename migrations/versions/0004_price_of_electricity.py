"""The price of electricity that a run's cost is told by."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_SQLITE = "strftime('%Y-%m-%dT%H:%M:%S', {0} / 1000000, 'unixepoch') || printf('.%06dZ', {0} % 1000000)"
_POSTGRESQL = "to_char(timestamp '1970-01-01' + {0} * interval '1 microsecond', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
_V_RUNS = """
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


def upgrade() -> None:
    """Columns that are NULL in what older trackers write; the view of runs gets columns more, at its end."""
    for table in ("runs", "pricings"):
        op.add_column(table, sa.Column("price_per_kwh", sa.Float))
        op.add_column(table, sa.Column("currency", sa.Text))
    utc = _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL
    view = _V_RUNS.format(started=utc.format("started_unix_us"), ended=utc.format("ended_unix_us"))
    # As plain text: what follows a colon in it is no parameter. A server keeps what its users have built on the view.
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP VIEW v_runs")
    else:
        view = view.replace("CREATE VIEW", "CREATE OR REPLACE VIEW")
    op.get_bind().exec_driver_sql(view.strip())
