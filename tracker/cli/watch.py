"""tracker watch: running runs, live in the terminal."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import click

from tracker.cli.options import database, db_option, json_of
from tracker.views.watching import Look, frame_of, plain_line

_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # another screen, without a cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"
_QUIT: Final = ("q", "Q", "\x1b", "\x03")


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
    is_ascii = is_ascii or not _takes_boxes()

    def frame(height: int) -> list[str]:
        width = shutil.get_terminal_size((80, 24)).columns
        has_colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        return frame_of(watcher.look(), Look(width, height, is_ascii, has_colours), datetime.now(UTC), label)

    if as_json:
        click.echo(json_of([one.run.to_dict() for one in watcher.look()]))
    elif once:
        click.echo("\n".join(frame(0)))
    elif sys.stdout.isatty():
        with _screen() as key_within:
            while True:
                lines = frame(shutil.get_terminal_size((80, 24)).lines - 1)
                text = f"{_REST_OF_LINE}\r\n".join(lines)
                sys.stdout.write(f"{_HOME}{text}{_REST_OF_LINE}{_REST_OF_SCREEN}")
                sys.stdout.flush()
                if key_within(interval) in _QUIT:
                    return
    else:
        try:
            while True:
                for one in watcher.look():
                    click.echo(plain_line(one, datetime.now(UTC)))
                sys.stdout.flush()
                time.sleep(interval)
        except (KeyboardInterrupt, BrokenPipeError):
            return


@contextmanager
def _screen() -> Iterator[Callable[[float], str]]:
    """The terminal's other screen; given is what waits so long for a key. The terminal is left as it was."""
    try:
        import termios
        import tty
    except ImportError:  # Windows: no single keys; Ctrl-C ends it
        termios = None  # type: ignore[assignment]
    before = None
    if termios is not None and sys.stdin.isatty():
        before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)

    def key_within(seconds: float) -> str:
        if before is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace") if ready else ""

    sys.stdout.write(_ENTER)
    try:
        yield key_within
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _takes_boxes() -> bool:
    try:
        "▁█░─│┌┐└┘".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
