"""Forks, spawned processes and threads of a program that is tracked: nothing of its run is touched by them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from standin.nvml import Const, Gpu

import tracker
from tracker.machine import boottime_us

GPU_W = 100
FORKS = 500 if os.environ.get("TRACKER_TEST_ALL") == "1" else 150


@pytest.fixture
def program(standin_nvml, powercap_tree, tmp_path, monkeypatch):
    """Runs a program as a file of its own, on one GPU at 100 W; gives its output."""
    standin_nvml.plug(Gpu(power=(Const(GPU_W * 1000),)), epoch_us=boottime_us())
    monkeypatch.delenv("STANDIN_CLOCK")
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TRACKER_SYSFS", str(powercap_tree.sysfs))
    monkeypatch.setenv("TRACKER_ZONE", "FR")
    environ = {name: value for name, value in os.environ.items() if name != "STANDIN_CLOCK"}
    environ |= {"LD_LIBRARY_PATH": standin_nvml.env["LD_LIBRARY_PATH"], "PYTHONPATH": str(Path(__file__).parents[1])}

    def run(code: str) -> str:
        (tmp_path / "program.py").write_text(code)
        command = [sys.executable, str(tmp_path / "program.py")]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0 and "Traceback" not in done.stderr.replace("Traceback of a child", ""), done.stderr
        return done.stdout

    return run


def assert_is_whole(run: tracker.Run) -> None:
    (gpu,) = [device for device in run.devices if device.kind == "gpu"]
    assert run.status == "finished" and gpu.coverage > 0.95
    assert gpu.energy_j == pytest.approx(GPU_W * run.duration_s, abs=5, rel=0.02)


STRESS = f"""
import os, random, signal, sys, threading, time
import tracker

HOW = ["_exit", "_exit", "marks", "exception", "returns", "stops", "tracks"]
chance = random.Random(4)

def child(how, live):
    signal.alarm(60)  # one that hangs is found by its signal
    if threading.active_count() != 1:
        os._exit(40)
    if how == "marks":
        live.mark(step=-1)
        with live.span("of the child"):
            pass
        live.snapshot()
    if how == "tracks":
        with tracker.track("own") as own:
            time.sleep(0.25)
        found = [device for device in own.run.devices if device.kind == "gpu"]
        os._exit(0 if own.run.status == "finished" and found and found[0].energy_j > 0 else 41)
    if how == "exception":
        sys.stderr = open(os.devnull, "w")
        raise KeyError("the child's own")
    if how == "returns":
        sys.exit(3)
    if how == "stops":
        live.stop()
    os._exit(0)

live = tracker.track("parent", interval_s=0.05).start()
children = {{}}
for number in range({FORKS}):
    # Those that go through the end of the interpreter, and those with a tracker of their own, cost more than a fork.
    how = HOW[number % len(HOW)] if number % 70 < len(HOW) else "_exit"
    pid = os.fork()
    if pid == 0:
        child(how, live)
    children[pid] = how
    live.mark(step=number)
    time.sleep(chance.random() * 0.01)
    while len(children) > 8:
        pid, status = os.wait()
        how = children.pop(pid)
        expected = {{"exception": 1, "returns": 3}}.get(how, 0)
        assert os.waitstatus_to_exitcode(status) == expected, (how, status)
for pid, how in children.items():
    expected = {{"exception": 1, "returns": 3}}.get(how, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == expected, how
run = live.stop()
print(run.id)
"""


def test_children_forked_at_any_moment_measure_write_and_close_nothing_of_their_parent_s(program, tmp_path):
    run_id = program(STRESS).strip()

    run = tracker.get(run_id)
    assert_is_whole(run)
    assert [mark.values["step"] for mark in run.marks] == list(range(FORKS)) and run.spans == ()
    others = [other for other in tracker.runs(limit=1000) if other.id != run_id]
    assert len(others) >= FORKS // 100 and {(other.name, other.status) for other in others} == {("own", "finished")}
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (segments,) = connection.execute("SELECT count(*) FROM segments WHERE run_id = ?", [run_id]).fetchone()
    assert segments == 1


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_the_end_of_a_child_s_interpreter_does_not_close_the_parent_s_database(journal, tmp_path):
    """Closed within the parent's transaction it would be rolled back: a damaged file, or a commit that fails."""
    db = tmp_path / "runs.db"
    code = f"""
import atexit, os, sys
from stored_runs import *
from tracker.store.opening import driver_connection
writer = writer_of(Path({str(db)!r}))
raw = driver_connection(writer._connection)
raw.execute("PRAGMA journal_mode={journal}").fetchall()
writer.commit_second(second(0), after(1))
raw.execute("PRAGMA cache_size=1")  # so that a part of it is in the file before it is committed
raw.execute("BEGIN IMMEDIATE")
raw.executemany("INSERT INTO hot_readings VALUES ('run-1', 0, ?, zeroblob(3000))", [(n,) for n in range(100, 200)])
for end in ("exit", "exception", "return"):
    pid = os.fork()
    if pid == 0:
        writer.forget_after_fork()
        del writer, raw
        sys.stderr = open(os.devnull, "w")
        if end == "exception":
            raise KeyError("the child's own")
        sys.exit(end == "exit")
    os.waitpid(pid, 0)
raw.execute("COMMIT")
writer.commit_second(second(1), after(2))
writer.close()
"""
    environ = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (rows,) = connection.execute("SELECT count(*) FROM hot_readings").fetchone()
    assert rows == 102


WORKERS = """
import atexit, multiprocessing, os, sys, time
import tracker

def work(number):
    atexit.register(lambda: live.stop() if live else None)
    if live:
        live.mark(step=-1)
    time.sleep(0.05)
    return number * 2

def leaves(number):
    sys.exit(number)

def tracks(number):
    with tracker.track("of a worker") as own:
        time.sleep(0.1)
    return own.run.status

live = None
if __name__ == "__main__":
    live = tracker.track("parent").start()
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            assert pool.map(work, range(4)) == [0, 2, 4, 6]
            assert pool.map(tracks, range(2)) == ["finished"] * 2
        process = context.Process(target=leaves, args=(7,))
        process.start()
        process.join(60)
        assert process.exitcode == 7, process.exitcode
    live.mark(step=1)
    print(live.stop().id)
"""


def test_workers_of_multiprocessing_leave_one_run_and_may_have_their_own(program):
    run_id = program(WORKERS).strip()

    run = tracker.get(run_id)
    assert_is_whole(run)
    assert [mark.values["step"] for mark in run.marks] == [1]
    others = [other for other in tracker.runs() if other.id != run_id]
    assert [(other.name, other.status) for other in others] == [("of a worker", "finished")] * 4


def test_a_run_that_one_thread_starts_another_may_stop(program):
    told = program(
        """
import queue, threading, time
import tracker
started, stopped = queue.Queue(), queue.Queue()

def start(number):
    started.put((number, tracker.track(f"of thread {number}").start()))

def stop():
    number, live = started.get()
    with live.span("elsewhere"):
        live.mark(step=number)
        time.sleep(0.1)
    stopped.put((number, live.stop()))

threads = [threading.Thread(target=start, args=(n,)) for n in range(6)]
threads += [threading.Thread(target=stop) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for number, run in sorted((stopped.get() for _ in range(6)), key=lambda pair: pair[0]):
    assert run.name == f"of thread {number}" and run.status == "finished", run
    assert [span.name for span in run.spans] == ["elsewhere"]
    assert [mark.values["step"] for mark in run.marks] == [number]
print([thread.name for thread in threading.enumerate()])
"""
    )

    assert told.strip() == "['MainThread']"
    assert len(tracker.runs()) == 6 and all(run.energy_j > 0 for run in tracker.runs())


@pytest.mark.parametrize("end", ["os._exit(5)", "os.abort()"])
def test_an_end_without_any_handler_leaves_the_run_on_record_as_interrupted(end, program, tmp_path):
    told = program(
        f"""
import os, subprocess, sys
code = '''
import os, time, tracker
live = tracker.track("ends").start()
time.sleep(2.3)
{end}
'''
print(subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode)
"""
    )

    (run,) = tracker.runs()
    assert int(told) in (5, -6)
    assert run.status == "interrupted" and 1.2 < run.duration_s < 2.4
    (gpu,) = [device for device in run.devices if device.kind == "gpu"]
    assert gpu.energy_j == pytest.approx(GPU_W * run.duration_s * gpu.coverage, rel=0.02) and gpu.energy_j > 0
