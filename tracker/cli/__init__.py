"""The command `tracker`: wires settings, session, store and views. The only place that exits."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final, NoReturn, cast

import click

from tracker import __version__
from tracker.errors import SettingError, TrackerError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

# Each is loaded when asked for: the module, and its name there.
_COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "run": ("tracker.cli.running", "run"),
    "runs": ("tracker.cli.runs", "runs"),
    "show": ("tracker.cli.show", "show"),
    "compare": ("tracker.cli.compare", "compare"),
    "reprice": ("tracker.cli.reprice", "reprice"),
    "intensity": ("tracker.cli.intensity", "intensity"),
    "serve": ("tracker.cli.serve", "serve"),
    "watch": ("tracker.cli.watch", "watch"),
    "doctor": ("tracker.cli.doctor", "doctor"),
    "export": ("tracker.cli.export", "export"),
    "report": ("tracker.cli.report", "report"),
    "tag": ("tracker.cli.editing", "tag_run"),
    "note": ("tracker.cli.editing", "note_run"),
    "delete": ("tracker.cli.editing", "delete"),
    "db": ("tracker.cli.database", "db_group"),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names may hold what the terminal's encoding cannot
            stream.reconfigure(errors="backslashreplace")
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="tracker", standalone_mode=True)
    except TrackerError as exc:
        click.echo(f"tracker: {exc}", err=True)
        sys.exit(EXIT_USAGE if isinstance(exc, SettingError) else EXIT_FAILED)
    sys.exit(0)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        return cast(click.Command, getattr(import_module(module), name))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tracker")
def cli() -> None:
    """Energy and emissions of GPU training runs.

    \b
    tracker run -- python train.py            measure a command, unchanged
    tracker run --replay example -- sleep 60  the same on recorded GPUs, to try it
    tracker watch                             what goes on, live in the terminal
    tracker serve --browser                   the same and past runs in a browser
    tracker runs                              list past runs
    tracker show last                         one run in full
    tracker compare last 3f9c2a               two runs side by side
    tracker doctor                            what is measured here, and what not

    Settings come from options, then TRACKER_* variables, then tracker.toml or [tool.tracker] in pyproject.toml.
    """
