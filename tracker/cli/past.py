"""tracker runs, show and compare: past runs, and those that go on."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import click

from tracker.cli.options import database, db_option, instant, json_of, json_option, tag
from tracker.records import Comparison
from tracker.session import past

if TYPE_CHECKING:
    from tracker.records import RunStatus


@click.command(short_help="List past runs.")
@click.option("--project", help="Only runs of this project.")
@click.option("--name", help="Only runs of this name.")
@click.option("--status", type=click.Choice(["running", "finished", "failed", "interrupted"]), help="Only such runs.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", help="Only runs with this tag; all, if several.")
@click.option("--since", metavar="WHEN", help='Started then or later: "2026-11-01", "24h", "7d".')
@click.option("--until", metavar="WHEN", help="Started before then.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="At most so many, newest first.")
@db_option
@json_option
def runs(
    project: str | None,
    name: str | None,
    status: RunStatus | None,
    tags: tuple[str, ...],
    since: str | None,
    until: str | None,
    limit: int,
    db: str | None,
    as_json: bool,
) -> None:
    """List past runs, newest first, with what was measured, what was not, and what they emitted."""
    from tracker.views.listing import runs_table

    found = past.runs(
        project=project,
        name=name,
        status=status,
        tags=dict(tag(text) for text in tags) or None,
        since=instant(since, "--since"),
        until=instant(until, "--until"),
        limit=limit,
        db=database(db),
    )
    if as_json:
        click.echo(json_of([item.to_dict() for item in found]))
    elif not found:
        click.echo("No runs found.", err=True)
    else:
        click.echo(runs_table(found, width=shutil.get_terminal_size((80, 24)).columns))


@click.command(short_help="Show one run in full.")
@click.argument("run_id", metavar="RUN")
@db_option
@json_option
def show(run_id: str, db: str | None, as_json: bool) -> None:
    """Show a run: energy and emissions by part, how each was measured, what is missing, and how sure it is.

    RUN is an id, the beginning of one, or "last".
    """
    found = past.get(run_id, db=database(db))
    click.echo(json_of(found.to_dict()) if as_json else found.summary())


@click.command(short_help="Runs side by side.")
@click.argument("run_ids", metavar="RUN…", nargs=-1, required=True)
@db_option
@json_option
def compare(run_ids: tuple[str, ...], db: str | None, as_json: bool) -> None:
    """Show runs side by side, with ratios to the first, and what makes them not alike.

    RUN is an id, the beginning of one, or "last".
    """
    place = database(db)
    comparison = Comparison(tuple(past.get(run_id, db=place) for run_id in run_ids))
    click.echo(json_of(comparison.to_dict()) if as_json else str(comparison))
