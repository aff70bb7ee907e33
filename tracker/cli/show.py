"""tracker show: one run, past or going on."""

from __future__ import annotations

import click

from tracker.cli.options import database, db_option, json_of, json_option
from tracker.session import past


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
