"""Exports: every value as it is in the database, whatever it is called, and no half files."""

import csv
import io
import json
from datetime import datetime, timedelta

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import ROOT, START, a_full_run, a_run, after, chunks, writer_of

import tracker
from tracker.cli import cli
from tracker.records import Mark, Slot, Span
from tracker.views.export import COLUMNS, Column, device_rows, dictionary_text, run_row, write_csv, write_jsonl

TEXT = (Column("text", "", "any"),)


@pytest.fixture
def db(tmp_path, monkeypatch):
    path = tmp_path / "runs.db"
    monkeypatch.setenv("TRACKER_DB", str(path))
    monkeypatch.chdir(tmp_path)
    for run in (a_full_run(), a_run("second", status="finished", started_at=START, ended_at=START)):
        writer = writer_of(path, run)
        slots = [Slot(0, 1_795_608_000, 7_200 * 10**9, 60_000_000, 250_000), Slot(1, 1_795_608_000, 0, 0, None)]
        span = Span(0, None, "=train", {"epoch": 1}, START, START + timedelta(seconds=9), 9.0, 900.0, 1.0)
        marks = [Mark(START + timedelta(seconds=n), float(n), {"step": n, "note": "x"}) for n in range(2)]
        writer.finish(run, chunks(range(60)), slots, after(60.5), spans=[span], marks=marks)
        writer.close()
    return path


def exported(*arguments, code=0):
    result = CliRunner().invoke(cli, ["export", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def as_dicts(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_every_kind_has_its_columns_in_order_in_both_forms(db):
    for kind, columns in COLUMNS.items():
        names = [column.name for column in columns]
        rows = as_dicts(exported(kind))
        assert list(rows[0]) == names
        lines = [json.loads(line) for line in exported(kind, "--format", "jsonl").splitlines()]
        assert [list(line) for line in lines] == [names] * len(rows)
        for row, line in zip(rows, lines, strict=True):
            for name in names:
                assert (row[name] == "") == (line[name] in (None, "")), (kind, name)


@pytest.mark.parametrize("kind", COLUMNS)
def test_parquet_holds_the_same_with_types_and_meanings(db, tmp_path, kind):
    exported(kind, "-o", "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")

    lines = [json.loads(line) for line in exported(kind, "--format", "jsonl").splitlines()]
    assert table.num_rows == len(lines) > 0
    assert table.column_names == [column.name for column in COLUMNS[kind]]
    for column, field in zip(COLUMNS[kind], table.schema, strict=True):
        assert field.metadata == {b"unit": column.unit.encode(), b"meaning": column.meaning.encode()}
        for value, line in zip(table[column.name].to_pylist(), lines, strict=True):
            told = line[column.name]
            if isinstance(value, datetime):
                assert value == datetime.fromisoformat(told)
            elif isinstance(told, (list, dict)):
                assert json.loads(value) == told
            else:
                assert value == told and type(value) in (type(told), float)


def test_what_the_columns_mean_stands_in_the_docs():
    told = (ROOT / "docs" / "columns.md").read_text()
    assert told == "\n".join(dictionary_text(kind) for kind in COLUMNS)


def test_figures_are_those_of_the_run_and_unknown_is_empty(db):
    run = tracker.get("run-1")
    (row,) = as_dicts(exported("runs", "run-1"))
    for name in ("energy_j", "energy_modelled_j", "emissions_g", "emissions_modelled_g", "coverage", "pue"):
        assert float(row[name]) == getattr(run, name)
    (unknown,) = as_dicts(exported("runs", "second"))
    assert (unknown["energy_j"], unknown["emissions_g"], unknown["coverage"]) == ("", "", "")
    devices = as_dicts(exported("devices", "run-1"))
    assert [float(row["energy_j"]) for row in devices] == [device.energy_j for device in run.devices]


def test_slots_and_samples_are_all_there(db):
    slots = as_dicts(exported("slots", "run-1"))
    assert [(row["energy_j"], row["covered_s"]) for row in slots] == [("3600.0", "60.0"), ("", "0.0")]
    samples = as_dicts(exported("samples", "run-1"))
    assert len(samples) == 180
    gpu = [row for row in samples if row["device_kind"] == "gpu"]
    assert {row["power_w"] for row in gpu[2:4]} <= {"", "100.0"} and gpu[0]["counter_j"] == "7.0"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_any_text_comes_back_from_csv_and_is_no_formula(text):
    file = io.StringIO(newline="")
    write_csv([{"text": text}], TEXT, file)
    file.seek(0)
    _, *rows = csv.reader(file)
    cell = rows[0][0] if rows and rows[0] else ""
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert (cell.removeprefix("'") if cell.startswith("'") else cell) == text


@given(st.text(max_size=50))
def test_any_text_comes_back_from_json_lines(text):
    file = io.StringIO()
    write_jsonl([{"text": text}], TEXT, file)
    (line,) = file.getvalue().splitlines()
    assert json.loads(line) == {"text": text}


def test_numbers_stay_numbers_though_they_begin_with_a_sign(db):
    file = io.StringIO(newline="")
    write_csv([{"text": -1.5}, {"text": "-1.5"}], TEXT, file)
    assert file.getvalue().splitlines()[1:] == ["-1.5", "'-1.5"]


def test_a_file_comes_with_its_dictionary_and_replaces_the_one_before(db, tmp_path):
    (tmp_path / "out.csv").write_text("old")
    exported("runs", "-o", "out.csv")
    assert len(as_dicts((tmp_path / "out.csv").read_text())) == 2
    told = (tmp_path / "out.csv.columns.md").read_text()
    assert told == dictionary_text("runs") == exported("runs", "--dictionary")
    for column in COLUMNS["runs"]:
        assert f"| `{column.name}` | {column.unit} | {column.meaning} |" in told
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out.csv", "out.csv.columns.md"]


def test_an_export_that_fails_leaves_what_was_there(db, tmp_path, monkeypatch):
    (tmp_path / "out.csv").write_text("old")
    result = CliRunner().invoke(cli, ["export", "runs", "no-such-run", "-o", "out.csv"])
    assert result.exit_code != 0 and (tmp_path / "out.csv").read_text() == "old"
    result = CliRunner().invoke(cli, ["export", "runs", "-o", "missing/folder/out.csv"])
    assert "nothing was written" in str(result.exception)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


def test_hosts_leave_only_when_asked_for(db):
    for kind in COLUMNS:
        assert "node1" not in exported(kind) + exported(kind, "--format", "jsonl")
    assert as_dicts(exported("runs", "--identify"))[0]["hosts"] == '["node1"]'


def test_runs_are_chosen_as_by_tracker_runs(db):
    assert [row["run_id"] for row in as_dicts(exported("runs", "--project", "nlp"))] == ["run-1"]
    assert as_dicts(exported("runs", "--since", "2030-01-01")) == []
    exported("runs", "run-1", "--project", "nlp", code=2)


def test_rows_hold_what_columns_promise():
    assert set(run_row(a_full_run())) == {column.name for column in COLUMNS["runs"]}
    assert {frozenset(row) for row in device_rows(a_full_run())} == {
        frozenset(column.name for column in COLUMNS["devices"])
    }
