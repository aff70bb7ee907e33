"""The page over HTTP: who may see it, what stands on it, and that no zoom loses an extreme."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import requests
from html_page import Page
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_runs import START, a_full_run, a_run, after, chunks, store_run, writer_of

import tracker
from tracker.records import Mark, Slot, Span, unix_us_of
from tracker.serving.power import of_chunks
from tracker.store.power import Chunked

HOSTILE = '<script>alert(1)</script> "x" \u202e & ' + "y" * 300
START_US = unix_us_of(START)


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    return tmp_path / "runs.db"


@pytest.fixture
def served(db):
    """The command in a process of its own: its address, and a session that has given the token."""
    with serving() as (address, token):
        session = requests.Session()
        session.trust_env = False
        assert "Go on" in session.get(f"{address}/?token={token}", timeout=20).text
        session.address = address
        yield session


@contextlib.contextmanager
def serving():
    code = "from tracker.cli import main; main(['serve'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        first = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", first)
        assert found, first + process.stderr.read()
        process.stdout.readline()
        wait_for(found[1])
        yield found[1], found[2]
    finally:
        process.send_signal(signal.SIGINT)
        _, trouble = process.communicate(timeout=20)
        assert process.returncode == 0 and "Traceback" not in trouble, trouble


def wait_for(address):
    for _ in range(200):
        with contextlib.suppress(requests.ConnectionError):
            requests.get(address, timeout=5)
            return
        threading.Event().wait(0.05)
    raise AssertionError("the page does not answer")


def fill(db):
    first_s = int(START.timestamp()) // 300 * 300
    slots = [Slot(0, first_s, 7_200 * 10**9, 60_000_000, 250_000), Slot(1, first_s, 10**9, 60_000_000, None)]
    spans = [Span(0, None, HOSTILE, {}, START, START + timedelta(seconds=40), 40.0, 4000.0, 1.0)]
    marks = [Mark(START + timedelta(seconds=n), float(n), {"step": n}) for n in range(30)]
    hostile = replace(a_full_run("hostile"), name=HOSTILE, project=HOSTILE[:100], tags={"a": HOSTILE[:60]})
    writer = writer_of(db, hostile)
    writer.finish(hostile, chunks(range(60)), slots, after(60.5), spans=spans, marks=marks)
    writer.close()
    store_run(db, a_full_run("run-1"))
    store_run(db, a_run("empty", status="interrupted", started_at=START, ended_at=START))


def test_only_who_has_the_token_sees_anything_and_only_by_this_machines_names(db):
    fill(db)
    with serving() as (address, token):
        plain = requests.Session()
        plain.trust_env = False
        for path in ("/", "/runs/run-1", "/api/runs/run-1/power", "/static/page.js", "/events?run=run-1"):
            assert plain.get(address + path, timeout=20).status_code == 403
        assert plain.get(f"{address}/?token=wrong", timeout=20).status_code == 403
        entered = plain.get(f"{address}/runs/run-1?token={token}", timeout=20)
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and "url=/runs/run-1" in entered.text
        assert plain.get(f"{address}/runs/run-1", timeout=20).status_code == 200
        rebound = plain.get(f"{address}/", headers={"Host": f"evil.example:{address.rpartition(':')[2]}"}, timeout=20)
        assert rebound.status_code == 421 and "run-1" not in rebound.text
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert plain.request(method, f"{address}/", timeout=20).status_code == 405
        port = int(address.rpartition(":")[2])
        others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)} - {"127.0.0.1", "::1"}
        for other in others:
            with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
                socket.create_connection((other, port), timeout=2).close()


def test_every_answer_has_a_strict_policy_and_no_page_holds_a_script_or_a_style(served, db):
    fill(db)
    for path in ("/", "/runs/hostile", "/compare?run=hostile&run=run-1", "/trends", "/none", "/static/page.css"):
        reply = served.get(served.address + path, timeout=20)
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff" and reply.headers["cache-control"] == "no-store"
        if reply.headers["content-type"].startswith("text/html"):
            page = Page(reply.text)
            assert all(address.startswith(("/", "data:,", "#")) for address in page.addresses)
            assert not re.search(r"<style|style=|<script(?! src=)| on[a-z]+=", reply.text.replace("&lt;script", ""))
            assert "\u202e" not in reply.text


def test_pages_show_what_the_database_holds(served, db):
    assert "There are no runs yet" in served.get(served.address, timeout=20).text
    assert "There are no runs yet" in served.get(f"{served.address}/trends", timeout=20).text
    fill(db)
    listed = Page(served.get(served.address, timeout=20).text)
    assert {"1.68 Wh", "500 mg", "finished"} <= set(listed.texts)
    for run_id in ("hostile", "run-1", "empty"):
        told = " ".join(Page(served.get(f"{served.address}/runs/{run_id}", timeout=20).text).texts)
        for word in tracker.get(run_id).summary(width=10_000).split():
            assert word in told
    compared = " ".join(Page(served.get(f"{served.address}/compare?run=hostile&run=run-1", timeout=20).text).texts)
    assert "1.00 x" in compared
    assert "nlp" in served.get(f"{served.address}/trends", timeout=20).text


def test_the_list_takes_the_filters_of_tracker_runs(served, db):
    fill(db)
    for query, shown in {
        "project=nlp": {"run-1"},
        "status=interrupted": {"empty"},
        "tag=stage%3Dtest": {"run-1"},
        "device=nothing": set(),
        "since=2030-01-01": set(),
        "until=2000-01-01": set(),
        "sort=energy": {"run-1", "hostile", "empty"},
    }.items():
        links = Page(served.get(f"{served.address}/?{query}", timeout=20).text).addresses
        assert {link.rpartition("/")[2] for link in links if link.startswith("/runs/")} == shown, query


def test_a_wrong_question_gets_a_page_that_says_so(served, db):
    fill(db)
    for path, status in {
        "/?since=yesterday": 400,
        "/?sort=colour": 400,
        "/?offset=-1": 400,
        "/?tag=x": 400,
        "/compare": 400,
        "/runs/nobody": 404,
        "/compare?run=nobody": 404,
        "/api/runs/run-1/power?from=x": 400,
        "/api/runs/run-1/power?from=nan": 400,
        "/api/runs/run-1/power?columns=0": 400,
        "/static/../app.py": 404,
    }.items():
        reply = served.get(served.address + path, timeout=20)
        assert reply.status_code == status and "Traceback" not in reply.text, path


def test_power_and_its_frame_come_in_numbers(served, db):
    fill(db)
    frame = served.get(f"{served.address}/api/runs/hostile/frame", timeout=20).json()
    power = served.get(f"{served.address}/api/runs/hostile/power?columns=7", timeout=20).json()

    assert frame["end_s"] - frame["start_s"] == pytest.approx(60.5)
    assert len(frame["marks"]) == 30 and len(frame["spans"]) == 1 and "\u202e" not in frame["spans"][0]["name"]
    assert sum(grams for grams in frame["slots"]["emissions_g"] if grams is not None) > 0
    gpu, package = power["devices"]
    assert (min(gpu["least_w"]), max(gpu["most_w"])) == (100.0, 100.06) and power["detail"] == "readings"
    assert max(value for value in package["mean_w"] if value is not None) == pytest.approx(10.0)
    assert served.get(f"{served.address}/api/runs/empty/power", timeout=20).json()["devices"] == []


def test_a_run_that_goes_on_is_told_as_it_does_and_its_end_ends_the_telling(served, db):
    from tracker.machine import this_segment

    run = replace(a_full_run("live"), status="running", ended_at=None, devices=(), started_at=datetime.now(UTC))
    writer = writer_of(db, run, this_segment())
    told = []
    with served.get(f"{served.address}/events?run=live&run=nobody", stream=True, timeout=20) as reply:
        for line in reply.iter_lines(decode_unicode=True):
            if line.startswith("data: "):
                told.append(line)
                if len(told) == 1:
                    writer.finish(replace(run, status="finished"), [], [], after(60))
                    writer.close()
    assert '"status": "running"' in told[0] and '"status": "finished"' in told[-1]


@st.composite
def chunked(draw):
    minutes = draw(st.lists(st.tuples(st.floats(0, 700), st.floats(0, 700)), min_size=1, max_size=40))
    gaps = draw(st.lists(st.integers(0, 200), min_size=len(minutes), max_size=len(minutes)))
    at, rows = 0, []
    for (one, other), gap in zip(minutes, gaps, strict=True):
        at += gap
        rows.append((at, at + 59, min(one, other), max(one, other)))
        at += 60
    return rows


@settings(max_examples=60)
@given(chunked(), st.integers(1, 300), st.integers(0, 3000), st.integers(1, 4000))
def test_no_zoom_over_minutes_loses_an_extreme(rows, columns, start, length):
    first, last, least, most = map(np.array, zip(*rows, strict=True))
    us = 1_000_000
    given_chunks = [Chunked(0, first * us, last * us, least.astype(float), most.astype(float))]

    curves = of_chunks(given_chunks, np.empty((0, 4), dtype=np.int64), start * us, (start + length) * us, columns)

    within = [(low, high) for a, b, low, high in rows if b >= start and a < start + length]
    if not within:
        assert not curves or np.isnan(curves[0].most_w).all()
        return
    assert np.nanmax(curves[0].most_w) == max(high for _, high in within)
    assert np.nanmin(curves[0].least_w) == min(low for low, _ in within)
