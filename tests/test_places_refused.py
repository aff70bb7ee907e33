"""Places that take no run, from its start: the program goes on, one message says what and where, the run is kept."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import resource
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stored_runs import a_run, as_stranger, store_run

import tracker
from tracker.errors import StoreError
from tracker.session.folding import fold, run_files

GPU_W = 100
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@pytest.fixture
def place(monkeypatch) -> Iterator[Path]:
    """A folder that every user may use, with home, state and temporary folder in it, and a GPU at 100 W (a trace)."""
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="place-") as root:
        place = Path(root)
        place.chmod(0o777)
        for name in ("home", "tmp", "run"):
            (place / name).mkdir(mode=0o777)
            (place / name).chmod(0o777)
        (place / "gpu.csv").write_text(
            f"t_s,key,power_w,counter_j\n0,GPU-1,{GPU_W},0\n3600,GPU-1,{GPU_W},{GPU_W * 3600}"
        )
        for name, folder in {
            "TRACKER_REPLAY": "gpu.csv",
            "HOME": "home",
            "XDG_STATE_HOME": "home/state",
            "XDG_DATA_HOME": "home/data",
            "XDG_CONFIG_HOME": "home/config",
            "XDG_RUNTIME_DIR": "run",
            "TMPDIR": "tmp",
        }.items():
            monkeypatch.setenv(name, str(place / folder))
        monkeypatch.setenv("TRACKER_ZONE", "FR")
        monkeypatch.setattr(tempfile, "tempdir", str(place / "tmp"))
        monkeypatch.chdir(place)
        # A child that is another user may not be allowed to import from where this interpreter lies.
        with tracker.track("warm", db=place / "warm" / "x.db"):
            pass
        shutil.rmtree(place / "warm")
        shutil.rmtree(place / "run")
        (place / "run").mkdir()
        (place / "run").chmod(0o777)
        yield place


def in_a_child(work: Callable[[], object], *, as_nobody: bool = False) -> dict:
    """Tracks some work in a child, whose limits and rights are its own; what came of it, as JSON."""
    told = Path(tempfile.gettempdir()) / "told.json"

    def child() -> None:
        heard = io.StringIO()
        logging.getLogger().addHandler(logging.StreamHandler(heard))
        result = work()
        told.write_text(json.dumps({"result": result, "heard": heard.getvalue()}))

    if as_nobody:
        as_stranger(child)
    else:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found = json.loads(told.read_text())
    told.unlink()
    return found


def tracked(db: str | Path | None) -> Callable[[], dict]:
    def work() -> dict:
        with tracker.track("x", db=db) as live:
            time.sleep(0.1)
            answer = 42
        (gpu,) = [device for device in live.run.devices if device.kind == "gpu"]
        return {"answer": answer, "id": live.id, "energy_j": gpu.energy_j, "seconds": live.duration_s}

    return work


def assert_is_kept(found: dict, in_file: Path) -> None:
    result = found["result"]
    run = tracker.get(result["id"], db=in_file)
    assert result["answer"] == 42 and run.status == "finished"
    assert result["energy_j"] == pytest.approx(GPU_W * result["seconds"], abs=2)
    assert next(device.energy_j for device in run.devices if device.kind == "gpu") == result["energy_j"]


def only_run_file(place: Path) -> Path:
    (file,) = [path for path in place.rglob("*.db") if path.name.count(".") >= 2]
    return file


def broken(db: Path) -> None:
    """A database whose root page is a page of something else."""
    store_run(db, a_run("before"))
    content = bytearray(db.read_bytes())
    content[100:1100] = os.urandom(1000)
    db.write_bytes(content)


def of_another_kind(db: Path) -> None:
    db.write_text("not a database\n" * 100)


KINDS: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "another kind of file": of_another_kind,
    "a damaged database": broken,
    "below a file": lambda db: (db.parent.rmdir(), db.parent.write_text("a file")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_a_database_is_left_and_the_run_kept_beside_and_folded_in_later(kind, place):
    db = place / "data" / "runs.db"
    db.parent.mkdir()
    KINDS[kind](db)
    before = db.read_bytes() if db.is_file() else None

    found = in_a_child(tracked(db))

    kept = only_run_file(place)
    assert_is_kept(found, kept)
    assert before == (db.read_bytes() if db.is_file() else None)
    assert found["heard"].count("\n") == 1 and str(db) in found["heard"] and str(kept) in found["heard"]
    shutil.move(db.parent if kind == "below a file" else db, place / "away")
    outcomes = [outcome for _, outcome in fold(str(db), run_files(str(db)))]
    assert [outcome.runs for outcome in outcomes] == [(found["result"]["id"],)] and not kept.exists()
    assert_is_kept(found, db)


def test_a_missing_folder_is_made(place):
    assert_is_kept(in_a_child(tracked(place / "a" / "b" / "runs.db")), place / "a" / "b" / "runs.db")


@needs_root
@pytest.mark.parametrize("kind", ["folder", "file", "closed folder"])
def test_what_may_not_be_written_sends_the_run_to_the_user_s_own_folder(kind, place):
    db = place / "data" / "runs.db"
    store_run(db, a_run("before"))
    db.parent.chmod(0o700 if kind == "closed folder" else 0o755 if kind == "folder" else 0o777)
    db.chmod(0o644)

    found = in_a_child(tracked(db), as_nobody=True)

    kept = only_run_file(place)
    assert kept.is_relative_to(place / ("data" if kind == "file" else "home/state"))
    assert_is_kept(found, kept)
    assert found["heard"].count("\n") == 1 and str(kept) in found["heard"]
    list(fold(str(db), run_files(str(db))))
    assert {run.id for run in tracker.runs(db=db)} == {"before", found["result"]["id"]}


@needs_root
def test_where_nothing_may_be_written_the_run_is_measured_and_that_it_is_not_kept_is_said(place):
    for name in (".", "home", "tmp", "run"):
        (place / name).chmod(0o755)
    (place / "tmp" / "told.json").touch()
    (place / "tmp" / "told.json").chmod(0o666)

    found = in_a_child(tracked(place / "runs.db"), as_nobody=True)

    assert found["result"]["answer"] == 42 and found["result"]["energy_j"] > 0
    assert "no other place takes the run" in found["heard"] and "nothing of run" in found["heard"]
    assert found["heard"].count("\n") == 2
    assert list(place.rglob("*.db")) == []


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 200] * 25)], ids=["name", "path"])
def test_a_path_that_is_too_long_is_told_and_the_run_kept_elsewhere(name, place):
    found = in_a_child(tracked(place / name))

    assert_is_kept(found, only_run_file(place))
    assert "too long" in found["heard"].lower() and found["heard"].count("\n") == 1
    with pytest.raises(StoreError, match="too long"):
        tracker.runs(db=place / name)


@needs_root
def test_a_user_without_a_home_or_a_name_is_served(place, monkeypatch):
    for name in ("HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)

    def work() -> dict:
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)
        return tracked(None)()

    found = in_a_child(work)

    db = place / "tmp" / "gpu-energy-tracker-54321" / "runs.db"
    assert_is_kept(found, db)
    assert db.parent.stat().st_mode & 0o777 == 0o700 and not (place / "~").exists()
    assert str(db) in found["heard"] and found["heard"].count("\n") == 1


@needs_root
def test_a_disk_that_is_full_at_the_start_sends_the_run_elsewhere(place):
    small = place / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=False).returncode:
        pytest.skip("this root may not mount")
    try:
        with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        found = in_a_child(tracked(small / "runs.db"))
    finally:
        subprocess.run(["umount", small], check=True)

    kept = only_run_file(place)
    assert kept.is_relative_to(place / "home" / "state")
    assert_is_kept(found, kept)
    assert "full" in found["heard"] and str(kept) in found["heard"] and found["heard"].count("\n") == 1


def test_a_limit_on_the_size_of_files_costs_the_program_nothing(place):
    """As a quota does, it is no "disk full" to SQLite."""
    db = place / "runs.db"
    store_run(db, a_run("before"))

    def work() -> dict:
        resource.setrlimit(resource.RLIMIT_FSIZE, (db.stat().st_size // 2, resource.RLIM_INFINITY))
        return tracked(db)()

    found = in_a_child(work)

    assert found["result"]["answer"] == 42 and found["result"]["energy_j"] > 0
    assert "Traceback" not in found["heard"]
    with contextlib.closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    tracker.get("before", db=db)


def exhausted() -> list[int]:
    """Takes every file descriptor that is left of 64 more."""
    taken = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    return taken


@pytest.mark.parametrize("when", ["at the start", "in the middle", "for the whole run"])
def test_a_program_without_a_file_descriptor_left_goes_on_and_its_run_is_kept_once_there_are_some(when, place):
    db = place / "runs.db"

    def work() -> dict:
        import psutil  # noqa: F401

        from tracker.session import recorder

        recorder.NEXT_MOVE_S = 0.5
        with tracker.track("warm", db=place / "other.db"):  # what it imports, it has
            pass
        taken = exhausted() if when != "in the middle" else []
        with tracker.track("x", db=db) as live:
            time.sleep(0.3)
            taken = taken or exhausted()
            time.sleep(1.3)
            for descriptor in taken if when != "for the whole run" else ():
                os.close(descriptor)
            time.sleep(2.3 if when == "at the start" else 1.2)
        for descriptor in taken if when == "for the whole run" else ():
            os.close(descriptor)
        run = live.run
        return {"status": run.status, "id": run.id, "seconds": run.duration_s, "warnings": run.warnings}

    found = in_a_child(work)

    assert found["result"]["status"] == "finished" and "Traceback" not in found["heard"], found
    assert found["heard"].count("\n") <= 4, found["heard"]
    if when != "for the whole run":
        stored = tracker.get(found["result"]["id"], db=db)
        assert stored.status == "finished" and stored.duration_s == found["result"]["seconds"]
