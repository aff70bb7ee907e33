"""What tracking costs: import, start, stop, CPU time, memory, and what an installation brings.

Run it with the interpreter of an installation (`pip install .`, which compiles the modules; from a checkout with
PYTHONDONTWRITEBYTECODE every start compiles them anew). Eight GPUs are played by the stand-in driver of the tests.

    python benchmarks/footprint.py [--seconds 20] [--repeats 5]
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from standin.nvml import Gpu, StandinNvml, build  # noqa: E402
from standin.powercap import PowercapTree  # noqa: E402

from tracker.machine import boottime_us  # noqa: E402

GPUS = 8

IMPORT = """
import time
t = time.perf_counter()
import tracker
print(time.perf_counter() - t)
"""

# The libraries that a training program has mostly imported, or that the first run imports for it.
LIBRARIES = (
    "import numpy, sqlalchemy, sqlalchemy.dialects.sqlite, sqlite3, psutil, platformdirs, pynvml, threading, json"
)

RESIDENT = """
def resident_mb():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6
"""

START = f"""
import json, sys, time
bare = time.perf_counter()
{LIBRARIES}
{RESIDENT}
import tracker
libraries_mb = resident_mb()
t0 = time.perf_counter()
live = tracker.track("first", zone="FR", db=sys.argv[1]).start()
t1 = time.perf_counter()
time.sleep(1.5)
t2 = time.perf_counter()
live.stop()
t3 = time.perf_counter()
later = []
for _ in range(5):
    t = time.perf_counter()
    live = tracker.track("later", zone="FR", db=sys.argv[1]).start()
    later.append(time.perf_counter() - t)
    live.stop()
print(json.dumps({{"first": t1 - t0, "later": sorted(later)[2], "stop": t3 - t2,
                   "memory_mb": resident_mb(), "above_libraries_mb": resident_mb() - libraries_mb}}))
"""

CPU = """
import sys, time
import tracker
interval_s = float(sys.argv[2])
with tracker.track("cpu", zone="FR", db=sys.argv[1], interval_s=interval_s) as run:
    time.sleep(1.5)
    t, c = time.perf_counter(), time.process_time()
    time.sleep(float(sys.argv[3]))
    print((time.process_time() - c) / (time.perf_counter() - t) * 60)
"""

# The least that reads eight counters: what any sampler in Python pays.
POLLER = """
import sys, time, pynvml
pynvml.nvmlInit()
handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
rows = []
def poll():
    rows.append([(pynvml.nvmlDeviceGetPowerUsage(h), pynvml.nvmlDeviceGetTotalEnergyConsumption(h)) for h in handles])
poll()
interval_s, seconds = float(sys.argv[2]), float(sys.argv[3])
t, c = time.perf_counter(), time.process_time()
while time.perf_counter() - t < seconds:
    time.sleep(interval_s)
    poll()
print((time.process_time() - c) / (time.perf_counter() - t) * 60)
"""


def main() -> None:
    """Measure all of it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="of each CPU measurement")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="footprint-") as name:
        folder = Path(name)
        environ = hardware(folder)

        def run(code: str, *arguments: str) -> str:
            database = folder / f"{len(list(folder.iterdir()))}-{os.urandom(4).hex()}.db"
            command = [sys.executable, "-c", code, str(database), *arguments]
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, cwd=folder)
            return done.stdout.splitlines()[-1]

        run(IMPORT)  # the files come from the disk once
        imports = [float(run(IMPORT)) for _ in range(options.repeats)]
        starts = [json.loads(run(START)) for _ in range(options.repeats)]

        def median(key: str) -> float:
            return statistics.median(start[key] for start in starts)

        seconds = str(options.seconds)
        rows = [
            ("import tracker", f"{1e3 * statistics.median(imports):.0f} ms", "40 ms"),
            ("first create + start, libraries imported before", f"{1e3 * median('first'):.0f} ms", "80 ms"),
            ("later create + start", f"{1e3 * median('later'):.0f} ms", "10 ms"),
            ("stop", f"{1e3 * median('stop'):.0f} ms", "100 ms"),
            ("memory in all", f"{median('memory_mb'):.0f} MB", "75 MB"),
            ("memory above the same libraries", f"{median('above_libraries_mb'):.0f} MB", "15 MB"),
        ]
        for interval, goal in (("1", "0.04 s"), ("0.1", "0.15 s")):
            rows.append(
                (f"CPU a minute, {GPUS} GPUs each {interval} s", f"{float(run(CPU, interval, seconds)):.3f} s", goal)
            )
            rows.append(("  a bare poller beside it", f"{float(run(POLLER, interval, seconds)):.3f} s", ""))
    packages, size_mb = installed()
    rows.append(("packages that pip brings, ours included", str(packages), "20"))
    rows.append(("  on disk, compiled", f"{size_mb:.0f} MB", "120 MB"))
    for what, value, goal in rows:
        print(f"{what:<50}{value:>12}{goal and f'   goal {goal}'}")


def hardware(folder: Path) -> dict[str, str]:
    """The environment in which a program finds eight GPUs and two CPU packages."""
    nvml = folder / "nvml"
    nvml.mkdir()
    standin = StandinNvml(build(folder), nvml)
    standin.plug(*(Gpu(uuid=f"GPU-{i:08x}-0000-0000-0000-000000000000") for i in range(GPUS)), epoch_us=boottime_us())
    tree = PowercapTree(folder)
    for socket in range(2):
        tree.add(f"intel-rapl:{socket}", f"package-{socket}", 5_000_000)
        tree.add(f"intel-rapl:{socket}:0", "dram", 1_000_000)
    threading.Thread(target=turn, args=(tree,), daemon=True).start()
    return {**standin.env, "TRACKER_SYSFS": str(tree.sysfs), "PYTHONPATH": ""}


def turn(tree: PowercapTree) -> None:
    """Move the CPU's meters as a CPU does: one that stands still is no meter, and costs more than one that is."""
    zones = [f"intel-rapl:{socket}{part}" for socket in range(2) for part in ("", ":0")]
    begun_s, at_first_uj = time.monotonic(), 5_000_000
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((tree.folder(zone) / "energy_uj").open("r+b", buffering=0)) for zone in zones]
        while True:
            energy_uj = at_first_uj + int(50e6 * (time.monotonic() - begun_s))
            for file in files:  # in one write, so that whoever reads meanwhile reads all of a number
                os.pwrite(file.fileno(), b"%d\n" % energy_uj, 0)
            time.sleep(0.02)


def installed() -> tuple[int, float]:
    """How many distributions ours needs, itself included, and their size in MB."""
    wanted, seen = ["gpu-energy-tracker"], set()
    size_bytes = 0
    while wanted:
        distribution = importlib.metadata.distribution(wanted.pop())
        name = distribution.metadata["Name"].lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        size_bytes += sum(path.stat().st_size for f in distribution.files or () if (path := Path(f.locate())).is_file())
        for requirement in distribution.requires or ():
            text, _, marker = requirement.partition(";")
            if "extra" not in marker and not (marker and not applies(marker)):
                wanted.append("".join(c if c.isalnum() or c in "-_." else " " for c in text).split()[0])
    return len(seen), size_bytes / 1e6


def applies(marker: str) -> bool:
    """Whether a requirement's condition holds here."""
    from packaging.markers import Marker

    return Marker(marker).evaluate()


if __name__ == "__main__":
    main()
