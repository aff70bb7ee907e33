"""Memory, file and cost of a minute over a long run: the path from readings to the database, faster than time.

Eight GPUs and two CPU packages, a reading of each a second, committed each second and sealed each minute as a run does.

    python benchmarks/long_run.py [--hours 24]
"""

import argparse
import random
import tempfile
import time
from array import array
from datetime import UTC, datetime
from pathlib import Path

from tracker.intensity.choice import choose
from tracker.machine import this_segment
from tracker.records import ClockPair, Device, Reading
from tracker.session.account import RunFacts, build_run, gap_us_of
from tracker.session.ledger import Ledger
from tracker.store.codec import append_reading, hot_bytes
from tracker.store.opening import open_for_writing
from tracker.store.writing import Chunk, RunWriter

SECOND_US = 1_000_000
START = datetime(2026, 1, 1, tzinfo=UTC)
GPUS = [
    Device("gpu", f"GPU-{i}", "GPU", "nvml", True, True, counter_period_us=100_000, max_power_mw=700_000)
    for i in range(8)
]
PACKAGES = [
    Device("cpu_package", f"intel-rapl:{i}", f"package-{i}", "rapl", True, False, counter_modulus_uj=2**38)
    for i in range(2)
]
DEVICES = [*GPUS, *PACKAGES]


def main() -> None:
    """Play the run and print a line for each sixth of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=int, default=24)
    minutes = 60 * parser.parse_args().hours
    draw = random.Random(1)  # noqa: S311 (no secret: readings)
    power_mw = [draw.randrange(100_000, 700_000) for _ in DEVICES]
    counters_uj = [0] * len(DEVICES)
    with tempfile.TemporaryDirectory(prefix="long-run-") as folder:
        path = Path(folder) / "runs.db"
        writer = RunWriter(open_for_writing(str(path)))
        facts = RunFacts("long", None, None, {}, None, False, 1.0, START)
        choice = choose(50.0, None, environ={})
        offset_us = int(START.timestamp()) * SECOND_US

        def clocks(t_us: int) -> ClockPair:
            return ClockPair(t_us, t_us, t_us + offset_us)

        def record(accounts: list, t_us: int, status: str = "running"):
            return build_run(
                facts,
                accounts,
                choice,
                status=status,
                duration_us=t_us,
                is_ended=status != "running",
                not_measured=[],
                warnings=[],
            )

        writer.begin(record([], 0), this_segment())
        writer.add_devices(DEVICES)
        ledger = Ledger(gap_us_of(None))
        ledger.begin(0)
        for index, device in enumerate(DEVICES):
            ledger.add_device(index, device)

        print(f"{'hour':>6}{'resident MB':>13}{'file MB':>9}{'CPU of a minute, ms':>21}{'of a preview, ms':>18}")
        began_s = time.process_time()
        for minute in range(1, minutes + 1):
            for second in range(60):
                t_us = (60 * (minute - 1) + second) * SECOND_US + draw.randrange(SECOND_US // 2)
                rows = array("q")
                for index, device in enumerate(DEVICES):
                    counters_uj[index] += power_mw[index] * 1_000
                    power = power_mw[index] if device.has_power else None
                    append_reading(rows, index, Reading(t_us, power, counters_uj[index] % 2**38))
                writer.commit_second(rows, clocks(t_us))
                ledger.take(hot_bytes(rows), [])
            settled = ledger.settle(offset_us)
            chunks = [Chunk(part.device_index, part.samples, part.settled_us) for part in settled.sealed]
            writer.seal(record(ledger.accounts(), t_us), chunks, settled.slots, clocks(t_us))
            if minute == 1 or minute % (minutes // 6) == 0:
                took_ms = (time.process_time() - began_s) * 1e3 / max(1, minute - (minute > 1))
                preview_s = time.process_time()
                ledger.preview(offset_us, t_us)
                preview_ms = (time.process_time() - preview_s) * 1e3
                size_mb = sum(part.stat().st_size for part in path.parent.iterdir()) / 1e6
                print(f"{minute / 60:>6.1f}{resident_mb():>13.1f}{size_mb:>9.1f}{took_ms:>21.1f}{preview_ms:>18.1f}")
        writer.close()


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main()
