"""The ledger: slots and spans add up, whatever the cuts, and what a reader rebuilds is what the writer had."""

from array import array
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.energy import integrate, rules_of
from tracker.records import Device, Reading, Samples, Span, datetime_of
from tracker.session.account import device_energy, gap_us_of
from tracker.session.inbox import OpenSpan
from tracker.session.ledger import Ledger
from tracker.store.codec import append_reading, hot_bytes, hot_rows, samples_of_hot

S = 1_000_000
GAP_US = 5 * S
# 2026-01-01T00:00:00Z is a slot's start: the run begins 100 s after it.
OFFSET_US = 1_767_225_600 * S
START_US = 100 * S


def gpu(counter_period_us: int = 0) -> Device:
    return Device("gpu", "GPU-1", "GPU", "fake", has_counter=True, has_power=True, counter_period_us=counter_period_us)


CPU = Device("cpu_package", "intel-rapl:0", "CPU", "fake", has_counter=True, has_power=False)


def payload(readings: list[tuple[int, Reading]]) -> bytes:
    rows = array("q")
    for index, reading in readings:
        append_reading(rows, index, reading)
    return hot_bytes(rows)


def span(number: int, start_us: int, stop_us: int | None) -> OpenSpan:
    at = datetime_of(start_us + OFFSET_US)
    return OpenSpan(Span(number, None, f"s{number}", {}, at, None, None), start_us, stop_us)


def constant(power_w: int, t_us: int) -> Reading:
    return Reading(t_us, power_w * 1000, power_w * (t_us - START_US) + 7_000_000)


def ledger_of(*devices: Device) -> Ledger:
    ledger = Ledger(GAP_US)
    ledger.begin(START_US)
    for index, device in enumerate(devices):
        ledger.add_device(index, device)
    return ledger


def total_j(ledger: Ledger, until_us: int) -> list[float | None]:
    return [device_energy(account, until_us - START_US).energy_j for account in ledger.accounts()]


def test_constant_power_times_time_over_slots():
    ledger = ledger_of(gpu())
    stop_us = START_US + 600 * S

    ledger.take(payload([(0, constant(300, t)) for t in range(START_US - 1000, stop_us + S, S)]), [])
    settled = ledger.finish(OFFSET_US, stop_us)

    assert total_j(ledger, stop_us) == [180_000.0]
    slots = {slot.start_s: slot.twice_energy_nj / 2e9 for slot in settled.slots}
    assert slots == {1_767_225_600: 60_000.0, 1_767_225_900: 90_000.0, 1_767_226_200: 30_000.0}
    assert sum(slot.covered_us for slot in settled.slots) == 600 * S


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(50_000, 400 * S), st.integers(0, 700)), min_size=2, max_size=40),
    cuts=st.lists(st.integers(0, 39), max_size=6),
    has_counter=st.booleans(),
)
def test_any_cut_into_commits_and_seals_gives_the_same_slots(steps, cuts, has_counter):
    device = Device("gpu", "GPU-1", "GPU", "fake", has_counter=has_counter, has_power=True, counter_period_us=0)
    t_us, energy_uj, readings = START_US - 100, 0, []
    for (step_us, power_w), _ in zip(steps, range(len(steps)), strict=True):
        readings.append(Reading(t_us, power_w * 1000, energy_uj))
        energy_uj += power_w * step_us
        t_us += step_us
    stop_us = readings[-1].t_us
    whole = samples_of_hot(device, hot_rows(payload([(0, r) for r in readings])))
    bounds = sorted({0, *(c for c in cuts if c < len(readings)), len(readings)})

    ledger, slots = ledger_of(device), []
    for begin, end in pairwise(bounds):
        ledger.take(payload([(0, r) for r in readings[begin:end]]), [])
        slots += ledger.settle(OFFSET_US).slots
    slots += ledger.finish(OFFSET_US, stop_us).slots

    truth = integrate(whole, [START_US - 100, START_US, stop_us], rules_of(device, GAP_US))
    before, during = truth.twice_energy_nj.tolist()
    own = 2 * readings[0].power_mw * 100 if has_counter else before  # at a counter's first reading, its own power holds
    assert sum(slot.twice_energy_nj for slot in slots) == max(0, during + before - own)
    assert sum(slot.covered_us for slot in slots) == int(truth.covered_us[1])
    (account,) = ledger.accounts()
    by_slot: dict[int, int] = {}
    for slot in slots:
        by_slot[slot.start_s] = by_slot.get(slot.start_s, 0) + slot.twice_energy_nj
    assert dict(zip(account.start_s.tolist(), account.twice_energy_nj.tolist(), strict=True)) == by_slot


@settings(max_examples=60, deadline=None)
@given(instants=st.lists(st.integers(START_US + 1, START_US + 700 * S - 1), min_size=2, max_size=12, unique=True))
def test_spans_add_up_to_the_run_and_each_is_power_times_time(instants):
    instants = sorted(instants)
    ledger = ledger_of(gpu(), CPU)
    stop_us = START_US + 700 * S
    spans = [span(0, START_US, instants[0])]
    spans += [span(i + 1, a, b) for i, (a, b) in enumerate(pairwise(instants))]
    spans += [span(len(instants), instants[-1], stop_us)]
    resolved = []
    ledger.end(stop_us)

    for begin_us in range(START_US, stop_us + S, 100 * S):
        rows = [(i, constant(p, t)) for t in range(begin_us, begin_us + 100 * S, S) for i, p in ((0, 300), (1, 100))]
        ledger.take(payload(rows), [s for s in spans if begin_us <= s.start_us < begin_us + 100 * S])
        resolved += ledger.settle(OFFSET_US).spans
    resolved += ledger.finish(OFFSET_US, stop_us).spans

    assert sorted(s.id for s in resolved) == list(range(len(spans)))
    for item in resolved:
        opened = next(s for s in spans if s.span.id == item.id)
        assert item.energy_j == pytest.approx(400 * (opened.stop_us - opened.start_us) / S, abs=1e-5)
    assert sum(item.energy_j for item in resolved) == pytest.approx(sum(total_j(ledger, stop_us)), abs=1e-4)


def test_an_open_span_waits_and_a_device_that_came_late_does_not_hold_it_up():
    ledger = ledger_of(gpu(), CPU)
    early, late = span(0, START_US, START_US + 5 * S), span(1, START_US + 2 * S, None)

    ledger.take(payload([(0, constant(100, t)) for t in range(START_US, START_US + 10 * S, S)]), [early, late])
    first = ledger.settle(OFFSET_US)
    ledger.take(
        payload([(1, constant(50, t)) for t in range(START_US + 10 * S, START_US + 20 * S, S)]),
        [span(1, late.start_us, START_US + 8 * S)],
    )
    ledger.take(payload([(0, constant(100, t)) for t in range(START_US + 10 * S, START_US + 20 * S, S)]), [])
    second = ledger.finish(OFFSET_US, START_US + 19 * S)

    assert [(s.id, s.energy_j) for s in first.spans] == [(0, 500.0)]
    assert [(s.id, s.energy_j, s.coverage) for s in second.spans] == [(1, 600.0, 0.5)]


def test_a_preview_changes_nothing_and_says_what_an_end_now_would():
    ledger, other = ledger_of(gpu(100_000)), ledger_of(gpu(100_000))
    rows = payload([(0, constant(300, t)) for t in range(START_US, START_US + 50 * S, S)])
    now_us = START_US + 49 * S

    for one in (ledger, other):
        one.take(rows, [])
    seen = ledger.preview(OFFSET_US, now_us)
    again = ledger.preview(OFFSET_US, now_us)
    other.finish(OFFSET_US, now_us)
    ledger.finish(OFFSET_US, now_us)

    expected = device_energy(other.accounts()[0], now_us - START_US)
    assert device_energy(seen[0], now_us - START_US) == expected
    assert device_energy(again[0], now_us - START_US) == expected
    assert device_energy(ledger.accounts()[0], now_us - START_US) == expected


def test_what_a_slow_counter_has_not_shown_at_the_ends_is_added_at_the_devices_own_power():
    """A counter refreshed every 100 ms is on average 50 ms old: 50 ms x (700 - 100) W = 30 J."""
    ledger, fresh = ledger_of(gpu(100_000)), ledger_of(gpu(0))
    readings = [(0, Reading(START_US, 100_000, 0)), (0, Reading(START_US + 20 * S, 700_000, 8_000_000_000))]
    stop_us = START_US + 20 * S

    for one in (ledger, fresh):
        one.take(payload(readings), [])
        one.finish(OFFSET_US, stop_us)

    assert total_j(fresh, stop_us) == [8000.0]
    assert total_j(ledger, stop_us) == [8030.0]
    (account,) = ledger.accounts()
    assert account.edge_j == 0.05 * 800
    assert sum(account.twice_energy_nj.tolist()) == 8030 * 2 * 10**9


def test_a_run_too_short_for_its_counter_is_judged_by_power():
    ledger = ledger_of(gpu(100_000))
    stop_us = START_US + 300_000

    ledger.take(payload([(0, Reading(t, 200_000, 5_000_000)) for t in (START_US, stop_us)]), [])
    ledger.finish(OFFSET_US, stop_us)

    (account,) = ledger.accounts()
    energy = device_energy(account, 300_000)
    assert (energy.method, energy.energy_j) == ("power", 60.0)
    assert any("too short" in note for note in energy.notes)


def test_counter_and_power_that_disagree_are_both_named_and_widen_the_range():
    """Case 213: 37.45 W by counter, 65.32 W by power, on one idle board: one source throughout, and it is said."""
    ledger = ledger_of(gpu())
    stop_us = START_US + 5 * S
    readings = [(0, Reading(START_US + t * S // 2, 65_320, 37_450_000 * t // 2)) for t in range(11)]

    ledger.take(payload(readings), [])
    ledger.finish(OFFSET_US, stop_us)

    energy = device_energy(ledger.accounts()[0], 5 * S)
    assert energy.method == "counter"
    assert energy.energy_j == pytest.approx(187.25)
    assert energy.mean_power_w == pytest.approx(energy.energy_j / 5)
    low_j, high_j = energy.energy_range_j
    assert low_j < 187.25 < 326.6 < high_j
    (note,) = [note for note in energy.notes if "disagree" in note]
    assert "37.45 W" in note and "65.32 W" in note and "counter is used" in note


def test_a_trace_too_coarse_for_the_load_is_no_disagreement():
    """Readings once a second of a load that goes up and down cannot say much; the counter can."""
    ledger = ledger_of(gpu())
    readings = [(0, Reading(START_US + t * S, 700_000 if t % 3 == 0 else 50_000, 375_000_000 * t)) for t in range(8)]

    ledger.take(payload(readings), [])
    ledger.finish(OFFSET_US, START_US + 7 * S)

    assert not any("disagree" in note for note in ledger.accounts()[0].notes)


def test_a_device_without_a_reading_is_unknown_and_not_zero():
    ledger = ledger_of(gpu(), CPU)
    ledger.take(payload([(0, constant(100, t)) for t in (START_US, START_US + S)]), [])
    ledger.finish(OFFSET_US, START_US + S)

    known, unknown = (device_energy(account, S) for account in ledger.accounts())

    assert (known.energy_j, unknown.energy_j, unknown.method, unknown.coverage) == (100.0, None, "none", 0.0)


def test_a_wall_clock_step_moves_no_energy():
    ledger = ledger_of(gpu())
    middle_us, stop_us = START_US + 100 * S, START_US + 200 * S

    ledger.take(payload([(0, constant(300, t)) for t in range(START_US, middle_us, S)]), [])
    ledger.settle(OFFSET_US)
    ledger.take(payload([(0, constant(300, t)) for t in range(middle_us, stop_us + S, S)]), [])
    ledger.finish(OFFSET_US - 3600 * S, stop_us)

    assert total_j(ledger, stop_us) == [60_000.0]
    assert min(ledger.accounts()[0].start_s) < 1_767_225_600 <= max(ledger.accounts()[0].start_s)


def test_memory_per_reading_is_none():
    ledger = ledger_of(gpu())
    sizes = []
    for minute in range(200):
        begin_us = START_US + minute * 60 * S
        ledger.take(payload([(0, constant(300, t)) for t in range(begin_us, begin_us + 60 * S, S)]), [])
        ledger.settle(OFFSET_US)
        device = ledger._devices[0]
        sizes.append((len(device._stream._walk.columns.t_us), len(device.cumulative), len(ledger._payloads)))

    assert max(sizes) == (2, 1, 0) or max(s[0] for s in sizes) <= 3
    assert len(ledger._devices[0]._start_s) <= 200 // 5 + 2


@pytest.mark.parametrize(("interval_s", "gap_s"), [(None, 3), (0.1, 2), (1.0, 3), (2.0, 6), (60.0, 180)])
def test_the_gap_limit_is_three_periods_and_at_least_2_s(interval_s, gap_s):
    assert gap_us_of(interval_s) == gap_s * S


def test_samples_know_their_time_of_day():
    samples = samples_of_hot(gpu(), hot_rows(payload([(0, constant(1, START_US)), (0, Reading(START_US + S))])))
    shifted = Samples(
        *(getattr(samples, name) for name in Samples.__slots__ if name != "unix_offset_us"), unix_offset_us=OFFSET_US
    )

    assert shifted.time_utc[0] == np.datetime64("2026-01-01T00:01:40")
    assert shifted.elapsed_s.tolist() == [0.0, 1.0]
    assert np.isnan(shifted.power_w[1]) and shifted.power_w[0] == 1.0
