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
from stored_runs import a_run

import tracker
from tracker.machine import boottime_us, this_segment
from tracker.session import queries
from tracker.session.folding import fold, fold_quietly, run_files
from tracker.session.target import Target
from tracker.store.filters import EVERY_RUN, RunFilter
from tracker.store.opening import open_for_writing

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
    return tmp_path / "place" / "runs.db"


def assert_is_whole(run, seconds):
    (gpu,) = [device for device in run.devices if device.kind == "gpu"]
    assert seconds - 0.01 < run.duration_s < seconds + 10  # on a busy machine anything may take long
    assert gpu.energy_j == pytest.approx(GPU_W * run.duration_s * gpu.coverage, rel=0.03) and gpu.coverage > 0.9
    samples = next(samples for samples in run.samples() if samples.device.kind == "gpu")
    newest_s = (int(samples.t_us[-1]) + samples.unix_offset_us) / 1e6
    assert newest_s == pytest.approx(run.ended_at.timestamp(), abs=0.3)
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


def test_a_database_that_stays_locked_loses_nothing_and_the_run_is_folded_in_later(db, caplog):
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


def test_while_a_run_is_kept_elsewhere_every_reader_shows_all_of_it_and_never_its_beginning_alone(db):
    lock = None

    def change():
        nonlocal lock
        lock = sqlite3.connect(db, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")

    run = tracked(change, seconds=1.2)
    lock.close()

    assert tracker.get(run.id).status == tracker.get(run.id[:12]).status == tracker.get("last").status == "finished"
    assert [found.status for found in tracker.runs()] == ["finished"]
    assert tracker.runs(status="interrupted") == []
    assert [found.status for found in queries.each_run()] == ["finished"]
    assert queries.count(EVERY_RUN) == 1 and queries.count(RunFilter(status="interrupted")) == 0
    assert tracker.totals()[0].runs == 1


def test_a_locked_database_keeps_neither_start_nor_stop_and_the_run_is_on_record_at_once(db):
    open_for_writing(db).close()
    lock = sqlite3.connect(db, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")

    before_s = time.monotonic()
    live = tracker.track("x").start()
    started_s = time.monotonic()
    (file,) = run_files(str(db))
    assert tracker.get(live.id, db=file).status == "running"
    live.stop()
    stopped_s = time.monotonic()
    lock.close()

    assert started_s - before_s < 4 and stopped_s - started_s < 4  # five or ten where the lock is waited for


def test_a_run_that_no_place_beside_its_database_takes_lies_in_the_state_folder_and_is_found(db, tmp_path):
    db.parent.rmdir()
    db.parent.write_text("no folder")
    other = tmp_path / "other.db"
    with tracker.track("x") as live:
        time.sleep(0.1)

    (file,) = run_files(str(db))
    assert tmp_path / "state" in file.parents and str(file) in " ".join(live.warnings)
    assert run_files(str(other)) == []
    db.parent.unlink()
    assert [run.id for run in tracker.runs()] == [live.id] and tracker.get(live.id).status == "finished"
    fold_quietly(str(db))
    assert run_files(str(db)) == [] and tracker.get(live.id).status == "finished"


def test_no_commit_is_without_a_reading_made_for_it(db):
    """With one reading in each second, at a random instant, the newest one would be up to two seconds old."""
    with tracker.track("x", interval_s=1.0):
        time.sleep(4.8)
        with contextlib.closing(sqlite3.connect(db)) as connection:
            numbers = [number for (number,) in connection.execute("SELECT seq FROM hot_readings ORDER BY seq")]

    assert len(numbers) >= 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


CLOSES_ALL = """
import os, sys, time, tracker
live = tracker.track("x", interval_s=0.2).start()
live.snapshot()  # it is on record
os.closerange(3, 256)
own = [open(f"own-{n}", "w+b", buffering=0) for n in range(int(sys.argv[1]))]
for n, file in enumerate(own):
    file.write(b"%d " % n * 500)
time.sleep(1.2)
live.stop()
for n, file in enumerate(own):
    file.seek(0)
    assert file.read() == b"%d " % n * 500, n
print(live.id)
"""


@pytest.mark.parametrize("files", [0, 12])
def test_a_program_that_closes_every_descriptor_keeps_its_run_and_its_own_files(files, db, tmp_path, standin_nvml):
    environ = {**os.environ, **standin_nvml.env, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", CLOSES_ALL, str(files)],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0 and "was closed by the program" in done.stderr, done.stderr
    run = tracker.get(done.stdout.strip())
    (gpu,) = [device for device in run.devices if device.kind == "gpu"]
    assert run.status == "finished" and gpu.coverage > 0.9
    assert gpu.energy_j == pytest.approx(GPU_W * run.duration_s * gpu.coverage, rel=0.03)


def test_a_run_returns_to_no_place_that_has_refused_it(db):
    target = Target(str(db), lambda cause, message: None)
    segment = this_segment()
    target.begin(a_run(), segment, None)
    seen = [target.db]
    while target.move("run-1", segment.host):
        seen.append(target.db)
        assert len(seen) < 10

    assert len(set(seen)) == len(seen) >= 3
    target.close()
