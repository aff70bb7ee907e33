"""Sound stretches, in blocks of any size, against the same sums in Python's integers and against the careful way."""

from itertools import pairwise

import numpy as np
import pytest
from energy_reference import samples_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.counters import SAFE_INT64, Columns, Rules, Settled, columns_of, settle, stamps_of
from tracker.energy import integrate
from tracker.trapezoid import LONGEST_STEP_US, OutOfOrderError, Stretches

POWER = Rules(has_counter=False, has_power=True)
HIGHEST_MW = 2**31 - 1
MODULUS_UJ = 262_143_328_911

Case = tuple[Columns, Rules, int, int, list[int]]


def columns(t_us: list[int], power_mw: list[int | None], counter_uj: list[int | None] | None = None) -> Columns:
    return columns_of(samples_of(t_us, power_mw, counter_uj))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Columns, rules, where to begin, samples in a block, and edges: most is sound, and anything may not be."""
    count = draw(st.integers(2, 30))
    steps = draw(st.sampled_from([st.just(1_000_000), st.integers(1, 2_000_000), st.integers(1, LONGEST_STEP_US)]))
    steps_us = draw(st.lists(steps, min_size=count, max_size=count))
    powers = draw(st.sampled_from([st.integers(0, 700_000), st.integers(0, HIGHEST_MW), st.just(HIGHEST_MW)]))
    power_mw = draw(st.lists(powers, min_size=count, max_size=count))
    moved_uj = [draw(st.integers(1, max(1, 700 * step_us))) for step_us in steps_us]
    counter_uj: list[int | None] = np.cumsum(moved_uj).tolist()
    for _ in range(draw(st.integers(0, 2))):
        i = draw(st.integers(0, count - 1))
        fault = draw(st.sampled_from(["step", "gap", "power", "counter"]))
        if fault == "step":
            steps_us[i] = 0
        elif fault == "gap":
            steps_us[i] = draw(st.integers(1_500_000, 2 * LONGEST_STEP_US))
        elif fault == "power":
            power_mw[i] = draw(st.sampled_from([None, -1, -(2**62), HIGHEST_MW + 1, 1_400_001]))
        else:
            counter_uj[i] = draw(st.sampled_from([None, 0, -1, MODULUS_UJ, 2**60]))
    t_us = np.cumsum([draw(st.integers(0, 10**12)), *steps_us[1:]]).tolist()
    rules = Rules(
        has_counter=draw(st.booleans()),
        has_power=True,
        gap_us=draw(st.sampled_from([None, 1_500_000, 10**12])),
        max_power_mw=draw(st.sampled_from([None, 700_000])),
        counter_modulus_uj=draw(st.sampled_from([None, MODULUS_UJ])),
        counter_period_us=draw(st.sampled_from([None, 0])),
    )
    at = draw(st.sampled_from([i for i in range(count - 1) if i == 0 or t_us[i - 1] < t_us[i]] or [0]))
    near = st.one_of(st.sampled_from(t_us), st.integers(t_us[0], t_us[-1]))
    edges_us = sorted(e for e in draw(st.sets(near, max_size=9)) if t_us[at] < e < t_us[-1])
    return columns(t_us, power_mw, counter_uj), rules, at, draw(st.integers(1, count)), edges_us


def stretch(case: Case) -> tuple[int, Settled] | None:
    """The stretch of a case, with the edges that lie in it."""
    given_columns, rules, at, size, edges_us = case
    stop = len(given_columns.t_us) - 1
    return Stretches(rules, given_columns).settle(at, stop, size, np.array(edges_us, np.int64), is_first=at == 0)


def twice_nj_until(t_us: list[int], power_mw: list[int], edge_us: int) -> int:
    """From the first sample to an edge; a part of a cell rounds down."""
    total = 0
    for (t0, p0), (t1, p1) in pairwise(zip(t_us, power_mw, strict=True)):
        if t1 <= edge_us:
            total += (p0 + p1) * (t1 - t0)
        elif t0 < edge_us:
            total += (2 * p0 * (edge_us - t0) * (t1 - t0) + (p1 - p0) * (edge_us - t0) ** 2) // (t1 - t0)
    return total


@given(cases())
@settings(max_examples=120, deadline=None)
def test_a_stretch_is_the_sum_of_its_trapezoids_in_integers_without_bounds(case: Case) -> None:
    given_columns, rules, at, size, edges_us = case
    case = given_columns, Rules(**rules_without_counter(rules)), at, size, edges_us

    got = stretch(case)

    if got is not None:
        stop, settled = got
        t_us, power_mw = given_columns.t_us[at : stop + 1].tolist(), given_columns.power_mw[at : stop + 1].tolist()
        bounds_us = [t_us[0], *(e for e in edges_us if e < t_us[-1]), t_us[-1]]
        until = [twice_nj_until(t_us, power_mw, e) for e in bounds_us]
        assert settled.twice_energy_nj.tolist() == [b - a for a, b in pairwise(until)]
        assert settled.covered_us.tolist() == [b - a for a, b in pairwise(bounds_us)]


def rules_without_counter(rules: Rules) -> dict[str, object]:
    return {"has_counter": False, "has_power": True, "gap_us": rules.gap_us, "max_power_mw": rules.max_power_mw}


@given(cases())
@settings(max_examples=120, deadline=None)
def test_a_stretch_gives_the_bits_of_the_careful_way(case: Case) -> None:
    given_columns, rules, at, _, edges_us = case

    got = stretch(case)

    if got is not None:
        stop, settled = got
        within_us = np.array([e for e in edges_us if e < given_columns.t_us[stop]], np.int64)
        stamps = stamps_of(given_columns.part(at, stop + 1), rules)
        by_trace = not rules.has_counter
        careful = settle(stamps, 0, stop - at, within_us, rules, by_trace=by_trace, is_first=at == 0)
        assert [column.tolist() for column in settled[:3]] == [column.tolist() for column in careful[:3]]
        assert settled.findings == careful.findings


@given(cases())
@settings(max_examples=120, deadline=None)
def test_a_stretch_takes_all_blocks_that_are_sound_and_none_else(case: Case) -> None:
    given_columns, rules, at, size, edges_us = case
    rules = Rules(**rules_without_counter(rules))
    t_us, power_mw = given_columns.t_us.tolist(), given_columns.power_mw.tolist()
    last = len(t_us) - 1
    known = given_columns.power_known.tolist()
    if not all(known[at:]):
        last = known.index(False, at) - 1
    gap_us = min(LONGEST_STEP_US, rules.gap_us or LONGEST_STEP_US)
    stop, most = at, 0
    for begin in range(at, last, size):
        here = slice(begin, min(begin + size, last) + 1)
        most += 2 * max(power_mw[here]) * (t_us[here.stop - 1] - t_us[begin])
        is_close = all(0 < b - a <= gap_us for a, b in pairwise(t_us[here]))
        is_credible = all(0 <= p <= rules.credible_power_mw for p in power_mw[here])
        if not is_close or not is_credible or most >= SAFE_INT64:
            break
        if t_us[here.stop : here.stop + 1] != [t_us[here.stop - 1]]:  # else the block's last instant goes on
            stop = here.stop - 1

    got = stretch((given_columns, rules, at, size, edges_us))

    assert (at if got is None else got[0]) == stop


LONGEST_SAFE_US = (SAFE_INT64 - 1) // (2 * HIGHEST_MW)


@pytest.mark.parametrize(("length_us", "is_taken"), [(LONGEST_SAFE_US, True), (LONGEST_SAFE_US + 1, False)])
@pytest.mark.parametrize("cells", [1, 2, 1000])
def test_what_int64_may_not_hold_is_left_to_integers_without_bounds(length_us: int, is_taken: bool, cells: int) -> None:
    t_us = [0, *range(length_us - cells + 1, length_us + 1)]
    given_columns = columns(t_us, [HIGHEST_MW] * (cells + 1))

    got = Stretches(POWER, given_columns).settle(0, cells, cells, np.empty(0, np.int64), is_first=True)

    assert (got is not None) == is_taken
    whole = integrate(samples_of(t_us, [HIGHEST_MW] * (cells + 1)), [0, length_us], POWER)
    assert whole.twice_energy_nj.tolist() == [2 * HIGHEST_MW * length_us]


def test_the_bound_is_of_all_blocks_together() -> None:
    half_us = LONGEST_SAFE_US // 2 + 1
    given_columns = columns([0, half_us, 2 * half_us], [HIGHEST_MW] * 3)

    got = Stretches(POWER, given_columns).settle(0, 2, 1, np.empty(0, np.int64), is_first=True)

    assert got is not None
    assert got[0] == 1


@pytest.mark.parametrize("unknown", [0, 1, 2, 7])
def test_a_stretch_ends_before_a_reading_that_is_unknown(unknown: int) -> None:
    power_mw: list[int | None] = [1_000] * 9
    power_mw[unknown] = None
    given_columns = columns(list(range(9)), power_mw)

    got = Stretches(POWER, given_columns).settle(0, 8, 4, np.empty(0, np.int64), is_first=True)

    assert (got[0] if got is not None else 0) == max(unknown - 1, 0)


def test_a_step_back_in_time_is_told() -> None:
    given_columns = columns([0, 2, 1, 3], [1_000] * 4)

    with pytest.raises(OutOfOrderError):
        Stretches(POWER, given_columns).settle(0, 3, 3, np.empty(0, np.int64), is_first=True)


def test_the_highest_power_between_two_edges_of_one_cell_is_on_its_line() -> None:
    given_columns = columns([0, 100, 200], [0, 1_000, 0])

    got = Stretches(POWER, given_columns).settle(0, 2, 2, np.array([20, 30]), is_first=True)

    assert got is not None
    assert got[1].max_power_mw.tolist() == [200, 300, 1_000]
    assert got[1].twice_energy_nj.tolist() == [4_000, 5_000, 191_000]
