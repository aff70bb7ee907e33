-- Made by scripts/make_schema_sql from tracker/store/tables.py; do not edit by hand.

CREATE TABLE runs (
    id TEXT NOT NULL,
    name TEXT,
    project TEXT,
    status TEXT NOT NULL,
    started_unix_us BIGINT NOT NULL,
    ended_unix_us BIGINT,
    duration_us BIGINT,
    energy_j FLOAT,
    energy_modelled_j FLOAT,
    energy_low_j FLOAT,
    energy_high_j FLOAT,
    emissions_g FLOAT,
    emissions_modelled_g FLOAT,
    pue FLOAT NOT NULL,
    coverage FLOAT,
    zone TEXT,
    zone_name TEXT,
    zone_origin TEXT,
    zone_detail TEXT,
    parent_id TEXT,
    is_replayed BOOLEAN NOT NULL,
    totals_through_unix_us BIGINT,
    price_per_kwh FLOAT,
    currency TEXT,
    CONSTRAINT pk_runs PRIMARY KEY (id)
);

CREATE INDEX ix_runs_started ON runs (started_unix_us, id);

CREATE INDEX ix_runs_project_started ON runs (project, started_unix_us);

CREATE INDEX ix_runs_name_started ON runs (name, started_unix_us);

CREATE INDEX ix_runs_parent ON runs (parent_id);

CREATE INDEX ix_runs_status_started ON runs (status, started_unix_us);

CREATE TABLE intensities (
    id TEXT NOT NULL,
    zone TEXT NOT NULL,
    intensity_g_per_kwh FLOAT NOT NULL,
    provider TEXT NOT NULL,
    dataset TEXT NOT NULL,
    status TEXT NOT NULL,
    signal TEXT NOT NULL,
    basis TEXT NOT NULL,
    accounting TEXT NOT NULL,
    start_unix_us BIGINT,
    end_unix_us BIGINT,
    year BIGINT,
    fetched_unix_us BIGINT,
    licence TEXT NOT NULL,
    source TEXT NOT NULL,
    raw_value FLOAT,
    raw_unit TEXT NOT NULL,
    note TEXT NOT NULL,
    revision BIGINT DEFAULT '0' NOT NULL,
    CONSTRAINT pk_intensities PRIMARY KEY (id)
);

CREATE INDEX ix_intensities_series ON intensities (provider, zone, start_unix_us);

CREATE TABLE fetches (
    provider TEXT NOT NULL,
    zone TEXT NOT NULL,
    start_unix_us BIGINT NOT NULL,
    end_unix_us BIGINT NOT NULL,
    asked_unix_us BIGINT NOT NULL,
    CONSTRAINT pk_fetches PRIMARY KEY (provider, zone)
)
 WITHOUT ROWID;

CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE run_details (
    run_id TEXT NOT NULL,
    not_measured TEXT NOT NULL,
    warnings TEXT NOT NULL,
    provenance TEXT NOT NULL,
    argv TEXT,
    CONSTRAINT pk_run_details PRIMARY KEY (run_id),
    CONSTRAINT fk_run_details_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
);

CREATE TABLE tags (
    run_id TEXT NOT NULL,
    "key" TEXT NOT NULL,
    value TEXT NOT NULL,
    CONSTRAINT pk_tags PRIMARY KEY (run_id, "key"),
    CONSTRAINT fk_tags_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
)
 WITHOUT ROWID;

CREATE INDEX ix_tags_key_value ON tags ("key", value);

CREATE TABLE segments (
    run_id TEXT NOT NULL,
    segment BIGINT NOT NULL,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid_namespace BIGINT NOT NULL,
    pid BIGINT NOT NULL,
    pid_start BIGINT NOT NULL,
    hardware TEXT NOT NULL,
    started_boottime_us BIGINT NOT NULL,
    started_monotonic_us BIGINT NOT NULL,
    started_unix_us BIGINT NOT NULL,
    ended_boottime_us BIGINT,
    ended_monotonic_us BIGINT,
    ended_unix_us BIGINT,
    last_commit_boottime_us BIGINT NOT NULL,
    last_commit_unix_us BIGINT NOT NULL,
    status TEXT,
    CONSTRAINT pk_segments PRIMARY KEY (run_id, segment),
    CONSTRAINT fk_segments_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
)
 WITHOUT ROWID;

CREATE TABLE clock_pairs (
    run_id TEXT NOT NULL,
    segment BIGINT NOT NULL,
    boottime_us BIGINT NOT NULL,
    monotonic_us BIGINT NOT NULL,
    unix_us BIGINT NOT NULL,
    CONSTRAINT pk_clock_pairs PRIMARY KEY (run_id, segment, boottime_us),
    CONSTRAINT fk_clock_pairs_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
)
 WITHOUT ROWID;

CREATE TABLE devices (
    run_id TEXT NOT NULL,
    device_index BIGINT NOT NULL,
    host TEXT NOT NULL,
    kind TEXT NOT NULL,
    "key" TEXT NOT NULL,
    name TEXT NOT NULL,
    sensor TEXT NOT NULL,
    has_counter BOOLEAN NOT NULL,
    has_power BOOLEAN NOT NULL,
    counter_modulus_uj BIGINT,
    counter_period_us BIGINT,
    power_window_us BIGINT,
    max_power_mw BIGINT,
    attributes TEXT NOT NULL,
    notes TEXT NOT NULL,
    method TEXT,
    energy_j FLOAT,
    energy_low_j FLOAT,
    energy_high_j FLOAT,
    mean_power_w FLOAT,
    max_power_w FLOAT,
    coverage FLOAT,
    energy_notes TEXT,
    CONSTRAINT pk_devices PRIMARY KEY (run_id, device_index),
    CONSTRAINT fk_devices_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
)
 WITHOUT ROWID;

CREATE TABLE hot_readings (
    run_id TEXT NOT NULL,
    segment BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    payload BLOB NOT NULL,
    CONSTRAINT pk_hot_readings PRIMARY KEY (run_id, segment, seq),
    CONSTRAINT fk_hot_readings_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
);

CREATE TABLE chunks (
    run_id TEXT NOT NULL,
    segment BIGINT NOT NULL,
    device_index BIGINT NOT NULL,
    t0_us BIGINT NOT NULL,
    t1_us BIGINT NOT NULL,
    settled_us BIGINT,
    n BIGINT NOT NULL,
    min_power_mw BIGINT,
    max_power_mw BIGINT,
    format BIGINT NOT NULL,
    payload BLOB NOT NULL,
    CONSTRAINT pk_chunks PRIMARY KEY (run_id, segment, device_index, t0_us),
    CONSTRAINT fk_chunks_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
);

CREATE TABLE slots (
    run_id TEXT NOT NULL,
    device_index BIGINT NOT NULL,
    start_s BIGINT NOT NULL,
    twice_energy_nj BIGINT NOT NULL,
    covered_us BIGINT NOT NULL,
    max_power_mw BIGINT,
    CONSTRAINT pk_slots PRIMARY KEY (run_id, device_index, start_s),
    CONSTRAINT fk_slots_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
)
 WITHOUT ROWID;

CREATE TABLE spans (
    run_id TEXT NOT NULL,
    segment BIGINT NOT NULL,
    id BIGINT NOT NULL,
    parent_id BIGINT,
    name TEXT NOT NULL,
    attributes TEXT NOT NULL,
    started_unix_us BIGINT NOT NULL,
    ended_unix_us BIGINT,
    duration_us BIGINT,
    energy_j FLOAT,
    coverage FLOAT,
    CONSTRAINT pk_spans PRIMARY KEY (run_id, segment, id),
    CONSTRAINT fk_spans_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
)
 WITHOUT ROWID;

CREATE TABLE marks (
    run_id TEXT NOT NULL,
    segment BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    unix_us BIGINT NOT NULL,
    elapsed_us BIGINT NOT NULL,
    "values" TEXT NOT NULL,
    CONSTRAINT pk_marks PRIMARY KEY (run_id, segment, seq),
    CONSTRAINT fk_marks_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
)
 WITHOUT ROWID;

CREATE TABLE notes (
    run_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    unix_us BIGINT NOT NULL,
    text TEXT NOT NULL,
    CONSTRAINT pk_notes PRIMARY KEY (run_id, seq),
    CONSTRAINT fk_notes_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
)
 WITHOUT ROWID;

CREATE TABLE pricings (
    run_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    created_unix_us BIGINT NOT NULL,
    reason TEXT NOT NULL,
    zone TEXT,
    pue FLOAT NOT NULL,
    emissions_g FLOAT,
    emissions_modelled_g FLOAT,
    provider TEXT,
    values_status TEXT,
    price_per_kwh FLOAT,
    currency TEXT,
    CONSTRAINT pk_pricings PRIMARY KEY (run_id, seq),
    CONSTRAINT fk_pricings_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
);

CREATE TABLE pricing_uses (
    run_id TEXT NOT NULL,
    pricing_seq BIGINT NOT NULL,
    position BIGINT NOT NULL,
    intensity_id TEXT NOT NULL,
    zone_origin TEXT NOT NULL,
    energy_j FLOAT NOT NULL,
    energy_modelled_j FLOAT NOT NULL,
    slots BIGINT NOT NULL,
    CONSTRAINT pk_pricing_uses PRIMARY KEY (run_id, pricing_seq, position),
    CONSTRAINT fk_pricing_uses_run_id FOREIGN KEY(run_id) REFERENCES runs (id),
    CONSTRAINT fk_pricing_uses_intensity_id FOREIGN KEY(intensity_id) REFERENCES intensities (id)
)
 WITHOUT ROWID;

CREATE VIEW v_runs AS
SELECT id AS run_id, name, project, status,
       strftime('%Y-%m-%dT%H:%M:%S', started_unix_us / 1000000, 'unixepoch') || printf('.%06dZ', started_unix_us % 1000000) AS started_utc, strftime('%Y-%m-%dT%H:%M:%S', ended_unix_us / 1000000, 'unixepoch') || printf('.%06dZ', ended_unix_us % 1000000) AS ended_utc,
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
FROM runs;

CREATE VIEW v_energy_by_slot AS
SELECT slots.run_id, devices.key AS device_key, devices.name AS device_name, devices.kind,
       strftime('%Y-%m-%dT%H:%M:%S', slots.start_s * 1000000 / 1000000, 'unixepoch') || printf('.%06dZ', slots.start_s * 1000000 % 1000000) AS slot_start_utc,
       slots.twice_energy_nj / 2e9 AS energy_j,
       slots.covered_us / 1e6 AS covered_s,
       slots.twice_energy_nj / 2e3 / nullif(slots.covered_us, 0) AS mean_power_w,
       slots.max_power_mw / 1e3 AS max_power_w
FROM slots JOIN devices ON devices.run_id = slots.run_id AND devices.device_index = slots.device_index;
