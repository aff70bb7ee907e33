"""A run continued by a second process: one run, with the sum of both and the gap between them."""

import subprocess
import sys
import time
import uuid

import pytest
from standin.nvml import Const, Gpu

import tracker
from tracker.machine import boottime_us

GPU_W = 100
WORK = """
import os, sys, time, tracker
live = tracker.track("work", db=sys.argv[1], zone="FR").start()
with live.span("attempt"):
    time.sleep(0.5)
if "killed" in sys.argv:
    time.sleep(1.5)
    os.kill(os.getpid(), 9)
if "fails" in sys.argv:
    with live:
        raise SystemExit(3)
run = live.stop()
print(run.status, run.energy_j, run.duration_s, live.snapshot().id)
"""


@pytest.fixture
def attempt(standin_nvml, tmp_path, monkeypatch):
    """Runs one process of a run, whose id no other test that runs beside this one has on this machine."""
    standin_nvml.plug(Gpu(power=(Const(GPU_W * 1000),)), epoch_us=boottime_us())
    (tmp_path / "sys").mkdir()
    environ = {**standin_nvml.env, "TRACKER_RUN_ID": f"job-{uuid.uuid4().hex}", "TRACKER_SYSFS": str(tmp_path / "sys")}

    def attempt(*how):
        command = [sys.executable, "-c", WORK, str(tmp_path / "runs.db"), *how]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    return attempt


def the_run(tmp_path):
    (run,) = tracker.runs(db=tmp_path / "runs.db")
    return run


def gpu_of(run):
    (gpu,) = [device for device in run.devices if device.kind == "gpu"]
    return gpu


@pytest.mark.parametrize("first", ["killed", "fails", "ends"])
def test_a_requeued_run_is_one_run_with_the_energy_of_all_its_processes(first, attempt, tmp_path):
    attempt(first)
    before = the_run(tmp_path)
    assert before.status == {"killed": "interrupted", "fails": "failed", "ends": "finished"}[first]

    done = attempt("ends")
    run = the_run(tmp_path)

    assert run.status == "finished" and done.stdout.startswith("finished"), done.stderr
    assert run.started_at == before.started_at and run.ended_at > before.ended_at
    tracked_s = gpu_of(run).coverage * run.duration_s
    assert gpu_of(run).energy_j == pytest.approx(GPU_W * tracked_s, rel=0.03)
    assert gpu_of(run).energy_j > gpu_of(before).energy_j + 0.4 * GPU_W
    assert run.energy_j == float(done.stdout.split()[1]) == gpu_of(run).energy_j
    assert [span.name for span in run.spans] == ["attempt", "attempt"]
    assert run.coverage < 1


def test_a_third_process_adds_to_the_sum_of_the_first_two(attempt, tmp_path):
    for how in ("killed", "ends", "ends"):
        attempt(how)
        energy_j = gpu_of(the_run(tmp_path)).energy_j
    run = the_run(tmp_path)
    assert energy_j == pytest.approx(GPU_W * gpu_of(run).coverage * run.duration_s, rel=0.03)
    assert energy_j > 0.9 * GPU_W * (1.0 + 0.5 + 0.5)  # the killed one may have lost its last second


def test_the_gap_between_two_processes_is_told(attempt, tmp_path):
    attempt("killed")
    time.sleep(2.2)  # as long as a gap must be to be told
    attempt("ends")
    run = the_run(tmp_path)
    assert [w for w in run.warnings if w.startswith("not tracked for")]
