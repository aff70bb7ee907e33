"""Names in any script and numbers of any kind, through store, command, JSON, CSV and HTML, and back."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from html_page import Page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_runs import ROOT, START, a_full_run, after, chunks, writer_of

import tracker
from tracker.cli import cli
from tracker.records import Mark, Run, Span
from tracker.serving import pages
from tracker.store.reading import RunReader
from tracker.store.rows import storable

NAMES = [
    "plain",
    "Größe-模型-🔥",
    "שלום עולם",
    "日本語 한국어 ไทย हिन्दी",
    "e\u0301 and é",
    "\u202eright to left",
    "zero\u200bwidth\ufeff",
    'it\'s "quoted"',
    "a/b\\c",
    "../../etc/x",
    "C:\\con.txt",
    "x'); DROP TABLE runs;--",
    "' OR 1=1 --",
    "%s {0} $HOME `id` $(id)",
    "line\nbreak\r\nand\ttab",
    " leading and trailing ",
    "comma,semi;tab\t",
    "=1+1",
    "+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "-2+3",
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "&amp; &lt;",
    "[red]markup[/red]",
    "\x1b[31mred\x1b]0;title\x07",
    "None",
    "NaN",
    "L" * 5000,
    "🔥" * 2500,
]
NUMBERS = [0.0, -0.0, 1.5, -1.5, math.nan, math.inf, -math.inf, 1e308, 5e-324, 2**53 + 1, -(2**70), 10**30, True, False]
# What a record keeps of the program's own that is no name of a run: a NUL or half a surrogate pair may be in it.
ODD = ["a\0b", "\ud800", "\udfff\ud800", "x\0" * 20]


def same(left: object, right: object) -> bool:
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return type(left) is type(right) and left == right


@pytest.fixture
def db(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TRACKER_ZONE", "FR")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs.db"


def store(db: Path, run_id: str, name: str, odd: str = "", numbers: tuple[object, ...] = ()) -> Run:
    named = {"name": name, "project": name, "tags": {name: name}, "warnings": (name + odd,), "status": "finished"}
    run = dataclasses.replace(a_full_run(run_id), **named)
    values = {name + odd: name + odd, **{f"n{at}": number for at, number in enumerate(numbers)}}
    spans = [Span(0, None, name + odd, values, START, START, 0.0, None, None)]
    writer = writer_of(db, run)
    writer.finish(run, chunks(range(2)), [], after(2), spans=spans, marks=[Mark(START, 0.0, values)])
    writer.close()
    return run


def told(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def strict(text: str) -> object:
    """JSON as every program reads it, which has no NaN."""

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refused)


def test_every_name_comes_back_from_everywhere_and_breaks_nothing(db):
    for at, name in enumerate(NAMES):
        store(db, f"run-{at:02}", name)

    listed = told("runs", "--limit", "100", "--columns", "id,name,project,tags").splitlines()
    records = {record["id"]: record for record in strict(told("runs", "--limit", "100", "--json"))}
    told("export", "runs", "-o", "out.csv")  # to a file, as what catches a command's output changes ends of lines
    with Path("out.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["run_id"]: row for row in csv.DictReader(file)}
    lines = {row["run_id"]: row for row in map(json.loads, told("export", "runs", "--format", "jsonl").splitlines())}

    assert len(records) == len(rows) == len(lines) == len(NAMES)
    assert not any(re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", line) for line in listed)
    for at, name in enumerate(NAMES):
        run_id = f"run-{at:02}"
        run = tracker.get(run_id)
        assert (run.name, run.project, run.tags, run.warnings) == (name, name, {name: name}, (name,))
        for found in (tracker.runs(name=name), tracker.runs(project=name), tracker.runs(tags={name: name})):
            assert [one.id for one in found] == [run_id]
        assert (records[run_id]["name"], records[run_id]["tags"]) == (name, {name: name})
        assert lines[run_id]["name"] == name
        cell = rows[run_id]["name"]
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and cell.removeprefix("'") == name
        assert sum(line.startswith(f"{run_id} ") for line in listed) == 1
        for html in (run._repr_html_(), pages.trouble_page("no", name)):
            assert not re.search(r"<script(?! src)|<img src=x|onerror=alert\(1\)>", html)
        assert Page(run._repr_html_())
    assert {path.name for path in db.parent.iterdir()} <= {
        "runs.db",
        "runs.db-wal",
        "runs.db-shm",
        "out.csv",
        "out.csv.columns.md",
    }


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200))
def test_any_name_comes_back(db, name):
    run_id = f"run-{abs(hash(name))}"
    if tracker.runs(name=name):
        return
    store(db, run_id, name)

    (run,) = tracker.runs(name=name)
    assert (run.id, run.project, run.tags) == (run_id, name, {name: name})
    assert strict(told("show", run_id, "--json"))["name"] == name
    told("show", run_id)
    run._repr_html_()


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_what_no_database_holds_is_escaped_in_what_the_program_named(odd, db):
    store(db, "run-1", "plain", odd)

    (span,), (mark,) = RunReader(db).spans("run-1"), RunReader(db).marks("run-1")

    assert span.name == storable("plain" + odd) and "\0" not in span.name
    assert mark.values == {"plain" + odd: "plain" + odd}  # as JSON, which escapes
    text = told("show", "run-1", "--json")
    text.encode()
    assert strict(text)["id"] == "run-1"
    told("show", "run-1").encode()


def test_numbers_of_every_kind_come_back_as_they_were(db):
    store(db, "run-1", "plain", numbers=tuple(NUMBERS))

    (span,), (mark,) = RunReader(db).spans("run-1"), RunReader(db).marks("run-1")

    for at, number in enumerate(NUMBERS):
        for values in (mark.values, span.attributes):
            assert same(values[f"n{at}"], number), (number, values[f"n{at}"])
            assert math.copysign(1, values[f"n{at}"]) == math.copysign(1, number) or number != number
    strict(told("show", "run-1", "--json"))


def test_instants_are_told_as_such_in_any_time_zone_and_names_in_any_locale(db):
    """Where the terminal has no letters but ASCII's, none is lost to an error."""
    for at, name in enumerate(NAMES[:6]):
        store(db, f"run-{at}", name)
    environ = {"TRACKER_DB": str(db), "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "TZ": "Pacific/Kiritimati"}
    environ |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": str(db.parent)}
    code = "from tracker.cli import main; import sys; main()"

    def said(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode("latin-1")
        return done.stdout.decode("latin-1")

    records = strict(said("runs", "--json"))
    assert {record["name"] for record in records} == set(NAMES[:6])
    assert {datetime.fromisoformat(record["started_at"]) for record in records} == {START}
    assert "run-3" in said("runs")
