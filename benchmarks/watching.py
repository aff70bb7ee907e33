"""What `tracker watch` costs beside a run of eight GPUs, and a loop that only reads and prints one row a second.

The eight GPUs and two CPU packages are played by the stand-in driver of the tests; the run goes on in a process of its
own, and each loop in another, one after the other. The imports and the first two frames do not count.

    python benchmarks/watching.py [--seconds 60]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from footprint import ROOT, hardware

GOAL_PERCENT = 2.0

TRAINING = """
import sys, time
import tracker
with tracker.track("watched", zone="FR", db=sys.argv[1]) as run:
    print("started", flush=True)
    step = 0
    while True:
        time.sleep(0.1)
        step += 1
        run.mark(step=step, loss=1 / step)
"""

LOOP = """
import sys, time
db, seconds = sys.argv[1], float(sys.argv[2])
{setup}
def share_of(looks):
    began_s, used_s = time.perf_counter(), time.process_time()
    for look in range(looks):
        print(frame())
        time.sleep(max(0.0, began_s + look + 1 - time.perf_counter()))
    return 100 * (time.process_time() - used_s) / (time.perf_counter() - began_s)
share_of(2)
print(share_of(int(seconds)), file=sys.stderr)
"""

BARE = """
import sqlite3
connection = sqlite3.connect(db)
def frame():
    return connection.execute("SELECT count(*), max(length(payload)) FROM hot_readings").fetchone()
"""

WATCH = """
from datetime import UTC, datetime
from tracker.session.watching import Watcher
from tracker.views.watching import Look, frame_of
watcher = Watcher(db=db)
def frame():
    return "\\n".join(frame_of(watcher.look(), Look(200, 60, has_colours=True), datetime.now(UTC), db))
"""


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement")
    seconds = str(parser.parse_args().seconds)
    with tempfile.TemporaryDirectory(prefix="watching-") as name:
        folder = Path(name)
        environ = {**hardware(folder), "PYTHONPATH": str(ROOT)}
        database = str(folder / "runs.db")

        def share_percent(setup: str) -> float:
            command = [sys.executable, "-c", LOOP.format(setup=setup), database, seconds]
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
            return float(done.stderr.splitlines()[-1])

        training = subprocess.Popen(
            [sys.executable, "-c", TRAINING, database], env=environ, stdout=subprocess.PIPE, text=True
        )
        try:
            training.stdout.readline()
            rows = [
                ("tracker watch, each second", share_percent(WATCH)),
                ("a bare loop beside it", share_percent(BARE)),
            ]
        finally:
            training.kill()
            training.communicate()
    for what, percent in rows:
        print(f"{what:<32}{percent:6.2f} % of a core{f'   goal {GOAL_PERCENT:g} %' if what is rows[0][0] else ''}")


if __name__ == "__main__":
    main()
