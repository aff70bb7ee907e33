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
from stored_runs import GPU, HERE, START, a_full_run, after, second, store_run, writer_of

import tracker
from tracker.cli import cli
from tracker.machine import this_segment
from tracker.records import DeviceEnergy, NotMeasured, Run, Runs, Slot, unix_us_of
from tracker.serving import pages
from tracker.session.watching import Watcher
from tracker.store.opening import open_for_writing
from tracker.store.writing import RunWriter
from tracker.views import amounts
from tracker.views.report import Block, html_of, markdown_of, report_of
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


def report(run: Run) -> list[Block]:
    return report_of([run], None, {}, datetime.now(UTC), "0")


def texts_of(run: Run) -> dict[str, str]:
    """Every view that gives figures out as texts for people."""
    comparison = tracker.compare(run, run)
    (watched,) = Watcher(run.id).look()
    blocks = report(run)
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


HOSTILE = '<script>alert(1)</script>\n\x1b[2J\u202e=cmd|"' + "x" * 90


def a_running(path) -> None:
    """A run that this process writes, so that it counts as going on."""
    given = replace(a_full_run(), status="running", ended_at=None, parent_id=None)
    writer_of(path, given, replace(this_segment(), started=after(0))).commit_second(second(0), after(1))


def a_killed(path) -> None:
    given = replace(a_full_run(), status="running", ended_at=None, parent_id=None)
    gone = replace(this_segment(), pid=2**22 + 1, pid_start=1, started=after(0))
    writer_of(path, given, gone).commit_second(second(0), after(1))


def without_gpu(path) -> None:
    cpu = a_full_run().devices[1]
    store_run(path, replace(a_full_run(), devices=(cpu,), parent_id=None, energy_j=50.25))


def with_gaps(path) -> None:
    gap = DeviceEnergy("gpu", "GPU-1", "Test GPU", "counter", 10.0, 1.0, None, 0.25, None, ("of 45.0 s its energy is",))
    store_run(path, replace(a_full_run(), devices=(gap,), coverage=0.25, parent_id=None))


def a_repriced(path) -> None:
    run = replace(a_full_run(), parent_id=None, price_per_kwh=0.5, currency="SEK", energy_modelled_j=None)
    writer = writer_of(path, run)
    slot = Slot(0, unix_us_of(START) // 300_000_000 * 300, 2 * 6050 * 10**9, 60_000_000, None)
    writer.finish(run, [], [slot], after(60.5))
    writer.close()
    tracker.reprice("run-1", pue=2.0, store=True)


def hostile(path) -> None:
    gpu = replace(a_full_run().devices[0], name=HOSTILE, key=HOSTILE, notes=(HOSTILE,))
    missing = NotMeasured("dram", HOSTILE, HOSTILE, HOSTILE)
    given = {"name": HOSTILE, "project": HOSTILE, "tags": {HOSTILE: HOSTILE}, "warnings": (HOSTILE,)}
    run = replace(a_full_run(), devices=(gpu,), not_measured=(missing,), parent_id=None, **given)
    writer = RunWriter(open_for_writing(path))
    writer.begin(run, HERE)
    writer.add_devices([replace(GPU, key=HOSTILE, name=HOSTILE)])
    writer.finish(run, [], [], after(60.5))
    writer.close()


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (a_running, "running"),
        (a_killed, "interrupted"),
        (without_gpu, "finished"),
        (with_gaps, "finished"),
        (a_repriced, "finished"),
        (hostile, "finished"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_state_of_a_run_shows_in_every_view(tmp_path, monkeypatch, state, status):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.chdir(tmp_path)
    state(tmp_path / "runs.db")
    run = tracker.get("run-1")

    assert run.status == status
    if state is a_repriced:
        assert (run.pue, run.cost) == (2.0, pytest.approx(6050.25 / 3.6e6 * 2 * 0.5))
    for view, text in texts_of(run).items():
        assert amounts.energy(run.energy_j) in text, view
        assert "\x1b" not in text and "\u202e" not in text and "\0" not in text, view
        if view != "tracker runs" and "comparison" not in view:
            assert status in text, view
        if state is a_repriced and view in ("summary", "page", "report", "tracker show"):
            assert "priced anew" in " ".join(text.split()), view
    for markup in (run._repr_html_(), pages.run_page(run), pages.runs_page([run], {}, 0, 50, 1), html_of(report(run))):
        assert "<script>alert" not in markup and "<img" not in markup


def test_an_empty_database_is_said_to_be_one_in_every_view(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.chdir(tmp_path)

    assert str(tracker.runs()) == "no runs" and "no runs" in tracker.runs()._repr_html_()
    assert "no runs" in command("runs", "--total") and json.loads(command("runs", "--json")) == []
    assert "no runs are going on" in command("watch", "--once")
    assert "There are no runs yet" in pages.runs_page([], {}, 0, 50, 0) and "no runs yet" in pages.trends_page([])
    assert CliRunner().invoke(cli, ["export", "runs"]).stdout.count("\n") == 1
    assert not (tmp_path / "runs.db").exists()  # to look makes none
