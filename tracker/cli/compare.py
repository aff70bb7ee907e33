"""tracker compare: runs side by side."""

from __future__ import annotations

import shutil

import click

from tracker.cli.options import database, db_option, json_of


@click.command(short_help="Runs side by side, and why they differ.")
@click.argument("run_ids", metavar="RUN…", nargs=-1, required=True)
@db_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the keys of Comparison.to_dict().")
def compare(run_ids: tuple[str, ...], db: str | None, as_json: bool) -> None:
    """Show runs side by side, with ratios to the first: in all, by device and phase, and for each step, sample and
    token. Then what differs in their settings and hardware, and how much of the difference in emissions comes from
    energy, from place and from time of running.

    \b
    tracker compare last 3f9c2a

    RUN is an id, the beginning of one, or "last".
    """
    from tracker.session.queries import compare as compared

    comparison = compared(*run_ids, db=database(db))
    if as_json:
        click.echo(json_of(comparison.to_dict()))
    else:
        click.echo(comparison.text(shutil.get_terminal_size((80, 24)).columns))
