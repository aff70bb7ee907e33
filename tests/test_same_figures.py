"""One run in every view: each shows the same figures, and what is unknown as unknown."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from html_page import Page
from stored_runs import a_full_run, store_run

import tracker
from tracker.cli import cli
from tracker.records import Run, Runs
from tracker.serving import pages
from tracker.session.watching import Watcher
from tracker.views import amounts
from tracker.views.report import html_of, markdown_of, report_of
from tracker.views.watching import Look, frame_of, plain_line

FIGURES = ("energy_j", "energy_modelled_j", "emissions_g", "emissions_modelled_g")
COSTS = ("cost", "cost_modelled", "price_per_kwh")


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.chdir(tmp_path)
    given = replace(
        a_full_run(),
        energy_j=987_654.321,
        energy_modelled_j=23_456.7,
        emissions_g=76.54,
        emissions_modelled_g=1.234,
        coverage=0.9137,
        price_per_kwh=0.2846,
        currency="EUR",
        is_replayed=False,
        parent_id=None,
    )
    store_run(tmp_path / "runs.db", given)
    return tracker.get("run-1")


def command(*arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def texts_of(run: Run) -> dict[str, str]:
    """Every view that gives figures out as texts for people."""
    comparison = tracker.compare(run, run)
    (watched,) = Watcher(run.id).look()
    blocks = report_of([run], None, {}, datetime.now(UTC), "0")
    return {
        "summary": run.summary(200),
        "notebook": " ".join(Page(run._repr_html_()).texts),
        "tracker show": command("show", run.id),
        "list": str(Runs([run])),
        "list in a notebook": " ".join(Page(Runs([run])._repr_html_()).texts),
        "tracker runs": command(
            *("runs", "--columns"),
            "id,energy,energy_modelled,emissions,emissions_modelled,cost,cost_modelled,coverage",
        ),
        "comparison": comparison.text(200),
        "comparison in a notebook": " ".join(Page(comparison._repr_html_()).texts),
        "watch": "\n".join(frame_of([watched], Look(200), datetime.now(UTC), "x")),
        "watch, a line": plain_line(watched, datetime.now(UTC)),
        "report": " ".join(Page(html_of(blocks)).texts),
        "report in Markdown": markdown_of(blocks).replace("\\", ""),
        "page": " ".join(Page(pages.run_page(run)).texts),
        "page of the list": " ".join(Page(pages.runs_page([run], {}, 0, 50, 1)).texts),
        "page of a comparison": " ".join(Page(pages.compare_page(comparison)).texts),
    }


MEASURED_ALONE = ("list", "list in a notebook", "comparison", "comparison in a notebook", "page of a comparison")


def test_every_view_for_people_shows_the_same_energy_and_emissions(run):
    for view, text in texts_of(run).items():
        assert amounts.energy(run.energy_j) in text, view
        assert amounts.mass(run.emissions_g) in text, view
        if view not in (*MEASURED_ALONE, "page of the list"):
            assert amounts.energy(run.energy_modelled_j) in text, view
            assert amounts.mass(run.emissions_modelled_g) in text, view
            assert amounts.money(run.cost_modelled, "EUR") in text, view
        if view != "list":  # of 80 columns, that has no room for it
            assert amounts.money(run.cost, "EUR") in text, view
        if view != "watch, a line":
            assert amounts.share(run.coverage) in text, view


def test_every_view_for_programs_holds_the_same_numbers(run, tmp_path):
    command("export", "runs", "-o", "out.parquet")
    (row,) = csv.DictReader(io.StringIO(command("export", "runs"), newline=""))
    (from_csv_list,) = csv.DictReader(io.StringIO(command("runs", "--csv"), newline=""))
    command("report", run.id, "-o", "out.json")
    shown = {
        "export": row,
        "json lines": json.loads(command("export", "runs", "--format", "jsonl")),
        "parquet": pq.read_table(tmp_path / "out.parquet").to_pylist()[0],
        "runs --csv": from_csv_list,
        "runs --json": json.loads(command("runs", "--json"))[0],
        "show --json": json.loads(command("show", run.id, "--json")),
        "compare --json": json.loads(command("compare", run.id, "--json"))["runs"][0],
        "watch --json": json.loads(command("watch", run.id, "--once", "--json"))[0],
        "report": json.loads((tmp_path / "out.json").read_text()),
    }
    for view, figures in shown.items():
        for name in (*FIGURES, *COSTS, "coverage", "pue"):
            assert float(figures[name]) == getattr(run, name), (view, name)
        assert figures["currency"] == "EUR", view


def test_what_is_unknown_is_unknown_in_every_view(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    nothing = dict.fromkeys((*FIGURES, "coverage"), None)
    store_run(tmp_path / "runs.db", replace(a_full_run(), devices=(), intensity=(), energy_range_j=None, **nothing))
    run = tracker.get("run-1")

    for view, text in texts_of(run).items():
        assert any(word in text for word in ("unknown", "nothing", " - ", "-\n")), view
        assert "0 J" not in text and "0 g" not in text and " nan" not in text.lower(), view
