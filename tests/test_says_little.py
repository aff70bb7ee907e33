"""How much a run says on standard error when everything is wrong at once, and that nothing goes to standard output."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from standin.nvml import GPU_IS_LOST, NOT_SUPPORTED, UNKNOWN, Const, Fault, Gpu

from tracker.machine import boottime_us

MOST_LINES = 10
NO_COUNTER = (Fault("field:83", NOT_SUPPORTED), Fault("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED))
NO_POWER = tuple(Fault(name, NOT_SUPPORTED) for name in ("field:185", "field:186", "nvmlDeviceGetPowerUsage"))

WORK = """
import time, tracker
with tracker.track("whole", interval_s=0.01):
    for n in range(3):
        with tracker.track(f"run {n}", interval_s=0.01) as run:
            for step in range(20):
                with run.span("step", index=step):
                    run.mark(step=step)
                    time.sleep(0.05)
            run.snapshot()
print("the result")
"""


@pytest.fixture
def all_wrong(standin_nvml, powercap_tree, tmp_path):
    """Four GPUs with a fault each, meters that stand still, wrong settings, and nowhere to write."""
    standin_nvml.plug(
        Gpu((Const(100_000),), faults=(Fault("*", GPU_IS_LOST, 1_000_000),)),
        Gpu(faults=(*NO_COUNTER, *NO_POWER)),
        Gpu(faults=tuple(Fault("*", UNKNOWN, n * 200_000, n * 200_000 + 100_000) for n in range(5, 50))),
        Gpu((Const(5_000_000),), faults=NO_COUNTER, limit_mw=175_000),
        epoch_us=boottime_us(),
    )
    powercap_tree.add("intel-rapl:0", "package-0", 0)
    powercap_tree.add("intel-rapl:1", "package-1", 0)
    (powercap_tree.folder("intel-rapl:1") / "energy_uj").write_text("nonsense")
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "tracker.toml").write_text('pue = 0.5\nzoen = "FR"\n')
    return {
        **standin_nvml.env,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "TRACKER_SYSFS": str(powercap_tree.sysfs),
        "TRACKER_DB": str(tmp_path / "folder.db"),
        "TRACKER_ZONE": "Nowhere",
        "TRACKER_GPUS": "0,1,2,3,99",
        "HOME": str(tmp_path),
    }


def test_whatever_fails_the_program_says_it_in_ten_lines_once_per_cause(all_wrong, tmp_path):
    # Case 421, for its whole kind: 60 lines or more, or a traceback at each sample.
    done = subprocess.run(
        [sys.executable, "-c", WORK], env=all_wrong, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0 and done.stdout == "the result\n", done.stderr
    lines = done.stderr.splitlines()
    assert 4 <= len(lines) <= MOST_LINES, done.stderr
    assert len(set(lines)) == len(lines)
    assert all(line.startswith("tracker: ") for line in lines)
    for cause in ("Nowhere", "zoen", "pue must be", "folder.db", "no GPU is 99"):
        assert len([line for line in lines if cause in line]) == 1, (cause, done.stderr)


def test_a_program_that_handles_its_log_gets_all_of_it_and_standard_error_nothing(all_wrong, tmp_path):
    code = "import logging; logging.basicConfig(filename='log', level=logging.WARNING)\n" + WORK
    done = subprocess.run(
        [sys.executable, "-c", code], env=all_wrong, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("the result\n", "")
    assert 4 <= len((tmp_path / "log").read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", ["PYTHONWARNINGS", "PYTHONDEVMODE"])
def test_a_healthy_run_says_nothing_even_where_python_looks_closely(name, tmp_path):
    environ = {**os.environ, name: {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}[name]}
    environ |= {"TRACKER_DB": str(tmp_path / "runs.db"), "TRACKER_ZONE": "FR", "HOME": str(tmp_path)}
    environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    code = "import tracker, time\nwith tracker.track('x'): time.sleep(0.1)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
