"""Pricing stored runs anew: 10 000 runs of one hour, and 1 000 runs against a year of hourly prices.

    python benchmarks/repricing.py [--runs 10000]

Beside it, in the same run, what the database alone takes to read the same rows and to write them: the floor.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

import tracker
from tracker.records import Device, IntensityValue
from tracker.store import tables
from tracker.store.intensities import add_values
from tracker.store.opening import Database, open_for_reading, open_for_writing
from tracker.store.rows import device_row, intensity_row

YEAR = datetime(2025, 1, 1, tzinfo=UTC)
SLOT_S = 300
PROVENANCE = '{"grid": {"provider": "neso", "zone": "GB"}}'
GPUS = [Device("gpu", f"GPU-{n}", "H100", "nvml", has_counter=True, has_power=True) for n in range(8)]


def fill(database: Database, runs: int, hours: int) -> None:
    """Runs of eight GPUs over a year, priced with a forecast, and the final values beside it."""
    rng = random.Random(1)  # noqa: S311 (the same rows each time)
    forecast = _hours("forecast", 1.2)
    with database.engine.connect() as connection:
        with connection.begin():
            add_values(connection, forecast)
        ids_of = [intensity_row(value)["id"] for value in forecast]
        for first in range(0, runs, 500):
            numbers = range(first, min(first + 500, runs))
            starts = {n: rng.randrange(0, (365 * 24 - hours) * 12) * SLOT_S for n in numbers}
            base_s = int(YEAR.timestamp())
            with connection.begin():
                put = connection.execute
                put(tables.runs.insert(), [_run(n, base_s + starts[n], hours) for n in numbers])
                details = {"not_measured": "[]", "warnings": "[]", "provenance": PROVENANCE}
                put(tables.run_details.insert(), [{"run_id": f"run-{n}", **details} for n in numbers])
                known = {"method": "counter", "energy_j": 1.0, "coverage": 1.0}
                devices = [device_row(gpu, "h") | known | {"device_index": at} for at, gpu in enumerate(GPUS)]
                put(tables.devices.insert(), [row | {"run_id": f"run-{n}"} for n in numbers for row in devices])
                put(
                    tables.slots.insert(),
                    [
                        {
                            "run_id": f"run-{n}",
                            "device_index": at,
                            "start_s": base_s + starts[n] + SLOT_S * slot,
                            "twice_energy_nj": rng.randrange(10**14),
                            "covered_us": SLOT_S * 1_000_000,
                        }
                        for n in numbers
                        for at in range(len(GPUS))
                        for slot in range(hours * 12)
                    ],
                )
                pricing = {"seq": 0, "created_unix_us": 0, "reason": "run", "pue": 1.0, "provider": "neso"}
                put(tables.pricings.insert(), [{"run_id": f"run-{n}", **pricing} for n in numbers])
                put(
                    tables.pricing_uses.insert(),
                    [
                        {
                            "run_id": f"run-{n}",
                            "pricing_seq": 0,
                            "position": at,
                            "intensity_id": ids_of[starts[n] // 3600 + at],
                            "zone_origin": "setting",
                            "energy_j": 1.0,
                            "energy_modelled_j": 0.0,
                            "slots": 12,
                        }
                        for n in numbers
                        for at in range(hours)
                    ],
                )


def _run(number: int, start_s: int, hours: int) -> dict[str, object]:
    return {
        "id": f"run-{number}",
        "status": "finished",
        "started_unix_us": start_s * 1_000_000,
        "ended_unix_us": (start_s + hours * 3600) * 1_000_000,
        "duration_us": hours * 3600 * 1_000_000,
        "energy_j": 1.0,
        "emissions_g": 1.0,
        "pue": 1.0,
        "coverage": 1.0,
        "zone": "GB",
        "zone_name": "United Kingdom",
        "zone_origin": "setting",
        "zone_detail": "",
        "is_replayed": False,
    }


def _hours(status: str, factor: float) -> list[IntensityValue]:
    return [
        IntensityValue(
            "GB",
            factor * (100 + hour % 24),
            "neso",
            "national",
            status,  # type: ignore[arg-type]
            basis="direct",
            start=YEAR + timedelta(hours=hour),
            end=YEAR + timedelta(hours=hour + 1),
            fetched_at=YEAR,
        )
        for hour in range(365 * 24)
    ]


def floor_s(path: Path) -> float:
    """Reading the rows that pricing needs, and nothing else."""
    began = time.perf_counter()
    with open_for_reading(path).engine.connect() as connection:
        for table in (tables.slots, tables.devices, tables.run_details, tables.pricing_uses):
            connection.execute(sa.select(table)).all()
    return time.perf_counter() - began


def measure(folder: Path, runs: int, hours: int) -> None:
    path = folder / f"{runs}.db"
    database = open_for_writing(path)
    fill(database, runs, hours)
    with database.engine.begin() as connection:
        add_values(connection, _hours("final", 1.0))
    read_s = floor_s(path)
    began = time.perf_counter()
    result = tracker.reprice(every=True, db=path)
    took_s = time.perf_counter() - began
    stored = sum(one.is_stored for one in result.runs)
    began = time.perf_counter()
    tracker.reprice(*(f"run-{n}" for n in range(min(runs, 1000))), zone="SE", db=path)
    what_if_s = time.perf_counter() - began
    print(
        f"{runs} runs of {hours} h, 8 GPUs: {took_s:.2f} s for {stored} new pricings "
        f"({1e3 * took_s / runs:.2f} ms a run), {took_s / read_s:.1f} x reading the rows "
        f"({read_s:.2f} s); what if, {min(runs, 1000)} runs: {what_if_s:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    given = parser.parse_args()
    os.environ["TRACKER_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), given.runs, 1)
        measure(Path(folder), max(1, given.runs // 10), 24)


if __name__ == "__main__":
    main()
