"""Which runs are found, in which order and page by page; wrong questions are told what, where and what to do."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_runs import GPU, HERE, START, a_full_run, a_run, after, chunks, second, store_run, writer_of

import tracker
from tracker.errors import SettingError
from tracker.records import Slot, ZoneChoice, unix_us_of
from tracker.store.filters import SORTS, Order, RunFilter, instant_us, page_of
from tracker.store.reading import RunReader


@pytest.fixture
def db(tmp_path, monkeypatch):
    path = tmp_path / "runs.db"
    monkeypatch.setenv("TRACKER_DB", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def ids(runs):
    return [run.id for run in runs]


def a_stored(db, run_id, seconds=0, **changes):
    started_at = START + timedelta(seconds=seconds)
    store_run(db, dataclasses.replace(a_full_run(run_id), parent_id=None, started_at=started_at, **changes))


def test_bounds_take_their_ends_in_and_never_a_run_whose_figure_is_unknown(db):
    for run_id, energy_j in (("none", None), ("zero", 0.0), ("some", 10.0), ("more", 20.0)):
        a_stored(db, run_id, energy_j=energy_j, emissions_g=energy_j)

    for figure in ("energy_j", "emissions_g"):
        low, high = f"min_{figure}", f"max_{figure}"
        assert set(ids(tracker.runs(**{low: 10}))) == {"some", "more"}
        assert set(ids(tracker.runs(**{high: 10}))) == {"zero", "some"}
        assert ids(tracker.runs(**{low: 10.0, high: 10.0})) == ["some"]


def test_a_run_that_was_killed_is_judged_by_all_that_it_committed(db):
    a_stored(db, "done", energy_j=50.0)
    writer = writer_of(db, a_run("killed"))
    writer.commit_second(second(0), after(1))
    writer.close()

    reader = RunReader(db, here=HERE, complete=lambda run, _: dataclasses.replace(run, energy_j=100.0))

    assert ids(reader.runs(RunFilter(min_energy_j=90))) == ["killed"]
    assert ids(reader.runs(RunFilter(max_energy_j=90))) == ["done"]
    assert ids(reader.runs(order=Order("energy"))) == ["killed", "done"]
    assert reader.count(RunFilter(min_energy_j=90)) == 1


def test_a_device_is_found_by_its_kind_the_beginning_of_its_key_or_a_part_of_its_name(db):
    a_stored(db, "run")

    for found in ("gpu", "GPU", "GPU-1", "GPU-", "test gpu", "st G", "intel-rapl:0", "cpu_package", " gpu "):
        assert ids(tracker.runs(device=found)) == ["run"], found
    for absent in ("GPU-11", "PU-1", "dram", "%", "_", "H100", "\\", "\0", "\ud800"):
        assert tracker.runs(device=absent) == [], absent


def test_zone_and_host_are_exact(db):
    a_stored(db, "run", zone=ZoneChoice("US-CA", "California", "setting"))

    assert ids(tracker.runs(zone="us-ca")) == ids(tracker.runs(zone="California")) == ["run"]
    assert tracker.runs(zone="US") == []
    assert ids(tracker.runs(host=HERE.host)) == ["run"]
    assert tracker.runs(host=HERE.host[:-1]) == []


@pytest.mark.parametrize(("text", "ago_s"), [("30m", 1800), ("24h", 86_400), (" 7d ", 604_800), ("2 w", 1_209_600)])
def test_so_long_ago_is_counted_from_now(text, ago_s):
    now_us = unix_us_of(START)

    assert instant_us(text, now_unix_us=lambda: now_us) == now_us - ago_s * 1_000_000


def test_runs_of_the_last_days_are_found_and_older_ones_are_not(db):
    now = datetime.now(UTC)
    for run_id, days in (("new", 1), ("old", 8)):
        a_stored(db, run_id, seconds=(now - timedelta(days=days) - START).total_seconds())

    assert ids(tracker.runs(since="7d")) == ["new"]
    assert ids(tracker.runs(since="30d", until="7d")) == ["old"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"status": "done"}, r"status: 'done' is none of running, finished"),
        ({"since": "yesterday"}, r"since: 'yesterday' is no time; write 2026-11-01.*7d"),
        ({"until": "7 years"}, r"until: '7 years' is no time"),
        ({"since": "9999999h"}, r"since: '9999999h' is no time"),
        ({"since": "1d", "until": "2d"}, r"since 1d is not before until 2d"),
        ({"min_energy_j": -1}, r"min_energy_j: -1 is no number of 0 or more"),
        ({"max_emissions_g": float("nan")}, r"max_emissions_g: nan is no number"),
        ({"max_energy_j": "5 kWh"}, r"max_energy_j: '5 kWh' is no number"),
        ({"min_energy_j": 2, "max_energy_j": 1}, r"min_energy_j 2 is above max_energy_j 1"),
        ({"device": " "}, r"device: is empty"),
        ({"project": 5}, r"project: 5 is no text"),
        ({"sort": "speed"}, r"sort: 'speed' is none of started, duration, energy"),
        ({"offset": -1}, r"limit and offset must be 0 or more"),
    ],
)
def test_a_wrong_argument_is_named_with_what_can_be_given(db, wrong, said):
    with pytest.raises(SettingError, match=said):
        tracker.runs(**wrong)


def test_every_order_has_unknown_last_either_way_and_the_newest_first_among_equals(db):
    unknown = {"energy_j": None, "energy_modelled_j": None, "emissions_g": None, "emissions_modelled_g": None}
    a_stored(db, "unknown", 3, name=None, project=None, zone=None, coverage=None, status="running", **unknown)
    big = {
        "energy_j": 2e6,
        "energy_modelled_j": 99.0,
        "emissions_g": 9e3,
        "emissions_modelled_g": 99.0,
        "coverage": 1.0,
        "price_per_kwh": 0.5,
    }
    a_stored(db, "big", 2, duration_s=90.0, pue=1.5, name="z", project="z", status="interrupted", **big)
    small = {"name": "a", "project": "a", "status": "failed", "zone": ZoneChoice("AA", "", "setting")}
    a_stored(db, "small-new", 1, **small, price_per_kwh=0.5)
    a_stored(db, "small-old", 0, **small, price_per_kwh=0.5)
    known_always = {"started", "duration", "pue", "status"}

    for name, sort in SORTS.items():
        for reverse in (False, True):
            found = tracker.runs(sort=name, reverse=reverse)
            assert found == Order(name, reverse).sorted(found[::-1])
            order = ids(found)
            if name != "started":
                assert order.index("small-new") < order.index("small-old"), name
            if name not in known_always:
                assert order[-1] == "unknown", name
            is_big_first = order.index("big") < order.index("small-new")
            assert is_big_first == (sort.largest_first != reverse), name


keys = st.lists(st.tuples(st.none() | st.integers(0, 3), st.booleans()), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    keys,
    st.sampled_from(["energy", "started", "name"]),
    st.booleans(),
    st.none() | st.integers(0, 5),
    st.integers(0, 14),
)
def test_a_page_is_that_part_of_the_whole_wherever_its_runs_lie(values, by, reverse, limit, offset):
    runs = [
        a_run(
            f"{at:02}",
            energy_j=value,
            name=None if value is None else str(value),
            started_at=START + timedelta(seconds=value or 0),
        )
        for at, (value, _) in enumerate(values)
    ]
    order = Order(by, reverse)
    stored = order.sorted([run for run, (_, is_stored) in zip(runs, values, strict=True) if is_stored])
    besides = [run for run, (_, is_stored) in zip(runs, values, strict=True) if not is_stored]

    def fetch(limit, offset):
        return stored[offset : None if limit is None else offset + limit]

    whole = order.sorted(runs)
    assert page_of(fetch, besides, order, limit, offset) == whole[offset : None if limit is None else offset + limit]


def test_runs_in_run_files_stand_in_the_same_pages_once(db):
    for number in range(6):
        a_stored(db, f"run-{number}", number, energy_j=float(number))
    (db.parent / "runs.db.d").mkdir()
    a_stored(db.parent / "runs.db.d" / "run-9.node.db", "run-9", 2, energy_j=2.5)
    a_stored(db.parent / "runs.db.d" / "run-3.node.db", "run-3", 3, energy_j=30.0)

    whole = tracker.runs(sort="energy", limit=None)

    assert ids(whole) == ["run-3", "run-5", "run-4", "run-9", "run-2", "run-1", "run-0"]
    for offset in range(8):
        assert tracker.runs(sort="energy", limit=2, offset=offset) == whole[offset : offset + 2]
    (total,) = tracker.totals()
    assert (total.runs, total.energy_j) == (7, 30.0 + 5 + 4 + 2.5 + 2 + 1 + 0)


def test_a_name_of_any_letters_is_found_by_it_and_by_nothing_else(db):
    names = ["a%", "a_", "a'; DROP TABLE runs;--", "ünï\ncode 中文 🙂", "\u202eltr", "x" * 5000, " ", "None"]
    for at, name in enumerate(names):
        a_stored(db, f"run-{at}", at, name=name, project=name, tags={name: name})

    for at, name in enumerate(names):
        for wanted in ({"name": name}, {"project": name}, {"tags": {name: name}}):
            assert ids(tracker.runs(**wanted)) == [f"run-{at}"]


def test_slots_and_samples_have_no_part_in_a_list(db):
    writer = writer_of(db, a_full_run("whole"))
    writer.finish(a_full_run("whole"), chunks(range(3)), [Slot(0, 300, 8, 8, 8)], after(3))
    writer.close()

    (run,) = tracker.runs(device=GPU.key)

    assert run.energy_j == a_full_run().energy_j
