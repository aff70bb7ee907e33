"""The command `tracker`: wires settings, session, store and views. The only place that exits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from tracker import __version__
from tracker import settings as settings_module
from tracker.errors import RunNotFoundError, TrackerError

if TYPE_CHECKING:
    from types import FrameType

    from tracker.records import Run, RunStatus

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_CANNOT_EXECUTE: Final = 126  # as shells do
EXIT_NOT_FOUND: Final = 127
EXIT_SIGNAL_BASE: Final = 128

# Signals a terminal sends to the whole process group, the child among it.
_TERMINAL_SIGNALS: Final = ("SIGINT", "SIGQUIT")
_FORWARDED_SIGNALS: Final = (*_TERMINAL_SIGNALS, "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")

_AGO_UNITS_S: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names may hold what the terminal's encoding cannot
            stream.reconfigure(errors="backslashreplace")
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="tracker", standalone_mode=True)
    except TrackerError as exc:
        click.echo(f"tracker: {exc}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tracker")
def cli() -> None:
    """Energy and emissions of GPU training runs.

    \b
    tracker run -- python train.py     measure a command, unchanged
    tracker runs                       list past runs
    tracker show last                  one run in full

    Settings come from options, then TRACKER_* variables, then tracker.toml or [tool.tracker] in pyproject.toml.
    """


def _db_option(function: Any) -> Any:
    return click.option("--db", metavar="DB", help="Database file or SQLAlchemy URL (TRACKER_DB).")(function)


def _json_option(function: Any) -> Any:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, with the keys of Run.to_dict().")(function)


@cli.command(
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    short_help="Measure a command.",
)
@click.option("--name", help="What the run is called; by default the command.")
@click.option("--project", help="Groups runs (TRACKER_PROJECT).")
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", help="May be given several times.")
@click.option("--zone", help='Where the electricity comes from: "FR", "US-CA", "CA-QC" (TRACKER_ZONE).')
@click.option("--intensity", metavar="G_PER_KWH", help="A constant carbon intensity of your own (TRACKER_INTENSITY).")
@click.option("--pue", metavar="FACTOR", help="Power usage effectiveness of the building (TRACKER_PUE).")
@click.option("--interval", metavar="SECONDS", help="Sampling period (TRACKER_INTERVAL).")
@click.option(
    "--gpus", metavar="GPUS", help='"visible", "all", "none", or indices and UUIDs with commas (TRACKER_GPUS).'
)
@click.option("--replay", metavar="FILE", help="A recorded trace in place of hardware (TRACKER_REPLAY).")
@_db_option
@_json_option
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND…")
def run(
    name: str | None,
    tags: tuple[str, ...],
    db: str | None,
    as_json: bool,
    command: tuple[str, ...],
    **options: str | None,
) -> None:
    """Measure COMMAND from its start to its end, unchanged.

    The command keeps its arguments, input, output, terminal, signals and exit code. A summary goes to standard
    error at the end. Runs that the command tracks itself become parts of this one.

    \b
    tracker run -- python train.py --epochs 3
    tracker run --project nlp --zone FR -- torchrun --nproc-per-node 8 train.py
    """
    from tracker.session.track import track

    arguments = {
        "project": options["project"],
        "zone": options["zone"],
        "intensity_g_per_kwh": options["intensity"],
        "pue": options["pue"],
        "interval_s": options["interval"],
        "gpus": options["gpus"],
        "replay": options["replay"],
        "db": db,
    }
    given: dict[str, Any] = {key: value for key, value in arguments.items() if value is not None}
    tag_texts = dict(_tag(text) for text in tags)
    try:
        prepared = track(name or Path(command[0]).name, tags=tag_texts, **given)
    except (TypeError, ValueError) as exc:
        raise click.UsageError(str(exc)) from exc
    _refuse_problems(given)
    executable = shutil.which(command[0])
    if executable is None:
        is_file = Path(command[0]).exists()
        click.echo(f"tracker: {command[0]}: {'cannot be executed' if is_file else 'command not found'}", err=True)
        sys.exit(EXIT_CANNOT_EXECUTE if is_file else EXIT_NOT_FOUND)
    live = prepared.start()
    environ = dict(os.environ)
    environ.pop("TRACKER_RUN_ID", None)  # taken by this run
    for key, value in given.items():
        environ[settings_module.VARIABLES[key]] = (
            str(settings_module.checked_argument(key, value))
            if key
            in (
                "db",
                "replay",
            )
            else str(value)
        )
    if live.status == "running":
        environ["TRACKER_PARENT_ID"] = live.id
    try:
        code = _call(command, environ)
    except OSError as exc:
        live._finish("failed")
        click.echo(f"tracker: {command[0]}: {exc.strerror or exc}", err=True)
        sys.exit(EXIT_CANNOT_EXECUTE)
    status: RunStatus = "finished" if code == 0 else "interrupted" if code < 0 else "failed"
    finished = live._finish(status)
    if finished.status != "disabled":
        click.echo(_json_of(finished.to_dict()) if as_json else finished.summary(), err=True)
    sys.exit(code if code >= 0 else EXIT_SIGNAL_BASE - code)


def _call(command: Sequence[str], environ: dict[str, str]) -> int:
    """Run a command in our place in the terminal; its exit code, negative for a signal."""
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # came before there was a child

    def forward(number: int, _frame: FrameType | None) -> None:
        if child is None:
            early.append(number)
        elif not (signal.Signals(number).name in _TERMINAL_SIGNALS and _is_in_foreground()):
            child.send_signal(number)

    for name in _FORWARDED_SIGNALS:
        number = getattr(signal, name, None)
        # What was ignored when we were started (nohup) stays ignored, for the child too.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    child = subprocess.Popen(list(command), env=environ)  # noqa: S603 (the user's own command)
    for number in early:
        child.send_signal(number)
    return child.wait()


def _is_in_foreground() -> bool:
    """Whether a terminal's Ctrl-C reaches us and the child alike."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


@cli.command(short_help="List past runs.")
@click.option("--project", help="Only runs of this project.")
@click.option("--name", help="Only runs of this name.")
@click.option("--status", type=click.Choice(["running", "finished", "failed", "interrupted"]), help="Only such runs.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", help="Only runs with this tag; all, if several.")
@click.option("--since", metavar="WHEN", help='Started then or later: "2026-11-01", "24h", "7d".')
@click.option("--until", metavar="WHEN", help="Started before then.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="At most so many, newest first.")
@_db_option
@_json_option
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
    from tracker.session import past
    from tracker.views.listing import runs_table

    found = past.runs(
        project=project,
        name=name,
        status=status,
        tags=dict(_tag(text) for text in tags) or None,
        since=_instant(since, "--since"),
        until=_instant(until, "--until"),
        limit=limit,
        db=_database(db),
    )
    if as_json:
        click.echo(_json_of([item.to_dict() for item in found]))
    elif not found:
        click.echo("No runs found.", err=True)
    else:
        click.echo(runs_table(found, width=shutil.get_terminal_size((80, 24)).columns))


@cli.command(short_help="Show one run in full.")
@click.argument("run_id", metavar="RUN")
@_db_option
@_json_option
def show(run_id: str, db: str | None, as_json: bool) -> None:
    """Show a run: energy and emissions by part, how each was measured, what is missing, and how sure it is.

    RUN is an id, the beginning of one, or "last".
    """
    from tracker.session import past

    try:
        found: Run = past.get(run_id, db=_database(db))
    except RunNotFoundError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(_json_of(found.to_dict()) if as_json else found.summary())


def _database(db: str | None) -> str | None:
    given = {} if db is None else {"db": db}
    _refuse_problems(given)
    return db


def _refuse_problems(given: dict[str, Any]) -> None:
    """Refuse wrong values in the environment or a file, which Python code only names."""
    from tracker.session.checks import check_replay, check_zone

    resolved = settings_module.resolve(given, checks={"zone": check_zone, "replay": check_replay})
    if resolved.problems:
        raise click.UsageError("; ".join(problem.removesuffix("; ignored") for problem in resolved.problems))


def _tag(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{given!r}: write NAME=TEXT", param_hint="--tag")
    return name, value


def _instant(given: str | None, option: str) -> datetime | None:
    """An instant from "24h" (ago) or an ISO date or time; without offset it is in the local time zone."""
    if given is None:
        return None
    number, unit = given[:-1], given[-1:]
    if unit in _AGO_UNITS_S and number.isdecimal():
        return datetime.now(UTC) - timedelta(seconds=int(number) * _AGO_UNITS_S[unit])
    try:
        return datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f'{given!r}: write "2026-11-01", "2026-11-01T12:00" or "24h"', param_hint=option
        ) from None


def _json_of(value: Any) -> str:
    return json.dumps(_without_nan(value), ensure_ascii=True, indent=2, allow_nan=False)


def _without_nan(value: Any) -> Any:
    """NaN and infinity are not JSON: null stands for them."""
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value


if __name__ == "__main__":
    main()
