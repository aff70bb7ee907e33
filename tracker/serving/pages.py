"""The pages as HTML: every text escaped, no script and no style within."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlencode

from tracker.comparison import Comparison
from tracker.records import Run, Total
from tracker.views.listing import WIDE_COLUMNS, list_notes, name_of, runs_grid
from tracker.views.report import cell_html, comparison_blocks, fragment_of, run_blocks
from tracker.views.summary import KIND_LABELS, beside_label, device_titles
from tracker.views.tables import printable
from tracker.views.totals import totals_grid, totals_notes

FILTERS: Final[Mapping[str, str]] = {  # of tracker.runs, with what they are called
    "project": "Project",
    "name": "Name",
    "status": "Status",
    "device": "Device",
    "zone": "Zone",
    "host": "Host",
    "since": "Since",
    "until": "Until",
    "tag": "Tag",
}
_HINTS: Final[Mapping[str, str]] = {
    "since": "7d or 2026-11-01",
    "until": "2026-12-01",
    "device": "H100",
    "status": "finished",
    "tag": "name=text",
}
SORTS: Final = ("started", "duration", "energy", "emissions", "cost", "intensity", "coverage", "name", "project")


def page(title: str, body: str, *, script: bool = False) -> str:
    """A whole page."""
    scripts = (
        '<link rel="stylesheet" href="/static/uPlot.min.css"><script src="/static/uPlot.iife.min.js" defer></script>'
        if script
        else ""
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
{scripts}<link rel="stylesheet" href="/static/page.css">
<script src="/static/page.js" defer></script>
</head>
<body>
<a class="skip" href="#main">To the content</a>
<header><nav aria-label="Pages"><a href="/">Runs</a> <a href="/trends">Trends</a></nav></header>
<main id="main">
<h1>{html.escape(title)}</h1>
{body}
</main>
</body>
</html>
"""


def runs_page(runs: Sequence[Run], given: Mapping[str, str], offset: int, limit: int, count: int) -> str:
    """The list, with its filters, and what goes on first."""
    fields = "".join(
        f'<label>{label} <input name="{name}" value="{html.escape(given.get(name, ""))}" '
        f'placeholder="{_HINTS.get(name, "")}"></label>'
        for name, label in FILTERS.items()
    )
    options = "".join(
        f"<option{' selected' if given.get('sort', 'started') == name else ''}>{name}</option>" for name in SORTS
    )
    form = (
        f'<form class="filters" method="get" action="/" aria-label="Filters">{fields}'
        f'<label>Sort by <select name="sort">{options}</select></label><button>Show</button></form>'
    )
    if not runs:
        return page("Runs", f"{form}<p>No runs fit.</p>" if given or offset else f"{form}<p>There are no runs yet.</p>")
    titles, rows, right = runs_grid(runs)
    head = "".join(cell_html("th", title, at in right, ' scope="col"') for at, title in enumerate(titles))
    lines = []
    for run, row in zip(runs, rows, strict=True):
        link = f'<a href="/runs/{quote(run.id, safe="")}">{html.escape(row[0])}</a>'
        cells = "".join(cell_html("td", cell, at in right) for at, cell in enumerate(row[1:], start=1))
        known = html.escape(run.id)
        box = f'<input type="checkbox" name="run" value="{known}" aria-label="compare {html.escape(row[0])}">'
        live = f' data-live="{html.escape(run.id)}"' if run.status == "running" else ""
        lines.append(f'<tr{live}><td>{box}</td><th scope="row">{link}</th>{cells}</tr>')
    table = (
        '<form method="get" action="/compare"><div class="wide"><table>'
        f'<thead><tr><th scope="col"><span class="hidden">compare</span></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div><button>Compare those ticked</button></form>"
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in list_notes(runs, WIDE_COLUMNS))
    which = f"<p>{offset + 1} to {offset + len(runs)} of {count}</p>"
    return page("Runs", f"{form}{which}{table}{_paging(given, offset, limit, count)}{notes}")


def _paging(given: Mapping[str, str], offset: int, limit: int, count: int) -> str:
    links = []
    for label, to in (("Newer", offset - limit), ("Older", offset + limit)):
        if 0 <= to < count or (label == "Newer" and offset > 0):
            query = urlencode({**given, "offset": max(0, to)})
            links.append(f'<a href="/?{html.escape(query)}">{label}</a>')
    return f'<nav class="paging" aria-label="Further runs">{" ".join(links)}</nav>' if links else ""


def run_page(run: Run, hosts: Sequence[str] = ()) -> str:
    """One run: its figures, charts over time with a table beside them, and all that the report has.

    Args:
        hosts: the machines of its devices, in their order.
    """
    names = [
        printable(f"{title} {beside_label(KIND_LABELS[device.kind], device.name)}".rstrip())
        for title, device in zip(device_titles(run, hosts), run.devices, strict=True)
    ]
    labels = "".join(f'<li data-device="{index}">{html.escape(name)}</li>' for index, name in enumerate(names))
    charts = f"""
<section aria-labelledby="over-time" class="charts" data-run="{html.escape(run.id)}">
<h2 id="over-time">Power, emissions and intensity over time</h2>
<p class="buttons" role="group" aria-label="Zoom of the charts">
<button type="button" data-zoom="in">Zoom in</button> <button type="button" data-zoom="out">Zoom out</button>
<button type="button" data-zoom="left">Earlier</button> <button type="button" data-zoom="right">Later</button>
<button type="button" data-zoom="all">All</button></p>
<ol class="hidden" id="devices">{labels}</ol>
<div id="power" class="chart" role="img" aria-label="Power of each device over time, as in the table below"></div>
<p id="spans" class="spans"></p>
<div id="emissions" class="chart" role="img" aria-label="Emissions of each five minutes, as in the table below"></div>
<div id="intensity" class="chart" role="img" aria-label="Carbon intensity over time, as in the table below"></div>
<p id="detail" aria-live="polite"></p>
<details><summary>What is shown, as tables</summary><div class="wide"><table id="power-table"></table></div>
<div class="wide"><table id="slot-table"></table></div></details>
</section>"""
    live = f' data-live="{html.escape(run.id)}"' if run.status == "running" else ""
    _, *blocks = run_blocks(run, None, 2)
    summary = f'<div id="summary"{live}>{summary_of(run)}</div>'
    return page(name_of(run), f"{summary}{charts}{fragment_of(blocks)}", script=True)


def summary_of(run: Run) -> str:
    """The first table of a run's page, as it is brought up to date while the run goes on."""
    return fragment_of([next(iter(run_blocks(run, None, 2)))])


def compare_page(comparison: Comparison) -> str:
    """Runs side by side."""
    if not comparison.runs:
        return page("Compare", "<p>Tick runs in the list, and compare them.</p>")
    return page("Runs side by side", fragment_of(list(comparison_blocks(comparison))[1:]))


def trends_page(totals: Sequence[Total]) -> str:
    """Sums by project and month, as lines over time and as a table with bars of their energy."""
    if not any(total.runs for total in totals):
        return page("Trends", "<p>There are no runs yet.</p>")
    titles, rows, right = totals_grid(totals)
    most_j = max((total.energy_j or 0.0 for total in totals), default=0.0) or 1.0
    lines = []
    for total, row in zip(totals, rows, strict=True):
        share = None if total.energy_j is None else total.energy_j / most_j
        bar = "" if share is None else f'<meter min="0" max="1" value="{share:.4f}">{share:.0%}</meter>'
        cells = "".join(cell_html("td", cell, at in right) for at, cell in enumerate(row))
        lines.append(f"<tr>{cells}<td>{bar}</td></tr>")
    head = "".join(cell_html("th", title, at in right, ' scope="col"') for at, title in enumerate(titles))
    head += '<th scope="col">energy, as a bar</th>'
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in totals_notes(totals))
    charts = """<section class="trends" aria-labelledby="over-months">
<h2 id="over-months">By month and project</h2>
<div id="trend-energy" class="chart" role="img" aria-label="Energy by month and project, as in the table"></div>
<div id="trend-emissions" class="chart" role="img" aria-label="Emissions by month and project, as in the table"></div>
<p id="detail" aria-live="polite"></p>
</section>"""
    return page("Trends", f"{charts}{table}{notes}", script=True)


def entered_page(path: str) -> str:
    """After the token was given: goes on by itself, as a cookie that is kept from other sites needs."""
    there = html.escape(path)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>tracker</title>'
        '<link rel="icon" href="data:,">'
        f'<meta http-equiv="refresh" content="0; url={there}"></head><body><a href="{there}">Go on</a></body></html>'
    )


def trouble_page(title: str, text: str) -> str:
    """What went wrong."""
    return page(title, f"<p>{html.escape(text)}</p>")
