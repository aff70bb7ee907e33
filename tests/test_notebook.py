"""What a notebook shows: runs, lists and comparisons as HTML, and a run that is brought up to date in place."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import pytest
from html_page import Page
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from standin.nvml import Const, Gpu
from stored_runs import a_full_run, store_run

import tracker
from tracker.comparison import Comparison
from tracker.machine import boottime_us
from tracker.records import Runs

HOSTILE = '<img src=x onerror="alert(1)"> & \u202e|'


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    for run_id in ("run-1", "run-2"):
        store_run(tmp_path / "runs.db", a_full_run(run_id))
    return tmp_path / "runs.db"


@pytest.fixture
def gpu(standin_nvml, tmp_path, monkeypatch):
    standin_nvml.plug(Gpu(power=(Const(100_000),)), epoch_us=boottime_us())
    monkeypatch.delenv("STANDIN_CLOCK")
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TRACKER_ZONE", "FR")


def test_a_list_of_runs_is_a_table_in_a_notebook_and_in_a_terminal(db):
    found = tracker.runs()

    page = Page(found._repr_html_())
    assert isinstance(found, list) and page.tags.count("tr") == 1 + len(found)
    for run in found:
        assert run.name in page.texts and "1.68 Wh" in " ".join(page.texts)
    assert str(found).splitlines()[0].split()[:2] == ["id", "name"]
    assert "no runs" in Page(Runs()._repr_html_()).texts


def test_a_comparison_shows_the_same_figures_as_its_text(db):
    compared = tracker.compare("run-1", "run-2")

    told = " ".join(Page(compared._repr_html_()).texts)

    for word in compared.text(10_000).split():
        assert word in told
    assert "no runs" in Page(Comparison(())._repr_html_()).texts


def test_names_are_texts_and_never_tags(db):
    run = replace(a_full_run(), name=HOSTILE, project=HOSTILE, tags={"a": HOSTILE})

    for shown in (run._repr_html_(), Runs([run])._repr_html_(), tracker.compare(run, run)._repr_html_()):
        assert "img" not in Page(shown).tags and "\u202e" not in shown


def test_a_run_is_brought_up_to_date_in_place_until_it_ends(gpu):
    InteractiveShell.instance()
    with capture_output() as captured, tracker.track("x") as live:
        shown = live.display(interval_s=0.5)
        deadline_s = time.monotonic() + 20
        while len(captured._outputs) < 3 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        live.stop()
        while "finished" not in captured._outputs[-1]["data"]["text/html"] and time.monotonic() < deadline_s:
            time.sleep(0.05)
        shown.close()

    first, *later = captured._outputs
    assert not first["update"] and later and all(output["update"] for output in later)
    assert len({output["transient"]["display_id"] for output in captured._outputs}) == 1
    assert "finished" in later[-1]["data"]["text/html"]
    assert later[-1]["data"]["text/plain"] == live.run.summary()


def test_without_ipython_it_says_so_and_the_run_goes_on(gpu):
    code = """
import sys
sys.modules["IPython"] = sys.modules["IPython.display"] = None
import tracker
with tracker.track("x") as live:
    try:
        live.display()
    except ValueError as exc:
        print(exc)
print(live.run.status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "needs IPython" in done.stdout and done.stdout.endswith("finished\n")
