"""tracker db: the database itself."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tracker import settings as settings_module
from tracker.cli.options import database, db_option, instant, json_of
from tracker.errors import StoreError
from tracker.session.folding import fold, run_files
from tracker.store.editing import Editor, contents
from tracker.store.opening import open_for_reading, upgrade
from tracker.store.tables import SCHEMA_VERSION
from tracker.views import amounts


def _resolved(db: str | None) -> str:
    database(db)
    return settings_module.resolve({} if db is None else {"db": db}).db


@click.group("db", short_help="The database: info, upgrade, prune, merge.")
def db_group() -> None:
    """Look after the database."""


@db_group.command(short_help="Where it is and what it holds.")
@db_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(db: str | None, as_json: bool) -> None:
    """Show where the database is, what it holds, and which run files wait to be folded into it."""
    place = _resolved(db)
    opened = open_for_reading(place)
    held = contents(opened)
    size_bytes = opened.path.stat().st_size + opened.wal_bytes() if opened.path and opened.path.exists() else None
    told: dict[str, Any] = {
        "database": opened.label,
        "schema_version": opened.version,
        "schema_version_written": SCHEMA_VERSION,
        "size_bytes": size_bytes,
        "runs": held.runs,
        "runs_left_open": held.running,
        "samples_sealed": held.samples,
        "oldest_started_at": held.oldest,
        "newest_started_at": held.newest,
        "run_files": [str(file) for file in run_files(place)],
    }
    if as_json:
        click.echo(json_of(told))
        return
    exists = "nothing yet" if opened.version is None else f"schema {opened.version}"
    click.echo(f"database   {opened.label}")
    click.echo(f"holds      {exists}, {held.runs} runs ({held.running} left open), {held.samples} samples")
    if held.oldest:
        click.echo(f"from, to   {held.oldest[:19]}, {str(held.newest)[:19]} UTC")
    if size_bytes is not None:
        click.echo(f"size       {amounts.size(size_bytes)}")
    for file in told["run_files"]:
        click.echo(f"run file   {file} (fold it in: tracker db merge)")


@db_group.command("upgrade", short_help="Bring the schema up to this version.")
@db_option
def upgrade_command(db: str | None) -> None:
    """Create or migrate the schema. Files are migrated by themselves; a server's only by this command."""
    place = _resolved(db)
    upgrade(place)
    click.echo(f"{open_for_reading(place).label}: schema {SCHEMA_VERSION}")


@db_group.command(short_help="Drop raw samples of old runs.")
@click.option(
    "--samples-older-than",
    "age",
    required=True,
    metavar="AGE",
    help='Of runs that ended before: "90d" (ago), "2026-01-01".',
)
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
@click.option("--shrink", is_flag=True, help="Give the space back to the file system; nothing may be writing.")
@db_option
def prune(age: str, dry_run: bool, shrink: bool, db: str | None) -> None:
    """Drop the raw samples of old runs; their energy per 5 minutes, totals, spans and marks stay.

    Such a run can be priced anew, but not be integrated anew or plotted. It says so itself.
    """
    before = instant(age, "--samples-older-than")
    if before is None or before > datetime.now(UTC):
        raise click.BadParameter(f"{age!r} is not in the past", param_hint="--samples-older-than")
    editor = Editor(_resolved(db))
    ids = editor.ended_before(round(before.timestamp() * 1e6))
    drops = editor.samples_of(ids)
    what = f"{drops.samples} samples of {drops.runs} runs ({amounts.size(drops.payload_bytes)})"
    if dry_run:
        click.echo(f"would drop {what}")
        return
    with click.progressbar(ids, label="dropping", file=sys.stderr) as bar:
        for run_id in bar:
            editor.drop_samples(run_id)
    if shrink:
        editor.shrink()
    click.echo(f"dropped {what}")


@db_group.command("merge", short_help="Fold run files in.")
@click.argument("files", metavar="[FILE]…", nargs=-1, type=click.Path(path_type=Path))
@db_option
def merge_command(files: tuple[Path, ...], db: str | None) -> None:
    """Fold run files into the database, by default all that wait for it.

    A run file holds a run that the database could not take when it was written. Its runs are added, nothing is copied
    over anything, and a file that is wholly there is removed. A file whose run goes on, or that cannot be read, stays.
    """
    place = _resolved(db)
    chosen = list(files) or run_files(place)
    if not chosen:
        click.echo("no run files")
        return
    is_whole = True
    for file, outcome in fold(place, chosen):
        if isinstance(outcome, StoreError):
            is_whole = False
            click.echo(f"{file}: kept ({outcome})", err=True)
            continue
        for run_id, reason in outcome.kept.items():
            click.echo(f"{file}: {run_id} stays: {reason}", err=True)
        click.echo(f"{file}: {len(outcome.runs)} runs are in the database")
    if not is_whole:
        raise click.exceptions.Exit(1)
