"""Run files folded into their database: all there, once, whatever was there before."""

import dataclasses
import subprocess
import sys
from datetime import timedelta

import pytest
import stored_runs
from stored_runs import HERE, START, a_full_run, a_run, after, chunks, second, writer_of

from tracker.errors import StoreError
from tracker.records import Slot, datetime_of
from tracker.session.folding import fold, run_files
from tracker.session.past import reader_of, whole
from tracker.store.merging import merge
from tracker.store.reading import RunReader

SLOT_S = 1_795_608_000


@pytest.fixture
def db(tmp_path):
    return tmp_path / "runs.db"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "runs.db.d").mkdir()
    return tmp_path / "runs.db.d" / "run-1.node1.db"


def write_run(path, run=None, *, segment=HERE, energy_j=3600, slot_s=SLOT_S):
    """A whole run in a file: two devices, a minute of readings, a slot."""
    run = run or a_full_run()
    writer = writer_of(path, run, segment=segment)
    slot = Slot(0, slot_s, 2 * energy_j * 10**9, 60_000_000, 250_000)
    writer.finish(run, chunks(range(60), after(60.5).boottime_us), [slot], after(60.5))
    writer.close()


def everything(path, run_id="run-1"):
    reader = reader_of(path)
    run = reader.get(run_id)
    samples = [(s.device.key, s.t_us.tolist(), s.power_mw.tolist(), s.counter_uj.tolist()) for s in run.samples()]
    return run.to_dict(), samples, reader.slots(run_id), reader.segments(run_id)


def test_a_run_is_in_the_database_as_it_was_in_the_file(db, file):
    write_run(file)
    before = everything(file)
    write_run(db, a_full_run("other"))

    assert merge(db, file, whole).runs == ("run-1",)

    assert everything(db) == before
    assert {run.id for run in RunReader(db).runs()} == {"run-1", "other"}


def test_merging_again_changes_nothing(db, file):
    write_run(file)
    merge(db, file, whole)
    once = everything(db)
    assert merge(db, file, whole).runs == ("run-1",)
    assert everything(db) == once


def test_two_parts_of_a_run_from_two_machines_add_up(db, file):
    elsewhere = dataclasses.replace(HERE, host="node2", boot_id="boot-b")
    write_run(db)
    write_run(file, segment=elsewhere, energy_j=1800)

    merge(db, file, whole)

    run = RunReader(db).get("run-1")
    slots = RunReader(db).slots("run-1")
    assert len(run.devices) == 4 and len(RunReader(db).segments("run-1")) == 2
    assert sum(slot.twice_energy_nj for slot in slots) == 2 * (3600 + 1800) * 10**9
    assert run.energy_j == pytest.approx(3600 + 1800)
    assert len(run.samples()) == 4


def test_two_parts_of_a_run_from_one_machine_add_up_on_its_devices(db, file):
    later = dataclasses.replace(HERE, pid=101, started=dataclasses.replace(HERE.started, boottime_us=6_000_000_000))
    write_run(db)
    write_run(file, segment=later, energy_j=1800, slot_s=SLOT_S + 300)

    merge(db, file, whole)
    merge(db, file, whole)

    run = RunReader(db).get("run-1")
    assert len(run.devices) == 2
    assert run.energy_j == pytest.approx(3600 + 1800)


def test_a_run_whose_writer_lives_stays_where_it_is(db, file):
    code = (
        "import sys, time; from tracker.machine import this_segment; from stored_runs import *; "
        "w = writer_of(sys.argv[1], segment=this_segment()); w.commit_second(second(0), after(1)); "
        "print('on', flush=True); time.sleep(60)"
    )
    path = f"{stored_runs.ROOT}:{stored_runs.ROOT / 'tests'}"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": path}
    )
    try:
        assert child.stdout.readline() == "on\n"
        ((_, outcome),) = fold(str(db), [file])
        assert outcome.runs == () and "still being written" in outcome.kept["run-1"]
        assert file.exists()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    ((_, outcome),) = fold(str(db), [file])
    assert outcome.runs == ("run-1",) and not file.exists()
    assert RunReader(db).get("run-1").status == "interrupted"


def test_a_file_that_is_no_database_or_damaged_stays_with_the_reason(db, file):
    file.write_bytes(b"not a database at all" * 100)
    ((_, outcome),) = fold(str(db), [file])
    assert isinstance(outcome, StoreError) and "is not a database" in str(outcome)
    assert file.exists()


def test_a_target_that_takes_nothing_loses_nothing(file, tmp_path):
    write_run(file)
    (tmp_path / "folder").mkdir()
    ((_, outcome),) = fold(str(tmp_path / "folder"), [file])
    assert isinstance(outcome, StoreError)
    assert everything(file)[0]["id"] == "run-1"


def test_two_that_fold_at_once_lose_nothing_and_count_nothing_twice(db, tmp_path):
    files = []
    for n in range(6):
        file = tmp_path / f"{n}.db"
        write_run(file, a_run(f"run-{n}", status="finished", ended_at=START + timedelta(seconds=60)))
        files.append(str(file))
    code = (
        "import sys; from pathlib import Path; from tracker.session.past import whole; "
        "from tracker.store.merging import merge; print('ready', flush=True); sys.stdin.readline(); "
        "[merge(sys.argv[1], Path(f), whole) for f in sys.argv[2:]]"
    )
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(db), *order],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env={"PYTHONPATH": str(stored_runs.ROOT)},
        )
        for order in (files, files[::-1])
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    assert [child.communicate()[1] for child in children] == ["", ""]
    reader = RunReader(db)
    assert len(reader.runs()) == 6
    for n in range(6):
        assert [slot.twice_energy_nj for slot in reader.slots(f"run-{n}")] == [2 * 3600 * 10**9]


def test_the_files_of_a_database_are_found_beside_it(db, file, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_run(file)
    assert run_files(str(db)) == [file]


def test_a_run_ends_where_it_was_stopped_however_late_its_last_commit_is_and_wherever_it_is_read(db, file):
    """Not where its process began and its record was closed, which a busy machine puts seconds apart."""
    started_at, ended_at = datetime_of(after(3).unix_us), datetime_of(after(10).unix_us)
    run = a_run(status="finished", started_at=started_at, ended_at=ended_at, duration_s=7.0)
    writer = writer_of(file, run)
    writer.commit_second(second(4), after(5))
    writer.finish(run, chunks(range(4, 5)), [], after(14))
    writer.close()
    other = writer_of(db, run)
    other.commit_second(second(4), after(5))

    merge(db, file, whole)
    found = RunReader(db).get("run-1")

    assert (found.started_at, found.ended_at, found.duration_s) == (started_at, ended_at, 7.0)


def test_a_killed_run_lasts_from_its_start_not_from_its_process_s(db):
    writer = writer_of(db)
    writer.set_start(datetime_of(after(3).unix_us))
    writer.commit_second(second(4), after(5))
    writer.close()

    found = RunReader(db).get("run-1")

    assert found.status == "interrupted" and found.duration_s == pytest.approx(2.0)
