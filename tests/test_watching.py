"""What `tracker watch` shows: frames of any size, and the command on a run that goes on in another process."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from stored_runs import GPU, START, a_full_run, after, second, store_run, writer_of

import tracker
from tracker.cli import cli
from tracker.records import DeviceEnergy, Mark, NotMeasured
from tracker.session.watching import Watcher
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
        "devices": {("gpu", f"GPU-{number}"): replace(GPU, key=f"GPU-{number}") for number in range(8)},
        "power_w": {("gpu", f"GPU-{number}"): powers for number in range(8)},
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
        watched(name=HOSTILE, warnings=(HOSTILE,) * 9, not_measured=(NotMeasured("dram", HOSTILE, "x"),)),
    ]

    lines = frame_of(shown, Look(width, height, is_ascii), AT, "x")

    assert height == 0 or len(lines) <= height
    for line in lines:
        assert columns_of(line) <= width and line.isprintable()
        assert line.isascii() or not is_ascii


def test_boxes_beside_each_other_become_rows_where_the_terminal_is_low():
    high, low = (frame_of([watched()], Look(200, height), AT, "x") for height in (0, 15))

    assert sum("┌" in line for line in high) == 2  # five and three
    assert not any("┌" in line for line in low) and sum("GPU" in line for line in low) == 8


def test_what_is_unknown_is_unknown_and_measured_and_modelled_stay_apart():
    unknown = watched(energy_j=None, emissions_g=None, energy_modelled_j=None, emissions_modelled_g=None, coverage=None)
    silent = watched(power_w={("gpu", "GPU-0"): (math.nan,)})

    assert "energy unknown; emissions unknown; coverage unknown" in frame_of([unknown], Look(200), AT, "x")
    assert "unknown: not read yet" in " ".join(frame_of([silent], Look(200), AT, "x"))
    assert "unknown" in " ".join(frame_of([silent], Look(30), AT, "x"))
    assert " 0 W" not in " ".join(frame_of([silent], Look(200), AT, "x"))
    assert "modelled (an estimate)" in plain_line(watched(), AT)


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
    from tracker.machine import this_segment

    run = replace(a_full_run(run_id), status="running", ended_at=None, devices=(), started_at=datetime.now(UTC))
    return writer_of(path, run, this_segment())


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

    powers = then.power_w["gpu", "GPU-1"]
    assert first.run.status == "running" and first.devices["gpu", "GPU-1"].max_power_mw == 700_000
    assert first.power_w["gpu", "GPU-1"] == powers[: len(first.power_w["gpu", "GPU-1"])]
    assert len(powers) == 8 and min(powers) >= 100.0
    assert then.power_w["cpu_package", "intel-rapl:0"][-1] == pytest.approx(10.0, rel=0.01)


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


@pytest.mark.parametrize("how", ["q", "interrupt"])
def test_a_terminal_is_redrawn_at_its_new_size_and_left_as_it_was(db, how):
    open_for_writing(db)
    writer = a_live_writer(db)
    writer.commit_second(second(0), after(1))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(slave)
    code = "from tracker.cli import main; main(['watch', '--interval', '0.2'])"
    environ = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
    )
    read_until(master, b"finetune")
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 24, 0, 0))
    read_until(master, b"\nenergy unknown;\x1b[K")  # wrapped at 24 columns
    if how == "q":
        os.write(master, b"q")
    else:
        process.send_signal(signal.SIGINT)
    seen = read_until(master, b"\x1b[?25h\x1b[?1049l")

    assert process.wait(timeout=20) == 0 and b"Traceback" not in seen
    assert termios.tcgetattr(slave) == before
    writer.close()
    os.close(master)
    os.close(slave)


def test_without_a_terminal_there_is_a_line_for_each_look(db):
    writer = a_live_writer(db)
    writer.commit_second(second(0), after(1))
    code = "from tracker.cli import main; main(['watch', '--interval', '0.2'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, trouble = process.communicate(timeout=20)
    writer.close()

    assert all("; live; finetune; running; " in line for line in lines)
    assert process.returncode == 0 and trouble == ""
