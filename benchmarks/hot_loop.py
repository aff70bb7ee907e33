"""Energy per 5-minute slot of 10^7 samples, beside what people use: prints a table.

    python benchmarks/hot_loop.py [repetitions]

One core each. Ours is given integer columns with masks and gives exact energy, covered time and maximum per slot (the
mean is their quotient); numpy, pandas and polars are given float columns without gaps and give one number. Times are of
the CPU, the least of all repetitions: what else the machine does adds to a time and never takes from it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tracker.energy import Rules, integrate, slot_edges
from tracker.records import Device, Samples

if TYPE_CHECKING:
    from tracker.records import FloatColumn, IntColumn

SAMPLES = 10_000_000
GAP_US = 5_000_000
UNIX_OFFSET_US = 1_700_000_000_000_000


def trace(spacing_s: float, has_counter: bool) -> tuple[Samples, FloatColumn, FloatColumn]:
    """A jittered trace of a GPU: as samples, and as seconds and watts."""
    rng = np.random.default_rng(1)
    t_us = np.cumsum(rng.integers(int(0.5e6 * spacing_s), int(1.5e6 * spacing_s), SAMPLES))
    power_mw = (300_000 + 100_000 * np.sin(t_us / 1e6) + rng.normal(0, 5_000, SAMPLES)).astype(np.int64)
    counter_uj = np.zeros(SAMPLES, np.int64)
    if has_counter:
        counter_uj[1:] = np.cumsum((power_mw[1:] + power_mw[:-1]) // 2 * np.diff(t_us) // 1_000_000) * 1_000
    known, unknown, zero = np.ones(SAMPLES, bool), np.zeros(SAMPLES, bool), np.zeros(SAMPLES, np.int64)
    device = Device("gpu", "GPU-0", "GPU", "nvml", has_counter, True)
    counter_known = known if has_counter else unknown
    samples = Samples(device, t_us, power_mw, known, counter_uj, counter_known, zero, unknown, UNIX_OFFSET_US)
    return samples, t_us / 1e6, power_mw / 1e3


def contenders(samples: Samples, t_s: FloatColumn, power_w: FloatColumn) -> dict[str, Callable[[], object]]:
    t_us: IntColumn = samples.t_us
    rules = Rules(
        has_counter=samples.device.has_counter, has_power=True, gap_us=GAP_US, max_power_mw=700_000, counter_period_us=0
    )
    edges_us, _ = slot_edges(int(t_us[0]), int(t_us[-1]), UNIX_OFFSET_US)
    whole_us = np.array([t_us[0], t_us[-1]])
    out: dict[str, Callable[[], object]] = {
        "numpy.trapezoid": lambda: np.trapezoid(power_w, t_s),
        "tracker, slots": lambda: integrate(samples, edges_us, rules),
    }
    if samples.device.has_counter:
        return out
    out["tracker, one total"] = lambda: integrate(samples, whole_us, rules)
    if importlib.util.find_spec("polars"):
        os.environ["POLARS_MAX_THREADS"] = "1"  # read at its import
        import polars as pl

        step_s = pl.col("t") - pl.col("t").shift()
        twice_w = pl.col("p") + pl.col("p").shift()
        query = pl.DataFrame({"t": t_s, "p": power_w}).lazy().select((step_s * twice_w / 2).sum())
        out["polars, one total"] = lambda: query.collect().item()
    if importlib.util.find_spec("pandas"):
        import pandas as pd

        frame = pd.DataFrame({"t": t_s, "p": power_w})

        def with_pandas() -> float:
            return float((frame.t.diff() * (frame.p + frame.p.shift()) / 2).sum())

        out["pandas, one total"] = with_pandas
    return out


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    print(f"{'10^7 samples':34} {'ms':>7} {'M/s':>6} {'x numpy':>8} {'peak MB':>8}")
    for spacing_s, has_counter in ((0.1, False), (1.0, False), (1.0, True)):
        runs = contenders(*trace(spacing_s, has_counter))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repetitions):  # in turn, so that a busy moment of the machine meets them all
            for name, run in runs.items():
                begun = time.process_time()
                run()
                seconds[name].append(time.process_time() - begun)
        least = {name: min(times) for name, times in seconds.items()}
        for name, run in runs.items():
            tracemalloc.start()
            run()
            peak_mb = "" if name.startswith("polars") else f"{tracemalloc.get_traced_memory()[1] / 1e6:8.1f}"
            tracemalloc.stop()
            label = f"{spacing_s:g} s{', counter' if has_counter else ''}: {name}"
            took = least[name]
            ratio = least["numpy.trapezoid"] / took
            print(f"{label:34} {took * 1e3:7.1f} {SAMPLES / took / 1e6:6.0f} {ratio:8.2f} {peak_mb:>8}")


if __name__ == "__main__":
    main()
