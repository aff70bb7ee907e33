"""tracker intensity: what the grid emits now, today and tomorrow, and when to start."""

from __future__ import annotations

import shutil
import sys

import click

from tracker.cli.options import database, db_option, json_of, takes


@click.command(short_help="The grid's intensity now, today and tomorrow; when to start.")
@click.argument("zone", required=False)
@click.option("--provider", metavar="NAME", help="Whom to ask: neso, electricitymaps, auto … (TRACKER_PROVIDER).")
@click.option("--intensity-file", metavar="FILE", help="Intensities over time of your own (TRACKER_INTENSITY_FILE).")
@click.option("--best", metavar="LENGTH", help='The greenest start of a run this long: "90m", "6h", "2d".')
@click.option("--within", metavar="LENGTH", help="It must have ended by so long from now: 24h.")
@click.option(
    "--kwh",
    type=click.FloatRange(min=0, max=1e12),
    metavar="KWH",
    help="With --best: what that saves of so much energy.",
)
@click.option("--ascii", "is_ascii", is_flag=True, help="A chart of ASCII letters alone.")
@db_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the keys of Outlook.to_dict().")
def intensity(
    zone: str | None,
    provider: str | None,
    intensity_file: str | None,
    best: str | None,
    within: str | None,
    kwh: float | None,
    is_ascii: bool,
    db: str | None,
    as_json: bool,
) -> None:
    """Show the carbon intensity of ZONE now, today and as far as it is forecast; by default of your own zone.

    \b
    tracker intensity GB --provider neso
    tracker intensity GB --best 6h --within 24h

    A source must be chosen with --provider, TRACKER_PROVIDER or a token; nothing else goes on the network.
    """
    from tracker.session.outlook import AHEAD, intensity_of, length_of
    from tracker.views.outlook import greenest_text

    if best is None and (within is not None or kwh is not None):
        raise click.UsageError("--within and --kwh belong to --best")
    try:
        length = None if best is None else length_of(best, "--best")
        limit = None if within is None else length_of(within, "--within")
        ahead = max(AHEAD, limit) if limit is not None else AHEAD
        outlook = intensity_of(zone, provider=provider, intensity_file=intensity_file, ahead=ahead, db=database(db))
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    greenest = None
    trouble = ""
    if length is not None:
        try:
            greenest = outlook.greenest(length, limit)
        except ValueError as exc:
            trouble = str(exc)
    if as_json:
        found = {} if length is None else {"greenest": greenest and greenest.to_dict()}
        click.echo(json_of(outlook.to_dict() | found))
    else:
        width = shutil.get_terminal_size((80, 24)).columns
        click.echo(outlook.text(width, is_ascii=is_ascii or not takes("▁█┄━▲")))
        if greenest is not None:
            click.echo("\n" + greenest_text(greenest, outlook, kwh, width))
    if trouble:
        click.echo(f"tracker: {trouble}", err=True)
        sys.exit(1)
