"""A run's ends lie between a counter's readings, and between its refreshes: what was used is known all the same."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.records import Device, Reading
from tracker.session.account import DeviceAccount
from tracker.session.ledger import Ledger
from tracker.store.codec import append_reading, hot_bytes

S = 1_000_000
OFFSET_US = 1_767_225_600 * S
START_US = 100 * S
STEP_US = 4_000
MARGIN_J = 1e-3


def board(period_us: int, believed_us: int | None = None) -> Device:
    believed_us = period_us if believed_us is None else believed_us
    return Device("gpu", "GPU-1", "GPU", "fake", has_counter=True, has_power=True, counter_period_us=believed_us)


def account_of(device: Device, readings: list[Reading], stop_us: int) -> DeviceAccount:
    ledger = Ledger(5 * S)
    ledger.begin(START_US)
    ledger.add_device(0, device)
    rows = array("q")
    for reading in readings:
        append_reading(rows, 0, reading)
    ledger.take(hot_bytes(rows), [])
    ledger.finish(OFFSET_US, stop_us)
    (account,) = ledger.accounts()
    return account


def energy_j(account: DeviceAccount) -> float:
    return sum(account.twice_energy_nj.tolist()) / 2e9


class Board:
    """A board of a load that is high in some stretches, and its counter, which moves once a period."""

    def __init__(self, period_us: int, phase_us: int, low_w: int = 300, high_w: int = 300, change_us: int = S) -> None:
        self.period_us, self.phase_us = period_us, phase_us
        self.low_w, self.high_w, self.change_us = low_w, high_w, change_us

    def energy_uj(self, t_us: int) -> int:
        pairs, rest_us = divmod(t_us, 2 * self.change_us)
        high_us = pairs * self.change_us + min(rest_us, self.change_us)
        return self.low_w * t_us + (self.high_w - self.low_w) * high_us

    def reading(self, t_us: int) -> Reading:
        shown_us = t_us - (t_us - self.phase_us) % self.period_us if self.period_us else t_us
        is_high = t_us % (2 * self.change_us) < self.change_us
        return Reading(t_us, 1000 * (self.high_w if is_high else self.low_w), self.energy_uj(shown_us))

    def sought(self, from_us: int, moves: int, limit_us: int) -> list[Reading]:
        """Readings from an end of the run on, until the counter has moved so often."""
        readings = [self.reading(from_us)]
        while moves and readings[-1].t_us + STEP_US <= from_us + limit_us:
            readings.append(self.reading(readings[-1].t_us + STEP_US))
            moves -= readings[-1].counter_uj != readings[-2].counter_uj
        return readings

    def run(
        self, stop_us: int, start_limit_us: int = 400_000, limit_us: int = 10 * S, late_us: int = 300
    ) -> list[Reading]:
        first = self.sought(START_US - 300, 2, start_limit_us)
        middle = [self.reading(t_us) for t_us in range(START_US + 3 * S, stop_us - S // 2, S)]
        return [*first, *middle, *self.sought(stop_us + late_us, 1, limit_us)]

    def used_j(self, stop_us: int) -> float:
        return (self.energy_uj(stop_us) - self.energy_uj(START_US)) / 1e6


@settings(max_examples=30, deadline=None)
@given(
    period_us=st.sampled_from([20_000, 60_000, 100_000, 170_000]),
    believed_us=st.sampled_from([20_000, 100_000]),
    phase_us=st.integers(0, 170_000),
    length_us=st.integers(10 * S, 12 * S),
)
def test_where_a_counter_is_seen_to_move_constant_power_gives_power_times_time(
    period_us, believed_us, phase_us, length_us
):
    """Each end is off by no more than half the step between two readings, and what the period was measured wrong by."""
    load, stop_us = Board(period_us, phase_us), START_US + length_us

    account = account_of(board(period_us, believed_us), load.run(stop_us), stop_us)

    bound_j = 2 * 300 * (STEP_US / 2 + STEP_US) / S
    assert energy_j(account) == pytest.approx(300 * length_us / S, abs=bound_j)
    assert account.edge_j <= 2 * 300 * (period_us / 2 + STEP_US) / S


@settings(max_examples=30, deadline=None)
@given(phase_us=st.integers(0, 100_000), wait_us=st.integers(0, 90_000), length_us=st.integers(10 * S, 11 * S))
def test_what_was_not_waited_for_is_off_by_half_of_the_rest_at_most_and_the_range_says_so(phase_us, wait_us, length_us):
    load, stop_us = Board(100_000, phase_us), START_US + length_us

    account = account_of(board(100_000), load.run(stop_us, limit_us=wait_us), stop_us)

    error_j = abs(energy_j(account) - 300 * length_us / S)
    assert error_j <= 300 * ((100_000 - wait_us // STEP_US * STEP_US) / 2 + 2 * STEP_US) / S
    assert error_j <= account.edge_j + 300 * STEP_US / S


@settings(max_examples=30, deadline=None)
@given(
    phase_us=st.integers(0, 100_000),
    late_us=st.integers(0, 300_000),
    limit_us=st.sampled_from([0, 50_000, 10 * S]),
    length_us=st.integers(10 * S, 11 * S),
)
def test_a_last_reading_that_comes_late_is_carried_back_to_the_end(phase_us, late_us, limit_us, length_us):
    """On a busy machine the thread that reads may be woken late: constant power is power times time all the same."""
    load, stop_us = Board(100_000, phase_us), START_US + length_us

    account = account_of(board(100_000), load.run(stop_us, limit_us=limit_us, late_us=late_us), stop_us)

    error_j = abs(energy_j(account) - 300 * length_us / S)
    assert error_j <= 300 * STEP_US / S * 2 if limit_us > S else error_j <= account.edge_j + 300 * STEP_US / S


@settings(max_examples=40, deadline=None)
@given(
    phase_us=st.integers(0, 100_000),
    change_us=st.integers(13_000, 2 * S),
    high_w=st.integers(5, 700),
    length_us=st.integers(10 * S, 11 * S),
)
def test_a_load_that_changes_within_the_counters_period_stays_within_the_stated_edges(
    phase_us, change_us, high_w, length_us
):
    load, stop_us = Board(100_000, phase_us, low_w=350, high_w=high_w, change_us=change_us), START_US + length_us

    account = account_of(board(100_000), load.run(stop_us), stop_us)

    unseen_j = 2 * 700 * 2 * STEP_US / S  # between two readings nothing is known of when the counter moved
    assert abs(energy_j(account) - load.used_j(stop_us)) <= account.edge_j + unseen_j


def test_a_stretch_no_longer_than_the_period_that_was_seen_is_taken_of_what_the_counter_moved_by():
    """Moves at 40, 140 ms after the start and 70 ms after the end: 0.4 x 30 J come after, 0.3 x 30 J before."""
    start = [(0, 0), (38_000, 0), (42_000, 30), (138_000, 30), (142_000, 60)]
    end = [(0, 3_000), (68_000, 3_000), (72_000, 3_030)]
    stop_us = START_US + 10 * S
    readings = [Reading(START_US + t, 300_000, j * S) for t, j in start]
    readings += [Reading(stop_us + t, 300_000, j * S) for t, j in end]

    account = account_of(board(100_000), readings, stop_us)

    assert energy_j(account) == pytest.approx((3_030 - 21) - (30 - 12), abs=1e-9)
    assert account.edge_j == pytest.approx(30 * (0.4 + 0.02) + 30 * (0.3 + 0.02))


@pytest.mark.parametrize("ms", [1, 5, 40])
def test_a_counter_read_some_ms_beside_the_ends_is_carried_there_by_the_power_of_that_instant(ms):
    """The second around the end used half of what these ms did: a mean would take too little off."""
    near_us, stop_us = ms * 1000, START_US + 10 * S
    load = Board(0, 0, low_w=50, high_w=700, change_us=100_000)
    t_us = [START_US - near_us, *range(START_US + 350_000, stop_us, 900_000), stop_us + near_us]

    account = account_of(board(0), [load.reading(t) for t in t_us], stop_us)

    assert energy_j(account) == pytest.approx(load.used_j(stop_us), abs=MARGIN_J)


@pytest.mark.parametrize("fault", ["restarts", "leaps"])
def test_a_counter_that_restarts_or_leaps_beside_an_end_gives_nothing_to_it(fault):
    stop_us = START_US + 10 * S
    device = Device("gpu", "G", "G", "fake", True, True, counter_period_us=100_000, max_power_mw=1_400_000)
    after_uj = 5 if fault == "restarts" else 10**12
    readings = [Reading(START_US + t, 300_000, 300 * t + 10**9) for t in range(0, 10 * S, S)]
    readings += [Reading(stop_us + t, 300_000, c) for t, c in ((300, 300 * 10 * S + 10**9), (4_300, after_uj))]

    account = account_of(device, readings, stop_us)

    assert energy_j(account) == pytest.approx(3000, abs=300 * 0.1 + 0.1)


def test_a_counter_that_stands_still_as_nothing_is_drawn_has_no_period_of_that_length():
    """0 W from just before the start until 1.9 s after it: the second move comes when power does."""
    load, stop_us = Board(100_000, 0, low_w=350, high_w=0, change_us=1_998_001), START_US + 10 * S

    account = account_of(board(100_000), load.run(stop_us, start_limit_us=10 * S), stop_us)

    assert energy_j(account) == pytest.approx(load.used_j(stop_us), abs=2 * 350 * STEP_US / S)


def test_where_the_readings_after_the_start_are_far_apart_the_second_move_tells_of_the_first():
    """Moves after 0 to 90 ms and after 143 to 159: the first after 43 to 59, so at 51; 49 of the 100 ms before it."""
    start = [(0, 0), (90_000, 30), (143_000, 30), (159_000, 60)]
    stop_us = START_US + 10 * S
    readings = [Reading(START_US + t, 300_000, j * S) for t, j in start]
    readings += [Reading(stop_us + t, 300_000, j * S) for t, j in ((0, 3_000), (49_999, 3_000), (50_001, 3_030))]

    account = account_of(board(100_000), readings, stop_us)

    assert energy_j(account) == pytest.approx((3_030 - 15) - (30 - 30 * 0.51), abs=1e-9)


def test_what_a_counter_had_not_shown_at_the_start_is_of_the_power_at_the_start():
    """Not of that which was read when the sensor was opened, 0.3 s before: 50 ms x (700 - 700) W."""
    stop_us = START_US + 10 * S
    t_us = (START_US - 300_000, START_US, stop_us)
    readings = [Reading(t, p * 1000, 700 * (t - START_US + S)) for t, p in zip(t_us, (50, 700, 700), strict=True)]

    account = account_of(board(100_000), readings, stop_us)

    assert energy_j(account) == 7_000
    assert account.edge_j == 0.05 * 1400


def test_a_counter_believed_to_be_slow_that_moves_at_each_read_is_taken_as_one_that_does():
    """A busy machine may hide it when the board is opened: half a period of either power would be 30 J."""
    load, stop_us = Board(0, 0, low_w=50, high_w=650), START_US + 11 * S
    readings = [load.reading(START_US + t) for t in (-300, 30_000, 55_000, 3 * S, 6 * S, 9 * S, 11 * S + 40_000)]

    account = account_of(board(0, believed_us=100_000), readings, stop_us)

    assert energy_j(account) == pytest.approx(load.used_j(stop_us), abs=MARGIN_J)
    assert account.edge_j == 0
