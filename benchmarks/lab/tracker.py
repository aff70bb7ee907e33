"""This project as a column of a bench of energy trackers on simulated hardware.

Copy it to the bench's adapters folder. `tracker(out, interval)` gives start() and stop(); the joules that stop()
returns are those of the devices by kind, None where nothing was measured.
"""

import os
from pathlib import Path

import tracker as trk
from tracker.session.folding import run_files

VENV = "tracker"


def kept_apart(out):
    """Have run files of runs that the output folder does not take put beside it, where recover finds them."""
    os.environ["XDG_STATE_HOME"] = str(Path(out).parent / "state")


class T:
    def __init__(self, out, interval):
        kept_apart(out)
        self.track = trk.track("bench", zone="FR", db=Path(out) / "runs.db", interval_s=interval)

    def start(self):
        self.live = self.track.start()

    def stop(self):
        return of_run(self.live.stop())


def of_run(run):
    def joules(kind):
        known = [d.energy_j for d in run.devices if d.kind == kind and d.energy_j is not None]
        return sum(known) if known else None

    return {
        "gpu_j": joules("gpu"),
        "cpu_j": joules("cpu_package"),
        "dram_j": joules("dram"),
        "range_j": run.energy_range_j,
        "gpu_range_j": [
            sum(d.energy_range_j[i] for d in run.devices if d.kind == "gpu" and d.energy_range_j) for i in (0, 1)
        ],
        "edge": [list(d.notes) for d in run.devices if d.notes],
    }


def tracker(out, interval=None):
    return T(out, interval)


def scoped(out, interval=None):
    kept_apart(out)
    return trk.track("bench", zone="FR", db=Path(out) / "runs.db", interval_s=interval)


def recover(out):
    kept_apart(out)
    db = Path(out) / "runs.db"
    found = {run.id: run for place in (*run_files(str(db)), db) for run in trk.runs(db=place, limit=None)}.values()
    gpu_j = [of_run(run)["gpu_j"] for run in found]
    return {"rows": len(found), "gpu_j": sum(j for j in gpu_j if j is not None) if any(gpu_j) else None}
