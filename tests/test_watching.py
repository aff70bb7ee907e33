"""What `tracker watch` shows: frames of any size, and the command on a run that goes on in another process."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from click.testing import CliRunner
from html_page import Page
from stored_runs import (
    BOOT_US,
    GPU,
    PACKAGE,
    ROOT,
    SECOND_US,
    START,
    a_full_run,
    a_run,
    after,
    chunks,
    second,
    store_run,
    writer_of,
)

import tracker
from tracker.cli import cli
from tracker.machine import this_segment
from tracker.progress import Expected, Progress
from tracker.records import ClockPair, DeviceEnergy, Mark, NotMeasured, Reading
from tracker.serving import pages
from tracker.session.watching import KEPT_S, Watcher, by_second
from tracker.settings import EXAMPLE_TRACE
from tracker.store.codec import append_reading
from tracker.store.opening import open_for_writing
from tracker.store.writing import RunWriter
from tracker.views.tables import columns_of
from tracker.views.watching import Look, Watched, frame_of, plain_line

AT = START + timedelta(minutes=1)
HOSTILE = "x\n\x1b[2J\u202e" + "y" * 300


def gpu(number: int, energy_j: float | None = 3600.0) -> DeviceEnergy:
    return DeviceEnergy("gpu", f"GPU-{number}", "NVIDIA H100", "counter", energy_j, 1.0, 2.0, 1.0)


def watched(**changes) -> Watched:
    gpus = tuple(gpu(number) for number in range(8))
    model = DeviceEnergy("cpu", "cpu", "Xeon", "model", 100.0, 50.0, None, 1.0)
    run = replace(a_full_run(), status="running", ended_at=None, devices=(*gpus, model), is_replayed=False)
    powers = (100.0, 350.0, math.nan, 700.0)
    fields = {
        "run": replace(run, **{key: value for key, value in changes.items() if hasattr(run, key)}),
        "read_at": AT,
        "devices": [replace(GPU, key=f"GPU-{number}") for number in range(8)],
        "power_w": dict.fromkeys(range(8), powers),
        "power_at": AT,
        "mark": Mark(START, 1.0, {"step": 12, "loss": 0.25}),
    }
    return Watched(**{**fields, **{key: value for key, value in changes.items() if key in fields}})


BOXES = """\
finetune  run-1  running 1.01 min
1.68 Wh measured and 10.5 J modelled (an estimate); 500 mg and 250 mg of the
modelled energy CO2e; coverage 87.5 %
+- GPU 0 NVIDIA H100 ----------------+
| 700 W of 700 W ################### |
| 1.00 Wh, counter              .+ @ |
+------------------------------------+
grid 400 g/kWh (user, static, from 12:00)
progress: step 12, loss 0.25
not measured: DRAM: not readable
! one
! two "quoted\""""


def test_the_whole_frame_at_80_columns(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    lines = frame_of([watched(devices=(), power_w={})], Look(80), AT, "x")
    assert "no device has been read yet" in lines
    one = replace(watched(), run=replace(watched().run, devices=(gpu(0),)))

    assert "\n".join(frame_of([one], Look(80, is_ascii=True), AT, "x")) == BOXES
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("width", [20, 37, 40, 80, 200])
@pytest.mark.parametrize("height", [0, 1, 5, 24, 60])
@pytest.mark.parametrize("is_ascii", [False, True])
def test_no_frame_is_wider_or_higher_than_the_terminal(width, height, is_ascii):
    shown = [
        watched(),
        watched(name=HOSTILE, id=HOSTILE, warnings=(HOSTILE,) * 9, not_measured=(NotMeasured("dram", HOSTILE, "x"),)),
    ]

    lines = frame_of(shown, Look(width, height, is_ascii), AT, "x")

    assert height == 0 or len(lines) <= height
    for line in lines:
        assert columns_of(line) <= width and line.isprintable()
        assert line.isascii() or not is_ascii


def test_boxes_beside_each_other_become_rows_where_the_terminal_is_low():
    high, low = (frame_of([watched()], Look(200, height), AT, "x") for height in (0, 15))

    assert [line.count("┌") for line in high if "┌" in line] == [4, 4]  # there is room for five and three
    assert not any("┌" in line for line in low) and sum("700 W of 700 W" in line for line in low) == 8


def test_where_it_is_narrow_no_figure_is_cut():
    lines = frame_of([watched()], Look(24, 60), AT, "x")

    assert lines[:3] == ["finetune", "run-1 running 1.01 min", "1.68 Wh measured and"]
    assert lines.count("GPU 3 700 W, 1.00 Wh,") == 1 and not any("..." in line for line in lines)


def test_progress_is_told_by_its_number_and_its_total():
    mark = Mark(START, 1.0, {"step": 12, "steps": 3, "total_steps": 400, "loss": 0.25, "total": 9})

    assert "progress: step 12 of 400, loss 0.25, total 9" in frame_of([watched(mark=mark)], Look(80), AT, "x")


def test_what_is_expected_stands_with_its_range_and_what_is_not_known_of_it_is_left_out():
    expected = Progress(
        "step", 10.0, 100.0, 1.0, None, False, Expected(60, 90, 120), Expected(3600, 7200, 10_800), None
    )

    text = " ".join(" ".join(frame_of([replace(watched(), progress=expected)], Look(80), AT, "x")).split())

    assert (
        "expected at the end of 100 steps: 2.00 Wh (1.00 Wh to 3.00 Wh), 1.50 min left (1.00 min to 2.00 min)" in text
    )
    assert "expected" not in " ".join(frame_of([watched()], Look(80), AT, "x"))


def test_what_is_unknown_is_unknown_and_measured_and_modelled_stay_apart():
    unknown = watched(energy_j=None, emissions_g=None, energy_modelled_j=None, emissions_modelled_g=None, coverage=None)
    silent = watched(power_w={0: (math.nan,)})

    assert "energy unknown; emissions unknown; coverage unknown" in frame_of([unknown], Look(200), AT, "x")
    assert "unknown: not read yet" in " ".join(frame_of([silent], Look(200), AT, "x"))
    assert "unknown" in " ".join(frame_of([silent], Look(30), AT, "x"))
    assert " 0 W" not in " ".join(frame_of([silent], Look(200), AT, "x"))
    assert "modelled (an estimate)" in plain_line(watched(), AT)


def test_a_device_that_has_fallen_silent_has_no_power_now():
    """As a GPU that was lost: its last reading is not what it draws."""
    powers = dict.fromkeys(range(8), (350.0,))
    silent = watched(power_w={**powers, 3: (700.0, *[math.nan] * 90)})

    boxes, rows = ("\n".join(frame_of([silent], Look(200, height), AT, "x")) for height in (0, 15))
    assert "unknown: unread for 1.50 min" in boxes and "unknown: unread for 1.50 min" in rows
    assert boxes.count("350 W of 700 W") == 7
    assert "GPUs 2.45 kW (7 of 8, the others unknown)" in plain_line(silent, AT)
    assert "; GPUs unknown; " in plain_line(watched(power_w={0: (math.nan,)}), AT)


def test_power_of_a_database_that_is_behind_is_dated():
    behind = watched(power_at=AT - timedelta(seconds=40))

    assert any("power is of " in line for line in frame_of([behind], Look(200), AT, "x"))
    assert not any("power is of " in line for line in frame_of([watched()], Look(200), AT, "x"))


def test_a_run_that_has_ended_shows_mean_power_and_none_now():
    ended = watched(status="finished", ended_at=AT)

    text = "\n".join(frame_of([ended], Look(200), AT, "x"))
    assert "finished 1.01 min" in text and text.count("mean 1.00 W of 700 W") == 8 and "350 W" not in text
    assert "GPUs" not in plain_line(ended, AT)


def test_parts_that_are_not_measured_for_one_reason_share_a_line_and_have_no_row():
    parts = tuple(NotMeasured("cpu", f"part {n}", f"reason {n // 2}", key=str(n)) for n in range(8))
    device = DeviceEnergy("cpu", "1", "part 1", "none", None, None, None, None)
    one = watched(not_measured=parts)

    lines = frame_of([replace(one, run=replace(one.run, devices=(device,)))], Look(200), AT, "x")
    assert "not measured: CPU part 0, CPU part 1: reason 0" in lines and "and 1 more: tracker show run-1" in lines
    assert sum("part 1" in line for line in lines) == 1


def test_in_ascii_other_letters_are_escaped():
    named = watched(name="训练 é", mark=Mark(START, 1.0, {"é": 1}))

    assert frame_of([named], Look(80, is_ascii=True), AT, "x")[0].startswith("\\u8bad\\u7ec3 \\xe9  run-1")
    assert plain_line(named, AT, is_ascii=True).isascii() and "训练" in plain_line(named, AT)


def test_what_was_made_since_the_mark_before_is_no_progress():
    marked = watched(mark=Mark(START, 1.0, {"step": 12, "steps": 3, "tokens": 400}))

    assert "progress: step 12, tokens 400" in frame_of([marked], Look(80), AT, "x")


def test_trouble_stands_above_what_was_read_before():
    lines = frame_of([watched()], Look(200), AT, "x", "x: is away")

    assert lines[0] == "! cannot be read at present: x: is away" and lines[2].startswith("finetune")
    assert frame_of([], Look(200), AT, "x", "x: is away") == lines[:1]


def test_figures_that_are_old_say_of_when_they_are():
    old = frame_of([watched()], Look(200), AT + timedelta(seconds=10), "x")

    assert "(of " in old[1] and "1.18 min" in old[0]
    assert "(of " not in frame_of([watched()], Look(200), AT + timedelta(seconds=2), "x")[1]


def test_colours_are_never_all_that_tells():
    plain, coloured = (frame_of([watched()], Look(200, has_colours=has), AT, "x") for has in (False, True))

    assert any("\x1b[33m! one" in line for line in coloured)
    assert [line.replace("\x1b[1m", "").replace("\x1b[33m", "").replace("\x1b[0m", "") for line in coloured] == plain


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    return tmp_path / "runs.db"


def a_live_writer(path, run_id="live") -> RunWriter:
    """A writer of this process, so that its run counts as going on."""
    run = replace(a_full_run(run_id), status="running", ended_at=None, devices=(), started_at=datetime.now(UTC))
    return writer_of(path, run, replace(this_segment(), started=after(0)))


def test_a_watcher_sees_power_second_by_second_and_reads_no_second_twice(db):
    writer = a_live_writer(db)
    for index in range(4):
        writer.commit_second(second(index), after(index + 1))
    watcher = Watcher(db=db)
    (first,) = watcher.look()
    for index in range(4, 8):
        writer.commit_second(second(index), after(index + 1))
    (then,) = watcher.look()
    writer.close()

    powers = then.power_w[0]
    assert first.run.status == "running" and first.devices[0].max_power_mw == 700_000
    assert first.power_w[0] == powers[: len(first.power_w[0])]
    assert len(powers) == 8 and min(powers) >= 100.0
    assert then.power_w[1][-1] == pytest.approx(10.0, rel=0.01)


def test_a_second_without_a_reading_of_its_own_is_no_gap():
    """One reading a second at a random instant of it, on a grid of seconds that is not the calendar's."""
    draw = random.Random(1)
    unix_us = np.array([round((1_000 + n + 0.4 + draw.random()) * 1e6) for n in range(60) if not 20 <= n < 30])
    power_w = np.arange(float(len(unix_us)))

    seconds_w = by_second(unix_us, power_w, 1_001, 1_058, 3_000_000)

    gap = np.flatnonzero(np.isnan(seconds_w))
    assert 7 <= len(gap) <= 9 and gap[0] >= 20 and gap[-1] <= 29 and len(gap) == gap[-1] - gap[0] + 1
    assert seconds_w[-1] == power_w[unix_us < 1_059_000_000][-1]


def test_sealed_readings_are_seen_and_only_the_newest_of_them(db):
    writer = a_live_writer(db)
    run = a_run("live", name="finetune")
    for minute in range(10):
        writer.seal(run, chunks(range(60 * minute, 60 * minute + 60)), [], after(60 * minute + 60))

    (first,) = (watcher := Watcher(db=db)).look()
    writer.commit_second(second(600), after(601))
    (then,) = watcher.look()
    writer.close()

    assert len(first.power_w[0]) == KEPT_S and not np.isnan(first.power_w[1]).any()
    assert then.power_at - first.power_at == timedelta(seconds=1)
    assert then.power_w[0][:-2] == first.power_w[0][1:-1]


def test_a_device_that_falls_silent_is_unknown_beside_those_that_go_on(db):
    writer = a_live_writer(db)
    writer.commit_second(second(0), after(1))
    for index in range(1, 30):
        rows = array("q")
        append_reading(rows, 1, Reading(BOOT_US + index * SECOND_US, counter_uj=60_000_000 + index * 10_000_000))
        writer.commit_second(rows, after(index + 1))
    (one,) = Watcher(db=db).look()
    writer.close()

    assert one.power_w[0][0] == 100.0 and math.isnan(one.power_w[0][-1])
    assert not math.isnan(one.power_w[1][-1])


def test_power_goes_on_after_the_calendar_clock_was_set_back(db):
    writer = a_live_writer(db)
    watcher = Watcher(db=db)
    for index in range(4):
        writer.commit_second(second(index), after(index + 1))
    (before,) = watcher.look()

    def set_back(seconds: float) -> ClockPair:
        return replace(after(seconds), unix_us=after(seconds).unix_us - 3_600 * SECOND_US)

    writer.seal(a_run("live"), chunks(range(4)), [], set_back(4))
    writer.commit_second(second(4), set_back(5))
    (then,) = watcher.look()
    writer.close()

    assert before.power_at - then.power_at > timedelta(minutes=59) and not math.isnan(then.power_w[0][-1])


def test_a_run_file_that_is_folded_in_is_followed_into_its_database(db):
    beside = db.parent / "runs.db.d" / "live.here.db"
    beside.parent.mkdir()
    writer = a_live_writer(beside)
    watcher = Watcher(db=db)
    assert [one.run.status for one in watcher.look()] == ["running"]
    writer.close()
    shutil.rmtree(beside.parent)
    watcher.look()
    assert "live" in watcher.trouble
    store_run(db, a_full_run("live"))

    assert [one.run.status for one in watcher.look()] == ["finished"] and watcher.trouble == ""


def test_records_are_read_as_often_as_they_are_cheap(db):
    writer = a_live_writer(db)
    clock = iter([0.0, 0.0, 0.0, 1.0] + [2.0] * 9)  # listed at 0; the record takes from 0 to 1
    watcher = Watcher(db=db, clock_s=lambda: next(clock), now=lambda: AT)
    (first,) = watcher.look()
    writer.commit_second(second(0), after(1))
    (second_look,) = watcher.look()
    writer.close()

    assert second_look.run is first.run and second_look.power_w


def test_a_run_that_ends_stays_with_its_end_and_new_ones_come_in(db):
    clock_s = 0.0
    watcher = Watcher(db=db, clock_s=lambda: clock_s)
    assert watcher.look() == []
    writer = a_live_writer(db)
    clock_s = 10.0
    assert [one.run.status for one in watcher.look()] == ["running"]
    writer.finish(replace(a_full_run("live"), devices=()), [], [], after(60))
    writer.close()
    clock_s = 20.0

    assert [one.run.status for one in watcher.look()] == ["finished"]


def test_an_empty_database_and_an_ended_run_are_shown_too(db):
    assert "no runs are going on" in CliRunner().invoke(cli, ["watch", "--once"]).output
    store_run(db, a_full_run("ended"))

    assert "no runs are going on" in CliRunner().invoke(cli, ["watch", "--once"]).output
    assert "finished" in CliRunner().invoke(cli, ["watch", "ended", "--once"]).output
    found = json.loads(CliRunner().invoke(cli, ["watch", "ended", "--once", "--json"]).output)
    assert found[0]["energy_j"] == tracker.get("ended").energy_j
    assert CliRunner().invoke(cli, ["watch", "--json"]).exit_code == 2
    assert CliRunner().invoke(cli, ["watch", "nobody", "--once"]).exit_code == 1


def read_until(terminal: int, text: bytes, seconds: float = 20.0) -> bytes:
    deadline_s = time.monotonic() + seconds
    seen = b""
    while text not in seen and time.monotonic() < deadline_s:
        ready, _, _ = select.select([terminal], [], [], 0.1)
        if ready:
            try:
                seen += os.read(terminal, 65_536)
            except OSError:  # the other end is closed
                break
    assert text in seen, seen
    return seen


WATCH = "from tracker.cli import main; main(['watch', '--interval', '0.2'])"


@contextmanager
def in_a_terminal(lines: int, columns: int, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """The command in a terminal of that size: the process, our end of the terminal and its end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environ = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", WATCH],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**environ, "TERM": "xterm", **variables},
        start_new_session=True,
    )
    try:
        yield process, master, slave
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("how", ["q", "ctrl-c", "terminate"])
def test_a_terminal_is_redrawn_at_its_new_size_and_left_as_it_was(db, how):
    writer = a_live_writer(db)
    writer.commit_second(second(0), after(1))
    with in_a_terminal(30, 100) as (process, master, slave):
        before = termios.tcgetattr(slave)
        read_until(master, b"finetune")
        assert termios.tcgetattr(slave) != before
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 24, 0, 0))
        read_until(master, b"\nenergy unknown;\x1b[K")  # wrapped at 24 columns
        os.write(master, b"\x1b[A")  # an arrow, which begins as escape does
        read_until(master, b"finetune")
        if how == "q":
            os.write(master, b"q")
        else:
            process.send_signal(signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
        seen = read_until(master, b"\x1b[?25h\x1b[?1049l")

        assert process.wait(timeout=20) == 0 and b"Traceback" not in seen
        assert termios.tcgetattr(slave) == before
    writer.close()


def test_no_color_leaves_the_screen_without_colours_and_a_dumb_terminal_has_lines(db):
    writer = a_live_writer(db)
    writer.commit_second(second(0), after(1))
    with in_a_terminal(30, 100, NO_COLOR="") as (_, master, _):
        read_until(master, b"\x1b[1mfinetune")
    with in_a_terminal(30, 100, NO_COLOR="1") as (_, master, _):
        assert b"\x1b[1m" not in read_until(master, b"finetune")
    with in_a_terminal(30, 100, TERM="dumb") as (_, master, _):
        assert b"\x1b" not in read_until(master, b"; finetune; running; ")
    writer.close()


def test_a_run_of_another_process_is_shown_once_and_nothing_waits(db):
    trace = EXAMPLE_TRACE
    code = f"""
import sys, tracker
with tracker.track("other", zone="FR", db={str(db)!r}) as run:
    run.mark(step=7)
    print("on", flush=True)
    sys.stdin.readline()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "TRACKER_REPLAY": str(trace), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    other.stdout.readline()
    command = [sys.executable, "-m", "tracker", "watch", "--once", "--ascii"]

    def text() -> str:
        environ = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout

    deadline_s = time.monotonic() + 20
    while "grid 40.3" not in (shown := text()) and time.monotonic() < deadline_s:
        pass
    other.communicate("\n", timeout=20)

    assert shown.startswith("other  ") and "  running " in shown and "replayed: a recorded trace" in shown
    assert (
        shown.count("+- GPU") == 8 and "progress: step 7" in shown and "grid 40.3 g/kWh (FR, bundled, static)" in shown
    )
    assert "no runs are going on" in text()


def test_without_a_terminal_it_says_once_that_nothing_runs_and_waits(db):
    process = subprocess.Popen([sys.executable, "-c", WATCH], stdout=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    writer = a_live_writer(db)
    second_line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    writer.close()

    assert first.startswith("no runs are going on in ") and "; finetune; running; " in second_line


def test_without_a_terminal_there_is_a_line_for_each_look(db):
    writer = a_live_writer(db)
    writer.commit_second(second(0), after(1))
    process = subprocess.Popen([sys.executable, "-c", WATCH], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, trouble = process.communicate(timeout=20)
    writer.close()

    assert all("; live; finetune; running; " in line for line in lines)
    assert process.returncode == 0 and trouble == ""


def test_machines_are_named_where_a_run_has_several_and_their_devices_stay_apart(db):
    writer = a_live_writer(db)
    writer.commit_second(second(0), after(1))
    here = replace(this_segment(), host="gpu-b.cluster.example", pid=1, started=after(0))
    other = RunWriter(open_for_writing(db))
    other.begin(replace(a_full_run("live"), status="running", ended_at=None), here)
    other.add_devices([GPU, PACKAGE])
    rows = array("q")
    append_reading(rows, 0, Reading(BOOT_US + 100, 33_000))
    other.commit_second(rows, after(1))
    (one,) = Watcher(db=db).look()
    writer.close()
    other.close()

    assert one.power_w[0][-1] >= 100.0 and one.power_w[2][-1] == 33.0
    told = "\n".join(frame_of([one], Look(200), AT, "x"))
    assert "gpu-b GPU 0" in told and f"{one.hosts[0].partition('.')[0]} GPU 0" in told
    labels = Page(pages.run_page(one.run, one.hosts)).texts
    assert "gpu-b GPU 0 Test GPU" in labels
    assert not any("gpu-b" in text for text in Page(one.run._repr_html_()).texts)  # which may be shown to others


def test_one_machine_is_not_named():
    told = "\n".join(frame_of([replace(watched(), hosts=("node1",) * 9)], Look(200), AT, "x"))

    assert "GPU 0" in told and "node1" not in told
