"""The application behind `tracker serve`: loopback, one token, reading only."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tracker.errors import RunNotFoundError, SettingError, TrackerError
from tracker.records import Run, Span, Total, unix_us_of
from tracker.serving import pages
from tracker.serving.power import power_figures
from tracker.serving.trends import lines_of
from tracker.session import queries
from tracker.session.past import get, reader_with
from tracker.session.picturing import slots_of
from tracker.store.filters import Order, RunFilter
from tracker.store.power import KeptExtremes
from tracker.units import MICROSECONDS_PER_S
from tracker.views.listing import runs_grid
from tracker.views.tables import printable

PAGE_RUNS: Final = 50
LOOK_EACH_S: Final = 1.0
SHARE: Final = 0.02  # of a core, that looking at one run may cost
STATIC: Final = Path(__file__).with_name("static")
_MOST_MARKS: Final = 2000
_MOST_LANES: Final = 4
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Next = Callable[[Request], Awaitable[Response]]


def application(db: str | None, token: str, port: int) -> Guarded:
    """The application over a database.

    Args:
        db: database file or SQLAlchemy URL; None: that of the settings.
        token: who does not give it sees nothing.
        port: that it is reached at, which a Host header must name.
    """
    hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    cookie = f"tracker_{port}"

    async def guard(request: Request, following: Next) -> Response:
        # A page of somebody else's whose name points here has another Host.
        if request.headers.get("host", "") not in hosts:
            return PlainTextResponse("this page answers under 127.0.0.1 and localhost only", 421)
        given = request.query_params.get("token")
        if given is not None and hmac.compare_digest(given.encode(), token.encode()):
            response: Response = HTMLResponse(pages.entered_page(request.url.path))
            response.set_cookie(cookie, token, httponly=True, samesite="strict", path="/")
            return response
        if not hmac.compare_digest(request.cookies.get(cookie, "").encode(), token.encode()):
            return PlainTextResponse("open the address that `tracker serve` has printed: it holds the token", 403)
        return await following(request)

    served = _Pages(db)
    app = Starlette(
        routes=[
            Route("/", served.runs),
            Route("/runs/{run_id:path}", served.run),
            Route("/compare", served.compare),
            Route("/trends", served.trends),
            Route("/events", served.events),
            Route("/api/trends", served.trend_lines),
            Route("/api/runs/{run_id:path}/frame", served.frame),
            Route("/api/runs/{run_id:path}/power", served.power),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={RunNotFoundError: _missing, SettingError: _wrong, TrackerError: _failed},
    )
    return Guarded(app, guard)


class Guarded:
    """The guard before everything else, and the headers on whatever comes back."""

    def __init__(self, app: Starlette, guard: Callable[[Request, Next], Awaitable[Response]]) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        passed = False

        async def following(_: Request) -> Response:
            nonlocal passed
            passed = True
            return Response()

        response = await self._guard(Request(scope, receive), following)
        if passed:
            await self._app(scope, receive, with_headers)
        else:
            await response(scope, receive, with_headers)


async def _missing(_: Request, exc: Exception) -> Response:
    return HTMLResponse(pages.trouble_page("There is no such run", str(exc)), 404)


async def _wrong(_: Request, exc: Exception) -> Response:
    return HTMLResponse(pages.trouble_page("That cannot be shown", str(exc)), 400)


async def _failed(_: Request, exc: Exception) -> Response:
    return HTMLResponse(pages.trouble_page("The database cannot be read", str(exc)), 500)


class _Pages:
    """What each address answers. The database is read in threads, so that one long answer holds nobody up."""

    def __init__(self, db: str | None) -> None:
        self._db = db
        self._kept = KeptExtremes()

    async def runs(self, request: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(self._runs, request))

    def _runs(self, request: Request) -> str:
        query = request.query_params
        given = {name: query[name] for name in (*pages.FILTERS, "sort") if query.get(name)}
        offset = _number(query.get("offset", "0"), "offset", 0, 10**9)
        wanted: Any = {name: value for name, value in given.items() if name not in ("sort", "tag")}
        if "tag" in given:
            name, equals, value = given["tag"].partition("=")
            if not equals or not name:
                raise SettingError(f"tag: {given['tag']!r}: write NAME=TEXT")
            wanted["tags"] = {name: value}
        run_filter = RunFilter(**wanted)
        order = Order(given.get("sort", "started"))
        found = queries.page(run_filter, order, limit=PAGE_RUNS, offset=offset, db=self._db)
        return pages.runs_page(found, given, offset, PAGE_RUNS, queries.count(run_filter, db=self._db))

    async def run(self, request: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(self._run, request.path_params["run_id"]))

    def _run(self, run_id: str) -> str:
        run = get(run_id, db=self._db)
        return pages.run_page(run, reader_with(run).device_hosts(run.id))

    async def compare(self, request: Request) -> Response:
        ids = request.query_params.getlist("run")
        if not ids:
            raise SettingError("tick at least one run in the list")
        comparison = await run_in_threadpool(lambda: queries.compare(*ids, db=self._db))
        return HTMLResponse(await run_in_threadpool(pages.compare_page, comparison))

    async def trends(self, _: Request) -> Response:
        return HTMLResponse(pages.trends_page(await run_in_threadpool(self._totals)))

    async def trend_lines(self, _: Request) -> Response:
        return JSONResponse(lines_of(await run_in_threadpool(self._totals)))

    def _totals(self) -> list[Total]:
        return queries.totals(by=("project", "month"), db=self._db)

    async def frame(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._frame, request.path_params["run_id"]))

    def _frame(self, run_id: str) -> dict[str, Any]:
        run = get(run_id, db=self._db)
        start_us, end_us = _bounds(run)
        spans, marks = run.spans, run.marks
        length_s = (end_us - start_us) / MICROSECONDS_PER_S
        slots = slots_of(run)
        start_s = start_us / MICROSECONDS_PER_S
        # One for each column of a picture: more cannot be told apart.
        marked = sorted({round((mark.at.timestamp() - start_s) / length_s * _MOST_MARKS) for mark in marks})
        return {
            "start_s": start_s,
            "end_s": end_us / MICROSECONDS_PER_S,
            "spans": list(_spans(spans, end_us)),
            "spans_text": _spans_text(spans),
            "marks": [start_s + column / _MOST_MARKS * length_s for column in marked],
            "slots": {
                "slot_s": 0 if slots is None else slots.slot_s,
                "start_s": [] if slots is None else slots.start_s.tolist(),
                "emissions_g": [] if slots is None else _plain(slots.emissions_g),
                "intensity_g_per_kwh": [] if slots is None else _plain(slots.intensity_g_per_kwh),
            },
        }

    async def power(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._power, request))

    def _power(self, request: Request) -> dict[str, Any]:
        run = get(request.path_params["run_id"], db=self._db)
        start_us, end_us = _bounds(run)
        query = request.query_params
        first_us = max(start_us, _instant_us(query.get("from"), start_us))
        last_us = min(end_us, _instant_us(query.get("to"), end_us))
        columns = _number(query.get("columns", "800"), "columns", 1, 4000)
        return power_figures(reader_with(run), run, first_us, max(last_us, first_us + 1), columns, self._kept)

    async def events(self, request: Request) -> Response:
        ids = request.query_params.getlist("run")[:PAGE_RUNS]
        return StreamingResponse(self._events(request, ids), media_type="text/event-stream")

    async def _events(self, request: Request, ids: list[str]) -> AsyncIterator[str]:
        due_s = dict.fromkeys(ids, 0.0)
        while due_s and not await request.is_disconnected():
            for run_id in [run_id for run_id, at_s in due_s.items() if at_s <= time.monotonic()]:
                began_s = time.monotonic()
                try:
                    told = await run_in_threadpool(self._told, run_id)
                except TrackerError:
                    del due_s[run_id]
                    continue
                if told["status"] == "running":
                    # The record of a long run is dear: it is read less often.
                    due_s[run_id] = time.monotonic() + (time.monotonic() - began_s) / SHARE
                else:
                    del due_s[run_id]
                yield f"event: run\ndata: {json.dumps(told)}\n\n"
            await asyncio.sleep(LOOK_EACH_S)

    def _told(self, run_id: str) -> dict[str, Any]:
        run = get(run_id, db=self._db)
        _, (cells,), _ = runs_grid([run])
        return {"id": run.id, "status": run.status, "cells": cells, "summary": pages.summary_of(run)}


def _bounds(run: Run) -> tuple[int, int]:
    if run.started_at is None:
        raise SettingError(f"run {run.id} has no start")
    start_us = unix_us_of(run.started_at)
    return start_us, start_us + max(1, round(run.duration_s * MICROSECONDS_PER_S))


def _number(text: str, name: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text[:12]) <= most:
        raise SettingError(f"{name} must be a whole number from {least} to {most}")
    return int(text)


def _instant_us(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    try:
        return round(float(text) * MICROSECONDS_PER_S)
    except (ValueError, OverflowError):
        raise SettingError("from and to are seconds since 1970") from None


def _plain(values: Any) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _spans(spans: tuple[Span, ...], end_us: int) -> Any:
    depths: dict[int | None, int] = {None: -1}
    for span in sorted(spans, key=lambda one: one.id):
        depths[span.id] = depths.get(span.parent_id, -1) + 1
    for span in spans:
        ended_s = span.ended_at.timestamp() if span.ended_at is not None else end_us / MICROSECONDS_PER_S
        depth = min(depths[span.id], _MOST_LANES - 1)
        yield {"name": printable(span.name), "start_s": span.started_at.timestamp(), "end_s": ended_s, "depth": depth}


def _spans_text(spans: tuple[Span, ...]) -> str:
    names = list(dict.fromkeys(printable(span.name) for span in spans))
    return f"Spans: {', '.join(names[:30])}{' …' if len(names) > 30 else ''}" if names else ""
