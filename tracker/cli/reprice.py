"""tracker reprice: past runs priced anew, with better values or as if elsewhere or at another time."""

from __future__ import annotations

import shutil

import click

from tracker.cli.options import database, db_option, json_of, tell


@click.command(short_help="Price past runs anew.")
@click.argument("run_ids", metavar="[RUN]…", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All runs of which some energy has no final intensity yet.")
@click.option("--zone", help='What if it had run there: "FR", "US-CA", "aws:eu-west-3".')
@click.option("--intensity", "intensity_g_per_kwh", metavar="G_PER_KWH", help="At a constant intensity of your own.")
@click.option("--intensity-file", metavar="FILE", help="With intensities over time of your own.")
@click.option("--provider", metavar="NAME", help="With what this source says: neso, electricitymaps, auto …")
@click.option("--pue", metavar="FACTOR", help="In a building with this power usage effectiveness.")
@click.option("--price", "price_per_kwh", metavar="PRICE", help='At this price of a kWh: "0.30 EUR".')
@click.option("--at", metavar="TIME", help="What if it had begun then: 2026-11-25T02:00. Never stored.")
@click.option("--store", is_flag=True, help="Have the runs show the result of a what-if from now on.")
@db_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the keys of Repricing.to_dict().")
def reprice(
    run_ids: tuple[str, ...], every: bool, store: bool, db: str | None, as_json: bool, **options: str | None
) -> None:
    """Price past runs anew, and show their emissions, and costs, before and after.

    Without options: with the best values that are known by now. A source that is configured (TRACKER_PROVIDER, a
    token) is asked for those that are not final. The runs show the new result; the earlier pricings are kept.
    Calling it again changes nothing more, and goes on where it was interrupted.

    With --zone to --at: what would have been. Nothing is stored, unless you say --store.

    \b
    tracker reprice --all
    tracker reprice last --zone SE
    tracker reprice 3f9c2a --at 2026-11-25T02:00

    RUN is an id, the beginning of one, or "last".
    """
    from tracker.session.repricing import reprice as repriced

    def progress(done: int, total: int) -> None:
        tell(f"{done} of {total} runs" if done < total else "")

    try:
        result = repriced(
            *run_ids,
            every=every,
            store=store or None,
            db=database(db),
            on_progress=progress,
            **options,  # type: ignore[arg-type]
        )
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    if as_json:
        click.echo(json_of(result.to_dict()))
    else:
        click.echo(result.text(shutil.get_terminal_size((80, 24)).columns))
