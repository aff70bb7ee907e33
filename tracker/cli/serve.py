"""tracker serve: a local page over the database."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from typing import Final

import click

from tracker.cli.options import database, db_option
from tracker.errors import SettingError

_LOOPBACK: Final = "127.0.0.1"


@click.command(short_help="A local page with runs, charts, comparison and trends.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="By default one that is free.")
@click.option("--browser/--no-browser", "is_opened", default=False, help="Open it in a browser; by default not.")
@db_option
def serve(port: int, is_opened: bool, db: str | None) -> None:
    """Serve a page over the database to this machine's own browsers, until Ctrl-C.

    It answers under 127.0.0.1 alone, to who has the token in the address that is printed, and only reads.
    """
    try:
        import uvicorn

        from tracker.serving.app import application
    except ImportError as exc:
        raise SettingError('the page needs more: pip install "gpu-energy-tracker[serve]"') from exc
    place = database(db)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((_LOOPBACK, port))
        listening.listen()  # so that a browser that is quicker than the server waits for it
    except OSError as exc:
        raise SettingError(f"port {port}: {exc.strerror}; give another with --port, or none") from exc
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    address = f"http://{_LOOPBACK}:{port}/?token={token}"
    click.echo(f"{address}\n(only on this machine; Ctrl-C ends it)")
    config = uvicorn.Config(
        application(place, token, port), log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    if is_opened:
        webbrowser.open(address)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
