"""A database on a file system that machines share: each run in a file of its own, folded in once it has ended."""

import contextlib
import dataclasses
import os
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import stored_runs
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from standin.nvml import Const, Gpu
from stored_runs import HERE, a_full_run, after, chunks, writer_of

import tracker
from tracker.cli import cli
from tracker.errors import StoreError
from tracker.machine import boottime_us
from tracker.session.folding import fold, run_files
from tracker.session.past import reader_of
from tracker.store import opening, places
from tracker.store.inspection import inspect
from tracker.store.opening import open_for_reading, open_for_writing
from tracker.store.places import FileSystem, file_system_of

NFS = "nfs4 server:/home rw,vers=4.2,local_lock=none"


def mounted(tmp_path, what, place=None):
    """A mount table in which a folder is on this."""
    kind, source, options = what.split(" ")
    table = tmp_path / "mountinfo"
    table.write_text(
        "23 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        f"98 23 0:52 / {place or tmp_path / 'home'} rw,relatime shared:3 master:1 - {kind} {source} {options}\n"
    )
    return table


@pytest.fixture
def home(standin_nvml, tmp_path, monkeypatch):
    """A folder that the mount table shows on NFS, with one GPU beside it."""
    standin_nvml.plug(Gpu(power=(Const(100_000),)), epoch_us=boottime_us())
    monkeypatch.delenv("STANDIN_CLOCK")
    (tmp_path / "sys").mkdir()
    (tmp_path / "home").mkdir()
    for name, value in {"TRACKER_SYSFS": "sys", "HOME": "own", "XDG_STATE_HOME": "state"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("TRACKER_ZONE", "FR")
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "home" / "runs.db"))
    monkeypatch.setattr(places, "MOUNT_TABLE", mounted(tmp_path, NFS))
    return tmp_path / "home"


def wait_for_the_fold():
    for thread in threading.enumerate():
        if thread.name == "tracker-writer":
            thread.join(10)


def journal_of(path):
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute("PRAGMA journal_mode").fetchone()[0]


@pytest.mark.parametrize(
    ("what", "network", "has_shared_locks"),
    [
        (NFS, "nfs4", True),
        ("nfs server:/x rw,vers=3,nolock", "nfs", False),
        ("nfs4 server:/x rw,local_lock=all", "nfs4", False),
        ("nfs4 server:/x rw,local_lock=flock", "nfs4", True),
        ("lustre 10.0.0.1@tcp:/fs rw,flock,lazystatfs", "lustre", True),
        ("lustre 10.0.0.1@tcp:/fs rw,localflock", "lustre", False),
        ("cifs //server/share rw,vers=3.1.1", "cifs", True),
        ("smb3 //server/share rw,nobrl", "smb3", False),
        ("gpfs fs1 rw", "gpfs", True),
        ("ceph 10.0.0.1:6789:/ rw", "ceph", True),
        ("beegfs beegfs_nodev rw", "beegfs", False),
        ("9p C:\\134 rw,aname=drvfs", "9p", False),
        ("afs AFS rw", "afs", False),
        ("fuse.sshfs host:/x rw", "fuse.sshfs", False),
        ("fuse.gcsfuse bucket rw", "fuse.gcsfuse", False),
        ("fuse.drive drive rw", "fuse.drive", False),  # Colab's
        ("fuse somewhere rw", "fuse", False),
        ("fuse.fuse-overlayfs fuse-overlayfs rw", "", True),  # a container's own root
        ("fuseblk /dev/sdb1 rw", "", True),
        ("overlay overlay rw,lowerdir=/l", "", True),
        ("tmpfs tmpfs rw", "", True),
        ("zfs tank/home rw", "", True),
        ("btrfs /dev/sda rw", "", True),
    ],
)
def test_what_machines_share_is_known_by_its_type_and_its_locks_by_its_options(
    what, network, has_shared_locks, tmp_path
):
    table = mounted(tmp_path, what)

    assert file_system_of(tmp_path / "home" / "a" / "runs.db", table) == FileSystem(network, has_shared_locks)
    assert file_system_of(tmp_path / "homes" / "runs.db", table) == FileSystem("", True)
    assert file_system_of(tmp_path / "home", table).network == network


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text("/ab- 0159\\:.é\udc80", max_size=12), max_size=12).map(" ".join))
@example("1 0 0:1 / /home\\040dir rw - nfs4 x rw")
@example("1 0 0:1 / / rw -")
def test_no_line_of_a_mount_table_is_too_odd(tmp_path_factory, line):
    table = tmp_path_factory.getbasetemp() / "odd"
    table.write_text(f"{line}\n2 1 0:2 / /é\\040b rw - nfs4 s:/x rw\n", errors="surrogateescape")

    assert file_system_of(places.Path("/é b/runs.db"), table).network == "nfs4"


def test_without_a_mount_table_nothing_is_known(tmp_path):
    assert file_system_of(tmp_path, tmp_path / "none") == FileSystem("", True)


def test_a_run_is_written_beside_the_database_and_is_in_it_after_its_end(home, caplog):
    db = home / "runs.db"
    live = tracker.track("x").start()
    with live.span("a"):
        live.mark(n=1)
        time.sleep(0.3)

    (file,) = run_files(str(db))
    assert file.parent == home / "runs.db.d" and file.name.startswith(f"{live.id}.") and not db.exists()
    assert journal_of(file) == "delete"
    assert [(run.id, run.status) for run in tracker.runs()] == [(live.id, "running")]

    run = live.stop()
    spans, samples = run.spans, run.samples()  # whether it is folded in or not

    wait_for_the_fold()
    assert not file.exists() and journal_of(db) == "delete"
    assert set(home.iterdir()) == {home / "runs.db.d", db}
    stored = tracker.get(run.id)
    assert stored.to_dict() == run.to_dict() | {"provenance": stored.to_dict()["provenance"]}
    assert [span.name for span in spans] == ["a"] == [span.name for span in run.spans]
    assert [len(part.t_us) for part in samples] == [len(part.t_us) for part in run.samples()]
    assert run.provenance["store"] == {"network_file_system": "nfs4", "journal": "rollback"}
    assert run.warnings == () and not [r for r in caplog.records if r.levelname == "WARNING"]


def test_where_locks_do_not_hold_between_machines_the_fold_is_left_to_the_user(home, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(places, "MOUNT_TABLE", mounted(tmp_path, "fuse.sshfs host:/x rw"))
    with tracker.track("x") as live:
        pass
    wait_for_the_fold()

    (file,) = run_files(str(home / "runs.db"))
    assert file.exists() and not (home / "runs.db").exists()
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "fuse.sshfs" in told and str(file) in told and "tracker db merge" in told
    assert tracker.get(live.id).warnings == (told.removeprefix("tracker: "),)

    ((_, outcome),) = fold(str(home / "runs.db"), [file])
    assert outcome.runs == (live.id,) and not file.exists()
    assert tracker.get(live.id).status == "finished"


def test_a_process_that_is_killed_is_folded_in_by_a_later_one(home):
    elsewhere = dataclasses.replace(HERE, host="node7")
    (home / "runs.db.d").mkdir()
    writer = writer_of(home / "runs.db.d" / "run-1.node7.db", segment=elsewhere)
    writer.finish(a_full_run(), chunks(range(60), after(60.5).boottime_us), [], after(60.5))
    writer.close()

    assert tracker.get("run-1").status == "finished"  # beside the database it is shown like one in it
    live = tracker.track("x").start()
    recorder = live._recording
    assert recorder._state.writer.call(recorder._target.fold, 30)  # as at its first seal
    live.stop()
    wait_for_the_fold()

    assert run_files(str(home / "runs.db")) == []
    assert {run.id for run in tracker.runs()} == {"run-1", live.id}


def test_the_end_of_the_process_waits_for_the_fold_and_an_exit_in_its_midst_loses_nothing(home, tmp_path, standin_nvml):
    code = (
        "import sys, pathlib; from tracker.store import places; places.MOUNT_TABLE = pathlib.Path(sys.argv[1])\n"
        "import os, tracker; from tracker.session import process; process.EXIT_PATIENCE_S = 30\n"
        "live = tracker.track('x', gpus='none').start()\n"
        "print(live.stop().id, flush=True)\n"
        "if len(sys.argv) > 2: os._exit(0)"
    )
    environ = {**os.environ, "PYTHONPATH": str(stored_runs.ROOT)}
    ids = []
    for more in ([], ["at once"]):
        command = [sys.executable, "-c", code, str(tmp_path / "mountinfo"), *more]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        ids.append(done.stdout.strip())
        if not more:
            assert run_files(str(home / "runs.db")) == []

    assert {run.id for run in tracker.runs()} == set(ids)
    list(fold(str(home / "runs.db"), run_files(str(home / "runs.db"))))
    assert {run.id for run in tracker.runs()} == set(ids) and {run.status for run in tracker.runs()} == {"finished"}


def test_ranks_on_other_machines_are_counted_though_their_files_are_others(home, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("TRACKER_RUN_ID", "job-1")
    (home / "runs.db.d").mkdir()
    for host in ("node8", "node9"):
        writer = writer_of(
            home / "runs.db.d" / f"job-1.{host}.db",
            dataclasses.replace(a_full_run("job-1"), status="running"),
            dataclasses.replace(HERE, host=host),
        )
        writer.finish(a_full_run("job-1"), [], [], after(60.5))
        writer.close()

    run = tracker.track("x", gpus="none").start().stop()

    assert run.id == "job-1" and not [warning for warning in run.warnings if "ranks" in warning]
    wait_for_the_fold()
    list(fold(str(home / "runs.db"), run_files(str(home / "runs.db"))))
    assert {segment.host for segment in reader_of(home / "runs.db").segments("job-1")} >= {"node8", "node9"}
    assert len(reader_of(home / "runs.db").segments("job-1")) == 3


def test_runs_at_one_time_in_files_of_their_own_are_told_to_overlap(home):
    first = tracker.track("first").start()
    second = tracker.track("second").start()
    time.sleep(1.3)  # a commit has the devices
    first_run, second_run = first.stop(), second.stop()

    assert any(second.id in warning for warning in first_run.warnings)
    assert any(first.id in warning for warning in second_run.warnings)
    wait_for_the_fold()


def test_a_database_that_cannot_be_opened_leaves_the_run_in_its_file_and_says_so(home, caplog):
    (home / "runs.db").write_bytes(b"not a database" * 100)
    with tracker.track("x", gpus="none") as live:
        pass
    wait_for_the_fold()

    (file,) = run_files(str(home / "runs.db"))
    assert tracker.get(live.id, db=file).status == "finished"
    assert [message for message in caplog.messages if "not a database" in message and str(file) in message]
    assert (home / "runs.db").read_bytes() == b"not a database" * 100


# The journal


def test_a_database_with_a_wal_gets_a_rollback_journal_once_nobody_has_it_open(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "home" / "runs.db"
    writer = writer_of(path)
    writer.commit_second(stored_runs.second(0), after(1))
    monkeypatch.setattr(places, "MOUNT_TABLE", mounted(tmp_path, NFS))

    with pytest.raises(StoreError, match="locked"):
        open_for_writing(path)
    writer.commit_second(stored_runs.second(1), after(2))
    writer.close()
    open_for_writing(path).close()

    assert journal_of(path) == "delete" and not list(path.parent.glob("*-wal"))
    assert reader_of(path).get("run-1").duration_s == pytest.approx(2)


def test_what_a_killed_writer_left_half_written_is_taken_back_by_the_next_reader(tmp_path):
    path = tmp_path / "runs.db"
    writer_of(path).close()
    open_for_writing(path, journal="delete").close()
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size=1'); c.execute('BEGIN IMMEDIATE')\n"
        "c.execute('UPDATE runs SET name = ?', ('x' * 100_000,)); c.execute('DELETE FROM segments')\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert (tmp_path / "runs.db-journal").stat().st_size > 0

    with open_for_reading(path).engine.connect() as connection:
        (name,) = connection.exec_driver_sql("SELECT name FROM runs").fetchone()
    assert name is None and len(reader_of(path).segments("run-1")) == 1


def test_doctor_says_where_runs_are_written_and_when_they_are_folded_in(home, tmp_path, monkeypatch):
    assert inspect(home / "runs.db").network == "nfs4" and inspect(home / "runs.db").has_shared_locks

    told = CliRunner().invoke(cli, ["doctor"]).output
    assert "network file system (nfs4)" in told and "at its end" in " ".join(told.split())

    monkeypatch.setattr(places, "MOUNT_TABLE", mounted(tmp_path, "9p host rw"))
    assert "tracker db merge" in " ".join(CliRunner().invoke(cli, ["doctor"]).output.split())
