"""Reports: the figures are the run's, whatever it is called, and the file holds all it shows."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from html_page import Page
from stored_runs import FRANCE, START, a_full_run, a_run, after, chunks, writer_of

import tracker
from tracker.cli import cli
from tracker.records import IntensityUse, Mark, Slot, Span
from tracker.session.picturing import curves_of, slots_of
from tracker.views.plots import picture_of
from tracker.views.report import html_of, markdown_of, report_of

HOSTILE = '<script>alert(1)</script> | "x" \u202e & _$a^2$ [l](javascript:x) `c`'


@pytest.fixture
def db(tmp_path, monkeypatch):
    path = tmp_path / "runs.db"
    monkeypatch.setenv("TRACKER_DB", str(path))
    monkeypatch.chdir(tmp_path)
    first_s = int(START.timestamp()) // 300 * 300
    slots = [Slot(0, first_s, 7_200 * 10**9, 60_000_000, 250_000), Slot(1, first_s, 10**9, 60_000_000, None)]
    spans = [
        Span(0, None, HOSTILE, {}, START, START + timedelta(seconds=40), 40.0, 4000.0, 1.0),
        Span(1, 0, "_inner", {}, START, START + timedelta(seconds=20), 20.0, None, None),
    ]
    marks = [Mark(START + timedelta(seconds=n), float(n), {"step": n}) for n in range(30)]
    hostile = replace(a_full_run("hostile"), name=HOSTILE, is_replayed=False, parent_id=None)
    for run in (hostile, a_full_run(), a_run("empty", status="finished", started_at=START, ended_at=START)):
        writer = writer_of(path, run)
        known = run.id != "empty"
        writer.finish(
            run,
            chunks(range(60)) if known else [],
            slots if known else [],
            after(60.5),
            spans=spans if run.id == "hostile" else [],
            marks=marks if run.id == "hostile" else [],
        )
        writer.close()
    return path


def report(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["report", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize("ids", [["run-1"], ["hostile"], ["hostile", "run-1", "empty"], ["empty"]])
def test_the_page_loads_and_runs_nothing_and_shows_the_figures_of_the_run(db, tmp_path, ids):
    report(*ids, "-o", "out.html")

    text = (tmp_path / "out.html").read_text()
    page = Page(text)
    assert not {"script", "iframe", "object", "link", "form", "input"}.intersection(page.tags)
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert "default-src 'none'" in text
    told = " ".join(page.texts)
    for run_id in ids:
        for line in tracker.get(run_id).summary(width=10_000).splitlines():
            for word in line.split():
                assert word in told, word


@pytest.mark.parametrize("ids", [["hostile"], ["hostile", "run-1"]])
def test_a_name_breaks_neither_rows_nor_words_of_markdown(db, tmp_path, ids):
    report(*ids, "-o", "out.md")

    text = (tmp_path / "out.md").read_text()
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "<script" not in text.replace("\\<", "") and "](" not in text.replace("\\]\\(", "")
    assert "\u202e" not in text


def test_json_is_the_record_and_csv_the_export(db, tmp_path):
    report("run-1", "-o", "one.json")
    report("run-1", "hostile", "-o", "two.json")
    report("run-1", "hostile", "-o", "two.csv")

    assert json.loads((tmp_path / "one.json").read_text())["energy_j"] == tracker.get("run-1").energy_j
    assert len(json.loads((tmp_path / "two.json").read_text())["runs"]) == 2
    with (tmp_path / "two.csv").open(newline="") as file:
        assert [row["run_id"] for row in csv.DictReader(file)] == ["run-1", "hostile"]


def test_a_picture_is_the_same_each_time_and_holds_texts_as_texts(db, tmp_path):
    report("hostile", "-o", "one.svg")
    report("hostile", "-o", "two.svg")
    report("hostile", "-o", "one.png")

    svg = (tmp_path / "one.svg").read_bytes()
    assert svg == (tmp_path / "two.svg").read_bytes()
    root = ET.fromstring(svg)
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "GPU Test GPU" in texts and "CPU package-0" in texts and "_inner" in texts
    assert any("<script>" in (text or "") for text in texts)  # as a text
    assert not [node for node in root.iter() if node.tag.endswith("}script")]
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_curves_hold_the_extremes_of_the_readings_and_the_energy_of_the_slots(db):
    curves = curves_of(tracker.get("run-1"), columns=7)

    by_kind = {device.kind: curve for device, curve in curves.devices}
    assert (by_kind["gpu"].least_w.min(), by_kind["gpu"].most_w.max()) == (100.0, 100.058)
    assert by_kind["cpu_package"].mean_w.max() == pytest.approx(10.0)
    assert curves.slots.energy_j.sum() == pytest.approx(3600.5)
    assert (curves.slots.emissions_g > 0).all()


def test_slots_show_what_the_sum_is_made_of_and_nothing_on_another_basis(db):
    first = datetime.fromtimestamp(int(START.timestamp()) // 300 * 300, UTC)
    direct = replace(FRANCE, intensity_g_per_kwh=100.0, basis="direct", start=START, end=START + timedelta(seconds=30))
    own = replace(FRANCE, start=START + timedelta(seconds=30), end=START + timedelta(hours=1))
    uses = (IntensityUse(own, "setting", 2000.0, 0.0, 1), IntensityUse(direct, "setting", 1000.0, 0.0, 1))
    run = replace(tracker.get("run-1"), intensity=uses)

    slots = slots_of(run)

    assert slots.start_s.tolist() == [int(first.timestamp())]
    half_j = slots.energy_j.sum() * 30.5 / 60.5
    assert slots.emissions_g.sum() == pytest.approx(half_j / 3.6e6 * 56.0 * run.pue, rel=1e-6)
    assert slots.intensity_g_per_kwh.tolist() == [56.0]


def test_a_run_with_nothing_to_draw_has_a_report_and_no_picture(db, tmp_path):
    assert picture_of(tracker.get("empty"), curves_of(tracker.get("empty")), "svg") is None

    report("empty", "-o", "out.html")
    result = CliRunner().invoke(cli, ["report", "empty", "-o", "out.png"])

    assert result.exit_code != 0 and "nothing" not in str(result.output) and not (tmp_path / "out.png").exists()
    assert "nothing" in (tmp_path / "out.html").read_text()


@pytest.mark.parametrize("arguments", [("run-1",), ("run-1", "-o", "x.pdf"), ("run-1", "hostile", "-o", "x.png")])
def test_a_wrong_wish_is_refused_before_anything_is_written(db, tmp_path, arguments):
    report(*arguments, code=2)

    assert not [path for path in tmp_path.iterdir() if path.name.startswith("x.")]


def test_without_matplotlib_it_says_what_to_install(db):
    code = """
import sys
sys.modules["matplotlib"] = None
from tracker.cli import main
main(["report", "run-1", "-o", "x.html"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode != 0 and "gpu-energy-tracker[report]" in done.stderr
    assert "Traceback" not in done.stderr


def test_both_forms_hold_the_same_headings_and_cells(db):
    runs = (tracker.get("run-1"), tracker.get("hostile"))
    blocks = report_of(runs, tracker.compare(*runs), {}, datetime(2026, 11, 25, tzinfo=UTC), "0.1")

    markdown, page = markdown_of(blocks), Page(html_of(blocks))

    lines = [line.lstrip("#").strip() for line in markdown.splitlines() if line.startswith("#")]
    headings = [re.sub(r"\\(.)", r"\1", line) for line in lines]
    assert headings and all(heading in page.texts for heading in headings)
    assert markdown.count("\n|") == page.tags.count("tr") + page.tags.count("table") + sum(
        not any(grid.titles) for grid in blocks if hasattr(grid, "titles")
    )
