"""tracker compare: runs side by side."""

from __future__ import annotations

import click

from tracker.cli.options import database, db_option, json_of, json_option


@click.command(short_help="Runs side by side.")
@click.argument("run_ids", metavar="RUN…", nargs=-1, required=True)
@db_option
@json_option
def compare(run_ids: tuple[str, ...], db: str | None, as_json: bool) -> None:
    """Show runs side by side, with ratios to the first, and what makes them not alike.

    RUN is an id, the beginning of one, or "last".
    """
    from tracker.session.queries import compare as compared

    comparison = compared(*run_ids, db=database(db))
    click.echo(json_of(comparison.to_dict()) if as_json else str(comparison))
