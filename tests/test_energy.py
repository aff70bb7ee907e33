"""Examples of energy: each rule once, and sizes that hypothesis does not reach."""

import tracemalloc
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np
import pytest
from energy_reference import RAPL_MAX_UJ, columns, gpu, part, samples_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.counters import LONGEST_STRETCH
from tracker.energy import EdgeEnergy, Piece, Rules, Stream, integrate, rules_of, slot_edges
from tracker.records import Device, Samples
from tracker.units import JOULES_PER_KWH, joules_of_twice_nj

S = 1_000_000
POWER = Rules(has_counter=False, has_power=True, gap_us=5 * S)
RAPL = Rules(
    has_counter=True,
    has_power=False,
    counter_modulus_uj=RAPL_MAX_UJ + 61,
    counter_period_us=1_000,
    max_power_mw=500_000,
)


def joules(energy: EdgeEnergy) -> list[float]:
    return [joules_of_twice_nj(e) for e in energy.twice_energy_nj.tolist()]


def long_trace(count: int, *, counter_uj: np.ndarray | None = None, power_known: np.ndarray | None = None) -> Samples:
    """300 W and more, once a second, not evenly."""
    rng = np.random.default_rng(3)
    known = np.ones(count, bool)
    t_us = np.cumsum(rng.integers(S // 2, 3 * S // 2, count))
    power_mw = rng.integers(300_000, 400_000, count)
    counter_known = ~known if counter_uj is None else counter_uj >= 0
    counter_uj = np.zeros(count, np.int64) if counter_uj is None else counter_uj
    power_known = known if power_known is None else power_known
    device = Device("gpu", "GPU-0", "GPU", "nvml", True, True)
    return Samples(device, t_us, power_mw, power_known, counter_uj, counter_known, power_mw, ~known)


def assert_cuts_are_no_matter(samples: Samples, rules: Rules) -> EdgeEnergy:
    """Whole, in blocks of some sizes, and in pieces: one answer, which is returned."""
    edges_us, _ = slot_edges(int(samples.t_us[0]), int(samples.t_us[-1]), 7)
    whole = integrate(samples, edges_us, rules)
    for size in (61, 4_000, 50_000):
        stream = Stream(rules)
        cuts = [*range(0, len(samples), size), len(samples)]
        blocks = [stream.push(part(samples, a, b), edges_us) for a, b in pairwise(cuts)]
        blocks.append(stream.finish(edges_us))
        assert sum(b.total_twice_nj for b in blocks) == whole.total_twice_nj
        assert sum(int(b.covered_us.sum()) for b in blocks) == int(whole.covered_us.sum())
        assert sum((b.findings for b in blocks[1:]), blocks[0].findings) == whole.findings
    middle = len(samples) // 3
    joined = Piece.of(part(samples, 0, middle), edges_us, rules).join(Piece.of(part(samples, middle), edges_us, rules))
    assert joined.total().twice_energy_nj.tolist() == whole.twice_energy_nj.tolist()
    assert joined.total().findings == whole.findings
    return whole


def test_sixty_days_of_six_hour_steps_are_exact() -> None:
    t_us = [k * 6 * 3600 * S for k in range(241)]
    samples = samples_of(t_us, [400_000] * 241)

    whole = integrate(samples, [0, t_us[-1]], Rules(has_counter=False, has_power=True))
    slots = integrate(samples, slot_edges(0, t_us[-1], 0)[0], Rules(has_counter=False, has_power=True))

    assert whole.total_twice_nj == slots.total_twice_nj
    assert joules_of_twice_nj(whole.total_twice_nj) / JOULES_PER_KWH == 576
    assert set(joules(slots)) == {400 * 300}


def test_a_ramp_of_a_year_is_split_exactly() -> None:
    year_us = 365 * 86400 * S
    samples = samples_of([0, year_us], [0, 100_000])
    edges_us = [0, year_us // 4, year_us // 2, year_us - 1, year_us]

    got = integrate(samples, edges_us, Rules(has_counter=False, has_power=True))

    until = [100_000 * t**2 // year_us for t in edges_us]
    assert got.twice_energy_nj.tolist() == [b - a for a, b in pairwise(until)]


def test_a_ramp_of_six_hours_is_split_exactly() -> None:
    end_us = 6 * 3600 * S
    edges_us = [0, 1, end_us // 3 + 1, end_us - 7, end_us]

    got = integrate(samples_of([0, end_us], [0, 699_999]), edges_us, Rules(has_counter=False, has_power=True))

    until = [699_999 * t**2 // end_us for t in edges_us]
    assert got.twice_energy_nj.tolist() == [b - a for a, b in pairwise(until)]


def test_an_interval_beyond_int64_says_where_to_put_an_edge() -> None:
    year_us = 365 * 86400 * S
    samples = samples_of([0, year_us], [700_000, 700_000])

    with pytest.raises(OverflowError, match="put an edge in between"):
        integrate(samples, [0, year_us], Rules(has_counter=False, has_power=True))


def test_many_blocks_that_pass_int64_together_are_found_out() -> None:
    t_us = np.arange(1_000_000) * 10 * S
    samples = Samples(samples_of([0]).device, t_us, *(t_us * 0 + x for x in (1_000_000, 1, 0, 0, 0, 0)))

    with pytest.raises(OverflowError, match="put an edge in between"):
        integrate(samples, [0, int(t_us[-1])], Rules(has_counter=False, has_power=True))


def test_a_counter_that_stands_still_under_load_leaves_it_to_the_trace() -> None:
    samples = samples_of([0, S, 2 * S, 3 * S], [300_000] * 4, [0, 300 * S, 300 * S, 600 * S])

    got = integrate(samples, [0, S, 2 * S, 3 * S], gpu())

    assert joules(got) == [300, 300, 300]
    assert got.findings.frozen == 1


def test_half_seconds_without_movement_count_as_one_stretch() -> None:
    samples = samples_of([0, S // 2, S, 3 * S // 2], [300_000] * 4, [7, 7, 7, 150 * S + 7])

    got = integrate(samples, [0, S, 3 * S // 2], gpu())

    assert joules(got) == [300, 150]
    assert got.findings.frozen == 1


@pytest.mark.parametrize("late_s", [2, 5, 60])
@pytest.mark.parametrize("share", [0.8, 1, 1.6])
def test_a_counter_that_shows_late_what_it_has_counted_counts_it_once(late_s: int, share: float) -> None:
    t_s = range(10 + late_s + 10)
    counted_uj = [round(share * 300 * (10 if 10 <= t < 10 + late_s else t)) * S for t in t_s]
    samples = samples_of([t * S for t in t_s], [300_000] * len(t_s), counted_uj)

    got = integrate(samples, [0, t_s[-1] * S], gpu())

    assert joules(got) == [counted_uj[-1] / S]
    assert (got.findings.frozen, got.findings.implausible) == (0, 0)


@pytest.mark.parametrize("lost_s", [2, 5, 60])
@pytest.mark.parametrize("share", [0.6, 1, 1.2])
def test_what_a_counter_never_counts_is_the_trace_s(lost_s: int, share: float) -> None:
    t_s = range(10 + lost_s + 10)
    counted_uj = [round(share * 300 * (t if t < 10 else max(10, t - lost_s))) * S for t in t_s]
    samples = samples_of([t * S for t in t_s], [300_000] * len(t_s), counted_uj)

    got = integrate(samples, [0, t_s[-1] * S], gpu())

    assert joules(got) == [counted_uj[-1] / S + 300 * lost_s]
    assert got.findings.frozen == 1


@settings(max_examples=50)
@given(
    period_s=st.floats(0.2, 20),
    share=st.floats(0.6, 1.6),
    steps_us=st.lists(st.integers(50_000, 2 * S), min_size=60, max_size=120),
)
def test_a_counter_that_is_refreshed_more_seldom_than_is_thought_counts_nothing_twice(
    period_s: float, share: float, steps_us: list[int]
) -> None:
    t_us = list(accumulate(steps_us))
    power_w, period_us = 300, round(period_s * S)
    samples = samples_of(
        t_us, [power_w * 1000] * len(t_us), [round(share * power_w * (t // period_us * period_us)) for t in t_us]
    )

    got = integrate(samples, [t_us[0], t_us[-1]], gpu(counter_period_us=100_000))

    by_power_j = power_w * (t_us[-1] - t_us[0]) / S
    by_counter_j = share * by_power_j
    a_refresh_j = max(1, share) * power_w * (period_us + 2 * max(steps_us)) / S
    assert min(by_power_j, by_counter_j) - a_refresh_j <= got.total_twice_nj / 2e9
    assert got.total_twice_nj / 2e9 <= 1.1 * max(by_power_j, by_counter_j) + a_refresh_j


def test_a_counter_slow_to_refresh_is_not_frozen() -> None:
    samples = samples_of([0, S, 2 * S], [300_000] * 3, [0, 0, 600 * S])

    got = integrate(samples, [0, 2 * S], gpu(counter_period_us=S))

    assert joules(got) == [600]
    assert got.findings.frozen == 0


def test_a_counter_that_stands_still_is_unknown_without_a_trace_and_never_zero() -> None:
    got = integrate(samples_of([0, S, 2 * S], None, [5, 5, 5]), [0, 2 * S], RAPL)

    assert (got.total_twice_nj, got.covered_us.tolist(), got.findings.frozen) == (0, [0], 1)


def test_a_restart_without_a_trace_is_left_out_and_says_so() -> None:
    samples = samples_of([0, 10 * S, 20 * S], None, [4_000_000_000, 10_000, 500_010_000])

    got = integrate(samples, [0, 20 * S], Rules(has_counter=True, has_power=False))

    assert joules(got) == [500]
    assert (got.covered_us.tolist(), got.findings.gap_us, got.findings.resets) == ([10 * S], 10 * S, 1)


def test_a_jump_beyond_the_device_is_left_to_the_trace() -> None:
    samples = samples_of([0, S, 2 * S], [300_000] * 3, [0, 300 * S, 9_000 * S])

    got = integrate(samples, [0, S, 2 * S], gpu(max_power_mw=700_000))

    assert joules(got) == [300, 300]
    assert got.findings.implausible == 1


def test_a_jump_beyond_int64_nanojoules_is_found_implausible() -> None:
    got = integrate(samples_of([0, S], [300_000] * 2, [0, 5 * 10**14]), [0, S], gpu(max_power_mw=700_000))

    assert (joules(got), got.findings.implausible) == ([300], 1)


def test_a_coarse_counter_read_twice_around_its_step_is_plausible() -> None:
    samples = samples_of([0, S, S + 50_000], [700_000] * 3, [0, 690 * S, 760 * S])

    got = integrate(samples, [0, S + 50_000], gpu(max_power_mw=700_000, counter_period_us=100_000))

    assert joules(got) == [760]


def test_a_wrapping_counter_says_nothing_after_a_stall_as_long_as_a_round() -> None:
    stall_us = (RAPL_MAX_UJ + 61) // 500 + 1  # at 500 W

    for seen_uj in (200 * S, 100 * S):
        got = integrate(samples_of([0, S, S + stall_us], None, [0, 100 * S, seen_uj]), [0, S + stall_us], RAPL)

        assert joules(got) == [100]
        assert (got.covered_us.tolist(), got.findings.overlong, got.findings.frozen) == ([S], 1, 0)


def test_a_counter_without_a_trace_is_split_by_time_and_the_splits_are_counted() -> None:
    got = integrate(samples_of([0, 10 * S], None, [0, 1000 * S]), [0, 4 * S, 10 * S], RAPL)

    assert joules(got) == [400, 600]
    assert (got.max_power_mw.tolist(), got.findings.linear) == ([100_000, 100_000], 1)


def test_a_trace_that_knows_only_a_part_does_not_place_the_counters_energy() -> None:
    samples = samples_of([0, 5 * S, 20 * S], [100_000] * 3, [0, None, 2000 * S])

    got = integrate(samples, [0, 10 * S, 20 * S], gpu(gap_us=5 * S))

    assert (joules(got), got.findings.linear) == ([1000, 1000], 1)


def test_counter_and_trace_are_compared_where_both_are_known() -> None:
    samples = samples_of([0, S, 2 * S, 10 * S], [65_300] * 4, [0, 37_450_000, 74_900_000, 374_500_000])

    got = integrate(samples, [0, 10 * S], gpu(gap_us=5 * S)).findings

    assert got.compared_us == 2 * S
    assert joules_of_twice_nj(got.compared_counter_twice_nj) == 74.9
    assert joules_of_twice_nj(got.compared_power_twice_nj) == 130.6


def test_power_that_no_device_draws_is_bridged_and_counted() -> None:
    samples = samples_of([0, S, 2 * S, 3 * S], [150_000, 2**32 - 1, -2, 150_000])

    got = integrate(samples, [0, 3 * S], POWER)

    assert (joules(got), got.max_power_mw.tolist()) == ([450], [150_000])
    assert (got.findings.rejected, got.findings.conflicts) == (2, 0)


def test_even_steps_are_flagged_only_without_a_counter() -> None:
    t_us, power_mw = [0, S, 2 * S], [1_000, 2_000, 3_000]

    assert integrate(samples_of(t_us, power_mw), [0, 2 * S], POWER).findings.is_evenly_spaced
    assert not integrate(samples_of([0, S, 2 * S + 1], power_mw), [0, 2 * S], POWER).findings.is_evenly_spaced
    assert not integrate(samples_of(t_us, power_mw, [0, 1, 2]), [0, 2 * S], gpu()).findings.is_evenly_spaced


@pytest.mark.parametrize("fault", ["stands still", "is not read"])
def test_a_counter_lost_for_long_leaves_the_time_to_the_trace_for_any_cuts(fault: str) -> None:
    count, lost = 30_000, slice(9_000, 9_000 + LONGEST_STRETCH + 500)
    counter_uj = np.arange(count) * 333 * S
    counter_uj[lost] = counter_uj[lost.start] if fault == "stands still" else -1

    got = assert_cuts_are_no_matter(long_trace(count, counter_uj=counter_uj), gpu(gap_us=5 * S))

    assert got.findings.unanchored == 1
    assert got.findings.gap_us == 0


def test_a_counter_first_read_late_was_not_lost() -> None:
    count = 12_000
    counter_uj = np.where(np.arange(count) > LONGEST_STRETCH + 10, np.arange(count) * 333 * S, -1)

    got = assert_cuts_are_no_matter(long_trace(count, counter_uj=counter_uj), gpu(gap_us=5 * S))

    assert (got.findings.unanchored, got.findings.gap_us) == (0, 0)


def test_a_counter_that_just_comes_back_in_time_still_gives_the_energy() -> None:
    count, lost = 12_000, slice(5_000, 4_999 + LONGEST_STRETCH)
    counter_uj = np.arange(count) * 333 * S
    counter_uj[lost] = -1

    got = assert_cuts_are_no_matter(long_trace(count, counter_uj=counter_uj), gpu(gap_us=5 * S))

    assert got.total_twice_nj == int(counter_uj[-1]) * 2000
    assert got.findings.unanchored == 0


@pytest.mark.parametrize("has_counter", [False, True])
def test_power_missing_for_long_is_a_gap_even_without_a_limit(has_counter: bool) -> None:
    count = 20_000
    known = np.ones(count, bool)
    known[3_000 : 3_000 + LONGEST_STRETCH] = False
    samples = long_trace(count, counter_uj=np.arange(count) * 333 * S if has_counter else None, power_known=known)

    got = assert_cuts_are_no_matter(samples, gpu(has_counter=has_counter))

    missing_us = int(samples.t_us[3_000 + LONGEST_STRETCH] - samples.t_us[2_999])
    assert got.findings.gap_us == (0 if has_counter else missing_us)


def test_power_and_counter_that_take_turns_lose_nothing() -> None:
    count = 12_000
    counter_uj = np.where(np.arange(count) % 2, np.arange(count) * 333 * S, -1)

    got = assert_cuts_are_no_matter(
        long_trace(count, counter_uj=counter_uj, power_known=np.arange(count) % 2 == 0), gpu()
    )

    assert got.findings.counter_us > 0.99 * (got.edges_us[-1] - got.edges_us[0])
    assert got.findings.unanchored == 0


def test_every_stamp_twice_is_no_trouble() -> None:
    samples = long_trace(9_000)
    twice = np.repeat(np.arange(9_000), 2)
    doubled = Samples(samples.device, *(c[twice] for c in columns(samples)))

    got = assert_cuts_are_no_matter(doubled, POWER)

    assert got.twice_energy_nj.tolist() == integrate(samples, got.edges_us, POWER).twice_energy_nj.tolist()


def test_a_step_is_a_step_where_the_fast_way_takes_over() -> None:
    base = long_trace(9_000)
    t_us, power_mw = base.t_us.copy(), base.power_mw.copy()
    t_us[LONGEST_STRETCH - 1] = t_us[LONGEST_STRETCH]
    power_mw[LONGEST_STRETCH - 1 : LONGEST_STRETCH + 1] = 500_000, 300_000
    ordered_mw = power_mw.copy()
    ordered_mw[LONGEST_STRETCH - 1 : LONGEST_STRETCH + 1] = 300_000, 500_000
    twice_nj = int(((ordered_mw[1:] + ordered_mw[:-1]) * np.diff(t_us)).sum())

    got = assert_cuts_are_no_matter(Samples(base.device, t_us, power_mw, *columns(base)[2:]), POWER)

    assert (got.total_twice_nj, got.findings.conflicts) == (twice_nj, 1)


def test_a_long_trace_in_any_order_is_the_same_trace() -> None:
    samples = long_trace(300_000)
    edges_us, _ = slot_edges(int(samples.t_us[0]), int(samples.t_us[-1]), 0)
    orders = (np.arange(300_000)[::-1], np.roll(np.arange(300_000), 7), np.random.default_rng(1).permutation(300_000))

    got = [integrate(Samples(samples.device, *(c[o] for c in columns(samples))), edges_us, POWER) for o in orders]

    want = integrate(samples, edges_us, POWER).twice_energy_nj.tolist()
    assert [g.twice_energy_nj.tolist() for g in got] == [want] * 3


def test_a_streams_memory_does_not_grow() -> None:
    stream = Stream(gpu(gap_us=5 * S))
    minute = long_trace(60, counter_uj=np.arange(60) * 333 * S)
    held_bytes = []
    tracemalloc.start()
    for k in range(200):
        stream.push(replace(minute, t_us=minute.t_us + k * 100 * S, counter_uj=minute.counter_uj + k * 60 * 333 * S))
        if k in (99, 199):
            held_bytes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()

    assert held_bytes[1] - held_bytes[0] < 1_000


def test_a_stream_says_up_to_where_it_has_settled() -> None:
    stream = Stream(POWER)

    assert stream.settled_until_us is None
    assert len(stream.push(samples_of([0], [1_000])).covered_us) == 0
    block = stream.push(samples_of([S, 2 * S], [1_000, 1_000]), [S // 2])

    assert stream.settled_until_us == S
    assert block.edges_us.tolist() == [0, S // 2, S]
    assert stream.finish().edges_us.tolist() == [S, 2 * S]


def test_a_sample_that_comes_too_late_is_refused() -> None:
    stream = Stream(POWER)
    stream.push(samples_of([0, S, 2 * S], [1_000] * 3))

    for late_us in (S // 2, S):
        with pytest.raises(ValueError, match="push in order"):
            stream.push(samples_of([late_us], [1_000]))


@pytest.mark.parametrize("edges_us", [[], [0], [0, 0], [1, 0]])
def test_edges_must_increase(edges_us: list[int]) -> None:
    with pytest.raises(ValueError, match="increase"):
        integrate(samples_of([0, S], [1_000] * 2), edges_us, POWER)


def test_pieces_of_other_edges_do_not_join() -> None:
    one, other = (Piece.of(samples_of([0, S], [1_000] * 2), [0, end_us], POWER) for end_us in (S, 2 * S))

    with pytest.raises(ValueError, match="same edges_us"):
        one.join(other)


def test_slot_edges_are_the_utc_slots_between_two_instants() -> None:
    offset_us = 1_700_000_000 * S  # 200 s into a slot

    edges_us, start_s = slot_edges(10 * S, 500 * S, offset_us)

    assert edges_us.tolist() == [10 * S, 100 * S, 400 * S, 500 * S]
    assert start_s.tolist() == [1_699_999_800, 1_700_000_100, 1_700_000_400]


def test_slot_edges_on_slots_make_no_empty_interval() -> None:
    edges_us, start_s = slot_edges(300 * S, 900 * S, 0)

    assert (edges_us.tolist(), start_s.tolist()) == ([300 * S, 600 * S, 900 * S], [300, 600])


def test_slot_edges_need_time_between_them() -> None:
    with pytest.raises(ValueError, match="after"):
        slot_edges(S, S, 0)


def test_rules_are_the_devices_own() -> None:
    device = Device("dram", "k", "n", "rapl", True, False, counter_modulus_uj=9, counter_period_us=1, max_power_mw=7)

    assert rules_of(device, 5) == Rules(True, False, 5, 9, 1, 7)
