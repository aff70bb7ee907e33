"""A real local HTTP server that plays the answers and the faults of grid APIs."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import pytest

SAMPLES = Path(__file__).with_name("data") / "grid"


def sample(name: str) -> bytes:
    """A recorded answer of tests/data/grid."""
    return (SAMPLES / name).read_bytes()


@dataclass(frozen=True)
class Reply:
    """What the server sends; body is bytes, a text, or what json.dumps takes.

    fault: "hang" says nothing until the server stops, "reset" ends the connection with RST, "cut" ends it within the
    body, "endless" sends body for as long as somebody reads.
    """

    body: Any = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Literal["", "hang", "reset", "cut", "endless"] = ""

    @property
    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


@dataclass(frozen=True)
class Asked:
    """A request that the server got."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass
class GridServer:
    """Replies by the longest path that begins the request's; of several one after another, the last again and again."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)

    def plays(self, *replies: Reply | bytes | dict[str, Any] | list[Any], path: str = "/") -> None:
        self.replies[path] = [reply if isinstance(reply, Reply) else Reply(reply) for reply in replies]

    def plays_rules(self, rules: list[dict[str, Any]]) -> None:
        """Rules as the reports of faults write them: path and replies of status, body and headers."""
        for rule in rules:
            self.plays(
                *(
                    Reply(
                        reply.get("body", ""),
                        reply.get("status", 200),
                        reply.get("headers", {}).get("Content-Type", "application/json"),
                    )
                    for reply in rule["replies"]
                ),
                path=rule["path"],
            )

    def next_reply(self, path: str) -> Reply:
        rule = max((rule for rule in self.replies if path.startswith(rule)), key=len, default=None)
        if rule is None:
            return Reply("no such thing", 404, "text/plain")
        queue = self.replies[rule]
        return queue.pop(0) if len(queue) > 1 else queue[0]


@contextmanager
def grid_server() -> Iterator[GridServer]:
    grid = GridServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            grid.asked.append(Asked(parts.path, dict(parse_qsl(parts.query)), dict(self.headers)))
            reply = grid.next_reply(parts.path)
            if reply.fault == "hang":
                grid.released.wait()
                return
            if reply.fault == "reset":
                # Closed with something left to linger over, a socket answers with RST.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            self.send_response(reply.status)
            if reply.content_type:
                self.send_header("Content-Type", reply.content_type)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.fault != "endless":
                extra = 100 if reply.fault == "cut" else 0
                self.send_header("Content-Length", str(len(reply.content) + extra))
            self.end_headers()
            self.wfile.write(reply.content)
            if reply.fault == "endless":
                try:
                    while True:
                        self.wfile.write(b" " * 65_536)
                except OSError:
                    pass

        do_PUT = do_GET  # noqa: N815 (the name that http.server asks for)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    grid.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield grid
    finally:
        grid.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def grid() -> Iterator[GridServer]:
    with grid_server() as server:
        yield server
