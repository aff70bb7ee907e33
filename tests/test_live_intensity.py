"""A run priced with what a local server of grid intensity says while the run goes on."""

import itertools
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from grid_server import GridServer, Reply
from standin.nvml import Const, Gpu

import tracker
from tracker.machine import boottime_us
from tracker.session.fetcher import Fetcher
from tracker.session.writer import Writer

HALF_HOUR = timedelta(minutes=30)
TOKEN = "test-token-not-real"


@pytest.fixture(autouse=True)
def hardware(standin_nvml, powercap_tree, tmp_path, monkeypatch):
    """One GPU at a steady 100 W in real time, a database and a private folder of our own."""
    standin_nvml.plug(Gpu(power=(Const(100_000),)), epoch_us=boottime_us())
    monkeypatch.delenv("STANDIN_CLOCK")
    monkeypatch.setenv("LD_LIBRARY_PATH", standin_nvml.env["LD_LIBRARY_PATH"])
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("TRACKER_SYSFS", str(powercap_tree.sysfs))
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TRACKER_ZONE", "GB")
    monkeypatch.chdir(tmp_path)


def stamp(instant):
    return f"{instant:%Y-%m-%dT%H:%MZ}"


def gb(*forecast_and_actual, until=None):
    """Half-hours of Great Britain, the last of them the one under way."""
    now = until or datetime.now(UTC)
    first = now.replace(minute=now.minute // 30 * 30, second=0, microsecond=0) - HALF_HOUR * (
        len(forecast_and_actual) - 1
    )
    return {
        "data": [
            {
                "from": stamp(first + n * HALF_HOUR),
                "to": stamp(first + (n + 1) * HALF_HOUR),
                "intensity": {"forecast": forecast, "actual": actual, "index": "low"},
            }
            for n, (forecast, actual) in enumerate(forecast_and_actual)
        ]
    }


@pytest.fixture
def neso(grid: GridServer, monkeypatch):
    monkeypatch.setenv("TRACKER_PROVIDER", "neso")
    monkeypatch.setenv("TRACKER_NESO_URL", grid.url)
    grid.plays(gb((200, 190), (210, 205), (220, None)))
    return grid


def run_until(asked, seconds=10.0, **arguments):
    """A run that goes on until the condition holds, and a moment more."""
    deadline_s = time.monotonic() + seconds
    with tracker.track("x", **arguments) as live:
        while not asked() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        time.sleep(0.4)
    return live.run


def priced_g(run, intensity_g_per_kwh):
    return pytest.approx(run.energy_j / 3.6e6 * intensity_g_per_kwh)


def test_a_run_is_priced_with_the_value_of_its_time_and_says_where_it_came_from(neso):
    run = run_until(lambda: neso.asked)

    assert run.emissions_g == priced_g(run, 220)
    (use,) = run.intensity
    assert (use.value.provider, use.value.status, use.value.zone) == ("neso", "forecast", "GB")
    assert use.value.basis == "direct" and "CC" in use.value.licence
    assert run.emissions_status == "forecast"
    assert run.provenance["grid"] == {"provider": "neso", "zone": "GB"}
    assert tracker.get(run.id).to_dict() == run.to_dict()


def test_nothing_goes_out_unless_a_provider_is_configured(neso, monkeypatch):
    monkeypatch.delenv("TRACKER_PROVIDER")
    before = set(threading.enumerate())

    run = run_until(lambda: True)

    assert neso.asked == [] and run.emissions_status == "static"
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "tracker-grid"]


def test_a_second_run_and_another_process_ask_nothing_that_is_known(neso):
    run_until(lambda: neso.asked)
    asked = len(neso.asked)

    again = run_until(lambda: True)
    code = "import time, tracker\nwith tracker.track('y') as live: time.sleep(0.5)\nprint(live.run.emissions_status)"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ) for _ in "123"
    ]

    assert again.emissions_g == priced_g(again, 220)
    assert [process.communicate(timeout=60)[0] for process in processes] == ["forecast\n"] * 3
    assert len(neso.asked) == asked


def test_processes_that_start_at_once_ask_once_between_them(neso):
    code = "import time, tracker\nwith tracker.track('y') as live: time.sleep(4)\nprint(live.run.emissions_status)"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(6)
    ]

    said = [process.communicate(timeout=60)[0] for process in processes]

    assert said == ["forecast\n"] * 6
    assert len({asked.path for asked in neso.asked}) == len(neso.asked)  # no request went out twice


def test_processes_with_databases_of_their_own_ask_once_between_them_too(neso, tmp_path):
    run_until(lambda: neso.asked)
    asked = len(neso.asked)

    other = run_until(lambda: True, db=tmp_path / "other.db")

    assert other.emissions_g == priced_g(other, 220) and len(neso.asked) == asked
    folder = tmp_path / "runtime" / "gpu-energy-tracker"
    (answer,) = folder.glob("*.answer")
    for broken in (b"", b"{}", b"\xff", b'{"fetch": 1, "values": [{}]}'):
        answer.write_bytes(broken)
        again = run_until(lambda before=asked: len(neso.asked) > before, db=tmp_path / f"{len(broken)}.db")
        assert again.emissions_g == priced_g(again, 220)
        asked = len(neso.asked)


def test_nothing_is_imported_in_the_fetchers_thread(neso):
    code = """
import sys, threading, time
imported = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread().name == "tracker-grid":
            imported.append(name)
sys.meta_path.insert(0, Finder())
import tracker
with tracker.track("x") as live:
    deadline = time.monotonic() + 20
    while live.snapshot().emissions_status != "forecast" and time.monotonic() < deadline:
        time.sleep(0.02)
assert live.run.emissions_status == "forecast"
print(imported)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


class FaultyFeed:
    """A feed with a fault of ours in it."""

    due_s = 0.0
    is_closed = False

    class source:  # noqa: N801 (stands for an attribute)
        is_offline = True
        gate = None

    def look_beside(self):
        raise RuntimeError("a fault of ours")

    def close(self):
        self.is_closed = True


def test_a_fault_of_the_fetcher_ends_that_feed_alone(caplog):
    writer = Writer()
    fetcher = Fetcher(writer)
    before = {thread for thread in threading.enumerate() if thread.name == "tracker-grid"}

    fetcher.add(FaultyFeed())
    fetcher.add(FaultyFeed())
    for _ in itertools.takewhile(lambda _: len(caplog.messages) < 2, range(1000)):
        time.sleep(0.01)
    ours = {thread for thread in threading.enumerate() if thread.name == "tracker-grid"} - before
    for thread in ours:
        thread.join(5)

    assert [message for message in caplog.messages if "is not asked for any more" in message] == caplog.messages[:2]
    assert not any(thread.is_alive() for thread in ours)


def test_a_source_that_hangs_costs_neither_start_nor_stop_anything(neso):
    neso.plays(Reply(fault="hang"))
    before_s = time.monotonic()
    live = tracker.track("x").start()
    started_s = time.monotonic() - before_s
    while not neso.asked:
        time.sleep(0.01)
    before_s = time.monotonic()
    run = live.stop()
    stopped_s = time.monotonic() - before_s

    assert started_s < 2 and stopped_s < 2  # the request's own limit is 5 s
    assert run.emissions_status == "static"
    assert any("fallback" in warning for warning in run.warnings)
    assert_lock_is_free()


def assert_lock_is_free():
    """No process is kept waiting for the request that was left behind."""
    runtime = os.environ["XDG_RUNTIME_DIR"]
    code = (
        "import fcntl, glob, sys\n"
        f"for path in glob.glob({runtime!r} + '/*/grid-*.lock'):\n"
        "    fcntl.lockf(open(path, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    "reply",
    [
        Reply("<!DOCTYPE html><html></html>", content_type="text/html"),
        Reply({"error": {"code": "500 Internal Server Error"}}, 500),
        Reply({"data": []}),
        Reply({}),
        Reply([]),
        Reply({"error": "no"}, 404),
        Reply("slow down", 429, "text/plain", {"Retry-After": "120"}),
        Reply(fault="reset"),
    ],
    ids=["html", "500", "empty", "object", "list", "404", "429", "reset"],
)
def test_an_answer_that_cannot_be_used_is_told_once_and_the_fallback_is_marked(neso, reply, caplog):
    neso.plays(reply)

    run = run_until(lambda: neso.asked)

    assert run.energy_j is not None and run.emissions_status == "static"
    assert run.emissions_g == priced_g(run, run.intensity[0].value.intensity_g_per_kwh)
    assert len([warning for warning in run.warnings if "priced with the fallback" in warning]) == 1
    assert len([record for record in caplog.records if "Traceback" in record.getMessage()]) == 0
    assert len([record for record in caplog.records if "NESO" in record.getMessage()]) <= 1


def test_after_failures_the_value_comes_within_the_same_run(neso):
    # Case 306: a tracker kept the fallback for the whole hour although the value had arrived.
    neso.plays(Reply({"error": {"code": "500"}}, 500), Reply("Service Unavailable", 503, "text/plain"), gb((250, None)))

    run = run_until(lambda: len(neso.asked) > 2, seconds=20)

    assert run.emissions_g == priced_g(run, 250)
    assert len(neso.asked) == 3


def test_a_refused_token_is_asked_once_told_and_shown_nowhere(grid, monkeypatch, tmp_path, caplog):
    # Case 304: one request per sample, or a value of another place without a word.
    monkeypatch.setenv("TRACKER_ELECTRICITYMAPS_TOKEN", TOKEN)
    monkeypatch.setenv("TRACKER_ELECTRICITYMAPS_URL", grid.url)
    grid.plays(Reply({"error": "Invalid auth-token"}, 401))

    first = run_until(lambda: grid.asked)
    second = run_until(lambda: False, seconds=1.5)

    assert len(grid.asked) == 1
    for run in (first, second):
        assert run.emissions_status == "static"
    assert any("TRACKER_ELECTRICITYMAPS_TOKEN" in warning for warning in first.warnings)
    assert TOKEN not in caplog.text + str(first.to_dict())
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes()


def test_a_series_of_ones_own_prices_slot_by_slot_and_fills_a_short_hole(tmp_path, monkeypatch):
    now = datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    lines = ["start,end,g_per_kwh"]
    for offset, grams in ((-1, 100), (1, 300)):  # the hour under way is missing
        start = hour + timedelta(hours=offset)
        lines.append(f"{start.isoformat()},{(start + timedelta(hours=1)).isoformat()},{grams}")
    (tmp_path / "mine.csv").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("TRACKER_INTENSITY_FILE", "mine.csv")

    run = run_until(lambda: True)

    (use,) = run.intensity
    assert use.value.provider.startswith("file") and use.value.status == "estimated"
    assert run.emissions_g == priced_g(run, use.value.intensity_g_per_kwh)
    assert use.value.intensity_g_per_kwh == 200


def test_a_value_of_ones_own_holds_before_any_source(neso):
    run = run_until(lambda: False, seconds=0.5, intensity_g_per_kwh=50)

    assert neso.asked == [] and run.emissions_g == priced_g(run, 50)
    assert any("intensity_g_per_kwh is set and holds" in warning for warning in run.warnings)


def test_offline_asks_nobody_and_uses_what_is_known(neso, monkeypatch):
    run_until(lambda: neso.asked)
    asked = len(neso.asked)
    monkeypatch.setenv("TRACKER_OFFLINE", "1")

    run = run_until(lambda: True)

    assert len(neso.asked) == asked and run.emissions_g == priced_g(run, 220)


def test_marginal_intensity_is_a_series_of_its_own_and_in_no_sum(grid, monkeypatch):
    now = datetime.now(UTC)
    points = [
        {"point_time": (now - timedelta(minutes=5 * n)).replace(second=0, microsecond=0).isoformat(), "value": 870.0}
        for n in range(4)
    ]
    points = [
        point | {"point_time": point["point_time"][:14] + f"{int(point['point_time'][14:16]) // 5 * 5:02d}:00+00:00"}
        for point in points
    ]
    meta = {
        "data_point_period_seconds": 300,
        "region": "CAISO_NORTH",
        "signal_type": "co2_moer",
        "units": "lbs_co2_per_mwh",
        "model": {"date": "2026"},
    }
    grid.plays({"token": "login-not-real"}, path="/login")
    grid.plays({"data": points[::-1], "meta": meta}, path="/v3")
    monkeypatch.setenv("TRACKER_WATTTIME_URL", grid.url)
    monkeypatch.setenv("TRACKER_WATTTIME_TOKEN", "user:password-not-real")
    monkeypatch.setenv("TRACKER_ZONE", "US-CA")

    run = run_until(lambda: len(grid.asked) > 1, provider="watttime:CAISO_NORTH")

    average = [use for use in run.intensity if use.value.signal == "average"]
    assert run.emissions_g == priced_g(run, average[0].value.intensity_g_per_kwh)
    (apart,) = run.emissions_apart
    assert apart.signal == "marginal"
    assert apart.emissions_g == priced_g(run, 870 * 453.59237 / 1000)
    assert "marginal" in run.summary()


def test_values_reach_the_record_while_the_run_goes_on(neso):
    with tracker.track("x") as live:
        for _ in itertools.takewhile(lambda _: live.snapshot().emissions_status != "forecast", range(200)):
            time.sleep(0.02)
        assert live.snapshot().emissions_status == "forecast"


def test_a_provider_that_serves_another_zone_is_told_and_the_static_value_holds(neso):
    run = run_until(lambda: False, seconds=0.3, zone="FR")

    assert neso.asked == []
    assert any("does not serve zone 'FR'" in warning for warning in run.warnings)


@pytest.mark.parametrize("wrong", [{"provider": "nobody"}, {"intensity_file": "missing.csv"}, {"provider": ""}])
def test_a_wrong_source_is_refused_before_anything_starts(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        tracker.track("x", **wrong)
