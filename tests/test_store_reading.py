"""Finding runs, judging the unfinished, and what is left to integrate."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sqlite3
import tempfile
import time
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from stored_runs import (
    BOOT_US,
    GPU,
    HERE,
    SECOND_US,
    START,
    a_full_run,
    a_run,
    after,
    as_stranger,
    chunks,
    second,
    store_run,
    writer_of,
)

from tracker.errors import RunNotFoundError, SettingError, StoreError
from tracker.records import Slot, unix_us_of
from tracker.store.filters import RunFilter, instant_us
from tracker.store.liveness import SILENCE_LIMIT_US
from tracker.store.reading import RunReader


@pytest.fixture
def db(tmp_path):
    return tmp_path / "runs.db"


@pytest.fixture
def in_zone(monkeypatch):
    """Sets the local time zone of this process."""

    def change(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield change
    monkeypatch.undo()
    time.tzset()


def reader_of(db, *, running=None, now=None, **changes):
    """A reader on HERE's machine, where only the processes in running (pid: start) live."""
    clock = after(10) if now is None else now
    return RunReader(db, here=HERE, now_unix_us=lambda: clock.unix_us, process_start=(running or {}).get, **changes)


def ids(runs):
    return [run.id for run in runs]


def started(run_id, seconds, **changes):
    return dataclasses.replace(a_full_run(run_id), started_at=START + timedelta(seconds=seconds), **changes)


def test_runs_come_newest_first_and_those_of_one_instant_by_id(db):
    for run_id, seconds in (("b", 0), ("a", 0), ("old", -10), ("new", 10)):
        store_run(db, started(run_id, seconds))
    reader = RunReader(db)

    assert ids(reader.runs()) == ["new", "b", "a", "old"]
    assert ids(reader.runs(limit=2)) == ["new", "b"]
    assert ids(reader.runs(limit=2, offset=1)) == ["b", "a"]
    assert ids(reader.runs(offset=3)) == ["old"]
    assert reader.runs(limit=0) == []


def test_text_that_no_run_can_have_finds_none(db):
    store_run(db, a_full_run())

    for text in ("a\0", "\ud800"):
        assert RunReader(db).runs(RunFilter(project=text)) == RunReader(db).runs(RunFilter(tags={text: text})) == []


def test_all_filters_hold_together(db):
    store_run(db, started("a", 0, project="x", name="n", tags={"k": "v", "l": "w"}))
    store_run(db, started("b", 1, project="x", name="m", tags={"k": "v"}, status="failed"))
    store_run(db, started("c", 2, project=None, name=None, tags={}))
    reader = RunReader(db)

    assert ids(reader.runs(RunFilter(project="x"))) == ["b", "a"]
    assert ids(reader.runs(RunFilter(project="x", name="m"))) == ["b"]
    assert ids(reader.runs(RunFilter(tags={"k": "v"}))) == ["b", "a"]
    assert ids(reader.runs(RunFilter(tags={"k": "v", "l": "w"}))) == ["a"]
    assert ids(reader.runs(RunFilter(tags={"k": "w"}))) == []
    assert ids(reader.runs(RunFilter(status="failed", project="x"))) == ["b"]
    assert ids(reader.runs(RunFilter(status="finished"))) == ["c", "a"]
    assert ids(reader.runs(RunFilter(since=START + timedelta(seconds=1)))) == ["c", "b"]
    assert ids(reader.runs(RunFilter(until=START + timedelta(seconds=1)))) == ["a"]


@pytest.mark.parametrize("wrong", [{"limit": -1}, {"offset": -1}])
def test_a_wrong_number_is_refused(db, wrong):
    with pytest.raises(SettingError, match="limit and offset"):
        RunReader(db).runs(**wrong)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC"])
def test_an_instant_with_an_offset_is_the_same_in_every_zone(in_zone, zone):
    in_zone(zone)
    noon_us = unix_us_of(datetime(2026, 11, 25, 12, tzinfo=UTC))

    for same in (
        datetime(2026, 11, 25, 12, tzinfo=UTC),
        datetime(2026, 11, 25, 17, 30, tzinfo=timezone(timedelta(hours=5.5))),
        "2026-11-25T12:00Z",
        "2026-11-25 13:00:00+01:00",
    ):
        assert instant_us(same) == noon_us


@pytest.mark.parametrize(("zone", "ahead_h"), [("America/New_York", -5), ("Asia/Tokyo", 9), ("UTC", 0)])
def test_an_instant_without_an_offset_is_local_time(in_zone, zone, ahead_h):
    in_zone(zone)
    midnight_us = unix_us_of(datetime(2026, 11, 25, tzinfo=UTC)) - ahead_h * 3_600 * SECOND_US

    for same in ("2026-11-25", " 2026-11-25T00:00 ", date(2026, 11, 25), datetime(2026, 11, 25)):  # noqa: DTZ001
        assert instant_us(same) == midnight_us


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_a_run_stored_in_one_zone_is_found_and_dated_right_in_another(db, in_zone, zone):
    in_zone("America/New_York")
    now = datetime.now(UTC)
    store_run(db, dataclasses.replace(a_full_run(), started_at=now, ended_at=now))

    in_zone(zone)
    hour_ago = datetime.now() - timedelta(hours=1)  # noqa: DTZ005 (as a user would write it)
    (run,) = RunReader(db).runs(RunFilter(since=hour_ago))

    assert run.started_at == now and run.started_at.tzinfo is UTC
    assert RunReader(db).runs(RunFilter(until=hour_ago)) == []


def test_a_run_is_found_by_its_id_a_unique_prefix_or_as_the_last(db):
    for run_id, seconds in (("abc1", 0), ("abc2", 2), ("abc", 1), ("xyz", -1)):
        store_run(db, started(run_id, seconds))
    reader = RunReader(db)

    assert reader.get("abc").id == "abc"
    assert reader.get("x").id == "xyz"
    assert reader.get("last").id == "abc2"


@pytest.mark.parametrize("reference", ["", "%", "_", "ABC", "abc_", "'", "x\0", "\ud800", "last2"])
def test_a_prefix_is_taken_literally(db, reference):
    store_run(db, a_full_run("abcd"))

    with pytest.raises(RunNotFoundError):
        RunReader(db).get(reference)


def test_a_prefix_of_several_runs_names_them(db):
    for run_id in ("abc1", "abc2", "other"):
        store_run(db, a_full_run(run_id))

    with pytest.raises(RunNotFoundError, match=r"2 runs .*'abc': abc2, abc1"):
        RunReader(db).get("abc")


def test_an_unknown_run_names_those_near_it_or_the_newest(db):
    with pytest.raises(RunNotFoundError, match=r"no runs in .*yet"):
        RunReader(db).get("last")
    store_run(db, a_full_run("finetune-7"))

    with pytest.raises(RunNotFoundError, match="near it: finetune-7"):
        RunReader(db).get("finetune-8")
    with pytest.raises(RunNotFoundError, match="the newest is finetune-7"):
        RunReader(db).get("zzz")


def test_a_run_whose_process_lives_is_running_up_to_its_last_commit(db):
    writer = writer_of(db)
    writer.commit_second(second(0), after(3.5))

    run = reader_of(db, running={HERE.pid: HERE.pid_start}).get("run-1")

    assert (run.status, run.ended_at, run.duration_s) == ("running", None, 3.5)
    writer.close()


def test_a_run_whose_process_is_gone_is_interrupted_at_its_last_commit(db):
    writer = writer_of(db)
    writer.commit_second(second(0), after(3.5))
    writer.close()

    for running in ({}, {HERE.pid: HERE.pid_start + 1}):
        run = reader_of(db, running=running).get("run-1")
        assert (run.status, run.ended_at) == ("interrupted", START + timedelta(seconds=3.5))
        assert run.duration_s == 3.5


def test_a_run_of_another_host_is_given_up_after_ten_minutes_and_comes_back_with_its_next_commit(db):
    writer = writer_of(db, segment=dataclasses.replace(HERE, host="node2"))
    silent, too_long = after(SILENCE_LIMIT_US / SECOND_US), after(SILENCE_LIMIT_US / SECOND_US + 1)

    assert reader_of(db, now=silent).get("run-1").status == "running"
    assert reader_of(db, now=too_long).get("run-1").status == "interrupted"
    writer.commit_second(second(0), too_long)
    assert reader_of(db, now=too_long).get("run-1").status == "running"
    writer.close()


def test_a_run_of_several_processes_lives_while_one_of_them_does(db):
    writer_of(db).close()
    writer_of(db, segment=dataclasses.replace(HERE, pid=200, started=after(5))).close()

    assert reader_of(db, running={200: HERE.pid_start}).get("run-1").status == "running"
    assert reader_of(db).get("run-1").status == "interrupted"


def test_filters_by_status_use_the_judged_one(db):
    store_run(db, a_full_run("done"))
    store_run(db, dataclasses.replace(a_full_run("stopped"), status="interrupted"))
    writer_of(db, a_run("dead"), dataclasses.replace(HERE, pid=1)).close()
    writer_of(db, a_run("alive"), dataclasses.replace(HERE, pid=2)).close()
    writer_of(db, a_run("abroad"), dataclasses.replace(HERE, host="node2")).close()
    reader = reader_of(db, running={2: HERE.pid_start})

    assert ids(reader.runs(RunFilter(status="running"))) == ["alive", "abroad"]
    assert ids(reader.runs(RunFilter(status="interrupted"))) == ["stopped", "dead"]
    assert ids(reader.runs(RunFilter(status="finished"))) == ["done"]


def test_what_slots_do_not_hold_is_left_to_integrate_from_the_last_settled_reading(db):
    writer = writer_of(db)
    settled_us = BOOT_US + 3 * SECOND_US + 100
    writer.seal(a_run(), chunks(range(2), BOOT_US + 1 * SECOND_US + 200), [Slot(0, 300, 8, 8, 8)], after(2))
    writer.seal(a_run(), [dataclasses.replace(chunks(range(2, 5))[0], settled_us=settled_us)], [], after(5))
    writer.commit_second(second(5), after(6))

    rest = reader_of(db).unsettled("run-1")
    gpu, package = rest.tails

    assert rest.slots == (Slot(0, 300, 8, 8, 8),)
    assert [segment.pid for segment in rest.segments] == [HERE.pid]
    assert gpu.is_continued and gpu.samples.t_us[0] == settled_us and gpu.samples.device == GPU
    assert list(np.unique((gpu.samples.t_us - BOOT_US) // SECOND_US)) == [3, 4, 5]
    assert package.is_continued and list(package.samples.t_us - BOOT_US) == [SECOND_US + 200, 5 * SECOND_US + 200]
    writer.close()


def test_a_device_that_was_never_sealed_is_left_to_integrate_whole(db):
    writer = writer_of(db)
    writer.commit_second(second(0), after(1))

    tails = reader_of(db).unsettled("run-1").tails

    assert [(tail.is_continued, len(tail.samples)) for tail in tails] == [(False, 2), (False, 1)]
    writer.close()


def test_only_an_unfinished_run_is_completed(db):
    store_run(db, a_full_run("done"))
    writer = writer_of(db, a_run("open"))
    writer.commit_second(second(0), after(1))

    def complete(run, unsettled):
        assert run.status == "interrupted" and len(unsettled.tails) == 2
        return dataclasses.replace(run, energy_j=1.5)

    by_id = {run.id: run for run in reader_of(db, complete=complete).runs()}

    assert by_id["open"].energy_j == 1.5
    assert by_id["done"].energy_j == a_full_run().energy_j
    writer.close()


def test_a_run_can_be_copied_and_pickled_and_still_reads_its_samples(db):
    writer = writer_of(db, a_full_run())
    writer.finish(a_full_run(), chunks(range(2)), [], after(2))
    writer.close()
    run = RunReader(db).get("run-1")

    for same in (copy.deepcopy(run), pickle.loads(pickle.dumps(run)), dataclasses.replace(run)):
        assert same == run
        assert [len(samples) for samples in same.samples()] == [4, 2]


def test_a_damaged_chunk_is_a_store_error_and_hides_no_other_run(db):
    store_run(db, a_full_run("other"))
    writer = writer_of(db)
    writer.finish(a_full_run(), chunks(range(2)), [], after(2))
    writer.close()
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE chunks SET payload = x'00' || payload")

    reader = RunReader(db)

    assert ids(reader.runs()) == ["run-1", "other"]
    with pytest.raises(StoreError, match="damaged"):
        reader.get("run-1").samples()


def test_a_database_that_vanishes_is_a_store_error(db):
    store_run(db, a_full_run())
    reader = RunReader(db)
    reader.runs()
    db.unlink()

    with pytest.raises(StoreError, match=r"runs\.db: cannot be opened"):
        reader.runs()


@pytest.mark.parametrize("is_written", [False, True])
def test_a_database_in_a_folder_that_cannot_be_written_is_read(is_written):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to strangers
        db = Path(folder) / "runs.db"
        store_run(db, a_full_run("done"))
        writer = writer_of(db, a_run("open"))
        writer.commit_second(second(0), after(1))
        if not is_written:
            writer.close()
        files = sorted(path.name for path in Path(folder).iterdir())
        for name in files:
            (Path(folder) / name).chmod(0o644)
        Path(folder).chmod(0o555)

        def work():
            reader = RunReader(db)
            assert ids(reader.runs()) == ["open", "done"]
            assert len(reader.samples("open")) == 2
            with pytest.raises(StoreError, match=r"runs\.db: cannot be written"):
                writer_of(db, a_run("other"))

        as_stranger(work)
        assert sorted(path.name for path in Path(folder).iterdir()) == files
        writer.close()


def test_reading_the_file_of_a_running_writer_leaves_its_bytes_alone(db):
    writer = writer_of(db)
    writer.commit_second(second(0), after(1))
    wal = Path(f"{db}-wal")
    before = (db.read_bytes(), wal.read_bytes())

    reader_of(db).get("run-1").samples()

    assert (db.read_bytes(), wal.read_bytes()) == before
    writer.close()


def test_more_runs_than_a_query_takes_parameters_come_back_whole(db):
    store_run(db, a_full_run("run-0000"))
    with closing(sqlite3.connect(db)) as connection, connection:
        for table, column in (("runs", "id"), ("run_details", "run_id"), ("tags", "run_id"), ("devices", "run_id")):
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            others = ", ".join(f'"{name}"' for name in names if name != column)
            for number in range(1, 1_200):
                connection.execute(
                    f"INSERT INTO {table} ({column}, {others}) SELECT ?, {others} FROM {table} WHERE {column} = ?",
                    (f"run-{number:04d}", "run-0000"),
                )

    runs = RunReader(db).runs()

    assert len(runs) == 1_200
    assert all(len(run.devices) == 2 and run.tags == a_full_run().tags for run in runs)


def test_a_name_given_for_an_id_leads_to_the_runs_of_that_name(tmp_path):
    path = tmp_path / "runs.db"
    store_run(path, a_full_run("run-1"))

    with pytest.raises(RunNotFoundError, match=r"no run has the id 'finetune'.*of that name, the newest first: run-1"):
        RunReader(path).get("finetune")
