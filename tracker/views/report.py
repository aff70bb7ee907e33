"""A report on runs: headings, paragraphs, tables and pictures; as one self-contained HTML file, or as Markdown."""

from __future__ import annotations

import html
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tracker.comparison import Comparison, phases_of, units_of
from tracker.records import Run
from tracker.views import amounts
from tracker.views.comparison import comparison_notes, comparison_parts
from tracker.views.listing import FIGURES, WIDE_COLUMNS, list_notes, name_of, runs_grid
from tracker.views.summary import KIND_LABELS, beside_label, part_name, sections_of
from tracker.views.tables import printable

_MOST_VALUES: Final = 30  # of intensity in a table; of more only what is said of them together

Cells = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Grid:
    """A table; the columns in right are figures."""

    titles: Cells
    rows: tuple[Cells, ...]
    right: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture shows stands in words beside it, too."""

    svg: bytes
    words: str


Block = Heading | Paragraph | Grid | Picture


def report_of(
    runs: Sequence[Run], comparison: Comparison | None, pictures: Mapping[str, bytes], at: datetime, version: str
) -> list[Block]:
    """The report on runs, in their order.

    Args:
        comparison: of the same runs, where there are several.
        pictures: SVG by run id.
        at, version: when it is made, and by which tracker.
    """
    title = f"Energy and emissions of {name_of(runs[0]) if len(runs) == 1 else f'{len(runs)} runs'}"
    made = f"Made {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC by gpu-energy-tracker {version}."
    blocks: list[Block] = [Heading(1, title), Paragraph(made)]
    if comparison is not None and len(runs) > 1:
        blocks.extend(comparison_blocks(comparison))
    for run in runs:
        if len(runs) > 1:
            blocks.append(Heading(2, f"{name_of(run)} ({run.id})"))
        blocks.extend(run_blocks(run, pictures.get(run.id), 2 if len(runs) == 1 else 3))
    return blocks


def comparison_blocks(comparison: Comparison) -> Iterator[Block]:
    """Runs side by side."""
    yield Heading(2, "Side by side")
    for at, part in enumerate(comparison_parts(comparison)):
        yield Grid(part.titles, part.rows, tuple(part.right))
        if at == 0:
            yield Paragraph(f"x: times the first; {FIGURES}")
    notes, differing = comparison_notes(comparison)
    yield from map(Paragraph, (*notes, *differing))


def run_blocks(run: Run, picture: bytes | None = None, level: int = 2) -> Iterator[Block]:
    """One run in full, with headings of this level; without a picture, for a view that draws its own."""
    rows = [
        (section.label if at == 0 else "", line)
        for section in sections_of(run)
        for at, line in enumerate(section.lines)
    ]
    yield Grid(("", ""), tuple(rows))
    if picture is not None:
        yield Heading(level, "Power, emissions and intensity over time")
        yield Picture(picture, _words(run))
    if run.devices:
        yield Heading(level, "Devices")
        yield Grid(
            ("", "device", "known by", "method", "coverage", "energy", "range (k = 2)", "mean power", "max power"),
            tuple(_devices(run)),
            (4, 5, 6, 7, 8),
        )
    phases = list(phases_of(run, run.spans))
    if phases:
        yield Heading(level, "Phases")
        yield Grid(
            ("phase", "spans", "lasted", "energy", "mean power", "CO2e"),
            tuple(
                (
                    printable(phase.name),
                    str(phase.spans),
                    amounts.duration(phase.duration_s),
                    amounts.energy(phase.energy_j),
                    amounts.power(phase.mean_power_w),
                    amounts.mass(phase.emissions_g),
                )
                for phase in phases
            ),
            (1, 2, 3, 4, 5),
        )
        yield Paragraph("Measured energy of the machine in the spans of each name; a span within another is in both.")
    units = list(units_of(run, run.marks))
    if units:
        yield Heading(level, "Progress")
        yield Grid(
            ("for each", "of", "energy", "CO2e"),
            tuple((u.unit, f"{u.count:g}", amounts.energy(u.energy_j), amounts.mass(u.emissions_g)) for u in units),
            (1, 2, 3),
        )
    yield from _intensities(run, level)
    yield from _provenance(run, level)


def _words(run: Run) -> str:
    parts = [f"Power of {len(run.devices)} devices over {amounts.duration(run.duration_s)}"]
    powers = [
        f"{printable(part_name(device.kind, device.name))}: mean {amounts.power(device.mean_power_w)}, "
        f"most {amounts.power(device.max_power_w)}"
        for device in run.devices
        if device.method != "none"
    ]
    return "; ".join([*parts, *powers])


def _devices(run: Run) -> Iterator[Cells]:
    for device in run.devices:
        bounds = device.energy_range_j
        yield (
            KIND_LABELS[device.kind],
            printable(beside_label(KIND_LABELS[device.kind], device.name)),
            printable(device.key),
            "model (an estimate)" if device.method == "model" else device.method,
            amounts.share(device.coverage),
            amounts.energy(device.energy_j),
            "" if bounds is None else f"{amounts.energy(bounds[0])} to {amounts.energy(bounds[1])}",
            amounts.power(device.mean_power_w),
            amounts.power(device.max_power_w),
        )


def _intensities(run: Run, level: int) -> Iterator[Block]:
    if not run.intensity:
        return
    yield Heading(level, "Carbon intensity")
    if len(run.intensity) > _MOST_VALUES:
        yield Paragraph(
            f"{len(run.intensity)} values priced the run; together they stand in the first table, and each of them in "
            f"the output of: tracker export intensities {run.id}"
        )
        return
    yield Grid(
        ("from", "until", "intensity", "energy", "modelled", "value", "licence and source"),
        tuple(
            (
                "any time" if use.value.start is None else f"{use.value.start:%Y-%m-%d %H:%M} UTC",
                "" if use.value.end is None else f"{use.value.end:%Y-%m-%d %H:%M} UTC",
                amounts.intensity(use.value.intensity_g_per_kwh),
                amounts.energy(use.energy_j),
                amounts.energy(use.energy_modelled_j) if use.energy_modelled_j else "",
                printable(
                    f"{use.value.zone or 'no zone'}, {use.value.signal}, {use.value.basis}, {use.value.status}, "
                    f"{use.value.provider} {use.value.dataset}".rstrip()
                ),
                printable("; ".join(filter(None, (use.value.licence, use.value.source, use.value.note)))),
            )
            for use in run.intensity
        ),
        (2, 3, 4),
    )


def _provenance(run: Run, level: int) -> Iterator[Block]:
    rows: list[Cells] = []
    for room in ("versions", "hardware", "settings"):
        table = run.provenance.get(room)
        if not isinstance(table, Mapping):
            continue
        for name, given in table.items():
            value, origin = (given.get("value"), given.get("origin", "")) if isinstance(given, Mapping) else (given, "")
            if value is not None:
                rows.append((room, printable(str(name)), printable(str(value)), printable(str(origin))))
    if rows:
        yield Heading(level, "Provenance")
        yield Grid(("", "", "value", "set by"), tuple(rows))
    yield Paragraph(
        "Energy is integrated from raw readings per device and 5-minute slot; emissions are the sum over slots of "
        "energy × the intensity of the slot × PUE. To compute the figures again: "
        f"tracker export slots {run.id}, tracker export intensities {run.id}."
    )


# Markdown


_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]()<>#|~!$&])")


def markdown_of(blocks: Iterable[Block]) -> str:
    """The report as Markdown with tables; a picture is told in words."""
    return "\n".join(line for block in blocks for line in _markdown(block))


def _markdown(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield f"{'#' * block.level} {_escaped(block.text)}"
    elif isinstance(block, Paragraph):
        yield _escaped(block.text)
    elif isinstance(block, Picture):
        yield _escaped(block.words)
    else:
        yield f"| {' | '.join(map(_escaped, block.titles))} |"
        yield "|" + "|".join("---:" if at in block.right else "---" for at in range(len(block.titles))) + "|"
        for row in block.rows:
            yield f"| {' | '.join(map(_escaped, row))} |"
    yield ""


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


# HTML

_CAPTION: Final = "Lines: mean power; bands: from the least to the most of it within a column of the picture."
_STYLE: Final = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2rem; } h3 { font-size: 1.05rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
td, tbody th { overflow-wrap: anywhere; min-width: 3.5rem; }
thead th { white-space: nowrap; }
.figure { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1rem 0; } figure img { width: 100%; max-width: 60rem; background: white; }
figcaption { font-size: .85rem; opacity: .8; }
@media print { body { max-width: none; margin: 0; font-size: 10pt; } tr, figure { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .wide { overflow: visible; } }
"""


def html_of(blocks: Sequence[Block]) -> str:
    """The report as one HTML file that loads nothing and runs nothing."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Report")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    body = "\n".join(line for block in blocks for line in _html(block))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def fragment_of(blocks: Iterable[Block]) -> str:
    """Blocks as a fragment of HTML for a notebook, every text escaped."""
    lines = "".join(line for block in blocks for line in _html(block))
    return f'<div class="tracker">{lines}</div>'


def runs_html(runs: Sequence[Run]) -> str:
    """A list of runs for a notebook."""
    if not runs:
        return fragment_of([Paragraph("no runs")])
    titles, rows, right = runs_grid(runs)
    grid = Grid(tuple(titles), tuple(map(tuple, rows)), tuple(right))
    return fragment_of([grid, *map(Paragraph, list_notes(runs, WIDE_COLUMNS))])


def comparison_html(comparison: Comparison) -> str:
    """Runs side by side for a notebook."""
    return fragment_of(comparison_blocks(comparison) if comparison.runs else [Paragraph("no runs")])


def _html(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    elif isinstance(block, Paragraph):
        yield f"<p>{html.escape(block.text)}</p>"
    elif isinstance(block, Picture):
        words = html.escape(block.words)
        data = b64encode(block.svg).decode("ascii")
        image = f'<img alt="{words}" src="data:image/svg+xml;base64,{data}">'
        yield f"<figure>{image}<figcaption>{_CAPTION}</figcaption></figure>"
    else:
        yield '<div class="wide"><table>'
        if any(block.titles):
            titles = (cell_html("th", text, at in block.right, ' scope="col"') for at, text in enumerate(block.titles))
            yield f"<thead><tr>{''.join(titles)}</tr></thead>"
        yield "<tbody>"
        for row in block.rows:
            head, *rest = row
            cells = [cell_html("td", text, at in block.right, "") for at, text in enumerate(rest, start=1)]
            lead = cell_html("th", head, 0 in block.right, ' scope="row"')
            yield f"<tr>{lead}{''.join(cells)}</tr>"
        yield "</tbody></table></div>"


def cell_html(tag: str, text: str, is_figure: bool, more: str = "") -> str:
    """A cell of a table, its text escaped."""
    kind = ' class="figure"' if is_figure else ""
    return f"<{tag}{more}{kind}>{html.escape(text)}</{tag}>"
