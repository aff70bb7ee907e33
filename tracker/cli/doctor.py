"""tracker doctor: what would be measured here, and how to mend the rest."""

from __future__ import annotations

import shutil

import click

from tracker.cli.options import db_option, json_of


@click.command(short_help="What is measured here, what not, and how to mend it.")
@db_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(db: str | None, as_json: bool) -> None:
    """Tell what a run would measure here and how, what not and the command that mends it, the cost of a reading, the
    place and its carbon intensity, the settings with their origin, and the state of the database.

    Nothing is written. What is printed names neither you, the machine nor the project: it can be pasted into an issue.

    Exit code 0 also where something is not measured; 1: something must be mended before runs are recorded as asked for
    (a database that cannot be used, a wrong setting, a name that hides the package), or doctor itself failed.
    """
    from tracker.records import plain
    from tracker.session.diagnosis import diagnose
    from tracker.views.diagnosis import diagnosis_text

    told = diagnose(db)
    if as_json:
        click.echo(json_of(plain(told)))
    else:
        click.echo(diagnosis_text(told, width=shutil.get_terminal_size((80, 24)).columns))
    if not told.is_well:
        raise click.exceptions.Exit(1)
