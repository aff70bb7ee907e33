"""tracker report: what to hand over of runs, as one file."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import click

from tracker import __version__
from tracker.cli.files import written
from tracker.cli.options import database, db_option, json_of, tell
from tracker.errors import SettingError
from tracker.records import Run

_PICTURES: Final = (".png", ".svg")
_FORMS: Final = (".html", ".md", ".json", ".csv", *_PICTURES)


@click.command(short_help="What to hand over of runs: HTML, Markdown, JSON, CSV or a picture.")
@click.argument("run_ids", metavar="RUN…", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Its ending says the form: .html, .md, .json, .csv, .png or .svg.",
)
@db_option
def report(run_ids: tuple[str, ...], output: Path, db: str | None) -> None:
    """Write a report on runs: figures with method and coverage, pictures, devices, phases, intensities, provenance.

    Several runs are compared first. The HTML file holds all it shows, and prints well.

    \b
    tracker report last -o report.html
    tracker report 3f9c2a 91be04 -o both.md

    RUN is an id, the beginning of one, or "last".
    """
    from tracker.session.queries import compare

    form = output.suffix.lower()
    if form not in _FORMS:
        raise click.UsageError(f"-o {output}: write a file that ends in {', '.join(_FORMS)}")
    if form in _PICTURES and len(run_ids) > 1:
        raise click.UsageError(f"a {form} file shows one run; give one, or write .html")
    comparison = compare(*run_ids, db=database(db))
    runs = list({run.id: run for run in comparison.runs}.values())
    if form in _PICTURES:
        picture = _picture(runs[0], form[1:])
        if picture is None:
            raise SettingError(f"run {runs[0].id} has neither readings nor slots to draw")
        written(output, lambda file: file.write(picture), is_binary=True)
    else:
        written(output, _writer(form, runs, comparison))
    click.echo(f"report on {len(runs)} run{'s' if len(runs) > 1 else ''} in {output}", err=True)


def _writer(form: str, runs: list[Run], comparison: Any) -> Callable[[IO[Any]], Any]:
    from tracker.views import export, report

    if form == ".json":
        text = json_of(comparison.to_dict() if len(runs) > 1 else runs[0].to_dict())
        return lambda file: file.write(text + "\n")
    if form == ".csv":
        return lambda file: export.write_csv(map(export.run_row, runs), export.COLUMNS["runs"], file)
    pictures: dict[str, bytes] = {}
    if form == ".html":
        for number, run in enumerate(runs, start=1):
            tell(f"drawing {number} of {len(runs)}")
            picture = _picture(run, "svg")
            if picture is not None:
                pictures[run.id] = picture
        tell("")
    blocks = report.report_of(runs, comparison, pictures, datetime.now(UTC), __version__)
    rendered = report.html_of(blocks) if form == ".html" else report.markdown_of(blocks)
    return lambda file: file.write(rendered)


def _picture(run: Run, form: str) -> bytes | None:
    from tracker.session.picturing import curves_of
    from tracker.views.plots import picture_of

    return picture_of(run, curves_of(run), form)
