"""tracker runs: past runs and those that go on, as a list or in sums."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from tracker.cli.options import database, db_option, json_of, json_option, tag
from tracker.cli.quantities import EMISSIONS, ENERGY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker.records import Run, Total
    from tracker.store.filters import RunFilter

_STATUSES = ("running", "finished", "failed", "interrupted")


@click.command(short_help="List past runs, or sum them up.")
@click.option("--project", help="Only runs of this project.")
@click.option("--name", help="Only runs of this name.")
@click.option("--status", type=click.Choice(_STATUSES), help="Only such runs.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", help="Only runs with this tag; all, if several.")
@click.option("--since", metavar="WHEN", help='Started then or later: "2026-11-01", "24h", "7d" ago.')
@click.option("--until", metavar="WHEN", help="Started before then.")
@click.option("--device", metavar="TEXT", help='Had such a device: "gpu", "H100", the beginning of a UUID.')
@click.option("--zone", help="Only runs priced for this zone.")
@click.option("--host", help="Only runs that this machine sampled for.")
@click.option("--min-energy", "min_energy_j", type=ENERGY, help='At least so much was measured: "1.5 kWh".')
@click.option("--max-energy", "max_energy_j", type=ENERGY, help="At most so much was measured.")
@click.option("--min-emissions", "min_emissions_g", type=EMISSIONS, help='At least so much emitted: "500 g".')
@click.option("--max-emissions", "max_emissions_g", type=EMISSIONS, help="At most so much emitted.")
@click.option("--sort", default="started", show_default=True, metavar="WHAT", help="started, duration, energy, …")
@click.option("--reverse", is_flag=True, help="The other way round: the oldest, the least first.")
@click.option("--columns", metavar="NAME,…", help="Which columns; a wrong name lists them all.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="At most so many.")
@click.option("--offset", default=0, type=click.IntRange(0), help="Leave out so many of the first.")
@click.option("--all", "is_all", is_flag=True, help="All that fit, whatever the limit.")
@click.option("--total", is_flag=True, help="Not the runs but their sum.")
@click.option("--by", multiple=True, metavar="WHAT", help="Sums by project, name, zone, status or month; repeatable.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, as tracker export does.")
@db_option
@json_option
def runs(
    tags: tuple[str, ...],
    sort: str,
    reverse: bool,
    columns: str | None,
    limit: int,
    offset: int,
    is_all: bool,
    total: bool,
    by: tuple[str, ...],
    as_csv: bool,
    db: str | None,
    as_json: bool,
    **wanted: Any,
) -> None:
    """List past runs, newest first, with what was measured, what was not, and what they emitted.

    \b
    tracker runs --project nlp --since 30d --sort emissions
    tracker runs --device H100 --min-energy "1 kWh" --columns id,energy,power
    tracker runs --by project --by month

    Unknown figures come last in every order and fit no bound.
    """
    from tracker.session import queries
    from tracker.store.filters import Order, RunFilter

    if as_json and (as_csv or columns):
        raise click.UsageError("--json prints every key: give it without --csv and --columns")
    if (total or by) and columns:
        raise click.UsageError("--columns are those of the list: give them without --total and --by")
    place = database(db)
    chosen = RunFilter(**wanted, tags=dict(tag(text) for text in tags))
    names = _column_names(columns)
    if total or by:
        _print_totals(queries.totals_of(chosen, by, db=place), as_json, as_csv)
        return
    found = queries.page(chosen, Order(sort, reverse), limit=None if is_all else limit, offset=offset, db=place)
    if as_json:
        click.echo(json_of([item.to_dict() for item in found]))
    elif as_csv:
        _print_csv(found, names)
    elif not found:
        click.echo(_why_none(chosen, offset, place), err=True)
    else:
        from tracker.views.listing import runs_table

        click.echo(runs_table(found, width=_width(), columns=names))
        if offset or len(found) == limit:
            in_all = queries.count(chosen, db=place)
            if in_all > len(found):
                more = f"; the next: --offset {offset + len(found)}" if in_all > offset + len(found) else ""
                click.echo(f"runs {offset + 1} to {offset + len(found)} of {in_all}{more}")


def _column_names(columns: str | None) -> tuple[str, ...]:
    from tracker.views.listing import LIST_COLUMNS

    names = tuple(name.strip() for name in columns.split(",")) if columns is not None else ()
    for name in names:
        if name not in LIST_COLUMNS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(LIST_COLUMNS)}", param_hint="--columns")
    return names


def _print_totals(totals: Sequence[Total], as_json: bool, as_csv: bool) -> None:
    from tracker.views.export import write_csv
    from tracker.views.totals import total_columns, total_row, totals_text

    if as_json:
        click.echo(json_of([total.to_dict() for total in totals]))
    elif as_csv:
        write_csv((total_row(total) for total in totals), total_columns(totals), sys.stdout)
    else:
        click.echo(totals_text(totals, width=_width()))


def _print_csv(found: Sequence[Run], names: Sequence[str]) -> None:
    from tracker.views.export import COLUMNS, run_row, write_csv
    from tracker.views.listing import LIST_COLUMNS

    columns = COLUMNS["runs"]
    if names:
        by_name = {column.name: column for column in columns}
        columns = tuple(by_name[exported] for name in names for exported in LIST_COLUMNS[name].exported)
    write_csv(map(run_row, found), columns, sys.stdout)


def _why_none(wanted: RunFilter, offset: int, place: str | None) -> str:
    from tracker.session import queries
    from tracker.store.filters import EVERY_RUN

    if offset:
        return f"No runs found after the first {offset}: {queries.count(wanted, db=place)} fit."
    in_all = queries.count(EVERY_RUN, db=place)
    return f"No runs found: none of {in_all} fits." if in_all else "No runs found: there are none yet."


def _width() -> int:
    return shutil.get_terminal_size((80, 24)).columns
