"""The page in a real Chromium: what stands on it is what is in the database, and the console stays empty."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest
from chromium import Chromium, chromium_path
from replayed_run import START, store_replayed

import tracker
from tracker.views import amounts
from tracker.views.summary import sections_of

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed"),
]
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>\u202e'
PAINTED = "document.body.dataset.painted"


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "runs.db"
    store_replayed(path, "aaaaaa111111", minutes=40, without=range(10, 14), start=START - timedelta(minutes=40))
    store_replayed(path, "bbbbbb222222", minutes=10, epochs=1, name=HOSTILE, project=HOSTILE)
    return path


@pytest.fixture(scope="module")
def address(db) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "tracker", "serve", "--db", str(db)], stdout=subprocess.PIPE, text=True
    ) as process:
        yield re.search(r"http\S+", process.stdout.readline())[0]
        process.terminate()


@pytest.fixture(scope="module")
def entered(address):
    with Chromium() as browser:
        browser.look_like(1280)
        browser.open(address)
        browser.until("document.querySelector('main h1') !== null")
        yield browser


@pytest.fixture
def browser(entered):
    yield entered
    assert entered.complaints == []


def test_the_token_leaves_the_address_and_the_list_shows_every_run(browser, address, db):
    browser.open(address)
    browser.until("location.search === '' && document.querySelectorAll('tbody tr').length === 2")

    text = browser.value("document.querySelector('tbody').innerText")

    for run in tracker.runs(db=db):
        for figure in (amounts.energy(run.energy_j), amounts.mass(run.emissions_g), amounts.share(run.coverage)):
            assert figure in text
    assert "<script>document.title=2</script>\\u202e" in text and browser.value("document.title") not in ("1", "2")


@pytest.mark.parametrize("run_id", ["aaaaaa111111", "bbbbbb222222"])
def test_a_runs_page_says_what_its_summary_says_and_draws_its_power(browser, address, db, run_id):
    browser.open(f"{address.split('/?')[0]}/runs/{run_id}")
    browser.until(PAINTED)

    text = browser.value("document.querySelector('main').innerText")

    run = tracker.get(run_id, db=db)
    for line in (line for section in sections_of(run) for line in section.lines):
        assert line in text
    assert all(amounts.energy(device.energy_j) in text for device in run.devices)
    assert browser.value("document.querySelectorAll('#power canvas').length") == 1
    assert browser.value("document.querySelectorAll('main script, main style, main img').length") == 0


def test_the_table_beside_the_chart_holds_the_extremes_of_the_readings_and_so_after_a_zoom(browser, address, db):
    run = tracker.get("aaaaaa111111", db=db)
    most_w = {s.device.key: s.power_w[s.power_known].max() for s in run.samples()}
    browser.open(f"{address.split('/?')[0]}/runs/{run.id}")
    browser.until(PAINTED)
    cells = "[...document.querySelectorAll('#power-table tbody tr')].map(row => row.lastChild.textContent)"

    whole = browser.value(cells)
    browser.value("document.querySelector('[data-zoom=in]').focus()")
    before = browser.value("document.getElementById('detail').textContent")
    browser.press("Enter")  # all of it goes without a mouse
    browser.until(f"document.getElementById('detail').textContent !== {before!r}")

    assert [float(cell.split()[0]) for cell in whole] == pytest.approx(
        [most_w[device.key] for device in run.devices], rel=0.006
    )
    zoomed = [float(cell.split()[0]) for cell in browser.value(cells)]
    assert all(
        0 < inside <= outside * 1.006
        for inside, outside in zip(zoomed, map(most_w.get, [d.key for d in run.devices]), strict=True)
    )


@pytest.mark.parametrize("width", [390, 820, 1600])
def test_no_page_is_wider_than_its_window(browser, address, width):
    browser.look_like(width)
    for path in ("/", "/runs/aaaaaa111111", "/trends", "/compare?run=aaaaaa111111&run=bbbbbb222222"):
        browser.open(address.split("/?")[0] + path)
        if path.startswith("/runs"):
            browser.until(PAINTED)
        assert browser.value("document.documentElement.scrollWidth") <= width, path


def test_every_field_has_a_label_and_every_table_a_head_that_says_what_it_is_of(browser, address):
    for path in ("/", "/runs/aaaaaa111111", "/trends"):
        browser.open(address.split("/?")[0] + path)
        assert browser.value(
            "[...document.querySelectorAll('input, select')].every(f => f.labels.length || f.ariaLabel)"
        )
        assert browser.value("document.querySelectorAll('main, h1, html[lang]').length") == 3
        assert browser.value("[...document.querySelectorAll('thead th')].every(cell => cell.scope === 'col')")


def test_trends_are_lines_over_months_as_in_the_table(browser, address, db):
    browser.look_like(1280)
    browser.open(f"{address.split('/?')[0]}/trends")
    browser.until(PAINTED)

    assert browser.value("document.querySelectorAll('.trends canvas').length") == 2
    shown = browser.value("document.querySelector('.trends').innerText")
    assert "nlp" in shown and "<script>document.title=2</script>\\u202e" in shown
    lines = browser.value("fetch('/api/trends').then(reply => reply.json())")
    by_label = {line["label"]: line["energy_kwh"] for line in lines["lines"]}
    (total,) = tracker.totals(db=db, project="nlp")
    assert by_label["nlp"] == [pytest.approx(total.energy_j / 3.6e6)]
