"""tracker watch: running runs, live in the terminal."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final

import click

from tracker.cli.options import database, db_option, json_of, takes
from tracker.views.watching import Look, frame_of, nothing_runs, plain_line

_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # another screen, without a cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"
_QUIT: Final = ("q", "Q", "\x1b", "\x03", "\x04")  # the escape key alone: those of arrows begin with it


@click.command(short_help="Running runs, live in the terminal.")
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--interval", type=click.FloatRange(min=0.2), default=1.0, metavar="SECONDS", help="Default: 1.")
@click.option("--once", is_flag=True, help="Show it once, for scripts.")
@click.option("--ascii", "is_ascii", is_flag=True, help="ASCII letters alone.")
@db_option
@click.option("--json", "as_json", is_flag=True, help="With --once: the runs' records as JSON.")
def watch(run_id: str | None, interval: float, once: bool, is_ascii: bool, db: str | None, as_json: bool) -> None:
    """Show the runs that go on, in this database and on any machine that writes to it, until you press q.

    The training pays nothing for it: this is another process, and only reads. Without a terminal it writes a line for
    each run and look.

    RUN is an id, the beginning of one, or "last"; by default all that go on.
    """
    from tracker.session.watching import Watcher, label_of

    if as_json and not once:
        raise click.UsageError("--json belongs to --once")
    place = database(db)
    watcher = Watcher(run_id, db=place)
    label = label_of(place)
    is_ascii = is_ascii or not takes("▁█░─│┌┐└┘")

    has_screen = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    has_colours = has_screen and not os.environ.get("NO_COLOR")  # no-color.org: an empty one is none

    def frame(height: int) -> list[str]:
        look = Look(shutil.get_terminal_size((80, 24)).columns, height, is_ascii, has_colours)
        watched = watcher.look()
        return frame_of(watched, look, datetime.now(UTC), label, watcher.trouble)

    if as_json:
        click.echo(json_of([one.run.to_dict() for one in watcher.look()]))
    elif once:
        click.echo("\n".join(frame(0)))
    elif has_screen:
        with _screen() as key_within:
            while True:
                lines = frame(shutil.get_terminal_size((80, 24)).lines - 1)
                text = f"{_REST_OF_LINE}\r\n".join(lines)
                sys.stdout.write(f"{_HOME}{text}{_REST_OF_LINE}{_REST_OF_SCREEN}")
                sys.stdout.flush()
                if key_within(interval) in _QUIT:
                    return
    else:
        with suppress(KeyboardInterrupt, BrokenPipeError):
            has_told = False  # once, that nothing runs
            while True:
                watched, at = watcher.look(), datetime.now(UTC)
                for one in watched:
                    click.echo(plain_line(one, at, is_ascii=is_ascii))
                if watcher.trouble:
                    click.echo(f"tracker: {watcher.trouble}", err=True)
                elif not watched and not has_told:
                    click.echo(nothing_runs(label, at, is_ascii=is_ascii))
                has_told = not watched
                sys.stdout.flush()
                time.sleep(interval)


@contextmanager
def _screen() -> Iterator[Callable[[float], str]]:
    """The terminal's other screen; given is what waits so long for a key. The terminal is left as it was."""
    try:
        import termios
        import tty
    except ImportError:  # Windows: no single keys; Ctrl-C ends it
        termios = None  # type: ignore[assignment]
    before = termios.tcgetattr(sys.stdin) if termios is not None and sys.stdin.isatty() else None
    due_s = time.monotonic()

    def key_within(seconds: float) -> str:
        """What was typed until the next look is due; "q" where nothing can be typed any more."""
        nonlocal due_s
        due_s = max(due_s + seconds, time.monotonic())
        while True:  # once at least, or a slow look would leave no time to end it
            left_s = max(0.0, due_s - time.monotonic())
            if before is None:
                time.sleep(left_s)
                return ""
            if not select.select([sys.stdin], [], [], left_s)[0]:
                return ""
            typed = os.read(sys.stdin.fileno(), 64).decode("ascii", "replace") or "q"
            if typed in _QUIT:
                return typed

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    terminated = signal.signal(signal.SIGTERM, end)
    try:
        if before is not None:
            tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        yield key_within
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, terminated)
