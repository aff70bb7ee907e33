"""What of Linux other systems lack, taken away: a run says what it does not measure, and nothing breaks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_LINUX = """
import io, builtins, json, os, sys, time
# What comes from others looks at the system for itself; it is theirs to get it right.
import numpy, sqlalchemy.dialects.sqlite, sqlite3, platformdirs, psutil, pynvml, click
import getpass, logging, platform, socket, subprocess, tempfile, threading
platformdirs.user_data_path("x")

for name in ("fork", "register_at_fork", "getuid", "geteuid", "statvfs", "RTLD_NOLOAD", "sched_getaffinity", "uname",
             "O_NOFOLLOW", "O_CLOEXEC", "pread"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "clock_gettime", "clock_gettime_ns"):
    delattr(time, name)


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            raise ImportError(name)


sys.meta_path.insert(0, Missing())
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules.pop(name, None)
real_open = io.open


def open_without_proc(path, *arguments, **keywords):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(path)
    return real_open(path, *arguments, **keywords)


io.open = builtins.open = open_without_proc

import tracker

with tracker.track("elsewhere", zone="FR") as live:
    with live.span("part"):
        time.sleep(0.2)
    live.mark(step=1)
    assert live.snapshot().status == "running"
run = tracker.get(live.id)
print(json.dumps(run.to_dict()))
assert run.summary() and tracker.runs()
"""


@pytest.mark.parametrize("variables", [{}, {"RANK": "0", "WORLD_SIZE": "2"}, {"TRACKER_RUN_ID": "given"}])
def test_without_what_only_linux_has_a_run_is_recorded_and_says_what_it_lacks(variables, tmp_path):
    environ = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "TRACKER_DB": str(tmp_path / "runs.db"),
        "HOME": str(tmp_path),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LINUX], env=environ, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["status"] == "finished" and run["energy_j"] is None
    assert {"cpu_package", "dram", "cpu", "ram", "gpu"} == {part["kind"] for part in run["not_measured"]}
    assert all(part["reason"] for part in run["not_measured"])
    assert len(done.stderr.splitlines()) <= 2, done.stderr
