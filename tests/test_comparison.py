"""Runs side by side: parts of a difference add up to it, energy is never counted twice, unknown is never 0."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_runs import FRANCE, START, a_full_run, a_run, store_run, writer_of

import tracker
from tracker.cli import cli
from tracker.comparison import (
    Comparison,
    ZoneMean,
    attributed,
    devices_of,
    differences_of,
    phases_of,
    units_of,
    zone_mean,
)
from tracker.errors import RunNotFoundError, SettingError
from tracker.records import SPANS_PER_SEGMENT, DeviceEnergy, IntensityUse, IntensityValue, Mark, Run, Span
from tracker.units import JOULES_PER_KWH

HOUR = timedelta(hours=1)
DAWN = datetime(2026, 11, 25, tzinfo=UTC)


def hourly(hour: int, g_per_kwh: float, zone: str = "FR", **changes: object) -> IntensityValue:
    start = DAWN + hour * HOUR
    value = IntensityValue(zone, g_per_kwh, "grid", "hours", "final", basis="lifecycle", start=start, end=start + HOUR)
    return replace(value, **changes)


def priced(run_id: str, pue: float, *uses: tuple[IntensityValue, float], modelled: bool = False) -> Run:
    """A run whose energy in kWh these values priced."""
    energy_j = sum(kwh for _, kwh in uses) * JOULES_PER_KWH
    emissions_g = pue * sum(kwh * value.intensity_g_per_kwh for value, kwh in uses)
    intensity = tuple(
        IntensityUse(value, "setting", *((0.0, j) if modelled else (j, 0.0)), 1)
        for value, j in ((value, kwh * JOULES_PER_KWH) for value, kwh in uses)
    )
    names = ("energy_modelled_j", "emissions_modelled_g") if modelled else ("energy_j", "emissions_g")
    return a_run(run_id, pue=pue, intensity=intensity, **dict(zip(names, (energy_j, emissions_g), strict=True)))


def a_mean(zone: str, g_per_kwh: float) -> ZoneMean:
    return ZoneMean("grid", zone, "average", "lifecycle", DAWN, DAWN + 24 * HOUR, g_per_kwh, 86_400.0)


def parts(found):
    return [found.energy_g, found.pue_g, found.place_g, found.time_g]


amounts = st.floats(min_value=1e-6, max_value=1e6)
pues = st.floats(min_value=1.0, max_value=3.0)
hours = st.lists(st.tuples(st.integers(0, 23), amounts, amounts), min_size=1, max_size=4, unique_by=lambda h: h[0])


@settings(max_examples=150, deadline=None)
@given(pues, pues, hours, hours, amounts, amounts, st.booleans())
def test_the_parts_add_up_to_the_difference_and_turn_their_sign_with_the_runs(p0, p1, h0, h1, m0, m1, modelled):
    first = priced("a", p0, *((hourly(h, g), kwh) for h, g, kwh in h0), modelled=modelled)
    other = priced("b", p1, *((hourly(h, g, "DE"), kwh) for h, g, kwh in h1), modelled=modelled)
    means = [a_mean("FR", m0), a_mean("DE", m1)]

    there = attributed(first, other, means, is_modelled=modelled)
    back = attributed(other, first, means, is_modelled=modelled)

    # Float arithmetic loses at most some ulps of the largest term, and of what the difference is taken from.
    emitted_g = sum((run.emissions_modelled_g if modelled else run.emissions_g) for run in (first, other))
    scale = sum(abs(part) for part in parts(there)) + emitted_g
    assert math.fsum(parts(there)) == pytest.approx(there.difference_g, abs=1e-9 * scale)
    assert there.intensity_g == pytest.approx(there.place_g + there.time_g, abs=1e-9 * scale)
    for one, other_way in zip(parts(there), parts(back), strict=True):
        assert one == pytest.approx(-other_way, abs=1e-9 * scale)


def test_only_what_differs_has_a_part():
    night, day = hourly(3, 50.0), hourly(12, 150.0)
    means = [a_mean("FR", 100.0), a_mean("DE", 400.0)]
    first = priced("a", 1.0, (night, 1.0))

    more = attributed(first, priced("b", 1.0, (night, 3.0)), means)
    site = attributed(first, priced("b", 1.5, (night, 1.0)), means)
    later = attributed(first, priced("b", 1.0, (day, 1.0)), means)
    abroad = attributed(first, priced("b", 1.0, (hourly(3, 350.0, "DE"), 1.0)), means)

    assert parts(more) == pytest.approx([100.0, 0.0, 0.0, 0.0])
    assert parts(site) == pytest.approx([0.0, 25.0, 0.0, 0.0])
    assert parts(later) == pytest.approx([0.0, 0.0, 0.0, 100.0])
    assert parts(abroad) == pytest.approx([0.0, 0.0, 300.0, 0.0])  # as far below its mean as the first below its own


def test_two_factors_share_what_they_do_together_in_equal_parts():
    first, other = priced("a", 1.0, (FRANCE, 1.0)), priced("b", 1.0, (replace(FRANCE, intensity_g_per_kwh=156.0), 2.0))

    found = attributed(first, other, ())

    # 56 g to 312 g: energy alone +56, place alone +100, both together +100 more.
    assert (found.difference_g, found.energy_g, found.place_g) == pytest.approx((256.0, 106.0, 150.0))
    assert found.time_g is None and "priced by a value that holds at any hour" in found.reason


def test_what_cannot_be_told_is_unknown_with_its_reason():
    known = priced("a", 1.0, (FRANCE, 1.0))
    dated = priced("b", 1.0, (hourly(3, 50.0), 1.0))

    unknown = attributed(known, a_run("b"), ())
    direct = attributed(known, priced("b", 1.0, (replace(FRANCE, basis="direct"), 1.0)), ())
    no_mean = attributed(known, dated, ())
    half_dated = attributed(known, dated, [a_mean("FR", 100.0)])

    assert (unknown.difference_g, unknown.energy_g) == (None, None) and "emissions of b are unknown" in unknown.reason
    assert direct.difference_g is None and "different bases (lifecycle, direct)" in direct.reason
    assert no_mean.place_g is None and no_mean.time_g is None and "mean intensity" in no_mean.reason
    assert no_mean.intensity_g + no_mean.energy_g == pytest.approx(no_mean.difference_g)
    assert half_dated.reason.startswith("a: priced by a value that holds at any hour")
    assert math.fsum(parts(half_dated)) == pytest.approx(half_dated.difference_g)


def test_a_mean_is_over_time_of_the_best_values_within_the_stretch():
    values = [
        hourly(0, 100.0),
        hourly(0, 900.0, status="forecast"),
        hourly(1, 300.0, fetched_at=DAWN),
        hourly(1, 500.0, fetched_at=DAWN + HOUR),
        hourly(9, 7000.0),
    ]

    mean = zone_mean(values, DAWN - HOUR, DAWN + 1.5 * HOUR)

    assert mean is not None
    assert (mean.intensity_g_per_kwh, mean.known_s) == (pytest.approx((100 + 500 / 2) / 1.5), 5400.0)
    assert zone_mean(values, DAWN + 3 * HOUR, DAWN + 4 * HOUR) is None


def a_span(span_id, name, start_s, end_s, energy_j=None):
    at = [None if s is None else DAWN + timedelta(seconds=s) for s in (start_s, end_s)]
    duration_s = None if end_s is None else float(end_s - start_s)
    return Span(span_id, None, name, {}, at[0], at[1], duration_s, energy_j, 1.0)


def test_the_spans_of_a_phase_add_up_and_those_of_ranks_and_nested_ones_count_once():
    run = priced("a", 1.0, (FRANCE, 1.0))
    spans = [
        a_span(0, "epoch", 0, 10, 100.0),
        a_span(1, "epoch", 0, 9, 90.0),  # another rank's
        a_span(2, "epoch", 2, 4, 20.0),  # one within
        a_span(3, "epoch", 10, 20, 50.0),
        a_span(4, "epoch", 20, None),  # open
        a_span(5, "eval", 3, 4, None),
    ]

    epoch, evaluation = phases_of(run, spans)

    assert (epoch.spans, epoch.beside, epoch.duration_s, epoch.energy_j) == (3, 2, 20.0, 150.0)
    assert (epoch.mean_power_w, epoch.energy_unknown) == (7.5, 1)
    assert epoch.emissions_g == pytest.approx(150 / JOULES_PER_KWH * 56)
    assert epoch.intensity_g_per_kwh == pytest.approx(56)
    assert (evaluation.energy_j, evaluation.mean_power_w, evaluation.emissions_g) == (None, None, None)
    assert evaluation.energy_unknown == 1


def test_spans_named_epoch_are_epochs_those_of_ranks_once_and_those_of_a_later_process_too():
    rank_1, later = SPANS_PER_SEGMENT, 2 * SPANS_PER_SEGMENT
    spans = [
        *(a_span(at, "epoch", 10 * at, 10 * at + 10) for at in range(3)),
        *(a_span(rank_1 + at, f"epoch {at}", 10 * at + 1, 10 * at + 11) for at in range(3)),
        a_span(rank_1 + 3, "epoch 3", 31, None),  # killed within it
        *(a_span(later + at, "epoch", 100 + 10 * at, 110 + 10 * at) for at in range(2)),
        a_span(later + 2, "epochs of another kind", 100, 110),
    ]

    class Source:
        def spans(self, run_id):
            return spans

        def marks(self, run_id):
            return ()

    run = replace(priced("a", 1.0, (FRANCE, 1.0)), source=Source())

    (unit,) = run.units()

    assert (unit.unit, unit.count) == ("epoch", 5)
    assert unit.energy_j == JOULES_PER_KWH / 5
    assert units_of(run, marks({"epoch": 1}, {"epoch": 2}, {"epochs": 2})) != run.units()


def test_a_phase_is_priced_with_the_hours_that_it_ran_in():
    run = priced("a", 1.5, (hourly(0, 100.0), 1.0), (hourly(1, 300.0), 1.0))

    (phase,) = phases_of(run, [a_span(0, "p", 1800, 5400, JOULES_PER_KWH)])

    assert phase.emissions_g == pytest.approx(1.5 * 200)
    assert phase.intensity_g_per_kwh == pytest.approx(200)


def marks(*values):
    return [Mark(DAWN, float(at), given) for at, given in enumerate(values)]


def test_energy_for_each_unit_of_progress_is_that_of_the_whole_run():
    run = a_run(energy_j=1000.0, emissions_g=5.0)

    units = {u.unit: u for u in units_of(run, marks(*({"step": s, "tokens": 50, "samples": 2} for s in (10, 20, 30))))}

    # Three marks of ten steps each.
    assert [(u.count, u.energy_j) for u in (units["step"], units["token"], units["sample"])] == [
        (30, pytest.approx(1000 / 30)),
        (150, pytest.approx(1000 / 150)),
        (6, pytest.approx(1000 / 6)),
    ]
    assert units["step"].emissions_g == pytest.approx(5 / 30)


@pytest.mark.parametrize(
    "given", [[], [{"step": 5}], [{"loss": 1.0}], [{"tokens": 0}], [{"tokens": math.nan}], [{"tokens": "many"}]]
)
def test_progress_that_no_mark_counts_has_no_figure(given):
    assert list(units_of(a_run(energy_j=1.0), marks(*given))) == []


def test_alike_devices_stand_together_and_one_unknown_makes_their_sum_unknown():
    gpu = DeviceEnergy("gpu", "a", "H100", "counter", 10.0, 5.0, 7.0, 1.0)
    run = a_run(devices=(gpu, replace(gpu, key="b"), replace(gpu, name="A100", energy_j=None, coverage=0.0)))

    both, lost = devices_of(run)

    assert (both.devices, both.energy_j, both.mean_power_w, both.coverage) == (2, 20.0, 10.0, 1.0)
    assert (lost.energy_j, lost.coverage) == (None, 0.0)


def test_what_differs_is_named_with_its_value_in_each_run_and_what_always_does_is_not():
    def provenance(interval_s, cpu):
        return {
            "settings": {"interval_s": {"value": interval_s, "origin": "argument"}, "db": {"value": cpu, "origin": ""}},
            "hardware": {"cpu": cpu},
            "own_cost": {"cpu_s": interval_s},
        }

    runs = (a_run("a", tags={"lr": "1"}, provenance=provenance(1.0, "X")), a_run("b", provenance=provenance(0.1, "Y")))

    assert [(d.name, d.values) for d in differences_of(runs)] == [
        ("tag lr", ("1", None)),
        ("setting interval_s", ("1.0", "0.1")),
        ("hardware cpu", ("X", "Y")),
    ]
    assert list(differences_of(runs[:1] * 2)) == []


def test_stored_runs_are_compared_with_the_mean_of_all_that_the_database_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    hour = START.replace(minute=0, second=0, microsecond=0)
    night, day = (
        replace(hourly(0, g), start=hour + at * HOUR, end=hour + (at + 1) * HOUR) for at, g in ((0, 50.0), (1, 150.0))
    )
    for at, (run_id, value) in enumerate((("a", night), ("b", day))):
        run = replace(priced(run_id, 1.0, (value, 1.0)), status="finished", started_at=START + at * HOUR)
        store_run(tmp_path / "runs.db", replace(run, ended_at=run.started_at + HOUR / 2, duration_s=1800.0))

    comparison = tracker.compare("a", tracker.get("b"))
    (mean,) = comparison.zone_means
    (found,) = comparison.attributions()

    assert mean.known_s == (mean.end - mean.start).total_seconds() == 5400
    assert (found.place_g, found.time_g, found.difference_g) == pytest.approx((0.0, 100.0, 100.0))


def test_nothing_to_compare_and_unknown_runs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))

    with pytest.raises(SettingError, match="at least one run"):
        tracker.compare()
    with pytest.raises(RunNotFoundError):
        tracker.compare("none")


def test_a_run_that_goes_on_can_be_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    store_run(tmp_path / "runs.db", a_full_run("done"))
    writer = writer_of(tmp_path / "runs.db", a_run("open"))
    writer.close()

    found = tracker.compare("done", "open")

    assert isinstance(found, Comparison) and found.attributions()[0].difference_g is None
    assert "open" in str(found)


def test_the_command_prints_the_figures_of_the_comparison(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    for run_id in ("a", "b"):
        store_run(tmp_path / "runs.db", a_full_run(run_id))

    told = CliRunner().invoke(cli, ["compare", "a", "b", "--json"])
    table = CliRunner().invoke(cli, ["compare", "a", "b"])

    expected = tracker.compare("a", "b").to_dict()
    assert json.loads(told.output).keys() == expected.keys()
    assert json.loads(told.output)["attributions"] == expected["attributions"] != []
    assert table.output == f"{tracker.compare('a', 'b')}\n"
    assert CliRunner().invoke(cli, ["compare"]).exit_code == 2
