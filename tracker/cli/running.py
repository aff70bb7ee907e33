"""tracker run: measures a command from its start to its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tracker import settings as settings_module
from tracker.cli.options import db_option, json_of, json_option, refuse_problems, tag
from tracker.errors import TrackerError

if TYPE_CHECKING:
    from types import FrameType

    from tracker.records import RunStatus

EXIT_CANNOT_EXECUTE: Final = 126  # as shells do
EXIT_NOT_FOUND: Final = 127
EXIT_SIGNAL_BASE: Final = 128

# Signals a terminal sends to the whole process group, the child among it.
_TERMINAL_SIGNALS: Final = ("SIGINT", "SIGQUIT")
_FORWARDED_SIGNALS: Final = (*_TERMINAL_SIGNALS, "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


@click.command(
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    short_help="Measure a command.",
)
@click.option("--name", help="What the run is called; by default the command.")
@click.option("--project", help="Groups runs (TRACKER_PROJECT).")
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", help="May be given several times.")
@click.option("--zone", help='Where the electricity comes from: "FR", "US-CA", "cloud" (TRACKER_ZONE).')
@click.option("--intensity", metavar="G_PER_KWH", help="A constant carbon intensity of your own (TRACKER_INTENSITY).")
@click.option(
    "--provider", metavar="NAME", help="Whom to ask for the hour's intensity: neso, auto … (TRACKER_PROVIDER)."
)
@click.option("--intensity-file", metavar="FILE", help="Intensities over time of your own (TRACKER_INTENSITY_FILE).")
@click.option("--pue", metavar="FACTOR", help="Power usage effectiveness of the building (TRACKER_PUE).")
@click.option(
    "--price", metavar="PRICE", help='Of a kWh of electricity, with its currency: "0.30 EUR" (TRACKER_PRICE).'
)
@click.option("--interval", metavar="SECONDS", help="Sampling period (TRACKER_INTERVAL).")
@click.option(
    "--gpus", metavar="GPUS", help='"visible", "all", "none", or indices and UUIDs with commas (TRACKER_GPUS).'
)
@click.option(
    "--replay",
    metavar="FILE",
    help='A recorded trace in place of hardware (TRACKER_REPLAY); "example": eight GPUs, to try it without any.',
)
@db_option
@json_option
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
    tracker run --replay example -- sleep 60      without any GPU, to try it

    While it goes on, `tracker watch` in another terminal and `tracker serve` in a browser show it live.
    """
    from tracker.session.track import track

    arguments = {
        "project": options["project"],
        "zone": options["zone"],
        "intensity_g_per_kwh": options["intensity"],
        "provider": options["provider"],
        "intensity_file": options["intensity_file"],
        "pue": options["pue"],
        "price_per_kwh": options["price"],
        "interval_s": options["interval"],
        "gpus": options["gpus"],
        "replay": options["replay"],
        "db": db,
    }
    given: dict[str, Any] = {key: value for key, value in arguments.items() if value is not None}
    tag_texts = dict(tag(text) for text in tags)
    try:
        prepared = track(name or Path(command[0]).name, tags=tag_texts, **given)
    except (TypeError, ValueError) as exc:
        raise click.UsageError(str(exc)) from exc
    refuse_problems(given)
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
            if key in ("db", "replay", "intensity_file")
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
        try:
            click.echo(json_of(finished.to_dict()) if as_json else finished.summary(), err=True)
        except (TrackerError, OSError) as exc:  # the database has just gone, or nobody reads what we say
            with contextlib.suppress(OSError):
                click.echo(f"tracker: no summary: {exc}", err=True)
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
