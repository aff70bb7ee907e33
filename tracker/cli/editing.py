"""tracker tag, note and delete: what is changed of runs afterwards."""

from __future__ import annotations

import click

from tracker import settings as settings_module
from tracker.cli.options import database, db_option, tag
from tracker.errors import StoreError
from tracker.session import past, queries
from tracker.store.editing import Editor, checked_note


def _editor(db: str | None) -> Editor:
    return Editor(settings_module.resolve({} if db is None else {"db": db}).db)


@click.command("tag", short_help="Set or remove tags of a run.")
@click.argument("run_id", metavar="RUN")
@click.argument("tags", metavar="[NAME=TEXT]…", nargs=-1)
@click.option("--remove", "unwanted", multiple=True, metavar="NAME", help="Remove this tag; may be repeated.")
@db_option
def tag_run(run_id: str, tags: tuple[str, ...], unwanted: tuple[str, ...], db: str | None) -> None:
    """Set tags of a run, and remove others.

    RUN is an id, the beginning of one, or "last".
    """
    wanted = dict(tag(text) for text in tags)
    if not wanted and not unwanted:
        raise click.UsageError("give NAME=TEXT, or --remove NAME")
    wanted = settings_module.checked_tags(wanted)
    found = past.get(run_id, db=database(db))
    _editor(db).tag(found.id, wanted, unwanted)
    now = past.get(found.id, db=db).tags
    click.echo(f"{found.id}: " + (", ".join(f"{name}={text}" for name, text in now.items()) or "no tags"))


@click.command("note", short_help="Add a note to a run.")
@click.argument("run_id", metavar="RUN")
@click.argument("text", metavar="TEXT")
@db_option
def note_run(run_id: str, text: str, db: str | None) -> None:
    """Add a note to a run; `tracker show` shows it.

    RUN is an id, the beginning of one, or "last".
    """
    try:
        text = checked_note(text)
    except StoreError as exc:
        raise click.UsageError(str(exc)) from None
    found = past.get(run_id, db=database(db))
    _editor(db).note(found.id, text)
    click.echo(f"{found.id}: noted")


@click.command(short_help="Delete runs.")
@click.argument("run_ids", metavar="RUN…", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@db_option
def delete(run_ids: tuple[str, ...], yes: bool, db: str | None) -> None:
    """Delete runs for ever, with their parts: samples, slots, spans, marks and all.

    RUN is an id, the beginning of one, or "last". A run that goes on is not deleted.
    """
    place = database(db)
    chosen = {run.id: run for run in (past.get(run_id, db=place) for run_id in run_ids)}
    parts = {run.id: run for run in queries.each_run(db=place) if run.parent_id in chosen}
    every = chosen | parts
    going_on = [run.id for run in every.values() if run.status == "running"]
    if going_on:
        raise StoreError(f"{', '.join(going_on)}: goes on; stop it first")
    for run in every.values():
        of_parent = f", part of {run.parent_id}" if run.parent_id in chosen else ""
        click.echo(f"{run.id}  {run.started_at:%Y-%m-%d %H:%M} UTC  {run.name or '(no name)'}{of_parent}", err=True)
    if not yes and not click.confirm(f"Delete {_count(len(every))} for ever?", err=True):
        raise click.exceptions.Exit(1)
    _editor(db).delete(list(every))
    click.echo(f"deleted {_count(len(every))}")


def _count(n: int) -> str:
    return "1 run" if n == 1 else f"{n} runs"
