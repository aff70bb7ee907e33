"""What the page asks of a week of 1 s samples of eight GPUs: first paint and zooms.

python benchmarks/serving.py [--days 6.944] [--browser]

The server's share of each; with --browser all of it, in a real Chromium without a window: from the click on a run to
its first paint, to its charts, and from a zoom to its chart. Each page is opened anew.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
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

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 7
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
    parser.add_argument("--browser", action="store_true")
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
        if given.browser:
            in_browser(path, run.id)


def in_browser(path: Path, run_id: str) -> None:
    """The same as a person meets it."""
    sys.path.insert(0, str(ROOT / "tests"))
    from chromium import Chromium

    command = [sys.executable, "-m", "tracker", "serve", "--db", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server, Chromium() as browser:
        try:
            assert server.stdout is not None
            found = re.search(r"http\S+", server.stdout.readline())
            assert found is not None
            browser.look_like(1440)
            browser.open(found[0])
            browser.until("document.querySelector('main h1') !== null")
            took: dict[str, list[float]] = {}
            for _ in range(REPEATS):
                browser.open(f"{found[0].split('/?')[0]}/runs/{run_id}")
                browser.until("document.body.dataset.painted")
                times = browser.value(_PAINTS)
                for name, ms in times.items():
                    took.setdefault(name, []).append(ms)
                for name in ("in", "in", "right", "in", "in", "in", "in", "out"):
                    took.setdefault("a zoom", []).append(browser.value(_ZOOM.replace("HOW", name)))
            for name, ms in took.items():
                middle = sorted(ms)[len(ms) // 2]
                print(f"{name}: {middle:.0f} ms, least {min(ms):.0f}, most {max(ms):.0f} ms (of {len(ms)})")
        finally:
            server.terminate()


# From the navigation on; the charts are there when the page says so, and painted with the next frame.
_PAINTS = """(async () => {
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const first = performance.getEntriesByName("first-contentful-paint")[0];
  const charts = performance.getEntriesByName("painted")[0];
  return { "first paint": first ? first.startTime : -1, "charts drawn": charts ? charts.startTime : -1 };
})()"""
# From the press of the button to the frame after the chart has the new readings.
_ZOOM = """(async () => {
  const detail = document.getElementById("detail");
  const began = performance.now();
  const what = { childList: true, characterData: true, subtree: true };
  const changed = new Promise(done => new MutationObserver(done).observe(detail, what));
  document.querySelector('[data-zoom=HOW]').click();
  await changed;
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - began;
})()"""


if __name__ == "__main__":
    main()
