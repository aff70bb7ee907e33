"""Past runs priced anew: with final values, and as if elsewhere, at another time or in another building."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from grid_server import GridServer, Reply
from stored_runs import GPU, HERE, after

import tracker
from tracker.cli import cli
from tracker.errors import StoreError
from tracker.intensity.choice import choose
from tracker.records import ClockPair, IntensityValue, Run, Slot, unix_us_of
from tracker.session.account import DeviceAccount, RunFacts, build_run
from tracker.store import tables
from tracker.store.editing import Editor
from tracker.store.opening import open_for_reading, open_for_writing, upgrade
from tracker.store.repricing import NewPricing, Repricer
from tracker.store.writing import RunWriter

START = datetime(2025, 3, 1, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
KWH_TWICE_NJ = 7_200_000_000_000_000
HALF_HOUR = timedelta(minutes=30)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dated(g_per_kwh: float, start: datetime, **fields: object) -> IntensityValue:
    given = {"provider": "neso", "dataset": "national", "status": "forecast", "basis": "direct", "fetched_at": start}
    return IntensityValue("GB", g_per_kwh, start=start, end=start + HALF_HOUR, **{**given, **fields})


def store(
    run_id: str = "run-1",
    *,
    start: datetime = START,
    hours: float = 1,
    kwh: float = 2.0,
    zone: str | None = "GB",
    constant: float | None = None,
    series: tuple[IntensityValue, ...] = (),
    provider: str | None = None,
    warnings: tuple[str, ...] = (),
    is_killed: bool = False,
) -> Run:
    """A run of even power that was priced with a series, or without."""
    choice = choose(constant, zone, environ={"TZ": "Europe/Paris"})
    if provider is not None:
        choice = type(choice)(choice.zone, choice.value, choice.warnings, series, has_source=True)
    count = round(hours * 12)
    first_s = unix_us_of(start) // 1_000_000
    slots = [Slot(0, first_s + 300 * n, round(kwh * KWH_TWICE_NJ / count), 300_000_000, None) for n in range(count)]
    account = DeviceAccount(
        GPU,
        np.array([slot.start_s for slot in slots]),
        np.array([slot.twice_energy_nj for slot in slots]),
        np.array([slot.covered_us for slot in slots]),
        None,
        "counter",
        readings=9,
    )
    grid = {} if provider is None else {"grid": {"provider": provider, "zone": zone}}
    run = build_run(
        RunFacts(run_id, None, None, {}, None, False, 1.0, start, grid),
        [account],
        choice,
        status="finished",
        duration_us=round(hours * 3600e6),
        is_ended=True,
        not_measured=[],
        warnings=warnings,
    )
    writer = RunWriter(open_for_writing(os.environ["TRACKER_DB"]))
    began = ClockPair(after(0).boottime_us, after(0).monotonic_us, unix_us_of(start))
    writer.begin(run, type(HERE)(*("h", "b", 1, 1, 1), began, {}))
    writer.add_devices([GPU])
    us = round(hours * 3600e6)
    ended = ClockPair(began.boottime_us + us, began.monotonic_us + us, began.unix_us + us)
    writer.finish(run, [], slots, ended)
    writer.close()
    if is_killed:
        with open_for_writing(os.environ["TRACKER_DB"]).engine.begin() as connection:
            connection.execute(tables.runs.update().values(status="running", ended_unix_us=None))
    return tracker.get(run_id)


def stored_pricings(run_id: str = "run-1") -> list[tuple[object, ...]]:
    c = tables.pricings.c
    query = sa.select(c.seq, c.reason, c.provider, c.values_status, c.emissions_g, c.pue).where(c.run_id == run_id)
    with open_for_reading(os.environ["TRACKER_DB"]).engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query.order_by(c.seq))]


def gb(*actual: float, first: datetime = START - timedelta(hours=3)) -> dict[str, object]:
    """What the operator of Great Britain says of half-hours long gone."""
    return {
        "data": [
            {
                "from": f"{first + n * HALF_HOUR:%Y-%m-%dT%H:%MZ}",
                "to": f"{first + (n + 1) * HALF_HOUR:%Y-%m-%dT%H:%MZ}",
                "intensity": {"forecast": 200, "actual": value, "index": "low"},
            }
            for n, value in enumerate(actual)
        ]
    }


@pytest.fixture
def neso(grid: GridServer, monkeypatch: pytest.MonkeyPatch) -> GridServer:
    """Says 100 g/kWh of 10:00 to 10:30, 300 of 10:30 to 11:00, and 500 of all else."""
    monkeypatch.setenv("TRACKER_NESO_URL", grid.url)
    grid.plays(gb(*[500] * 6, 100, 300, *[500] * 6))
    return grid


FORECAST = (dated(250.0, START), dated(250.0, START + HALF_HOUR))


def test_a_run_shows_what_final_values_give_and_keeps_what_it_was_told_before(neso):
    before = store(series=FORECAST, provider="neso")

    (done,) = tracker.reprice("run-1").runs

    assert (before.emissions_g, before.emissions_status) == (pytest.approx(500.0), "forecast")
    assert (done.before.emissions_g, done.after.emissions_g) == (before.emissions_g, pytest.approx(400.0))
    now = tracker.get("run-1")
    assert now.emissions_g == done.after.emissions_g and now.emissions_status == "final"
    assert [use.value.intensity_g_per_kwh for use in now.intensity] == [100.0, 300.0]
    assert now.energy_j == before.energy_j and now.devices == before.devices
    assert "before: 500 g CO2e; PUE 1.0 (IT energy only), zone GB" in " ".join(now.summary().split())
    assert [(seq, reason, status) for seq, reason, _, status, _, _ in stored_pricings()] == [
        (0, "run", "forecast"),
        (1, "reprice", "final"),
    ]
    ((earlier),) = now.provenance["repriced"]
    assert earlier["before"]["emissions_g"] == before.emissions_g


def test_a_second_time_changes_nothing_and_asks_nobody(neso):
    store(series=FORECAST, provider="neso")
    tracker.reprice("run-1")
    first, asked = tracker.get("run-1"), len(neso.asked)

    again = tracker.reprice("run-1")

    assert not again.runs[0].is_changed and not again.runs[0].is_stored
    assert tracker.get("run-1").to_dict() == first.to_dict()
    assert len(stored_pricings()) == 2 and len(neso.asked) == asked
    assert tracker.reprice(every=True).runs == ()  # all is final


def test_all_means_runs_with_values_that_are_not_final_and_near_ones_are_asked_for_as_one(neso):
    store_hours(5, neso)
    store("constant", constant=50.0)

    result = tracker.reprice(every=True)

    assert [one.run_id for one in result.runs] == [f"run-{n}" for n in range(5)]
    assert [one.after.emissions_g for one in result.runs] == [pytest.approx(1000.0)] * 5
    assert len(neso.asked) == 1
    assert "5 of 5 show the new result" in result.text()


def test_a_run_priced_before_there_was_a_source_gets_one_when_it_is_configured(neso, monkeypatch):
    before = store()
    unchanged = tracker.reprice("run-1")
    monkeypatch.setenv("TRACKER_PROVIDER", "neso")
    (done,) = tracker.reprice("run-1").runs

    assert not unchanged.runs[0].is_changed and neso.asked
    assert done.before.status == "static" and done.after.status == "final"
    assert done.after.emissions_g == pytest.approx(400.0)
    assert any("another basis than before (direct, not lifecycle)" in warning for warning in done.warnings)
    assert tracker.get("run-1").provenance["grid"] == {"provider": "neso", "zone": "GB"}
    assert before.emissions_g == done.before.emissions_g


def test_the_users_own_value_stays_unless_something_else_is_asked_for(neso, monkeypatch):
    monkeypatch.setenv("TRACKER_PROVIDER", "neso")
    store(constant=50.0)

    unchanged = tracker.reprice("run-1")
    (there,) = tracker.reprice("run-1", provider="neso").runs

    assert not unchanged.runs[0].is_changed
    assert there.after.emissions_g == pytest.approx(400.0) and not there.is_stored


def test_elsewhere_is_shown_and_stored_only_when_told_to():
    before = store(zone=None)
    assert any("guessed" in warning for warning in before.warnings)

    (there,) = tracker.reprice("run-1", zone="SE").runs

    assert there.after.zone == "SE" and there.after.emissions_g < there.before.emissions_g
    assert tracker.get("run-1").to_dict() == before.to_dict() and len(stored_pricings()) == 1
    (kept,) = tracker.reprice("run-1", zone="SE", pue=1.5, store=True).runs
    now = tracker.get("run-1")
    assert kept.is_stored and now.emissions_g == pytest.approx(1.5 * there.after.emissions_g)
    assert (now.zone.zone, now.zone.origin, now.pue) == ("SE", "setting", 1.5)
    assert not any("guessed" in warning for warning in now.warnings)
    assert [pue for *_, pue in stored_pricings()] == [1.0, 1.5]


def test_another_time_of_day_is_priced_by_its_hours(place):
    hours = [{"start": f"2025-03-01T{hour:02d}:00Z", "g_per_kwh": 100 + 10 * hour} for hour in range(24)]
    (place / "day.json").write_text(json.dumps(hours))
    store()

    (same,) = tracker.reprice("run-1", intensity_file="day.json").runs
    (night,) = tracker.reprice("run-1", intensity_file="day.json", at="2025-03-01T02:30Z").runs

    assert same.after.emissions_g == pytest.approx(2 * 200)
    assert night.after.emissions_g == pytest.approx(120 + 130)
    assert not night.is_stored
    with pytest.raises(ValueError, match="store"):
        tracker.reprice("run-1", at="2025-03-01T02:30Z", store=True)
    (static,) = tracker.reprice("run-1", at="2025-03-01T02:30Z").runs
    assert any("another time changes nothing" in warning for warning in static.warnings)


def test_what_the_settings_say_of_their_own_place_is_not_said_of_another(neso, place, monkeypatch):
    (place / "mine.json").write_text(
        json.dumps([{"start": "2025-03-01T00:00Z", "end": "2025-03-02T00:00Z", "g_per_kwh": 7}])
    )
    monkeypatch.setenv("TRACKER_ZONE", "GB")
    monkeypatch.setenv("TRACKER_PROVIDER", "neso:GB-7")
    monkeypatch.setenv("TRACKER_INTENSITY_FILE", "mine.json")
    store(zone="FR")

    here = tracker.reprice("run-1")
    there = tracker.reprice("run-1", zone="SE")

    assert not here.runs[0].is_changed and neso.asked == []
    assert there.runs[0].after.providers == ("bundled",)
    assert any("does not serve zone 'FR'" in note for note in here.notes)


def test_what_came_between_reading_and_writing_stays(neso):
    store(series=FORECAST, provider="neso")
    store("gone", series=FORECAST, provider="neso")
    repricer = Repricer(os.environ["TRACKER_DB"])
    before, gone = tracker.get("run-1"), tracker.get("gone")
    Editor(os.environ["TRACKER_DB"]).delete(["gone"])
    stale = {"warnings": (), "provider": "neso", "provider_zone": "GB", "is_moved": False}

    repricer.write([NewPricing(before, seq=0, **stale), NewPricing(gone, seq=1, **stale)], 0)

    assert len(stored_pricings()) == 1 and tracker.get("run-1").to_dict() == before.to_dict()
    repricer.write([NewPricing(before, seq=1, **stale)], 0)
    assert len(stored_pricings()) == 2


def test_another_building_has_the_same_grid_and_asks_nobody(neso):
    store(series=FORECAST, provider="neso")

    (done,) = tracker.reprice("run-1", pue=1.5).runs

    assert done.after.emissions_g == pytest.approx(1.5 * done.before.emissions_g) and neso.asked == []


def test_a_constant_of_ones_own_holds_for_all():
    store()

    (done,) = tracker.reprice("run-1", intensity_g_per_kwh=1000.0).runs

    assert done.after.emissions_g == pytest.approx(2000.0) and done.after.providers == ("user",)


def test_holes_are_filled_from_beside_and_what_is_too_long_stays_with_the_fallback(neso):
    neso.plays(gb(*[500] * 6, 100))  # nothing of the second half-hour, or after it
    store(series=FORECAST[:1], provider="neso", hours=10)

    (done,) = tracker.reprice("run-1").runs

    by_provider = {}
    for use in tracker.get("run-1").intensity:
        by_provider[use.value.provider] = by_provider.get(use.value.provider, 0.0) + use.energy_j / 3.6e6
    assert by_provider == {
        "neso": pytest.approx(0.1),
        "neso (filled)": pytest.approx(0.6),
        "bundled": pytest.approx(1.3),
    }
    assert any("was priced with the fallback, in 6.5 h" in warning for warning in done.warnings)


def test_what_pricing_said_goes_and_the_rest_of_the_warnings_stays(neso):
    before = store(series=FORECAST[:1], provider="neso", warnings=("GPU 3 was lost", "50 % of the energy is a guess"))
    assert any("was priced with the fallback" in warning for warning in before.warnings)

    tracker.reprice("run-1")

    assert tracker.get("run-1").warnings == ("GPU 3 was lost", "50 % of the energy is a guess")


def test_a_source_that_fails_is_named_and_what_is_known_stays(neso):
    neso.plays(Reply(status=503))
    before = store(series=FORECAST, provider="neso")

    result = tracker.reprice("run-1")

    assert not result.runs[0].is_changed and tracker.get("run-1").to_dict() == before.to_dict()
    assert any("503" in note for note in result.notes)
    asked = len(neso.asked)
    assert "left alone" in " ".join(tracker.reprice("run-1").notes) and len(neso.asked) == asked


def test_offline_asks_nobody(neso, monkeypatch):
    monkeypatch.setenv("TRACKER_OFFLINE", "1")
    store(series=FORECAST, provider="neso")

    result = tracker.reprice("run-1")

    assert neso.asked == [] and not result.runs[0].is_changed
    assert any("TRACKER_OFFLINE" in note for note in result.notes)


@pytest.mark.postgres
def test_a_database_server_is_repriced_likewise(neso, postgres_url, monkeypatch):
    with sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE repricing")
    url = postgres_url.replace("/postgres?", "/repricing?")
    monkeypatch.setenv("TRACKER_DB", url)
    upgrade(url)
    store(series=FORECAST, provider="neso")

    (done,) = tracker.reprice(every=True).runs

    assert done.is_stored and tracker.get("run-1").emissions_g == pytest.approx(400.0)
    assert tracker.reprice(every=True).runs == () and len(stored_pricings()) == 2


def test_a_killed_run_is_priced_with_all_that_it_has_committed(neso):
    before = store(series=FORECAST, provider="neso", is_killed=True)
    assert before.status == "interrupted"

    (done,) = tracker.reprice("run-1").runs

    now = tracker.get("run-1")
    assert done.is_stored and now.status == "interrupted" and now.emissions_status == "final"
    assert now.emissions_g == done.after.emissions_g
    assert not tracker.reprice("run-1").runs[0].is_changed


def test_a_run_that_goes_on_is_left_alone(standin_nvml, monkeypatch):
    monkeypatch.setenv("TRACKER_ZONE", "GB")
    with tracker.track("x") as live:
        result = tracker.reprice(live.id)

    assert result.runs == () and "goes on" in result.skipped[live.id] and "goes on" in result.text()


def store_hours(count, neso):
    """Runs of an hour each, one after another, priced by forecasts of which the final values are known now."""
    neso.plays(gb(*[500] * 60, first=START - timedelta(hours=3)))
    for n in range(count):
        start = START + n * HOUR
        store(f"run-{n}", start=start, series=(dated(200.0, start), dated(200.0, start + HALF_HOUR)), provider="neso")


def final_ones():
    return sorted(run.id for run in tracker.runs(limit=None) if run.emissions_status == "final")


def test_what_is_interrupted_keeps_whole_batches_and_goes_on_from_there(neso):
    store_hours(5, neso)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracker.reprice(every=True, batch_runs=2, on_progress=interrupt)
    kept = final_ones()
    seen = []
    left = tracker.reprice(every=True, batch_runs=2, on_progress=lambda done, total: seen.append((done, total)))

    assert kept == ["run-0", "run-1"]
    assert [one.run_id for one in left.runs] == ["run-2", "run-3", "run-4"] and seen == [(2, 3), (3, 3)]
    assert all(len(stored_pricings(f"run-{n}")) == 2 for n in range(5))


def test_a_kill_keeps_the_batches_before_it(neso):
    store_hours(4, neso)
    code = """
import os, signal, tracker
tracker.reprice(every=True, batch_runs=2, on_progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False)

    assert done.returncode == -signal.SIGKILL
    assert final_ones() == ["run-0", "run-1"]


def test_a_batch_that_cannot_be_written_leaves_each_of_its_runs_as_it_was(neso):
    store_hours(6, neso)
    with open_for_writing(os.environ["TRACKER_DB"]).engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE UPDATE ON run_details WHEN NEW.run_id = 'run-3' "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )

    with pytest.raises(StoreError):
        tracker.reprice(every=True, batch_runs=2)

    assert final_ones() == ["run-0", "run-1"]
    for run in tracker.runs(limit=None):
        priced_g = sum(use.energy_j / 3.6e6 * use.value.intensity_g_per_kwh for use in run.intensity)
        assert run.emissions_g == pytest.approx(priced_g)
        assert len(stored_pricings(run.id)) == (2 if run.emissions_status == "final" else 1)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "give the runs"),
        ({"every": True, "ids": ["run-1"]}, "give the runs"),
        ({"ids": ["run-1"], "zone": "Atlantis"}, "Atlantis"),
        ({"ids": ["run-1"], "pue": 0.5}, "pue"),
        ({"ids": ["run-1"], "at": "yesterday"}, "yesterday"),
        ({"ids": ["run-1"], "at": 5}, "5"),
        ({"ids": ["run-1"], "zone": "cloud"}, "cloud"),
        ({"ids": ["run-1"], "provider": "nobody"}, "nobody"),
        ({"ids": ["run-1"], "intensity_g_per_kwh": -1.0}, "intensity"),
        ({"ids": ["run-1"], "intensity_file": "missing.csv"}, "missing.csv"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_changes(wrong, told):
    before = store()
    ids = wrong.pop("ids", [])

    with pytest.raises(ValueError, match=told):
        tracker.reprice(*ids, **wrong)

    assert tracker.get("run-1").to_dict() == before.to_dict()


def test_the_command_shows_before_and_after_and_takes_the_same_questions(neso):
    store(series=FORECAST, provider="neso")
    (run,) = tracker.runs()

    what_if = CliRunner().invoke(cli, ["reprice", "last", "--zone", "SE"])
    stored = CliRunner().invoke(cli, ["reprice", "--all"])
    as_json = json.loads(CliRunner().invoke(cli, ["reprice", "run-1", "--json"]).output)
    wrong = CliRunner().invoke(cli, ["reprice", "run-1", "--zone", "Atlantis"])

    assert what_if.exit_code == 0 and "what if: nothing is stored" in what_if.output
    assert stored.exit_code == 0 and "1 of 1 show the new result" in stored.output
    assert run.emissions_g == pytest.approx(500.0)
    assert as_json["runs"][0]["before"]["emissions_g"] == pytest.approx(400.0)
    assert wrong.exit_code == 2 and "Atlantis" in wrong.output
    assert max(len(line) for line in (what_if.output + stored.output).splitlines()) <= 80
