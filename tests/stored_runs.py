"""Runs, devices and readings for the tests of the store, small and always the same."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import traceback
from array import array
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tracker.records import (
    ClockPair,
    Device,
    DeviceEnergy,
    IntensityUse,
    IntensityValue,
    NotMeasured,
    Reading,
    Run,
    Segment,
    ZoneChoice,
    unix_us_of,
)
from tracker.store.codec import append_reading, hot_bytes, hot_rows, samples_of_hot
from tracker.store.opening import open_for_writing
from tracker.store.writing import Chunk, RunWriter

ROOT = Path(__file__).parents[1]
START = datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC)
BOOT_US = 5_000_000_000
SECOND_US = 1_000_000
GPU = Device(
    "gpu",
    "GPU-1",
    "Test GPU",
    "nvml",
    has_counter=True,
    has_power=True,
    counter_period_us=100_000,
    power_window_us=25_000,
    max_power_mw=700_000,
    attributes={"bus": "00000000:01:00.0"},
    notes=("a note",),
)
PACKAGE = Device("cpu_package", "intel-rapl:0", "package-0", "rapl", True, False, counter_modulus_uj=262_143_328_850)
FRANCE = IntensityValue(
    "FR", 56.0, "bundled", "table", "static", basis="lifecycle", year=2025, raw_value=56.0, raw_unit="g/kWh"
)
CONSTANT = IntensityValue(
    "", 400.0, "user", "", "static", start=START, end=START + timedelta(hours=1), fetched_at=START
)
HERE = Segment("node1", "boot-a", 4026531836, 100, 5000, ClockPair(BOOT_US, BOOT_US, unix_us_of(START)), {"cpu": "x"})


def a_run(run_id: str = "run-1", **changes: object) -> Run:
    run = Run(
        id=run_id,
        name=None,
        project=None,
        tags={},
        status="running",
        started_at=START,
        ended_at=None,
        duration_s=0.0,
        energy_j=None,
        energy_modelled_j=None,
        emissions_g=None,
        emissions_modelled_g=None,
        pue=1.0,
        coverage=None,
    )
    return dataclasses.replace(run, **changes)


def a_full_run(run_id: str = "run-1") -> Run:
    """Every field has a value of its own."""
    return a_run(
        run_id,
        name="finetune",
        project="nlp",
        tags={"stage": "test", "model": "tiny"},
        status="finished",
        ended_at=START + timedelta(seconds=60.5),
        duration_s=60.5,
        energy_j=6050.25,
        energy_modelled_j=10.5,
        emissions_g=0.5,
        emissions_modelled_g=0.25,
        pue=1.25,
        coverage=0.875,
        not_measured=(NotMeasured("dram", "DRAM", "not readable", "sudo chmod", "intel-rapl:0:0"),),
        devices=(
            DeviceEnergy("gpu", "GPU-1", "Test GPU", "counter", 6000.0, 100.0, 250.0, 1.0, (5900.0, 6100.0), ("n",)),
            DeviceEnergy("cpu_package", "intel-rapl:0", "package-0", "counter", 50.25, 1.0, None, 0.75),
        ),
        intensity=(IntensityUse(FRANCE, "setting", 6000.0, 10.0, 2), IntensityUse(CONSTANT, "world", 50.25, 0.5, 1)),
        zone=ZoneChoice("FR", "France", "setting", "argument zone"),
        warnings=("one", 'two "quoted"'),
        energy_range_j=(6000.0, 6100.0),
        parent_id="parent",
        is_replayed=True,
        provenance={"versions": {"tracker": "0.1"}, "own": [1, 2.5, None]},
    )


def after(seconds: float) -> ClockPair:
    """The clocks so long after the start."""
    us = round(seconds * SECOND_US)
    return ClockPair(BOOT_US + us, BOOT_US + us, unix_us_of(START) + us)


def second(index: int, *, gpu: int = 0, package: int = 1) -> array[int]:
    """The rows of one commit: two readings of the GPU and one of the package; odd seconds lack the GPU's power."""
    rows: array[int] = array("q")
    t_us = BOOT_US + index * SECOND_US
    power_mw = None if index % 2 else 100_000 + index
    append_reading(rows, gpu, Reading(t_us + 100, power_mw, 7_000_000 + index * 100_000_000, 99_000))
    append_reading(rows, package, Reading(t_us + 200, counter_uj=50_000_000 + index * 10_000_000))
    append_reading(rows, gpu, Reading(t_us + 500_000, 100_000, None, None))
    return rows


def chunks(seconds: range, settled_us: int | None = None) -> list[Chunk]:
    """What the rows of these seconds are sealed into."""
    rows = hot_rows(b"".join(hot_bytes(second(index)) for index in seconds))
    return [
        Chunk(index, samples_of_hot(device, rows[rows[:, 0] == index]), settled_us)
        for index, device in enumerate((GPU, PACKAGE))
    ]


def writer_of(path: Path, run: Run | None = None, segment: Segment = HERE) -> RunWriter:
    """A writer that has begun a run and knows both devices."""
    writer = RunWriter(open_for_writing(path))
    writer.begin(run or a_run(), segment, ["train.py", "--lr", "1"])
    writer.add_devices([GPU, PACKAGE])
    return writer


def store_run(path: Path, run: Run) -> None:
    """Put a run that has ended into the database."""
    writer = writer_of(path, run)
    writer.finish(run, [], [], after(run.duration_s))
    writer.close()


def as_stranger(work: Callable[[], None]) -> None:
    """Do work in a child that permissions hold for: where the tests run as root, as nobody."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            work()
            status = 0
        except BaseException:  # noqa: BLE001 (told, and the child ends here)
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def python(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A child process that runs code of the tests' with the package importable."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
