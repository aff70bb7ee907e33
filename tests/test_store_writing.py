"""What is on record, when, and what survives."""

from __future__ import annotations

import dataclasses
import os
import re
import sqlite3
import subprocess
import sys
from array import array
from contextlib import closing
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import text
from stored_runs import (
    CONSTANT,
    GPU,
    HERE,
    PACKAGE,
    ROOT,
    SECOND_US,
    START,
    a_full_run,
    a_run,
    after,
    chunks,
    python,
    second,
    store_run,
    writer_of,
)

from tracker.errors import StoreError
from tracker.records import IntensityUse, Mark, Samples, Slot, Span
from tracker.store.filters import RunFilter
from tracker.store.opening import WAL_LIMIT_BYTES, driver_connection, open_for_writing
from tracker.store.reading import RunReader
from tracker.store.writing import Chunk, RunWriter

NAMES = [
    "plain",
    "Größe-模型-🔥",
    'it\'s "quoted"',
    "a/b\\c",
    "../../etc/x",
    "x'); DROP TABLE runs;--",
    "%s {0} $HOME %%",
    "line\nbreak\r\n",
    " leading and trailing ",
    "comma,semi;tab\t",
    "<script>alert(1)</script>",
    "e\u0301 is not \u00e9",
    "\u202eright to left",
    "L" * 5000,
    "模" * 10_000,
    "null",
    "",
]


@pytest.fixture
def db(tmp_path):
    return tmp_path / "runs.db"


def rows(db, query):
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(query).fetchall()


def comparable(run):
    return dataclasses.replace(run, source=None)


def test_a_run_is_on_record_as_soon_as_it_begins(db):
    writer = RunWriter(open_for_writing(db))

    writer.begin(a_run(name="n", project="p"), HERE)

    assert rows(db, "SELECT id, name, project, status FROM runs") == [("run-1", "n", "p", "running")]
    writer.close()


def test_every_field_of_a_finished_run_comes_back(db):
    run = a_full_run()
    writer = writer_of(db, run)

    writer.finish(run, chunks(range(2)), [], after(60.5))
    writer.close()

    stored = RunReader(db).get(run.id)
    described = tuple(
        dataclasses.replace(energy, attributes=device.attributes)
        for energy, device in zip(run.devices, (GPU, PACKAGE), strict=True)
    )
    assert comparable(stored) == dataclasses.replace(run, devices=described)
    assert stored.started_at == START and stored.started_at.utcoffset() == timedelta(0)


def test_what_is_committed_reads_back_in_order_whether_sealed_or_not(db):
    writer = writer_of(db)
    for index in range(3):
        writer.commit_second(second(index), after(index + 1))
    writer.seal(a_run(), chunks(range(3)), [], after(3))
    for index in range(3, 5):
        writer.commit_second(second(index), after(index + 1))

    gpu, package = RunReader(db).samples("run-1")

    whole_gpu, whole_package = (chunk.samples for chunk in chunks(range(5)))
    for stored, whole in ((gpu, whole_gpu), (package, whole_package)):
        for name in ("t_us", "power_mw", "power_known", "counter_uj", "counter_known", "power_average_known"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(whole, name))
    assert gpu.device == GPU and package.device == PACKAGE
    assert gpu.time_utc[0] == np.datetime64(START.replace(tzinfo=None), "us") + np.timedelta64(100, "us")
    writer.close()


def test_a_seal_replaces_the_committed_seconds(db):
    writer = writer_of(db)
    writer.commit_second(second(0), after(1))

    writer.seal(a_run(), chunks(range(1)), [], after(1))

    assert rows(db, "SELECT count(*) FROM hot_readings") == [(0,)]
    assert rows(db, "SELECT n, min_power_mw, max_power_mw FROM chunks ORDER BY device_index") == [
        (2, 100_000, 100_000),
        (1, None, None),
    ]
    writer.close()


def test_slots_are_added_to_exactly(db):
    writer = writer_of(db)
    odd = 2**60 + 1

    writer.seal(a_run(), [], [Slot(0, 300, odd, 7, None), Slot(1, 300, 5, 1, 9)], after(1))
    writer.seal(a_run(), [], [Slot(0, 300, odd, 8, 4), Slot(0, 600, 1, 1, 3)], after(2))
    writer.finish(a_full_run(), [], [Slot(0, 300, -1, 0, 2)], after(3))
    writer.close()

    assert RunReader(db).slots("run-1") == [
        Slot(0, 300, 2 * odd - 1, 15, 4),
        Slot(0, 600, 1, 1, 3),
        Slot(1, 300, 5, 1, 9),
    ]


def test_a_call_that_fails_has_written_nothing_and_can_be_repeated(db):
    writer = writer_of(db)
    writer.commit_second(second(0), after(1))
    piece = chunks(range(1))
    mark = Mark(START, 0.0, {"step": 1})

    with pytest.raises(StoreError, match=r"runs\.db.*UNIQUE"):
        writer.seal(a_run(), [*piece, *piece], [Slot(0, 300, 5, 5, 5)], after(1), marks=[mark])
    assert rows(db, "SELECT count(*) FROM hot_readings") == [(1,)]
    writer.seal(a_run(), piece, [Slot(0, 300, 5, 5, 5)], after(1), marks=[mark])
    writer.close()

    reader = RunReader(db)
    assert reader.slots("run-1") == [Slot(0, 300, 5, 5, 5)]
    assert reader.marks("run-1") == [mark]
    assert rows(db, "SELECT count(*) FROM hot_readings") == [(0,)]


def test_only_a_seal_waits_for_the_disk(db):
    writer = writer_of(db)
    statements = []
    driver_connection(writer._connection).set_trace_callback(statements.append)

    writer.commit_second(second(0), after(1))
    by_second, statements[:] = statements[:], []
    writer.seal(a_run(), chunks(range(1)), [], after(1))

    assert by_second[0] == "BEGIN IMMEDIATE" and by_second[-1] == "COMMIT"
    assert not any("synchronous" in statement for statement in by_second)
    assert statements[:2] == ["PRAGMA synchronous=EXTRA", "BEGIN IMMEDIATE"]
    assert statements[-2:] == ["COMMIT", "PRAGMA synchronous=NORMAL"]
    writer.close()


def test_spans_and_marks_come_back_with_any_values(db):
    writer = writer_of(db)
    opened = Span(0, None, "epoch", {"index": 1, "text": "ü\ud800\0", "inf": float("inf")}, START, None, None)
    inner = Span(1, 0, "step", {}, START, None, None)
    closed = dataclasses.replace(
        opened, ended_at=START + timedelta(seconds=1.5), duration_s=1.5, energy_j=150.0, coverage=1.0
    )
    marks = [
        Mark(START, 0.0, {"step": 2**70, "loss": -0.5, "note": "a\n'b'", "ok": True}),
        Mark(START, 0.25, {"x": None}),
    ]

    writer.commit_second(array("q"), after(1), spans=[opened, inner], marks=marks[:1])
    writer.commit_second(array("q"), after(2), spans=[closed], marks=marks[1:])

    reader = RunReader(db)
    assert reader.spans("run-1") == [closed, inner]
    assert reader.marks("run-1") == marks
    writer.close()


def test_a_loss_that_is_not_a_number_stays_so(db):
    writer = writer_of(db)

    writer.commit_second(array("q"), after(1), marks=[Mark(START, 0.0, {"loss": float("nan")})])

    assert np.isnan(RunReader(db).marks("run-1")[0].values["loss"])
    writer.close()


def test_text_that_no_database_takes_is_kept_as_escapes_and_stops_nothing(db):
    writer = writer_of(db)

    writer.commit_second(second(0), after(1), spans=[Span(0, None, "a\ud800\0b", {}, START, None, None)])

    assert RunReader(db).spans("run-1")[0].name == "a\\ud800\\x00b"
    writer.close()


def test_names_projects_and_tags_come_back_exactly_and_can_be_filtered_by(db):
    for position, name in enumerate(NAMES):
        run = a_full_run(f"run-{position:02d}")
        store_run(db, dataclasses.replace(run, name=name, project=name, tags={name: name}))
    reader = RunReader(db)

    assert {run.project for run in reader.runs()} == set(NAMES)
    for position, name in enumerate(NAMES):
        wanted = (RunFilter(project=name), RunFilter(name=name), RunFilter(tags={name: name}))
        for found in map(reader.runs, wanted):
            assert [(run.id, run.name, run.project, run.tags) for run in found] == [
                (f"run-{position:02d}", name, name, {name: name})
            ]


def test_equal_intensities_are_stored_once_and_each_run_keeps_its_uses(db):
    for name in ("a", "b"):
        store_run(db, a_full_run(name))

    assert rows(db, "SELECT count(*) FROM intensities") == [(2,)]
    assert all(run.intensity == a_full_run().intensity for run in RunReader(db).runs())


def test_a_run_that_is_killed_has_the_pricing_of_its_last_seal(db):
    uses = [IntensityUse(CONSTANT, "setting", energy_j, 0.0, 1) for energy_j in (0.0, 10.0, 20.0)]
    writer = writer_of(db, a_run(intensity=(uses[0],)))

    for use in uses[1:]:
        writer.seal(a_run(intensity=(use,), emissions_g=use.energy_j), [], [], after(use.energy_j))
    writer.close()

    assert RunReader(db).get("run-1").intensity == (uses[2],)
    assert rows(db, "SELECT seq, emissions_g FROM pricings") == [(0, 20.0)]


def test_a_second_segment_continues_the_run_with_its_own_numbers(db):
    writer = writer_of(db, a_run(name="first"))
    writer.commit_second(second(0), after(1), spans=[Span(0, None, "a", {}, START, None, None)])
    writer.close()
    later = dataclasses.replace(HERE, pid=101, started=after(100))
    other = RunWriter(open_for_writing(db))
    other.begin(a_run(name="other"), later)
    other.add_devices([PACKAGE])
    other.add_devices([GPU])
    late = START + timedelta(seconds=100)
    other.commit_second(second(100, gpu=1, package=0), after(101), spans=[Span(0, None, "b", {}, late, None, None)])
    other.seal(a_run(), [], [Slot(1, 300, 5, 5, 5)], after(101))

    reader = RunReader(db)

    assert reader.get("run-1").name == "first"
    assert [segment.pid for segment in reader.segments("run-1")] == [100, 101]
    assert [span.name for span in reader.spans("run-1")] == ["a", "b"]
    assert len({span.id for span in reader.spans("run-1")}) == 2
    assert reader.slots("run-1") == [Slot(0, 300, 5, 5, 5)]
    other.close()


def test_a_package_of_another_host_is_another_device(db):
    writer_of(db).close()
    other = writer_of(db, segment=dataclasses.replace(HERE, host="node2"))

    assert len(RunReader(db).get("run-1").devices) == 4
    other.close()


def test_readers_see_whole_commits_while_the_run_is_written(db):
    writer = writer_of(db)
    writer.commit_second(second(0), after(1))
    with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        seen = reader.execute("SELECT count(*) FROM hot_readings").fetchone()

        writer.commit_second(second(1), after(2))
        writer.seal(a_run(), chunks(range(2)), [], after(2))

        assert reader.execute("SELECT count(*) FROM hot_readings").fetchone() == seen == (1,)
    assert rows(db, "SELECT count(*) FROM hot_readings") == [(0,)]
    writer.close()


def test_a_seal_moves_a_large_wal_into_the_database(db):
    writer = writer_of(db)
    noise = np.random.default_rng(1).integers(0, 2**62, 700_000)
    known, none = np.ones(len(noise), bool), np.zeros(len(noise), bool)
    samples = Samples(GPU, np.sort(noise), noise, known, noise * 0, none, noise * 0, none)

    writer.seal(a_run(), [Chunk(0, samples, None)], [], after(1))

    wal = db.with_name("runs.db-wal")
    assert db.stat().st_size > WAL_LIMIT_BYTES and wal.stat().st_size < WAL_LIMIT_BYTES
    writer.close()


def test_the_last_to_close_leaves_one_file(db):
    store_run(db, a_full_run())

    assert [path.name for path in db.parent.iterdir()] == ["runs.db"]


def test_closing_twice_is_as_good_as_once(db):
    writer = writer_of(db)

    writer.close()
    writer.close()


WRITER = """
import sys, time
from stored_runs import a_run, chunks, second, writer_of
from tracker.machine import clock_pair, this_segment
from tracker.records import Slot
writer = writer_of(sys.argv[1], segment=this_segment())
for index in range(10_000):
    writer.commit_second(second(index), clock_pair())
    if index % 7 == 6:
        sealed = range(index - 6, index + 1)
        writer.seal(a_run(), chunks(sealed), [Slot(0, 300, 7, 7, 7)], clock_pair())
    print(index, flush=True)
    time.sleep(0.002)
"""


def test_a_killed_writer_leaves_everything_up_to_its_last_commit(db):
    child = python(WRITER, db)
    for _ in range(40):
        committed = int(child.stdout.readline())
    child.kill()
    told = child.communicate()[0].split()
    committed = int(told[-1]) if told else committed

    run = RunReader(db).get("last")
    gpu, package = run.samples()

    assert run.status == "interrupted" and run.ended_at is not None
    assert len(package) in (committed + 1, committed + 2)
    assert len(gpu) == 2 * len(package)
    np.testing.assert_array_equal(np.diff(package.t_us), SECOND_US)
    assert RunReader(db).slots("run-1")[0].twice_energy_nj in (committed // 7 * 7, (committed + 1) // 7 * 7)
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]


def test_a_forked_child_lets_go_of_the_connection_and_the_parent_goes_on(db):
    writer = writer_of(db)
    writer.commit_second(second(0), after(1))

    pid = os.fork()
    if pid == 0:
        writer.forget_after_fork()
        own = writer_of(db, a_run("of-child"))
        own.commit_second(second(0), after(1))
        own.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    writer.commit_second(second(1), after(2))
    writer.close()

    assert sorted(run.id for run in RunReader(db).runs()) == ["of-child", "run-1"]
    assert rows(db, "SELECT run_id, count(*) FROM hot_readings GROUP BY run_id ORDER BY run_id") == [
        ("of-child", 1),
        ("run-1", 2),
    ]


def test_a_full_disk_is_a_store_error(db):
    writer = writer_of(db)
    driver_connection(writer._connection).execute("PRAGMA max_page_count=1")

    with pytest.raises(StoreError, match=r"runs\.db: the disk is full"):
        writer.commit_second(second(0), after(0), marks=[Mark(START, 0.0, {"note": "x" * 10_000})])
    writer.close()


def test_the_calendar_comes_from_the_pair_of_clocks_nearest_to_the_samples(db):
    writer = writer_of(db)
    an_hour_ahead = dataclasses.replace(after(60), unix_us=after(3660).unix_us)

    writer.seal(a_run(), chunks(range(58, 60)), [], an_hour_ahead)
    writer.close()

    assert RunReader(db).samples("run-1")[0].unix_offset_us == an_hour_ahead.unix_offset_us


def test_sql_users_see_runs_and_slots_in_units_of_people(db):
    writer = writer_of(db, a_full_run())
    slot = Slot(0, 1_795_608_000, 2 * 3_600 * 10**9, 60_000_000, 250_000)
    writer.finish(a_full_run(), [], [slot], after(60.5))
    writer.close()

    with open_for_writing(db).engine.connect() as connection:
        (run,) = connection.execute(text("SELECT * FROM v_runs")).mappings().all()
        (row,) = connection.execute(text("SELECT * FROM v_energy_by_slot")).mappings().all()

    assert run["started_utc"] == "2026-11-25T12:00:00.123456Z"
    assert run["ended_utc"] == "2026-11-25T12:01:00.623456Z"
    assert (run["energy_kwh"], run["emissions_kg"], run["duration_s"]) == (6050.25 / 3.6e6, 0.0005, 60.5)
    assert dict(row) == {
        "run_id": "run-1",
        "device_key": "GPU-1",
        "device_name": "Test GPU",
        "kind": "gpu",
        "slot_start_utc": "2026-11-25T12:00:00.000000Z",
        "energy_j": 3600.0,
        "covered_s": 60.0,
        "mean_power_w": 60.0,
        "max_power_w": 250.0,
    }


def test_eight_processes_that_write_run_after_run_into_one_file_lose_none_and_the_log_stays_small(tmp_path):
    """The program that also measures it, and a short run of it; the figures are for benchmarks/README.md."""
    command = [sys.executable, ROOT / "benchmarks" / "writers.py", "--writers", "8", "--runs", "64", "--commits", "4"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = subprocess.run([*command, "--folder", tmp_path], env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "64 runs of 4 commits" in done.stdout and "lost 0," in done.stdout and "file sound" in done.stdout, (
        done.stdout
    )
    (largest_mib,) = re.findall(r"largest WAL ([0-9.]+) MiB", done.stdout)
    # What is above the limit is taken in at the next seal; until then come a transaction or few of each writer.
    assert float(largest_mib) < WAL_LIMIT_BYTES / 2**20 + 2
