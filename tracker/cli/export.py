"""tracker export: rows for other programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import click

from tracker.cli.files import written
from tracker.cli.options import database, db_option, tag, tell
from tracker.records import Run
from tracker.session import past, queries
from tracker.store.filters import RunFilter
from tracker.views import export as view

_WRITERS: Final[dict[str, Callable[..., int]]] = {
    "csv": view.write_csv,
    "jsonl": view.write_jsonl,
    "parquet": view.write_parquet,
}
_ENDINGS: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_TOLD_EACH_S: Final = 0.5


@click.command(short_help="Runs and what they are made of, as CSV, JSON lines or Parquet.")
@click.argument("kind", type=click.Choice(list(view.COLUMNS)))
@click.argument("run_ids", metavar="[RUN]…", nargs=-1)
@click.option("--format", "form", type=click.Choice(list(_WRITERS)), help="By default as FILE ends, else csv.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Instead of standard output.")
@click.option("--project", help="Only runs of this project.")
@click.option("--name", help="Only runs of this name.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", help="Only runs with this tag; all, if several.")
@click.option("--since", metavar="WHEN", help='Started then or later: "2026-11-01", "24h", "7d".')
@click.option("--until", metavar="WHEN", help="Started before then.")
@click.option("--identify", is_flag=True, help="Add a column with the hosts that measured.")
@click.option("--dictionary", is_flag=True, help="Only print what the columns mean.")
@db_option
def export(
    kind: view.Kind,
    run_ids: tuple[str, ...],
    form: str | None,
    output: Path | None,
    project: str | None,
    name: str | None,
    tags: tuple[str, ...],
    since: str | None,
    until: str | None,
    identify: bool,
    dictionary: bool,
    db: str | None,
) -> None:
    """Write runs, their devices, energy per 5 minutes, raw samples, spans, marks or intensities, for other programs.

    RUN is an id, the beginning of one, or "last"; without any, all runs that fit the options. With -o FILE what the
    columns mean is written beside it, in FILE.columns.md. Host names are left out unless you say --identify.
    """
    if dictionary:
        click.echo(view.dictionary_text(kind), nl=False)
        return
    place = database(db)
    if run_ids and any((project, name, tags, since, until)):
        raise click.UsageError("give RUNs or options that choose them, not both")
    if run_ids:
        runs: Iterator[Run] = iter([past.get(run_id, db=place) for run_id in run_ids])
    else:
        wanted = RunFilter(project=project, name=name, tags=dict(tag(text) for text in tags), since=since, until=until)
        runs = queries.each_run(wanted, db=place)
    columns = view.COLUMNS[kind]
    rows = (row | _hosts(run, identify) for run in runs for row in _rows(kind, run))
    if identify:
        columns = (*columns, view.Column("hosts", "", "names of the machines that measured the run"))
    if form is None:
        form = "csv" if output is None else _ENDINGS.get(output.suffix, "csv")

    def write(file: IO[Any]) -> int:
        return _WRITERS[form](_told(rows), columns, file)

    if output is None or str(output) == "-":
        write(sys.stdout.buffer if form == "parquet" else sys.stdout)
        return
    count = written(output, write, is_binary=form == "parquet")
    written(output.with_name(f"{output.name}.columns.md"), lambda file: file.write(view.dictionary_text(kind)))
    click.echo(f"{count} rows in {output}, their columns in {output.name}.columns.md", err=True)


def _rows(kind: view.Kind, run: Run) -> Iterator[dict[str, Any]]:
    if kind == "runs":
        yield view.run_row(run)
    elif kind == "devices":
        yield from view.device_rows(run)
    elif kind == "spans":
        yield from view.span_rows(run)
    elif kind == "marks":
        yield from view.mark_rows(run)
    elif kind == "intensities":
        yield from view.intensity_rows(run)
    else:
        reader = past.reader_with(run)
        if kind == "slots":
            yield from view.slot_rows(run.id, reader.devices(run.id), reader.slots(run.id))
        else:
            for index, samples in reader.each_samples(run.id):
                yield from view.sample_rows(run.id, index, samples)


def _hosts(run: Run, identify: bool) -> dict[str, Any]:
    if not identify:
        return {}
    return {"hosts": sorted({segment.host for segment in past.reader_with(run).segments(run.id)})}


def _told(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, with how many there were so far on a terminal."""
    told_s = time.monotonic()
    for count, row in enumerate(rows, start=1):
        yield row
        if time.monotonic() - told_s > _TOLD_EACH_S:
            told_s = time.monotonic()
            tell(f"{count} rows")
    tell("")
