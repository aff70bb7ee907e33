"""A database that is removed, replaced, filled or locked while a run goes on: the run is kept whole, and says where."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from standin.nvml import Const, Gpu

import tracker
from tracker.machine import boottime_us
from tracker.session import recorder
from tracker.session.folding import fold, run_files

GPU_W = 100


@pytest.fixture
def db(standin_nvml, tmp_path, monkeypatch):
    standin_nvml.plug(Gpu(power=(Const(GPU_W * 1000),)), epoch_us=boottime_us())
    monkeypatch.delenv("STANDIN_CLOCK")
    (tmp_path / "sys").mkdir()
    (tmp_path / "place").mkdir()
    for name, value in {"TRACKER_SYSFS": "sys", "HOME": "home", "XDG_STATE_HOME": "state"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("TRACKER_ZONE", "FR")
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "place" / "runs.db"))
    monkeypatch.setattr(recorder, "FIRST_PATIENCE_S", 0.5)
    return tmp_path / "place" / "runs.db"


def assert_is_whole(run, seconds):
    (gpu,) = [device for device in run.devices if device.kind == "gpu"]
    assert seconds - 0.01 < run.duration_s < seconds + 10  # on a busy machine anything may take long
    assert gpu.energy_j == pytest.approx(GPU_W * run.duration_s * gpu.coverage, rel=0.03) and gpu.coverage > 0.9
    samples = next(samples for samples in run.samples() if samples.device.kind == "gpu")
    assert samples.elapsed_s[-1] == pytest.approx(run.duration_s, abs=0.3)
    assert [span.name for span in run.spans] == ["before", "after"]
    assert [mark.values["n"] for mark in run.marks] == [0, 1]


def tracked(change, seconds=2.6):
    live = tracker.track("x").start()
    with live.span("before"):
        live.mark(n=0)
        time.sleep(1.2)
    change()
    with live.span("after"):
        live.mark(n=1)
        time.sleep(seconds)
    return live.stop()


@pytest.mark.parametrize("how", ["removed", "replaced", "folder removed"])
def test_when_a_file_goes_away_all_of_the_run_is_in_a_run_file(how, db, caplog):
    def change():
        if how == "folder removed":
            for path in (*db.parent.iterdir(), db.parent):
                path.unlink() if path.is_file() else path.rmdir()
        elif how == "removed":
            db.unlink()
        else:
            other = db.with_name("other.db")
            with contextlib.closing(sqlite3.connect(other)) as connection:
                connection.execute("CREATE TABLE of_another_program (x)")
            other.replace(db)

    run = tracked(change)
    assert_is_whole(run, 3.8)
    assert_is_whole(tracker.get(run.id, db=next(file for file in run_files(str(db)))), 3.8)
    assert len([message for message in caplog.messages if "removed or replaced" in message]) == 1
    if how == "replaced":
        assert "of_another_program" in sqlite3.connect(db).execute("SELECT name FROM sqlite_master").fetchone()


def test_a_database_that_stays_locked_loses_nothing_and_the_run_is_folded_in_later(db, caplog, monkeypatch):
    monkeypatch.setattr("tracker.store.opening.BUSY_TIMEOUT_S", 0.2)
    lock = None

    def change():
        nonlocal lock
        lock = sqlite3.connect(db, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")

    run = tracked(change)
    assert_is_whole(run, 3.8)
    assert 1 <= len([message for message in caplog.messages if "locked" in message]) <= 2  # kept in memory, then where
    (file,) = run_files(str(db))
    assert str(file) in " ".join(run.warnings)
    lock.execute("ROLLBACK")
    lock.close()

    stale = sqlite3.connect(db).execute("SELECT count(*) FROM chunks").fetchone()
    assert stale == (0,)  # the database has the run as far as it took it
    ((_, outcome),) = fold(str(db), [file])
    assert outcome.runs == (run.id,) and not file.exists()
    assert_is_whole(tracker.get(run.id), 3.8)
    assert tracker.get(run.id).status == "finished" and len(tracker.runs()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_disk_that_fills_in_the_middle_moves_the_run(db, tmp_path, standin_nvml):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", small], check=False).returncode:
        pytest.skip("this root may not mount")
    try:
        code = f"""
import os, time, tracker
live = tracker.track("x", db={str(small / "runs.db")!r}).start()
with live.span("before"):
    live.mark(n=0)
    time.sleep(1.2)
try:
    with open({str(small / "filler")!r}, "wb") as file:
        while True:
            file.write(b"x" * 1024)
            file.flush()
except OSError:
    pass
with live.span("after"):
    live.mark(n=1)
    time.sleep(7)
run = live.stop()
print(run.id)
"""
        environ = {**os.environ, **standin_nvml.env, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "the disk is full" in done.stderr, done.stderr
        (file,) = run_files(str(small / "runs.db"))
        assert file.parent.parent != small
        assert_is_whole(tracker.get(done.stdout.strip(), db=file), 8.2)
    finally:
        subprocess.run(["umount", small], check=True)
