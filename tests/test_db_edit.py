"""Tags, notes, pruning and deleting, by the command."""

import json
import sqlite3
from datetime import timedelta

import pytest
from click.testing import CliRunner
from stored_runs import START, a_full_run, a_run, after, chunks, writer_of

import tracker
from tracker.cli import cli
from tracker.errors import TrackerError
from tracker.records import Slot
from tracker.store.tables import metadata


@pytest.fixture
def db(tmp_path, monkeypatch):
    path = tmp_path / "runs.db"
    monkeypatch.setenv("TRACKER_DB", str(path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return path


def store(path, run):
    writer = writer_of(path, run)
    writer.finish(run, chunks(range(60)), [Slot(0, 1_795_608_000, 7_200, 60, 1)], after(run.duration_s))
    writer.close()


def ran(*arguments, code=0, **given):
    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=True, **given)
    if isinstance(result.exception, TrackerError):
        return result
    assert result.exit_code == code, result.output
    return result


def rows_of(path, run_id):
    connection = sqlite3.connect(path)
    counts = {
        table.name: connection.execute(f"SELECT count(*) FROM {table.name} WHERE run_id = ?", (run_id,)).fetchone()[0]
        for table in metadata.sorted_tables
        if "run_id" in table.c
    }
    connection.close()
    return counts


def test_tags_are_set_replaced_and_removed(db):
    store(db, a_full_run())
    ran("tag", "run-1", "stage=final", "team=ü=x", "--remove", "model")
    assert tracker.get("run-1").tags == {"stage": "final", "team": "ü=x"}


@pytest.mark.parametrize("arguments", [["run-1"], ["run-1", "nonsense"], ["run-1", "a=\0"]])
def test_tags_that_are_none_are_refused_and_nothing_changes(arguments, db):
    store(db, a_full_run())
    result = CliRunner().invoke(cli, ["tag", *arguments])
    assert result.exit_code != 0
    assert tracker.get("run-1").tags == a_full_run().tags


def test_notes_are_kept_in_order_and_shown(db):
    store(db, a_full_run())
    ran("note", "run-1", "cooling broke; ignore")
    ran("note", "run-1", "=1+1\nsecond line")
    run = tracker.get("run-1")
    assert [note.text for note in run.notes] == ["cooling broke; ignore", "=1+1\nsecond line"]
    assert "cooling broke" in run.summary()
    assert [note["text"] for note in json.loads(ran("show", "run-1", "--json").output)["notes"]] == [
        note.text for note in run.notes
    ]
    ran("note", "run-1", "  ", code=2)


def test_a_deleted_run_leaves_nothing_behind_and_others_all(db):
    store(db, a_full_run())
    store(db, a_full_run("other"))
    before = rows_of(db, "other")
    ran("delete", "run-1", "--yes")
    assert set(rows_of(db, "run-1").values()) == {0}
    assert rows_of(db, "other") == before and tracker.get("other").intensity


def test_deleting_asks_and_takes_parts_along(db):
    store(db, a_run("whole", status="finished", ended_at=START))
    store(db, a_run("part", status="finished", ended_at=START, parent_id="whole"))
    result = ran("delete", "whole", code=1, input="n\n")
    assert "part of whole" in result.output and len(tracker.runs()) == 2
    ran("delete", "whole", input="y\n")
    assert tracker.runs() == []


def test_a_run_that_goes_on_is_not_deleted(db, standin_nvml, monkeypatch):
    live = tracker.track("x", zone="FR").start()
    result = ran("delete", live.id, "--yes")
    assert "goes on" in str(result.exception)
    live.stop()
    ran("delete", live.id, "--yes")
    assert tracker.runs() == []


def test_pruning_keeps_all_but_raw_samples_and_says_so_on_the_run(db):
    store(db, a_full_run())
    young = a_run("young", status="finished", started_at=START, ended_at=START + timedelta(days=400))
    store(db, young)
    before = tracker.get("run-1")
    old = "2027-06-01"
    assert "120 samples" not in ran("db", "prune", "--samples-older-than", "2020-01-01").output
    connection = sqlite3.connect(db)
    connection.execute("UPDATE runs SET ended_unix_us = 1600000000000000 WHERE id = 'run-1'")
    connection.commit()
    connection.close()

    dry = ran("db", "prune", "--samples-older-than", "2021-01-01", "--dry-run").output
    assert dry.startswith("would drop 180 samples of 1 runs") and len(tracker.get("run-1").samples()) == 2
    ran("db", "prune", "--samples-older-than", "2021-01-01", "--shrink")

    run = tracker.get("run-1")
    assert run.samples() == () and len(tracker.get("young").samples()) == 2
    assert run.energy_j == before.energy_j and run.source.slots("run-1")
    assert ["raw samples dropped" in note.text for note in run.notes] == [True]
    assert ran("db", "prune", "--samples-older-than", old, code=2).output.count("not in the past") == 1


def test_info_tells_place_contents_and_waiting_run_files(db, tmp_path):
    told = json.loads(ran("db", "info", "--json").output)
    assert told["runs"] == 0 and told["schema_version"] is None and not db.exists()
    store(db, a_full_run())
    (tmp_path / "runs.db.d").mkdir()
    (tmp_path / "runs.db.d" / "x.db").touch()
    told = json.loads(ran("db", "info", "--json").output)
    assert (told["runs"], told["samples_sealed"]) == (1, 180)
    assert told["run_files"] == [str(tmp_path / "runs.db.d" / "x.db")]
    assert "tracker db merge" in ran("db", "info").output


def test_merge_without_files_takes_those_that_wait(db, tmp_path):
    (tmp_path / "runs.db.d").mkdir()
    store(tmp_path / "runs.db.d" / "x.db", a_full_run("waited"))
    assert "1 runs are in the database" in ran("db", "merge").output
    assert [run.id for run in tracker.runs()] == ["waited"] and not list((tmp_path / "runs.db.d").iterdir())
    assert "no run files" in ran("db", "merge").output
    (tmp_path / "junk.db").write_text("junk" * 1000)
    assert "kept" in ran("db", "merge", str(tmp_path / "junk.db"), code=1).output
