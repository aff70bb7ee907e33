"""What the page asks of a week of 1 s samples of eight GPUs: first paint and zooms.

python benchmarks/serving.py [--days 6.944]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tracker.records import ClockPair, Device, Run, Samples, Segment, Slot, unix_us_of
from tracker.serving.power import power_figures
from tracker.store.opening import open_for_writing
from tracker.store.reading import RunReader
from tracker.store.writing import Chunk, RunWriter

START = datetime(2026, 11, 1, tzinfo=UTC)
BOOT_US = 5_000_000_000
GPUS = [Device("gpu", f"GPU-{n}", "H100", "nvml", has_counter=True, has_power=True) for n in range(8)]


def fill(path: Path, days: float) -> Run:
    """A run of so many days, sealed each minute."""
    seconds = round(days * 86_400) // 60 * 60
    rng = np.random.default_rng(1)
    run = Run("week", "week", None, {}, "running", START, None, 0.0, 1.0, None, 1.0, None, 1.0, 1.0)
    writer = RunWriter(open_for_writing(path))
    began = ClockPair(BOOT_US, BOOT_US, unix_us_of(START))
    writer.begin(run, Segment("h", "b", 1, 1, 1, began, {}))
    writer.add_devices(GPUS)
    all_known = np.ones(60, dtype=np.bool_)
    for minute in range(seconds // 60):
        t_us = BOOT_US + (minute * 60 + np.arange(60)) * 1_000_000
        chunks = []
        for index, gpu in enumerate(GPUS):
            power_mw = rng.integers(80_000, 700_000, 60)
            counter_uj = minute * 24_000_000_000 + np.cumsum(power_mw) * 1000
            samples = Samples(gpu, t_us, power_mw, all_known, counter_uj, all_known, power_mw * 0, ~all_known, 0)
            chunks.append(Chunk(index, samples, int(t_us[-1])))
        slots = []
        if minute % 5 == 4:
            start_s = unix_us_of(START) // 1_000_000 + (minute - 4) * 60
            slots = [Slot(n, start_s, 2 * 120_000 * 10**9, 300_000_000, 700_000) for n in range(len(GPUS))]
        us = (minute + 1) * 60_000_000
        writer.seal(run, chunks, slots, ClockPair(BOOT_US + us, BOOT_US + us, unix_us_of(START) + us))
    us = seconds * 1_000_000
    ended = ClockPair(BOOT_US + us, BOOT_US + us, unix_us_of(START) + us)
    writer.finish(replace(run, status="finished", duration_s=float(seconds)), [], [], ended)
    writer.close()
    return RunReader(path).get("week")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=600_000 / 86_400)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        run = fill(path, given.days)
        start_us = unix_us_of(START)
        for name, hours in (
            ("all", given.days * 24),
            ("1 day", 24),
            ("12 h", 12),
            ("6 h", 6),
            ("3 h", 3),
            ("1 h", 1),
            ("1 min", 1 / 60),
        ):
            took = []
            for repeat in range(5):
                reader = RunReader(path)
                before_s = time.perf_counter()
                first_us = start_us + round(repeat / 4 * (given.days * 24 - hours) * 3.6e9)  # from its start to its end
                figures = power_figures(reader, run, first_us, first_us + round(hours * 3.6e9), 1000)
                took.append(time.perf_counter() - before_s)
            print(f"{name:>6}: {1e3 * sorted(took)[2]:.0f} ms, most {1e3 * max(took):.0f} ms, from {figures['detail']}")


if __name__ == "__main__":
    main()
