"""tracker runs: lists, pages, columns, sums, and what it says of a wrong question."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from datetime import timedelta

import pytest
from click.testing import CliRunner
from stored_runs import START, a_full_run, store_run

import tracker
from tracker.cli import EXIT_USAGE, cli
from tracker.errors import SettingError
from tracker.views.export import COLUMNS
from tracker.views.listing import LIST_COLUMNS
from tracker.views.tables import columns_of


@pytest.fixture
def db(tmp_path, monkeypatch):
    path = tmp_path / "runs.db"
    monkeypatch.setenv("TRACKER_DB", str(path))
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        run = dataclasses.replace(
            a_full_run(f"run-{number}"),
            name=f"name-{number}",
            project="even" if number % 2 == 0 else "odd",
            parent_id=None,
            is_replayed=False,
            energy_j=3600.0 * number or None,
            started_at=START + timedelta(days=20 * number),
        )
        store_run(path, run)
    return path


def runs(*arguments, code=0):
    result = CliRunner().invoke(cli, ["runs", *arguments])
    if isinstance(result.exception, SettingError):  # main prints it, and exits so
        assert code == EXIT_USAGE
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


def listed(*arguments):
    return [run["id"] for run in json.loads(runs("--json", *arguments))]


def test_amounts_take_their_units(db):
    assert listed("--min-energy", "2Wh", "--max-energy", "0.003 kWh") == ["run-3", "run-2"]
    assert listed("--min-energy", "1.44e4 J") == ["run-4"]
    assert listed("--max-emissions", "499mg") == []
    assert len(listed("--max-emissions", "0.5 g")) == 5


def test_orders_pages_and_their_end(db):
    assert listed("--sort", "energy", "--reverse") == ["run-1", "run-2", "run-3", "run-4", "run-0"]
    assert listed("--limit", "2", "--offset", "3") == ["run-1", "run-0"]

    page, last = runs("--limit", "2"), runs("--limit", "2", "--offset", "4")

    assert page.endswith("runs 1 to 2 of 5; the next: --offset 2\n")
    assert last.endswith("runs 5 to 5 of 5\n")
    assert " of 5" not in runs() and " of 5" not in runs("--limit", "1", "--all")
    assert runs("--offset", "5") == "No runs found after the first 5: 5 fit.\n"
    assert runs("--project", "none") == "No runs found: none of 5 fits.\n"


def test_columns_are_those_asked_for_in_their_order(db):
    text = runs("--columns", "energy,id,pue", "--project", "odd")

    assert text.split("\n")[:3] == [" energy  id      PUE", "3.00 Wh  run-3  1.25", "1.00 Wh  run-1  1.25"]
    every = runs("--columns", ",".join(LIST_COLUMNS))
    assert "France" not in every and "FR" in every


def test_csv_has_the_columns_of_the_export_or_those_of_the_list(db):
    whole = list(csv.DictReader(io.StringIO(runs("--csv"), newline="")))
    some = list(csv.DictReader(io.StringIO(runs("--csv", "--columns", "id,range,started"), newline="")))

    assert list(whole[0]) == [column.name for column in COLUMNS["runs"]]
    assert [row["energy_j"] for row in whole] == ["14400.0", "10800.0", "7200.0", "3600.0", ""]
    assert list(some[0]) == ["run_id", "energy_low_j", "energy_high_j", "started_at"]


def test_every_column_of_the_list_is_in_the_export():
    names = {column.name for column in COLUMNS["runs"]}

    assert {name for column in LIST_COLUMNS.values() for name in column.exported} <= names


def test_sums_are_those_of_the_query(db):
    (total,) = json.loads(runs("--total", "--json"))
    by_project = json.loads(runs("--by", "project", "--json", "--since", START.isoformat()))

    assert total == tracker.totals()[0].to_dict()
    assert {t["group"]["project"]: t["energy_j"] for t in by_project} == {"even": 21_600.0, "odd": 14_400.0}
    rows = list(csv.DictReader(io.StringIO(runs("--by", "month", "--csv"), newline="")))
    assert [row["month"] for row in rows] == ["2026-11", "2026-12", "2027-01", "2027-02"]
    assert rows[0]["energy_j"] == ""
    assert "2026-12" in runs("--by", "month") and "no runs" in runs("--total", "--project", "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--min-energy", "5"), "'5': write a number with its unit, one of J, Wh, kWh, MWh"),
        (("--max-energy", "-5 J"), "write a number with its unit"),
        (("--max-energy", "1.2.3 J"), "write a number with its unit"),
        (("--min-emissions", "5 J"), "one of mg, g, kg, t"),
        (("--min-energy", "2 J", "--max-energy", "1 J"), "min_energy_j 2 is above max_energy_j 1"),
        (("--columns", "id,colour"), "'colour' is none of id, name, project"),
        (("--columns", ""), "'' is none of id"),
        (("--sort", "speed"), "sort: 'speed' is none of started, duration"),
        (("--by", "week"), "by: 'week' is none of project"),
        (("--since", "soon"), "since: 'soon' is no time; write 2026-11-01"),
        (("--tag", "novalue"), "'novalue': write NAME=TEXT"),
        (("--offset", "-1"), "-1"),
        (("--json", "--csv"), "--json prints every key"),
        (("--by", "month", "--columns", "id"), "--columns are those of the list"),
    ],
)
def test_a_wrong_question_says_what_where_and_what_to_do(db, arguments, said):
    assert said in " ".join(runs(*arguments, code=EXIT_USAGE).split())


def test_an_empty_place_says_so_and_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))

    assert runs() == "No runs found: there are none yet.\n"
    assert runs("--total") == "no runs\n"
    assert json.loads(runs("--json")) == [] == json.loads(runs("--by", "project", "--json"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [80, 200])
def test_no_name_breaks_a_list_or_a_sum(tmp_path, monkeypatch, width):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("COLUMNS", str(width))
    names = [
        "a\x1b[31mred\x07",
        "\u202eright to left",
        "שלום",
        "中文" * 40,
        "x" * 5000,
        "a\tb\nc\r",
        "e" + "\u0301" * 50,
    ]
    for at, name in enumerate(names):
        run = dataclasses.replace(a_full_run(f"run-{at}"), name=name, project=name, tags={name: name})
        store_run(tmp_path / "runs.db", run)

    for arguments in ((), ("--columns", "name,tags,devices"), ("--by", "project"), ("--by", "name", "--by", "project")):
        for line in runs(*arguments).splitlines():
            assert line.isprintable()
            assert columns_of(line) <= width, line
