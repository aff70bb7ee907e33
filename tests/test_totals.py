"""Sums over runs: parts once, unknown never as 0, modelled apart, no sum across bases."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest
from stored_runs import FRANCE, START, a_full_run, a_run, after, second, store_run, writer_of

import tracker
from tracker.errors import SettingError
from tracker.records import IntensityUse, Total
from tracker.store.filters import RunFilter
from tracker.store.reading import RunReader
from tracker.store.totals import Sums
from tracker.views.totals import total_columns, total_row, totals_text


@pytest.fixture
def db(tmp_path, monkeypatch):
    path = tmp_path / "runs.db"
    monkeypatch.setenv("TRACKER_DB", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def a_stored(db, run_id, energy_j=100.0, **changes):
    given = {
        "parent_id": None,
        "energy_modelled_j": None,
        "emissions_g": None if energy_j is None else energy_j / 10,
        "emissions_modelled_g": None,
        "intensity": (IntensityUse(FRANCE, "setting", energy_j or 0.0, 0.0, 1),),
    }
    store_run(db, dataclasses.replace(a_full_run(run_id), energy_j=energy_j, **{**given, **changes}))


def test_a_total_is_the_sum_of_what_is_known_and_says_how_much_is_not(db):
    a_stored(db, "a", 100.0, energy_modelled_j=7.0, emissions_modelled_g=0.5, coverage=1.0)
    a_stored(db, "b", 200.0, duration_s=181.5, coverage=0.5)
    a_stored(db, "c", None, coverage=None)

    (total,) = tracker.totals()

    assert total == Total(
        group={},
        runs=3,
        parts=0,
        duration_s=60.5 + 181.5 + 60.5,
        energy_j=300.0,
        energy_modelled_j=7.0,
        emissions_g=30.0,
        emissions_modelled_g=0.5,
        basis="lifecycle",
        emissions_apart=(),
        runs_energy_unknown=1,
        runs_emissions_unknown=1,
        coverage=pytest.approx((60.5 + 0.5 * 181.5) / 242),
        runs_cost_unknown=3,
    )


def test_the_total_of_no_runs_knows_nothing(db):
    for found in (tracker.totals(), tracker.totals(project="none")):
        (total,) = found
        assert (total.runs, total.energy_j, total.emissions_g, total.coverage) == (0, None, None, None)
    assert tracker.totals(by="month") == []
    assert totals_text(tracker.totals()) == "no runs"


def test_a_run_or_its_parts_are_summed_never_both(db):
    a_stored(db, "whole", 100.0, project="p")
    a_stored(db, "part", 60.0, parent_id="whole", project="q")
    a_stored(db, "part-of-part", 30.0, parent_id="part", project="q")
    a_stored(db, "orphan", 5.0, parent_id="elsewhere", project="q")

    (total,) = tracker.totals()
    assert (total.runs, total.parts, total.energy_j) == (2, 2, 105.0)
    # Without the whole, the parts are all there is.
    (of_q,) = tracker.totals(project="q")
    assert (of_q.runs, of_q.parts, of_q.energy_j) == (2, 1, 65.0)


def test_parts_are_summed_where_the_energy_of_the_whole_is_unknown(db):
    a_stored(db, "whole", None)
    a_stored(db, "part", 60.0, parent_id="whole")

    (total,) = tracker.totals()

    assert total.energy_j == 60.0 and total.runs_energy_unknown == 1


def test_a_part_in_a_run_file_is_not_summed_beside_its_whole_nor_the_other_way_round(db):
    (db.parent / "runs.db.d").mkdir()
    a_stored(db, "whole", 100.0)
    a_stored(db, "part-here", 40.0, parent_id="whole-there")
    a_stored(db.parent / "runs.db.d" / "a.db", "part", 60.0, parent_id="whole")
    a_stored(db.parent / "runs.db.d" / "b.db", "whole-there", 50.0)

    (total,) = tracker.totals()

    assert (total.runs, total.parts, total.energy_j) == (2, 2, 150.0)


def test_a_run_and_its_parts_that_go_on_are_summed_to_their_last_commit_and_once(db):
    a_stored(db, "done", 1.0)
    for run in (a_run("open"), a_run("open-part", parent_id="open")):
        writer = writer_of(db, run)
        writer.commit_second(second(0), after(1))
        writer.close()
    sums = {(): Sums()}

    RunReader(db, complete=lambda run, _: dataclasses.replace(run, energy_j=10.0)).add_sums(sums, RunFilter(), ())

    total = sums[()].total({})
    assert (total.runs, total.parts, total.energy_j) == (2, 1, 11.0)


def test_emissions_on_another_basis_are_in_no_sum_with_the_rest(db):
    direct = dataclasses.replace(FRANCE, basis="direct")
    a_stored(db, "a", 100.0)
    a_stored(db, "b", 50.0, intensity=(IntensityUse(direct, "setting", 50.0, 0.0, 1),))

    (total,) = tracker.totals()
    (apart,) = total.emissions_apart

    assert (total.energy_j, total.emissions_g, total.basis) == (150.0, 10.0, "lifecycle")
    assert (apart.basis, apart.energy_j, apart.emissions_g) == ("direct", 50.0, 5.0)
    assert "besides 5.00 g CO2e on another basis (direct, not lifecycle)" in " ".join(totals_text([total]).split())


def test_groups_add_up_and_months_are_those_of_the_start_in_utc(db):
    for run_id, started_at, project in (
        ("a", datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC), "p"),
        ("b", datetime(2026, 11, 1, tzinfo=UTC), "p"),
        ("c", datetime(2027, 1, 31, tzinfo=UTC), None),
    ):
        a_stored(db, run_id, 100.0, started_at=started_at, project=project)

    months = tracker.totals(by="month")
    both = tracker.totals(by=["project", "month"])

    assert [(t.group["month"], t.energy_j) for t in months] == [("2026-10", 100), ("2026-11", 100), ("2027-01", 100)]
    assert [tuple(t.group.values()) for t in both] == [("p", "2026-10"), ("p", "2026-11"), (None, "2027-01")]
    assert sum(t.energy_j for t in both) == tracker.totals()[0].energy_j
    assert [t.group for t in tracker.totals(by="status")] == [{"status": "finished"}]


def test_a_wrong_question_is_named(db):
    with pytest.raises(SettingError, match="by: 'week' is none of project, name, zone, status, month"):
        tracker.totals(by="week")
    with pytest.raises(SettingError, match=r"totals: .*'colour'"):
        tracker.totals(colour="red")


def test_a_table_of_totals_shows_the_trend_and_what_is_in_no_sum(db):
    a_stored(db, "a", 3.6e6, energy_modelled_j=3600.0, started_at=datetime(2026, 10, 1, tzinfo=UTC))
    a_stored(db, "b", 1.8e6, started_at=datetime(2026, 11, 1, tzinfo=UTC))
    a_stored(db, "c", None, coverage=None, started_at=START)

    assert totals_text(tracker.totals(by="month")) == (
        "month    runs    lasted    energy  modelled    CO2e   cover\n"
        "2026-10     1  1.01 min  1.00 kWh   1.00 Wh  360 kg  87.5 %  ##########\n"
        "2026-11     2  2.02 min    500 Wh         -  180 kg  87.5 %  #####\n"
        "a run and its parts count once; energy and CO2e: of what was measured; cover:\n"
        "the share of it that is known\n"
        "modelled: an estimate, of parts that no meter reads; not part of energy and CO2e\n"
        "in no sum of energy, as nothing of it was measured: 1 run"
    )


def test_rows_for_other_programs_have_every_key_and_no_other(db):
    a_stored(db, "a", project="p")

    totals = tracker.totals(by=["project", "month"])

    names = [column.name for column in total_columns(totals)]
    assert set(total_row(totals[0])) == set(names)
    assert names[:2] == ["project", "month"]
