"""Pricing: laws first, then the closed-form vectors."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.emissions import UNPRICED, Emissions, SlotEnergies, Timeline, checked_pue, price
from tracker.errors import SettingError
from tracker.records import IntensityValue, Slot, datetime_of
from tracker.units import JOULES_PER_KWH, MICROSECONDS_PER_S, TWICE_NANOJOULES_PER_J

KWH_TWICE_NJ = JOULES_PER_KWH * TWICE_NANOJOULES_PER_J
START_S = 1_790_000_100  # a multiple of 300
ALWAYS = IntensityValue(
    zone="FR", intensity_g_per_kwh=40.0, provider="bundled", dataset="yearly", status="static", basis="lifecycle"
)


def instant(offset_s: float) -> datetime:
    return datetime_of(round((START_S + offset_s) * MICROSECONDS_PER_S))


def dated(intensity_g_per_kwh: float, start_s: float, end_s: float, **fields: object) -> IntensityValue:
    value = replace(ALWAYS, intensity_g_per_kwh=intensity_g_per_kwh, start=instant(start_s), end=instant(end_s))
    return replace(value, **{"provider": "grid", "status": "final", **fields})


def energies(offsets_s: list[int], energy_j: list[float], modelled: list[bool] | None = None) -> SlotEnergies:
    return SlotEnergies(
        start_s=START_S + np.array(offsets_s, dtype=np.int64),
        twice_energy_nj=np.array([round(energy * TWICE_NANOJOULES_PER_J) for energy in energy_j], dtype=np.int64),
        is_modelled=np.array(modelled or [False] * len(energy_j), dtype=np.bool_),
    )


def grams(result: Emissions) -> float:
    return (result.emissions_g or 0.0) + (result.emissions_modelled_g or 0.0)


slot_rows = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 2 * 10**15), st.booleans()), min_size=1, max_size=12
).map(
    lambda rows: SlotEnergies(
        start_s=START_S + 300 * np.array([row[0] for row in rows], dtype=np.int64),
        twice_energy_nj=np.array([row[1] for row in rows], dtype=np.int64),
        is_modelled=np.array([row[2] for row in rows]),
    )
)
dated_values = st.lists(
    st.builds(
        lambda g, start, length, status, fetched: dated(
            g, start, start + length, status=status, fetched_at=instant(fetched), dataset=f"{g}"
        ),
        st.integers(0, 1000),
        st.integers(-1000, 6000),
        st.integers(1, 3000),
        st.sampled_from(["forecast", "estimated", "provisional", "final"]),
        st.integers(0, 3),
    ),
    max_size=8,
)


@given(slot_rows, dated_values, st.integers(0, 12))
def test_the_parts_of_a_run_add_up_to_the_run(rows: SlotEnergies, values: list[IntensityValue], cut: int) -> None:
    def part(chosen: slice) -> SlotEnergies:
        return SlotEnergies(rows.start_s[chosen], rows.twice_energy_nj[chosen], rows.is_modelled[chosen])

    whole = price(rows, values, fallback=ALWAYS)
    parts = [price(part(chosen), values, fallback=ALWAYS) for chosen in (slice(cut), slice(cut, None))]

    assert sum(map(grams, parts)) == pytest.approx(grams(whole), rel=1e-12)
    assert np.concatenate([p.slot_g for p in parts]).tolist() == whole.slot_g.tolist()


@given(slot_rows, dated_values, st.floats(1, 3), st.floats(0.01, 100))
def test_emissions_are_linear_in_intensity_and_pue(
    rows: SlotEnergies, values: list[IntensityValue], pue: float, factor: float
) -> None:
    scaled = [replace(value, intensity_g_per_kwh=value.intensity_g_per_kwh * factor) for value in values]

    assert grams(price(rows, values, pue=pue)) == pytest.approx(pue * grams(price(rows, values)))
    assert grams(price(rows, scaled)) == pytest.approx(factor * grams(price(rows, values)))


@given(slot_rows, dated_values, st.randoms())
def test_the_order_of_values_and_rows_changes_no_bit(rows: SlotEnergies, values: list[IntensityValue], random) -> None:  # type: ignore[no-untyped-def]
    order = random.sample(range(len(rows.start_s)), len(rows.start_s))
    shuffled = SlotEnergies(rows.start_s[order], rows.twice_energy_nj[order], rows.is_modelled[order])
    mixed = random.sample(values, len(values))

    one, other = price(rows, values, fallback=ALWAYS), price(shuffled, mixed, fallback=ALWAYS)

    assert (one.emissions_g, one.emissions_modelled_g) == (other.emissions_g, other.emissions_modelled_g)
    assert one.slot_g[order].tolist() == other.slot_g.tolist()


@given(slot_rows, dated_values.filter(bool), st.integers(1, 2999))
def test_a_value_split_in_two_equal_ones_changes_nothing(
    rows: SlotEnergies, values: list[IntensityValue], after_s: int
) -> None:
    first = values[0]
    assert first.start is not None and first.end is not None
    middle = min(first.start + timedelta(seconds=after_s), first.end)
    halves = [replace(first, end=middle), replace(first, start=middle)]

    one, other = price(rows, values, fallback=ALWAYS), price(rows, halves + values[1:], fallback=ALWAYS)

    assert grams(one) == pytest.approx(grams(other), rel=1e-12)
    assert one.slot_is_averaged.tolist() == other.slot_is_averaged.tolist()


@given(slot_rows, dated_values)
def test_every_joule_is_priced_once_or_named_as_unpriced(rows: SlotEnergies, values: list[IntensityValue]) -> None:
    result = price(rows, values, pue=1.5)

    used_j = sum(use.energy_j + use.energy_modelled_j for use in result.uses)
    total_j = int(rows.twice_energy_nj.sum()) / TWICE_NANOJOULES_PER_J
    assert used_j + result.unpriced_energy_j == pytest.approx(total_j, rel=1e-12)
    recomputed = 1.5 * sum(
        (use.energy_j + use.energy_modelled_j) / JOULES_PER_KWH * use.value.intensity_g_per_kwh for use in result.uses
    )
    assert grams(result) == pytest.approx(recomputed, rel=1e-12)
    assert np.nansum(result.slot_g) == pytest.approx(grams(result), rel=1e-9, abs=1e-12)


def test_emissions_of_unknown_energy_are_unknown_and_of_no_energy_zero() -> None:
    unknown = price(energies([], []), [ALWAYS])
    none = price(energies([0], [0.0]), [ALWAYS])

    assert (unknown.emissions_g, unknown.emissions_modelled_g, unknown.uses) == (None, None, ())
    assert (none.emissions_g, none.emissions_modelled_g) == (0.0, None)


def test_measured_and_modelled_energy_are_priced_apart() -> None:
    result = price(energies([0, 0, 300], [3.6e6, 7.2e6, 3.6e6], [False, True, True]), [ALWAYS], pue=1.5)

    assert (result.emissions_g, result.emissions_modelled_g) == (60.0, 180.0)
    assert [(use.energy_j, use.energy_modelled_j, use.slots) for use in result.uses] == [(3.6e6, 10.8e6, 2)]


def test_the_best_status_holds_and_then_the_value_fetched_last() -> None:
    forecast = dated(100, 0, 300, status="forecast", fetched_at=instant(900))
    stale = dated(200, 0, 300, fetched_at=instant(600))
    fresh = dated(300, 0, 300, fetched_at=instant(700))

    result = price(energies([0], [3.6e6]), [stale, fresh, forecast, ALWAYS])

    assert result.emissions_g == 300.0
    assert result.slot_value.tolist() == [1]


def test_an_intensity_that_changes_within_a_slot_is_averaged_over_its_time_and_marked() -> None:
    values = [dated(100, 0, 75), dated(500, 75, 300)]

    result = price(energies([0, 300], [3.6e6, 0.0]), values, fallback=ALWAYS)

    assert result.emissions_g == 400.0
    assert result.slot_is_averaged.tolist() == [True, False]
    assert result.slot_value.tolist() == [1, 2]
    assert "changed within 1 of the slots" in " ".join(result.warnings)


def test_time_outside_the_run_has_no_share_in_a_slots_energy() -> None:
    values = [dated(100, 0, 150), dated(500, 150, 300)]

    result = price(energies([0], [3.6e6]), values, covered=(instant(150), instant(250)))

    assert result.emissions_g == 500.0
    assert not result.slot_is_averaged.any()


def test_a_slot_that_a_clock_step_left_outside_the_run_counts_whole() -> None:
    values = [dated(100, 0, 150), dated(500, 150, 300)]

    assert price(energies([0], [3.6e6]), values, covered=(instant(900), instant(950))).emissions_g == 300.0


def test_the_fallback_prices_only_what_no_value_covers_as_a_use_of_its_own() -> None:
    result = price(energies([0, 300], [3.6e6, 3.6e6]), [dated(400, 0, 300)], fallback=ALWAYS, fallback_origin="guessed")

    assert result.emissions_g == 440.0
    assert [(use.zone_origin, use.energy_j) for use in result.uses] == [("setting", 3.6e6), ("guessed", 3.6e6)]
    assert "50.0% of the energy was priced with the fallback" in " ".join(result.warnings)


def test_energy_without_a_value_is_left_out_and_named() -> None:
    result = price(energies([0, 300], [3.6e6, 1.2e6]), [dated(400, 0, 300)])

    assert (result.emissions_g, result.unpriced_energy_j) == (400.0, 1.2e6)
    assert result.slot_value.tolist() == [0, UNPRICED]
    assert math.isnan(result.slot_g[1])
    assert result.warnings == ("no intensity for 25.0% of the energy: it is not in the emissions",)


def test_energy_that_no_value_covers_at_all_has_unknown_emissions() -> None:
    assert price(energies([0], [3.6e6]), []).emissions_g is None


def test_lifecycle_and_direct_are_never_summed() -> None:
    direct = dated(400, 0, 300, basis="direct")

    result = price(energies([0, 300, 600], [3.6e6, 3.6e6, 3.6e6]), [direct], fallback=ALWAYS, pue=1.5)

    assert result.emissions_g == 600  # of the first slot alone, although the fallback priced more
    assert [use.value.basis for use in result.uses] == ["direct", "lifecycle"]
    (said,) = [warning for warning in result.warnings if "basis" in warning]
    assert said.startswith("66.7% of the energy is priced on another basis (lifecycle, not direct)")


def test_energy_that_only_another_basis_prices_has_no_emissions_and_not_0() -> None:
    direct = dated(400, 0, 300, basis="direct")

    result = price(energies([0, 300], [3.6e6, 3.6e6], [False, True]), [direct], fallback=ALWAYS)

    assert (result.emissions_g, result.emissions_modelled_g) == (400, None)


def test_the_fallback_alone_tells_the_emissions_on_its_own_basis() -> None:
    direct = dated(400, 3000, 3300, basis="direct")

    result = price(energies([0], [3.6e6]), [direct], fallback=ALWAYS)

    assert result.emissions_g == ALWAYS.intensity_g_per_kwh
    assert not any("basis" in warning for warning in result.warnings)


def test_a_timeline_prices_any_number_of_runs_as_its_values_do() -> None:
    values = [dated(100 + hour, 3600 * hour, 3600 * (hour + 1)) for hour in range(24)]
    day = Timeline.of(values, ALWAYS)

    for hour in (0, 7, 23, 24):
        rows = energies([3600 * hour + 1800, 3600 * hour + 3300], [1e6, 2e6])
        assert price(rows, day).emissions_g == price(rows, values, fallback=ALWAYS).emissions_g
        assert price(rows, day).uses == price(rows, values, fallback=ALWAYS).uses


def test_average_and_marginal_are_never_summed() -> None:
    with pytest.raises(ValueError, match="average and marginal"):
        price(energies([0], [1.0]), [ALWAYS, replace(ALWAYS, signal="marginal")])


@pytest.mark.parametrize("wrong", [-36.4, math.nan, math.inf])
def test_a_number_that_is_no_intensity_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="no intensity"):
        price(energies([0], [1.0]), [replace(ALWAYS, intensity_g_per_kwh=wrong)])


@pytest.mark.parametrize("wrong", [0.99, 0.0, -1.0, math.nan, math.inf])
def test_a_pue_below_one_is_refused_with_its_origin(wrong: float) -> None:
    with pytest.raises(SettingError, match="TRACKER_PUE: a PUE is 1"):
        checked_pue(wrong, "TRACKER_PUE")
    with pytest.raises(SettingError):
        price(energies([0], [1.0]), [ALWAYS], pue=wrong)


def test_sums_beyond_64_bits_stay_exact() -> None:
    slots, each = 3000, 2**62
    rows = SlotEnergies(
        START_S + 300 * np.arange(slots), np.full(slots, each, dtype=np.int64), np.zeros(slots, dtype=np.bool_)
    )

    (use,) = price(rows, [ALWAYS]).uses

    assert use.energy_j == slots * each / TWICE_NANOJOULES_PER_J


def test_slots_without_known_energy_give_no_row() -> None:
    known = Slot(0, START_S, KWH_TWICE_NJ, 300_000_000, None)

    rows = SlotEnergies.of([known, replace(known, covered_us=0), replace(known, device_index=1)], {1})

    assert rows.start_s.tolist() == [START_S, START_S]
    assert rows.is_modelled.tolist() == [False, True]


# Energy of each slot of the vectors in data/test_vectors.json, by hand: (slot length, offsets, J).
VECTOR_SLOTS = {
    "constant": (300, range(0, 3600, 300), lambda a, b: 300 * (b - a)),
    "ramp_one_I": (300, range(0, 3600, 300), lambda a, b: 100 * (b - a) + (b * b - a * a) / 18),
    "ramp_I_step_half": (300, range(0, 3600, 300), lambda a, b: 100 * (b - a) + (b * b - a * a) / 18),
    "const_I_step_mid_cell": (2, range(0, 10, 2), lambda a, b: 360 * (b - a)),
    "ramp_I_step_mid_cell": (2, range(0, 10, 2), lambda a, b: 36 * (b * b - a * a)),
    "anchored_ramp": (2, range(0, 10, 2), lambda a, b: 72 * (b * b - a * a)),
    "five_min_slots": (300, range(0, 900, 300), lambda a, b: 1000 * (min(b, 780) - max(a, 120))),
}
VECTORS = {
    "constant": ([0], [400], 120.0),
    "ramp_one_I": ([0], [400], 120.0),
    "ramp_I_step_half": ([0, 1800], [200, 600], 140.0),
    "const_I_step_mid_cell": ([0, 4], [100, 500], 0.34),
    "ramp_I_step_mid_cell": ([0, 4], [100, 500], 0.436),
    "anchored_ramp": ([0, 4], [100, 500], 0.872),
    "five_min_slots": ([0, 300, 600], [100, 200, 300], 36.666666666666664),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_closed_form_vectors_are_met(name: str) -> None:
    tau_s, intensities, right_g = VECTORS[name]
    slot_s, offsets_s, energy_j = VECTOR_SLOTS[name]
    ends_s = [*tau_s[1:], 10_000]
    values = [dated(g, start, end) for g, start, end in zip(intensities, tau_s, ends_s, strict=True)]

    result = price(energies([*offsets_s], [energy_j(a, a + slot_s) for a in offsets_s]), values, slot_s=slot_s)

    assert result.emissions_g == pytest.approx(right_g, rel=1e-12)
    assert not result.slot_is_averaged.any()


def test_a_run_across_the_hour_is_priced_hour_by_hour() -> None:
    # Case 313: 3 kW from ten to the hour until ten past, 100 g/kWh before and 400 after; a mean would give 100 or 400.
    hour_s = 300 * 100
    rows = energies([hour_s + offset for offset in range(-600, 600, 300)], [900_000.0] * 4)

    assert price(rows, [dated(100, 0, hour_s), dated(400, hour_s, 10**6)]).emissions_g == 250.0


@pytest.mark.parametrize("step_s", [300, 900, 1800, 3600])
def test_thirty_days_against_any_step_equal_the_rational_sum_to_the_last_digit(step_s: int) -> None:
    days_s, drawn = 30 * 86_400, np.random.default_rng(step_s)
    twice_energy_nj = drawn.integers(0, 6 * 10**14, days_s // 300)  # up to 1 kW
    g_per_kwh = drawn.integers(0, 900_000, days_s // step_s) / 1000
    values = [dated(g, step_s * n, step_s * (n + 1)) for n, g in enumerate(g_per_kwh.tolist())]
    rows = SlotEnergies(START_S + 300 * np.arange(days_s // 300), twice_energy_nj, np.zeros(days_s // 300, dtype=bool))

    result = price(rows, values)

    per_step_nj = twice_energy_nj.reshape(-1, step_s // 300).sum(axis=1).tolist()
    exact_g = sum(Fraction(nj) * Fraction(g) for nj, g in zip(per_step_nj, g_per_kwh.tolist(), strict=True))
    assert result.emissions_g == pytest.approx(float(exact_g / KWH_TWICE_NJ), rel=1e-15)
    assert sum(use.slots for use in result.uses) == days_s // 300
