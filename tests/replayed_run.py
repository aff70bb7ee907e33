"""Runs of hours on the example trace, stored in seconds: the trace is read by a clock that is set, not waited for."""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from tracker.intensity.choice import IntensityChoice, choose
from tracker.records import ClockPair, IntensityValue, Mark, NotMeasured, Run, RunStatus, Segment, Span, unix_us_of
from tracker.sensors.replay import ReplaySensor
from tracker.session.account import RunFacts, build_run, gap_us_of
from tracker.session.ledger import DeviceLedger
from tracker.settings import EXAMPLE_TRACE
from tracker.store.codec import append_reading, hot_bytes, hot_rows, samples_of_hot
from tracker.store.opening import open_for_writing
from tracker.store.writing import Chunk, RunWriter
from tracker.units import MICROSECONDS_PER_S, joules_of_twice_nj

START = datetime(2026, 11, 24, 6, 0, 12, tzinfo=UTC)
_BOOT_US = 5_000_000_000
_CHUNK = 60
_SILENT = NotMeasured("gpu", "NVIDIA H100 80GB HBM3", "its driver gave no answer within 10 s", "nvidia-smi --gpu-reset")


def store_replayed(
    path: Path,
    run_id: str,
    *,
    name: str = "finetune",
    project: str = "nlp",
    start: datetime = START,
    minutes: int = 120,
    status: RunStatus = "finished",
    without: Collection[int] = (),
    epochs: int = 4,
) -> Run:
    """Store a run of eight GPUs, two CPU packages and their DRAM, with spans, marks and hourly intensities.

    Args:
        without: minutes without a reading.

    Returns:
        the record as computed; what reads the database must agree with it.
    """
    clock = [_BOOT_US]
    start_us = unix_us_of(start)
    offset_us = start_us - _BOOT_US
    sensor = ReplaySensor(EXAMPLE_TRACE, clock_us=lambda: clock[0])
    devices = sensor.open().devices
    ledgers = [DeviceLedger(device, index, gap_us_of(None)) for index, device in enumerate(devices)]
    rng = np.random.default_rng(3)
    rows: array[int] = array("q")
    for second in range(60 * minutes):
        if second // 60 in without:
            continue
        clock[0] = _BOOT_US + second * MICROSECONDS_PER_S + int(rng.integers(0, 900_000))
        for index, reading in enumerate(sensor.read(devices)):
            append_reading(rows, index, reading)
    table = hot_rows(hot_bytes(rows))
    end_us = _BOOT_US + 60 * minutes * MICROSECONDS_PER_S
    epoch_us = (end_us - _BOOT_US) // epochs
    edges_us = [_BOOT_US + at * epoch_us // 10 for at in range(10 * epochs + 1)]
    chunks = []
    for index, (device, ledger) in enumerate(zip(devices, ledgers, strict=True)):
        own = table[table[:, 0] == index]
        pieces = [samples_of_hot(device, own[at : at + _CHUNK]) for at in range(0, len(own), _CHUNK)]
        for samples in pieces:
            ledger.push(samples, edges_us, offset_us)
        ledger.finish(edges_us, offset_us, end_us, end_us)
        chunks += [Chunk(index, samples, int(samples.t_us[-1])) for samples in pieces]
    facts = RunFacts(run_id, name, project, {"model": "tiny"}, None, True, 1.2, start)
    run = build_run(
        facts,
        [ledger.account() for ledger in ledgers],
        _hourly(start, minutes),
        status=status,
        duration_us=end_us - _BOOT_US,
        is_ended=True,
        not_measured=[_SILENT],
        warnings=[],
    )
    ended = ClockPair(end_us, end_us, end_us + offset_us)
    writer = RunWriter(open_for_writing(path))
    began = ClockPair(_BOOT_US, _BOOT_US, start_us)
    writer.begin(replace(run, status="running", ended_at=None), Segment("node1", "boot", 1, 100, 5000, began, {}))
    writer.add_devices(list(devices))
    slots = [slot for ledger in ledgers for slot in ledger.take_changes()]
    spans = [_span(epoch, start, epoch_us, edges_us, ledgers) for epoch in range(epochs)]
    writer.finish(run, chunks, slots, ended, spans=spans, marks=list(_marks(start, epoch_us, epochs)))
    writer.close()
    return run


def _hourly(start: datetime, minutes: int) -> IntensityChoice:
    zone = choose(None, "FR", environ={})
    first = start.replace(minute=0, second=0)
    series = tuple(
        IntensityValue(
            "FR", round(45 + 25 * math.sin(hour), 1), "example", "grid", "final", basis="lifecycle",
            start=first + timedelta(hours=hour / 2), end=first + timedelta(hours=(hour + 1) / 2),
        )
        for hour in range(2 * (minutes // 60 + 2))
    )  # fmt: skip
    return replace(zone, series=series, has_source=True)


def _span(epoch: int, start: datetime, epoch_us: int, edges_us: Sequence[int], ledgers: Sequence[DeviceLedger]) -> Span:
    """Nine tenths of an epoch, with the energy of all devices; the rest of it is between two spans."""
    first, last = edges_us[10 * epoch], edges_us[10 * epoch + 9]
    twice_nj = sum(ledger.cumulative[last][0] - ledger.cumulative[first][0] for ledger in ledgers)
    began = start + timedelta(microseconds=epoch * epoch_us)
    length = timedelta(microseconds=last - first)
    energy_j = joules_of_twice_nj(twice_nj)
    return Span(epoch + 1, None, f"epoch {epoch}", {}, began, began + length, length.total_seconds(), energy_j, 1.0)


def _marks(start: datetime, epoch_us: int, epochs: int) -> Iterator[Mark]:
    for step in range(10 * epochs):
        elapsed = timedelta(microseconds=step * epoch_us // 10)
        yield Mark(start + elapsed, elapsed.total_seconds(), {"step": step, "loss": round(3 / (1 + step / 10), 3)})
