"""A run from its first line to the database and back, on the stand-in hardware in real time."""

import asyncio
import contextlib
import functools
import inspect
import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from standin.nvml import Const, Gpu

import tracker
from tracker.errors import RunNotFoundError
from tracker.machine import boottime_us

GPU_W = 100
NEAR_J = 3.0  # of 100 W: 30 ms


@pytest.fixture(autouse=True)
def hardware(standin_nvml, powercap_tree, tmp_path, monkeypatch):
    """One GPU at a steady 100 W in real time, a package and its DRAM that stand still, and a database of our own."""
    standin_nvml.plug(Gpu(power=(Const(GPU_W * 1000),)), epoch_us=boottime_us())
    monkeypatch.delenv("STANDIN_CLOCK")
    monkeypatch.setenv("LD_LIBRARY_PATH", standin_nvml.env["LD_LIBRARY_PATH"])  # for child processes
    powercap_tree.add("intel-rapl:0", "package-0", 5_000_000)
    powercap_tree.add("intel-rapl:0:0", "dram", 1_000_000)
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRACKER_SYSFS", str(powercap_tree.sysfs))
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TRACKER_ZONE", "FR")
    monkeypatch.chdir(tmp_path)


def gpu_of(run):
    (device,) = [d for d in run.devices if d.kind == "gpu"]
    return device


def assert_is_100_w(run, seconds=None):
    gpu = gpu_of(run)
    assert gpu.energy_j == pytest.approx(GPU_W * run.duration_s, abs=NEAR_J)
    assert gpu.method == "counter" and gpu.coverage > 0.95  # of a run of half a second on a busy machine
    if seconds is not None:
        assert seconds - 0.01 < run.duration_s < seconds + 10  # on a busy machine anything may take long


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_block_is_measured_priced_stored_and_read_back():
    with tracker.track("train", project="nlp", tags={"seed": "1"}, pue=1.5) as live:
        time.sleep(0.4)
    run = live.run

    assert run.status == "finished"
    assert_is_100_w(run, 0.4)
    assert (run.name, run.project, run.tags, run.pue) == ("train", "nlp", {"seed": "1"}, 1.5)
    (use,) = run.intensity
    expected_g = run.energy_j / 3.6e6 * use.value.intensity_g_per_kwh * 1.5
    assert run.emissions_g == pytest.approx(expected_g)
    assert (use.value.zone, use.value.provider, use.value.status) == ("FR", "bundled", "static")
    (stored,) = tracker.runs()
    assert stored.to_dict() == run.to_dict() == tracker.get(run.id).to_dict() == tracker.get("last").to_dict()


def test_instants_are_aware_and_true_in_any_time_zone(monkeypatch):
    """Case 424: recorded in one zone, looked at in another."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    before = datetime.now(UTC)
    with tracker.track("x"):
        time.sleep(0.1)
    after = datetime.now(UTC)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()

    (run,) = tracker.runs(since=datetime.now(UTC) - timedelta(hours=1))

    assert before - timedelta(seconds=2) < run.started_at < run.ended_at < after + timedelta(seconds=2)
    assert run.started_at.utcoffset() == timedelta(0)
    assert tracker.runs(until=datetime.now(UTC) - timedelta(hours=1)) == []
    monkeypatch.undo()
    time.tzset()


def test_stopping_again_changes_nothing():
    """Case 401: stop() twice, stop() inside the block and its end: one run each."""
    live = tracker.track("twice").start()
    time.sleep(0.2)
    first = live.stop()
    second = live.stop()
    with tracker.track("inside") as inside:
        time.sleep(0.2)
        stopped = inside.stop()
        time.sleep(0.3)

    assert first is second
    assert inside.run is stopped
    assert [run.name for run in tracker.runs()] == ["inside", "twice"]
    for run in tracker.runs():
        assert_is_100_w(run, 0.2)


def test_stopping_from_several_threads_gives_one_run():
    live = tracker.track("x").start()
    time.sleep(0.1)
    got = []
    threads = [threading.Thread(target=lambda: got.append(live.stop())) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == 8 and all(run is got[0] for run in got)
    assert len(tracker.runs()) == 1


class BoomError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (BoomError("x"), "failed"),
        (SystemExit(), "finished"),
        (SystemExit(0), "finished"),
        (SystemExit(3), "failed"),
        (SystemExit("message"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (GeneratorExit(), "finished"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("form", ["with", "decorator"])
def test_the_users_exception_passes_through_and_the_run_is_stored(raised, status, form):
    """Case 404: the very same object, its traceback into the user's line, and a status that says how it ended."""

    def work():
        time.sleep(0.1)
        raise raised

    caught = None
    try:
        if form == "with":
            with tracker.track("x"):
                work()
        else:
            tracker.track("x")(work)()
    except BaseException as exc:  # noqa: BLE001
        caught = exc

    assert caught is raised
    assert "raise raised" in traceback.format_tb(caught.__traceback__)[-1]
    (run,) = tracker.runs()
    assert run.status == status
    assert_is_100_w(run, 0.1)


def test_the_process_of_a_failed_run_ends_with_its_own_code():
    done = python(
        """
        import tracker, time
        live = tracker.track("left running").start()
        time.sleep(0.2)
        raise SystemExit(3)
        """
    )

    assert done.returncode == 3, done.stderr
    (run,) = tracker.runs()
    assert run.status != "running"
    assert run.energy_j > 0


def test_no_thread_is_left_after_the_last_run():
    before = threading.enumerate()
    with tracker.track("outer"), tracker.track("inner"):
        during = {thread.name for thread in threading.enumerate()} - {thread.name for thread in before}

    assert during == {"tracker-sampler", "tracker-writer"}
    assert threading.enumerate() == before


def test_runs_side_by_side_and_nested_each_have_their_own_energy():
    with tracker.track("outer") as outer:
        time.sleep(0.2)
        with tracker.track("inner") as inner:
            time.sleep(0.2)
    assert_is_100_w(outer.run, 0.4)
    assert_is_100_w(inner.run, 0.2)

    def work(name):
        with tracker.track(name):
            time.sleep(0.2)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    side_by_side = [run for run in tracker.runs() if run.name.startswith("t")]
    assert len(side_by_side) == 4
    for run in side_by_side:
        assert_is_100_w(run, 0.2)


def test_one_track_can_be_entered_again_within_itself():
    prepared = tracker.track("x")
    with prepared as first, prepared as second:
        assert first.id != second.id
    assert {run.status for run in tracker.runs()} == {"finished"}
    assert len(tracker.runs()) == 2


def test_a_decorated_function_keeps_all_it_had():
    @tracker.track(project="f")
    def train(x, *, lr=0.1, **kw):
        """doc"""
        return {"x": x, "lr": lr, **kw}

    assert train(3, lr=0.5, z=1) == {"x": 3, "lr": 0.5, "z": 1}
    assert (train.__name__, train.__doc__) == ("train", "doc")
    assert list(inspect.signature(train).parameters) == ["x", "lr", "kw"]
    (run,) = tracker.runs()
    assert (run.project, run.name.rpartition(".")[2]) == ("f", "train")


def test_methods_of_every_kind_are_decorated_from_either_side():
    class M:
        k = 7

        @tracker.track
        def fit(self, n):
            return self.k * n

        @staticmethod
        @tracker.track("s1")
        def s1(n):
            return n + 1

        @tracker.track("s2")
        @staticmethod
        def s2(n):
            return n + 2

        @classmethod
        @tracker.track("c1")
        def c1(cls, n):
            return cls.k + n

        @tracker.track("c2")
        @classmethod
        def c2(cls, n):
            return cls.k - n

    assert (M().fit(6), M.s1(1), M().s2(1), M.c1(1), M().c2(1)) == (42, 2, 3, 8, 6)
    assert len(tracker.runs()) == 5
    assert tracker.runs(name="c2")[0].status == "finished"


def test_a_recursive_call_belongs_to_the_outermost_one():
    @tracker.track
    def fact(n):
        return 1 if n < 2 else n * fact(n - 1)

    assert fact(5) == 120
    assert len(tracker.runs()) == 1


def test_coroutines_side_by_side_are_runs_of_their_own():
    @tracker.track
    async def work(n):
        await asyncio.sleep(0.2)
        return n

    async def both():
        return await asyncio.gather(work(1), work(2))

    assert asyncio.run(both()) == [1, 2]
    runs = tracker.runs()
    assert len(runs) == 2
    for run in runs:
        assert_is_100_w(run, 0.2)


def test_a_generator_is_one_run_from_first_step_to_end_or_close():
    @tracker.track
    def numbers(n):
        got = yield 0
        assert got == "sent"
        yield from range(1, n)
        return "result"

    steps = numbers(3)
    assert tracker.runs() == []  # nothing has been asked of it
    assert next(steps) == 0
    assert steps.send("sent") == 1
    assert next(steps) == 2
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert ended.value.value == "result"
    left = numbers(3)
    next(left)
    left.close()

    assert [run.status for run in tracker.runs()] == ["finished", "finished"]


def test_an_async_generator_hands_on_values_and_exceptions():
    @tracker.track
    async def numbers():
        try:
            got = yield 1
            yield got
        except BoomError:
            yield "caught"

    async def use():
        steps = numbers()
        first = await anext(steps)
        second = await steps.asend("sent")
        third = await steps.athrow(BoomError())
        with contextlib.suppress(StopAsyncIteration):
            await anext(steps)
        left = numbers()
        await anext(left)
        await left.aclose()
        return first, second, third

    assert asyncio.run(use()) == (1, "sent", "caught")
    assert [run.status for run in tracker.runs()] == ["finished", "finished"]


def test_spans_nest_and_marks_keep_their_values():
    with tracker.track("x") as run, run.span("epoch", index=0):
        time.sleep(0.15)
        with run.span("step"):
            time.sleep(0.15)
        run.mark(step=1, loss=float("nan"), tokens=4096, note="é")
    outer, inner = run.spans

    assert (outer.name, outer.attributes, outer.parent_id) == ("epoch", {"index": 0}, None)
    assert (inner.name, inner.parent_id) == ("step", outer.id)
    assert outer.energy_j == pytest.approx(GPU_W * outer.duration_s, abs=NEAR_J)
    assert inner.energy_j == pytest.approx(GPU_W * inner.duration_s, abs=NEAR_J)
    (mark,) = run.marks
    assert mark.values["tokens"] == 4096 and mark.values["note"] == "é" and mark.values["loss"] != mark.values["loss"]
    assert mark.elapsed_s == pytest.approx(0.3, abs=0.2)


def test_spans_and_marks_after_the_end_do_nothing():
    live = tracker.track("x").start()
    open_one = live.span("open")
    open_one.__enter__()
    live.stop()

    with live.span("late"):
        live.mark(step=1)
    open_one.__exit__(None, None, None)

    (span,) = live.spans
    assert span.name == "open" and span.ended_at is not None
    assert live.marks == ()


def test_a_snapshot_knows_the_energy_up_to_now_and_disturbs_nothing():
    live = tracker.track("x").start()
    time.sleep(0.3)
    middle = live.snapshot()
    time.sleep(0.2)
    end = live.stop()

    assert middle.status == "running" and middle.ended_at is None
    assert_is_100_w(middle, 0.3)
    assert_is_100_w(end, 0.5)
    assert live.snapshot() is end


def test_the_names_of_run_are_read_through():
    with tracker.track("x") as live:
        assert live.status == "running" and live.name == "x"
    assert live.energy_kwh == live.run.energy_kwh
    assert "x" in live.summary()
    with pytest.raises(AttributeError, match="nonsense"):
        live.nonsense  # noqa: B018


def test_raw_readings_give_the_stored_energy_again():
    with tracker.track("x") as live:
        time.sleep(0.3)
    run = tracker.get(live.id)
    (gpu,) = [samples for samples in run.samples() if samples.device.kind == "gpu"]

    counter_j, seconds = np.diff(gpu.counter_uj[[0, -1]])[0] / 1e6, gpu.elapsed_s[-1]
    assert gpu.counter_known.all() and gpu.power_known.all()
    assert counter_j == pytest.approx(GPU_W * seconds, abs=0.1)
    assert counter_j * run.duration_s / seconds == pytest.approx(gpu_of(run).energy_j, abs=0.1)
    assert abs(gpu.time_utc[0].astype("datetime64[us]").astype(int) - run.started_at.timestamp() * 1e6) < 2e6


def test_rapl_is_read_beside_the_gpu(powercap_tree):
    live = tracker.track("x").start()
    time.sleep(0.2)
    powercap_tree.set_energy("intel-rapl:0", 5_000_000 + 12_500_000)
    powercap_tree.set_energy("intel-rapl:0:0", 1_000_000 + 2_500_000)
    run = live.stop()

    by_kind = {d.kind: d.energy_j for d in run.devices}
    assert by_kind["cpu_package"] == pytest.approx(12.5, abs=0.5)
    assert by_kind["dram"] == pytest.approx(2.5, abs=0.1)
    assert run.energy_j == pytest.approx(sum(by_kind.values()))


def test_what_no_meter_reads_is_modelled_apart_and_what_one_reads_is_not(powercap_tree):
    with tracker.track("metered") as live:
        time.sleep(0.1)
        for zone in ("intel-rapl:0", "intel-rapl:0:0"):
            powercap_tree.set_energy(zone, 9_000_000)
    assert not [d for d in live.stop().devices if d.method == "model"]

    shutil.rmtree(powercap_tree.sysfs / "class" / "powercap")
    with tracker.track("unmetered") as live:
        time.sleep(0.1)
    run = tracker.get(live.id)
    modelled = [d for d in run.devices if d.method == "model"]
    assert [d.kind for d in modelled] == ["cpu", "ram"]
    assert run.energy_modelled_j == pytest.approx(sum(d.energy_j for d in modelled))
    assert run.energy_j == gpu_of(run).energy_j
    assert run.emissions_modelled_g > 0
    for device in modelled:
        low_j, high_j = device.energy_range_j
        assert low_j < device.energy_j < high_j
        assert "model, not measured" in device.notes[0]
    assert {part.kind for part in run.not_measured} >= {"cpu_package", "dram"}


def test_disabled_tracking_does_nothing_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKER_DISABLED", "1")
    before = set(threading.enumerate())  # what another test has left behind may still be ending

    @tracker.track
    def f():
        return 42

    with tracker.track("x") as run, run.span("a"):
        run.mark(step=1)
    assert f() == 42
    assert run.status == "disabled" and run.energy_j is None and run.spans == ()
    assert not (tmp_path / "runs.db").exists()
    assert set(threading.enumerate()) <= before


def test_disabled_tracking_loads_nothing_that_only_tracking_needs():
    code = """
        import sys, tracker
        @tracker.track
        def f(): return 42
        with tracker.track("x", project="p") as run, run.span("a"):
            run.mark(step=f())
        mine = {"numpy", "sqlalchemy", "psutil", "pynvml", "requests", "platformdirs", "sqlite3", "tracker.sampler"}
        print(sorted(mine & set(sys.modules)))
    """
    environ = {**os.environ, "TRACKER_DISABLED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("moment", ["early", "late"])
def test_a_run_killed_without_warning_is_on_record_up_to_the_last_second(moment):
    code = """
        import os, sys, time, tracker
        with tracker.track("killed", project="p") as run:
            print("up", flush=True)
            time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    child.stdout.readline()
    up_s = time.monotonic()
    alive = tracker.get("last")
    time.sleep(0.0 if moment == "early" else 3.2)
    child.send_signal(signal.SIGKILL)
    child.wait()
    lived_s = time.monotonic() - up_s
    child.stdout.close()

    run = tracker.get("last")

    assert alive.status == "running"
    assert run.status == "interrupted" and run.project == "p"
    if moment == "late":
        assert run.ended_at is not None
        assert lived_s - 1.3 < run.duration_s < lived_s + 0.4
        assert gpu_of(run).energy_j == pytest.approx(GPU_W * run.duration_s, rel=0.5)
        assert GPU_W * 1.0 < gpu_of(run).energy_j < GPU_W * (lived_s + 0.4)
        assert run.emissions_g > 0
        assert run.intensity[0].value.zone == "FR"
    with tracker.track("next"):
        time.sleep(0.1)
    assert [r.status for r in tracker.runs()] == ["finished", "interrupted"]


def test_the_end_of_a_forked_child_is_not_the_end_of_the_run():
    done = python(
        """
        import os, time, tracker
        with tracker.track("parent") as run:
            time.sleep(0.1)
            if os.fork() == 0:
                run.mark(step=1)
                run.stop()
                raise SystemExit(0)
            os.wait()
            time.sleep(0.1)
        """
    )

    assert done.returncode == 0, done.stderr
    (run,) = tracker.runs()
    assert run.status == "finished" and run.marks == ()
    assert_is_100_w(run, 0.2)


def test_nothing_is_imported_in_a_thread_of_ours():
    """A fork during such an import leaves the child hanging at its own import of that module."""
    done = python(
        """
        import sys, threading, time
        seen = []
        def hook(event, args):
            if event == "import" and threading.current_thread().name.startswith("tracker"):
                seen.append(args[0])
        sys.addaudithook(hook)
        import tracker
        with tracker.track("x") as run:
            with run.span("s"):
                run.mark(step=1)
                time.sleep(1.2)
            run.snapshot()
        print(seen)
        """
    )

    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_wrong_variable_is_named_once_and_harms_nothing(monkeypatch, caplog):
    monkeypatch.setenv("TRACKER_PUE", "half")
    monkeypatch.setenv("TRACKER_ZONE", "Atlantis")
    monkeypatch.setenv("TRACKER_INTENSITY", "250")
    for _ in range(3):
        with tracker.track("x") as run:
            pass

    assert run.pue == 1.0
    assert sum("TRACKER_PUE" in r.message for r in caplog.records) == 1
    assert sum("Atlantis" in r.message for r in caplog.records) == 1
    assert any("TRACKER_PUE" in warning for warning in run.warnings)
    assert run.intensity == () or run.intensity[0].value.intensity_g_per_kwh == 250


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"zone": "Atlantis"}, "Atlantis"),
        ({"zone": "CA-XX"}, "CA-XX"),
        ({"replay": __file__}, "test_session.py"),
        ({"replay": "no/such/file.csv"}, "no/such/file.csv"),
    ],
)
def test_wrong_arguments_raise_before_anything_starts(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tracker.track("x", **arguments)
    assert not (tmp_path / "runs.db").exists()


def test_a_database_that_is_none_harms_nothing_and_the_run_is_kept_beside_it(tmp_path, caplog):
    garbage = tmp_path / "garbage.db"
    garbage.write_text("this is not a database\n" * 50)

    with tracker.track("x", db=garbage) as run:
        time.sleep(0.2)

    assert garbage.read_text().startswith("this is not")
    assert_is_100_w(run.run)
    (warning,) = [r.message for r in caplog.records if "garbage.db" in r.message]
    assert "is kept in" in warning
    with pytest.raises(tracker.TrackerError):
        tracker.runs(db=garbage)
    (kept,) = list((tmp_path / "garbage.db.d").glob("*.db"))
    assert tracker.runs(db=kept)[0].to_dict() == run.run.to_dict()


def test_a_newer_database_is_left_alone_and_said(tmp_path, caplog):
    newer = tmp_path / "newer.db"
    with tracker.track("old", db=newer):
        pass
    with contextlib.closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version=9999")

    with tracker.track("x", db=newer) as run:
        time.sleep(0.1)

    assert run.run.energy_j is not None
    assert any("newer" in r.message and "9999" in r.message for r in caplog.records)
    assert [r.name for r in tracker.runs(db=newer)] == ["x", "old"]  # beside it, and still readable


@pytest.mark.parametrize(
    "name",
    ["a'b\";--", "ä\u4e2d🙂", "line\nbreak\ttab", " ", "x" * 5000, "None", "../../etc/passwd", "\u202eabc", "%s"],
)
def test_names_come_back_as_they_were_given(name, tmp_path):
    with tracker.track(name, project=name, tags={"t": name}):
        pass

    (run,) = tracker.runs(project=name)

    assert (run.name, run.project, run.tags) == (name, name, {"t": name})
    assert {p.name.removesuffix("-wal").removesuffix("-shm") for p in tmp_path.iterdir()} == {"runs.db", "standin"}


def test_what_cannot_be_stored_as_a_name_is_refused_at_once():
    for name in ("a\0b", "\ud800", "x" * 10_001):
        with pytest.raises(ValueError, match="name"):
            tracker.track(name)


def test_a_missing_run_is_an_error_that_helps():
    with tracker.track("x") as run:
        pass
    with pytest.raises(RunNotFoundError, match="zzz"):
        tracker.get("zzz")
    assert tracker.get(run.id[:6]).id == run.id


def test_compare_takes_records_and_ids():
    runs = []
    for seconds in (0.1, 0.2):
        with tracker.track(f"for {seconds}") as live:
            time.sleep(seconds)
        runs.append(live.run)

    comparison = tracker.compare(runs[0], runs[1].id)

    assert [run.id for run in comparison.runs] == [run.id for run in runs]
    assert "for 0.1" in str(comparison) and "for 0.2" in str(comparison)


def test_a_replayed_run_says_so_everywhere(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("# synthetic\nt_s,kind,key,name,power_w,counter_j\n0,gpu,GPU-a,A,50,0\n100,gpu,GPU-a,A,50,5000\n")

    with tracker.track("x", replay=trace) as live:
        time.sleep(0.3)
    run = live.run

    assert run.is_replayed and tracker.get("last").is_replayed
    assert run.energy_j == pytest.approx(50 * run.duration_s, abs=1)
    assert any("replayed" in note for d in run.devices for note in d.notes)
    assert "replayed" in run.summary() and "GPU-a" in json.dumps(run.to_dict())


def test_the_first_run_takes_the_run_id_and_no_later_one():
    done = python(
        """
        import tracker
        ids = []
        for _ in range(2):
            with tracker.track("x") as run:
                ids.append(run.id)
        print(ids)
        """,
        TRACKER_RUN_ID="job-7",
        TRACKER_PARENT_ID="above",
    )

    assert done.stdout.startswith("['job-7', '"), done.stderr
    assert tracker.get("job-7").parent_id == "above"
    assert len(tracker.runs()) == 2


@functools.cache
def _module_level():
    return None


@tracker.track
def decorated_at_module_level(x):
    return x + 1


def test_a_decorated_function_can_be_pickled():
    again = pickle.loads(pickle.dumps(decorated_at_module_level))
    assert again(1) == 2


def test_own_cost_settings_and_versions_are_on_record(monkeypatch):
    monkeypatch.setenv("TRACKER_PROJECT", "p")
    with tracker.track("x", pue=1.2) as live:
        time.sleep(0.1)
    provenance = tracker.get(live.id).provenance

    assert provenance["own_cost"]["sensor_reads"] >= 4
    assert provenance["own_cost"]["sensor_latency_max_s"] > 0
    assert provenance["settings"]["pue"] == {"value": 1.2, "origin": "argument"}
    assert provenance["settings"]["project"] == {"value": "p", "origin": "TRACKER_PROJECT"}
    assert provenance["versions"]["tracker"] == tracker.__version__


def test_the_sql_views_show_people_the_run(tmp_path):
    with tracker.track("x") as live:
        time.sleep(0.2)

    with contextlib.closing(sqlite3.connect(Path(tmp_path / "runs.db"))) as connection:
        energy_kwh, status = connection.execute("SELECT energy_kwh, status FROM v_runs").fetchone()
        (slots_j,) = connection.execute("SELECT sum(energy_j) FROM v_energy_by_slot WHERE kind = 'gpu'").fetchone()

    assert energy_kwh == pytest.approx(live.run.energy_kwh) and status == "finished"
    assert slots_j == pytest.approx(live.run.energy_j)


def test_runs_that_share_a_gpu_are_both_told_and_a_run_and_its_parts_are_not():
    before = tracker.track("before").start().stop()
    first = tracker.track("first").start()
    second = tracker.track("second").start()
    time.sleep(1.2)  # devices are on record with the first commit
    one, two = second.stop(), first.stop()

    assert not [w for w in before.warnings if "other runs" in w]
    for run, other in ((one, two), (two, one)):
        (told,) = [w for w in tracker.get(run.id).warnings if "charged to other runs" in w]
        assert other.id in told and before.id not in told

    done = python(
        """
        import os, tracker
        with tracker.track("whole") as whole:
            os.environ["TRACKER_PARENT_ID"] = whole.id
            with tracker.track("part") as part:
                pass
        print([w for run in (whole, part) for w in run.warnings if "other runs" in w])
        """
    )
    assert done.stdout == "[]\n", done.stderr
