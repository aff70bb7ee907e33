"""Runs of months, and clocks that stand still, jump or run back: replayed with clocks passed in, or done for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from array import array
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from standin.nvml import NOT_SUPPORTED, Const, Fault, Gpu

import tracker
from tracker.intensity.choice import choose
from tracker.machine import boottime_us
from tracker.records import ClockPair, Device, Reading, Run, Segment, unix_us_of
from tracker.sensors.replay import ReplaySensor
from tracker.session.account import RunFacts, build_run, device_energy, gap_us_of
from tracker.session.ledger import Ledger
from tracker.store.codec import append_reading, hot_bytes
from tracker.store.opening import open_for_writing
from tracker.store.reading import RunReader
from tracker.store.writing import Chunk, RunWriter

S = 1_000_000
DAYS_AT_ONCE = 6
START = datetime(2025, 3, 1, 12, tzinfo=UTC)
BOOT_US = 3_000 * S
OFFSET_US = unix_us_of(START) - BOOT_US


def replayed(db: Path, trace: Path, days: int, period_s: int) -> Run:
    """A run of so many days on a trace, by a clock that is set: read, settled each day and stored as runs are."""
    clock = [BOOT_US]
    sensor = ReplaySensor(trace, clock_us=lambda: clock[0])
    devices = sensor.open().devices
    ledger = Ledger(gap_us_of(period_s))
    ledger.begin(BOOT_US)
    for index, device in enumerate(devices):
        ledger.add_device(index, device)
    facts = RunFacts("long", "pre-training", None, {}, None, True, 1.0, START)
    choice = choose(100.0, None, environ={})
    writer = RunWriter(open_for_writing(db))

    def at(us: int) -> ClockPair:
        return ClockPair(us, us, us + OFFSET_US)

    def record(status: str) -> Run:
        return build_run(
            facts, ledger.accounts(), choice, status=status, duration_us=clock[0] - BOOT_US,
            is_ended=status != "running", not_measured=[], warnings=[],
        )  # fmt: skip

    begun = record("running")
    writer.begin(begun, Segment("node", "boot", 1, 100, 5, at(BOOT_US), {}))
    writer.add_devices(devices)
    for day in range(0, days, DAYS_AT_ONCE):
        rows: array[int] = array("q")
        is_last = day == days - DAYS_AT_ONCE
        for second in range(day * 86_400, (day + DAYS_AT_ONCE) * 86_400 + is_last, period_s):
            clock[0] = BOOT_US + second * S
            for index, reading in enumerate(sensor.read(devices)):
                append_reading(rows, index, reading)
        ledger.take(hot_bytes(rows), [])
        settled = ledger.finish(OFFSET_US, clock[0]) if is_last else ledger.settle(OFFSET_US)
        chunks = [Chunk(part.device_index, part.samples, part.settled_us) for part in settled.sealed]
        if is_last:
            writer.finish(record("finished"), chunks, settled.slots, at(clock[0]))
        else:
            writer.seal(begun, chunks, settled.slots, at(clock[0]))
    writer.close()
    return RunReader(db).get("long")


@pytest.mark.parametrize(
    ("days", "shown", "meter"),
    [(60, "60.0 d", "power_w"), (60, "60.0 d", "power_w,counter_j"), (366, "366 d", "power_w,counter_j")],
)
def test_a_run_of_months_has_its_whole_length_and_energy(days, shown, meter, tmp_path):
    # Case 419. Milliseconds in 32 bits wrap after 49.7 days: 98.8 kWh, or 889 033 s; hours and minutes show 0:00.
    every_6_hours = range(0, days * 86_400 + 1, 6 * 3600)
    rows = [f"{t_s},GPU-1,400,{t_s * 400}" if "," in meter else f"{t_s},GPU-1,400" for t_s in every_6_hours]
    (tmp_path / "log.csv").write_text("\n".join([f"t_s,key,{meter}", *rows]))

    run = replayed(tmp_path / "runs.db", tmp_path / "log.csv", days, 1800)

    assert run.duration_s == days * 86_400
    assert run.energy_j == 400 * days * 86_400 and run.energy_kwh == pytest.approx(9.6 * days)
    assert run.coverage == 1.0 and run.ended_at == START + timedelta(days=days)
    assert run.emissions_g == pytest.approx(9.6 * days * 100)
    (samples,) = run.samples()
    assert len(samples) == days * 48 + 1 and samples.elapsed_s[-1] == days * 86_400
    assert sum(slot.covered_us for slot in RunReader(tmp_path / "runs.db").slots("long")) == days * 86_400 * S
    assert shown in run.summary() and ("576 kWh" if days == 60 else "3.51 MWh") in run.summary()


NO_COUNTER = (Fault("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED), Fault("field:83", NOT_SUPPORTED))


def constant(power_w: int, t_us: int, *, has_counter: bool = True) -> Reading:
    return Reading(t_us, power_w * 1000, power_w * (t_us - BOOT_US) + 7_000_000 if has_counter else None)


def energy_of(ledger: Ledger, until_us: int):
    (account,) = ledger.accounts()
    return device_energy(account, until_us - BOOT_US)


def gpu(*, has_counter: bool) -> Device:
    return Device("gpu", "GPU-1", "GPU", "fake", has_counter, True, counter_period_us=0 if has_counter else None)


def taken(ledger: Ledger, readings: list[Reading]) -> None:
    rows: array[int] = array("q")
    for reading in readings:
        append_reading(rows, 0, reading)
    ledger.take(hot_bytes(rows), [])


@pytest.mark.parametrize("steps_s", [[3600], [-3600], [86_400, -86_400], [-1, 2, -7200, 0.001]])
def test_a_wall_clock_that_is_set_moves_no_energy_whichever_way(steps_s):
    ledger = Ledger(5 * S)
    ledger.begin(BOOT_US)
    ledger.add_device(0, gpu(has_counter=True))
    offset_us, minute_us = OFFSET_US, 60 * S
    until_us = BOOT_US + (len(steps_s) + 1) * minute_us
    for minute, step_s in enumerate([*steps_s, 0]):
        begin_us = BOOT_US + minute * minute_us
        taken(ledger, [constant(300, t) for t in range(begin_us, begin_us + minute_us + (step_s == 0), S)])
        ledger.settle(offset_us)
        offset_us += round(step_s * S)

    ledger.finish(offset_us, until_us)

    found = energy_of(ledger, until_us)
    assert found.energy_j == 300 * (until_us - BOOT_US) / S and found.coverage == 1.0
    (account,) = ledger.accounts()
    assert sum(account.covered_us.tolist()) == until_us - BOOT_US


@pytest.mark.parametrize("has_counter", [True, False])
def test_a_machine_that_sleeps_is_a_gap_of_power_and_counted_by_a_counter(has_counter):
    """CLOCK_BOOTTIME runs on: the readings before and after an hour's sleep are an hour apart."""
    ledger = Ledger(5 * S)
    ledger.begin(BOOT_US)
    ledger.add_device(0, gpu(has_counter=has_counter))
    wake_us = BOOT_US + 3_660 * S
    until_us = wake_us + 60 * S

    before = [constant(100, t, has_counter=has_counter) for t in range(BOOT_US, BOOT_US + 61 * S, S)]
    # While it slept the board drew 2 W: the counter has it, where it lives through the sleep.
    slept_uj = 60 * 100 * S + 3_600 * 2 * S + 7_000_000
    after = [
        replace(constant(100, t), counter_uj=slept_uj + 100 * (t - wake_us) if has_counter else None)
        for t in range(wake_us, until_us + 1, S)
    ]
    taken(ledger, before)
    ledger.settle(OFFSET_US)
    taken(ledger, after)
    ledger.finish(OFFSET_US, until_us)

    found = energy_of(ledger, until_us)
    assert found.energy_j == (2 * 6_000 + 7_200 if has_counter else 2 * 6_000)
    assert found.coverage == pytest.approx(1.0 if has_counter else 120 / 3_720)


def test_a_stopped_process_loses_no_energy_of_a_counter_and_reports_the_hole_without_one(
    standin_nvml, tmp_path, monkeypatch
):
    """SIGSTOP, as a batch system suspends a job; case 417 is the same for a call that keeps the interpreter's lock."""
    standin_nvml.plug(
        Gpu(power=(Const(100_000),), uuid="GPU-counted"),
        Gpu(
            power=(Const(100_000),),
            uuid="GPU-uncounted",
            faults=NO_COUNTER,
        ),
        epoch_us=boottime_us(),
    )
    (tmp_path / "sys").mkdir()
    code = "import sys, tracker; x = tracker.track('x').start(); print('up', flush=True); sys.stdin.read(); x.stop()"
    environ = {name: value for name, value in {**os.environ, **standin_nvml.env}.items() if name != "STANDIN_CLOCK"}
    environ |= {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "TRACKER_DB": str(tmp_path / "runs.db"),
        "TRACKER_SYSFS": str(tmp_path / "sys"),
        "TRACKER_ZONE": "FR",
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, "-c", code], env=environ, text=True, **pipes)
    assert child.stdout.readline() == "up\n"
    child.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    child.send_signal(signal.SIGCONT)
    _, said = child.communicate("")

    assert child.returncode == 0, said
    (run,) = tracker.runs(db=tmp_path / "runs.db")
    counted, uncounted = (device for device in run.devices if device.kind == "gpu")
    assert run.status == "finished" and run.duration_s > 3.5
    assert counted.energy_j == pytest.approx(100 * run.duration_s, abs=2) and counted.coverage == pytest.approx(
        1, abs=0.01
    )
    assert uncounted.coverage < 0.3
    assert (uncounted.energy_j or 0) == pytest.approx(100 * run.duration_s * uncounted.coverage, abs=2)
