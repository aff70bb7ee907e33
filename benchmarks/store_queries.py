"""Queries over 100 000 runs in one database, and what writing costs. Prints a table.

    python benchmarks/store_queries.py [RUNS]

A run here has eight GPUs, two packages, two tags and a page of provenance. Times are those of a warm process: the
median and the worst of 15 calls, records made. Commits are CPU time of the calling thread, 12 devices at 1 Hz.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from array import array
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tracker.machine import clock_pair, this_segment
from tracker.records import Device, DeviceEnergy, IntensityValue, Reading, Run, Slot
from tracker.store import tables
from tracker.store.codec import append_reading, encode_chunk, hot_bytes, hot_rows, samples_of_hot
from tracker.store.filters import SORTS, Order, RunFilter
from tracker.store.opening import Database, open_for_writing
from tracker.store.reading import RunReader
from tracker.store.rows import intensity_row
from tracker.store.totals import Sums
from tracker.store.writing import Chunk, RunWriter

DEFAULT_RUNS = 100_000
CALLS = 15
NEWEST = datetime(2026, 11, 25, tzinfo=UTC)
ATTRIBUTES = '{"bus": "00000000:01:00.0", "driver": "550.54.15", "class": "' + "x" * 200 + '"}'
PROVENANCE = '{"settings": {"note": "' + "x" * 1500 + '"}}'
GPUS = [Device("gpu", f"GPU-{n}", "Example GPU", "nvml", has_counter=True, has_power=True) for n in range(8)]
ZONES = [Device("cpu_package", f"intel-rapl:{n}", f"zone {n}", "rapl", True, False) for n in range(4)]
SECONDS = 600
CLOCKS = (
    "started_boottime_us",
    "started_monotonic_us",
    "started_unix_us",
    "last_commit_boottime_us",
    "last_commit_unix_us",
)


def fill(database: Database, runs: int) -> None:
    """Rows as the writer leaves them, in bulk."""
    rng = random.Random(1)  # noqa: S311 (the same rows each time)
    newest_us = int(NEWEST.timestamp()) * 1_000_000
    with database.engine.connect() as connection:
        with connection.begin():
            for basis in ("lifecycle", "direct"):
                value = IntensityValue("FR", 56.0, "bundled", "table", "static", basis=basis)
                connection.execute(tables.intensities.insert(), intensity_row(value) | {"id": basis})
        for start in range(0, runs, 5_000):
            numbers = range(start, min(start + 5_000, runs))
            ids = {number: f"{rng.getrandbits(64):016x}" for number in numbers}
            with connection.begin():
                connection.execute(
                    tables.runs.insert(),
                    [
                        {
                            "id": ids[number],
                            "name": f"train-{number % 1_000}",
                            "project": f"project-{number % 37}",
                            "status": rng.choices(("finished", "failed", "interrupted"), (90, 7, 3))[0],
                            "started_unix_us": newest_us - number * 300_000_000,
                            "ended_unix_us": newest_us - number * 300_000_000 + 200_000_000,
                            "duration_us": 200_000_000,
                            "energy_j": rng.uniform(1e3, 1e8),
                            "emissions_g": rng.uniform(1, 1e4),
                            "pue": 1.0,
                            "coverage": 1.0,
                            "zone": "FR",
                            "zone_name": "France",
                            "zone_origin": "setting",
                            "is_replayed": False,
                        }
                        for number in numbers
                    ],
                )
                connection.execute(
                    tables.run_details.insert(),
                    [
                        {"run_id": ids[number], "not_measured": "[]", "warnings": "[]", "provenance": PROVENANCE}
                        for number in numbers
                    ],
                )
                connection.execute(
                    tables.tags.insert(),
                    [
                        {"run_id": ids[number], "key": key, "value": value}
                        for number in numbers
                        for key, value in (("model", f"m{number % 50}"), ("seed", str(number)))
                    ],
                )
                connection.execute(
                    tables.segments.insert(),
                    [
                        {
                            "run_id": ids[number],
                            "segment": 0,
                            "host": f"node{number % 20}",
                            "boot_id": "boot",
                            "pid_namespace": 1,
                            "pid": number,
                            "pid_start": 1,
                            "hardware": "{}",
                            **dict.fromkeys(CLOCKS, newest_us - number * 300_000_000),
                            "ended_unix_us": newest_us - number * 300_000_000 + 200_000_000,
                            "status": "finished",
                        }
                        for number in numbers
                    ],
                )
                connection.execute(
                    tables.pricings.insert(),
                    [
                        {"run_id": ids[number], "seq": 0, "created_unix_us": 0, "reason": "", "pue": 1.0}
                        for number in numbers
                    ],
                )
                connection.execute(
                    tables.pricing_uses.insert(),
                    [
                        {
                            "run_id": ids[number],
                            "pricing_seq": 0,
                            "position": 0,
                            "intensity_id": "lifecycle" if number % 50 else "direct",
                            "zone_origin": "setting",
                            "energy_j": 1.0,
                            "energy_modelled_j": 0.0,
                            "slots": 1,
                        }
                        for number in numbers
                    ],
                )
                connection.execute(
                    tables.devices.insert(),
                    [
                        {
                            "run_id": ids[number],
                            "device_index": index,
                            "host": f"node{number % 20}",
                            "kind": device.kind,
                            "key": f"{device.key}-{number % 20}" if index < len(GPUS) else device.key,
                            "name": "Rare GPU" if number % 1_000 == 7 and not index else device.name,
                            "sensor": device.sensor,
                            "has_counter": True,
                            "has_power": device.has_power,
                            "attributes": ATTRIBUTES,
                            "notes": "[]",
                            "method": "counter",
                            "energy_j": 1.0,
                            "coverage": 1.0,
                        }
                        for number in numbers
                        for index, device in enumerate(GPUS + ZONES[:2])
                    ],
                )


def timed_ms(call: Callable[[], Any]) -> list[float]:
    call()
    out = []
    for _ in range(CALLS):
        began_s = time.perf_counter()
        call()
        out.append((time.perf_counter() - began_s) * 1e3)
    return out


def queries(path: Path, runs: int) -> None:
    reader = RunReader(path)
    middle = NEWEST - timedelta(seconds=300 * runs // 2)
    some_id = reader.runs(limit=1, offset=runs // 2)[0].id

    def page(order: str = "started", reverse: bool = False, offset: int = 0, **wanted: Any) -> Callable[[], Any]:
        return lambda: reader.runs(RunFilter(**wanted), Order(order, reverse), limit=20, offset=offset)

    def total(*by: Any, **wanted: Any) -> Callable[[], Any]:
        return lambda: reader.add_sums(defaultdict(Sums), RunFilter(**wanted), by)

    table: list[tuple[str, float, Callable[[], Any]]] = [
        ("first page of 20", 50, page()),
        ("page of 20 in the middle", 150, page(offset=runs // 2)),
        ("one project", 150, page(project="project-5")),
        ("one name", 150, page(name="train-5")),
        ("a rare status", 150, page(status="interrupted")),
        ("running", 150, page(status="running")),
        ("a span of time", 150, page(since=middle, until=middle + timedelta(days=1))),
        ("a tag of many", 150, page(tags={"model": "m7"})),
        ("a tag of one", 150, page(tags={"seed": "5"})),
        ("project, tag and status", 150, page(project="project-5", tags={"model": "m7"}, status="failed")),
        ("a host", 150, page(host="node7")),
        ("a zone that is none", 150, page(zone="DE")),
        ("a kind of device", 150, page(device="gpu")),
        ("a device in all", 150, page(device="example")),
        ("a rare device", 150, page(device="rare")),
        ("no such device", 150, page(device="no such")),
        ("a device by its key", 150, page(device="GPU-3-7")),
        ("a device in all, by energy", 150, page("energy", device="example")),
        ("high energy", 150, page(min_energy_j=9.99e7)),
        ("low emissions", 150, page(max_emissions_g=1.5)),
        ("nothing found", 150, page(project="project-5", name="no such")),
        ("one run by prefix", 150, lambda: reader.get(some_id[:10])),
        ("last", 50, lambda: reader.get("last")),
        *((f"by {name}", 150, page(name)) for name in SORTS if name != "started"),
        ("oldest first", 150, page(reverse=True)),
        ("totals", 300, total()),
        ("totals by project", 300, total("project")),
        ("totals by project and month", 300, total("project", "month")),
        ("totals of a device in all", 300, total(device="example")),
        ("totals of a span of time", 300, total(since=middle)),
        ("count", 150, reader.count),
    ]
    print(f"\n{runs} runs, {path.stat().st_size / 2**20:.0f} MiB")
    print(f"{'query':30} {'median ms':>9} {'worst ms':>9} {'goal':>5}")
    for name, goal_ms, call in table:
        taken = timed_ms(call)
        print(f"{name:30} {statistics.median(taken):9.1f} {max(taken):9.1f} {goal_ms:5.0f}")


def writing(path: Path) -> None:
    rng = random.Random(2)  # noqa: S311
    devices = GPUS + ZONES
    counters_uj = [rng.randrange(10**12) for _ in devices]
    origin_us = clock_pair().boottime_us

    def rows(second: int) -> array[int]:
        out: array[int] = array("q")
        for index, device in enumerate(devices):
            power_mw = max(int(rng.gauss(400_000, 60_000)), 0)
            counters_uj[index] += power_mw * 1_000
            t_us = origin_us + second * 1_000_000 + rng.randrange(1_000_000)
            gpu = power_mw if device.has_power else None
            append_reading(out, index, Reading(t_us, gpu, counters_uj[index] // 1_000 * 1_000, gpu))
        return out

    began_s = time.perf_counter()
    database = open_for_writing(path)
    writer = RunWriter(database)
    run = Run("w", None, None, {}, "running", datetime.now(UTC), None, 0.0, None, None, None, None, 1.0, None)
    writer.begin(run, this_segment())
    writer.add_devices(devices)
    start_ms = (time.perf_counter() - began_s) * 1e3
    totals = tuple(DeviceEnergy(d.kind, d.key, d.name, "counter", 1.0, 1.0, 1.0, 1.0) for d in devices)
    commits_us, seals_us, payload_bytes, samples = [], [], 0, 0
    pending: list[bytes] = []
    for second in range(SECONDS):
        committed, now = rows(second), clock_pair()
        began_ns = time.thread_time_ns()
        writer.commit_second(committed, now)
        commits_us.append((time.thread_time_ns() - began_ns) / 1e3)
        pending.append(hot_bytes(committed))
        if len(pending) == 60:
            table = hot_rows(b"".join(pending))
            pending.clear()
            chunks = [
                Chunk(index, samples_of_hot(device, table[table[:, 0] == index]), None)
                for index, device in enumerate(devices)
            ]
            payload_bytes += sum(len(encode_chunk(chunk.samples)) for chunk in chunks)
            samples += sum(len(chunk.samples) for chunk in chunks)
            slots = [Slot(index, second // 300 * 300, 2 * 10**15, 60_000_000, 1) for index in range(len(devices))]
            began_ns = time.thread_time_ns()
            writer.seal(replace(run, devices=totals), chunks, slots, now)
            seals_us.append((time.thread_time_ns() - began_ns) / 1e3)
    began_s = time.perf_counter()
    writer.finish(replace(run, devices=totals, status="finished"), [], [], clock_pair())
    writer.close()
    finish_ms = (time.perf_counter() - began_s) * 1e3
    per_minute_s = (60 * statistics.mean(commits_us) + statistics.mean(seals_us)) / 1e6
    percentile_99 = float(np.quantile(commits_us, 0.99))
    print(f"create, begin, add 12 devices    {start_ms:7.1f} ms")
    print(f"commit of a second, CPU          {statistics.median(commits_us):7.0f} µs (99 %: {percentile_99:.0f} µs)")
    print(f"seal of a minute, CPU            {statistics.median(seals_us) / 1e3:7.1f} ms")
    print(f"all writing, CPU a minute        {per_minute_s:7.3f} s")
    print(f"finish and close                 {finish_ms:7.1f} ms")
    print(f"chunk payload                    {payload_bytes / samples:7.1f} B a reading")


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_RUNS
    with tempfile.TemporaryDirectory() as folder:
        writing(Path(folder) / "written.db")
        path = Path(folder) / "runs.db"
        fill(open_for_writing(path), runs)
        queries(path, runs)


if __name__ == "__main__":
    main()
