"""The sampler: when it reads, whom it tells, and what no sensor can do to it."""

import random
import threading
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.records import Device, Reading
from tracker.sampler import MIN_SPACING_US, SEEK_LIMIT_US, SEEK_STEP_US, Grid, Sampler
from tracker.sensors.protocol import Inventory
from tracker.signals import Bell

S = 1_000_000


def device(key: str) -> Device:
    return Device(kind="gpu", key=key, name=key, sensor="fake", has_counter=True, has_power=True)


class FakeSensor:
    """Counts its calls; an event tells when it has been read for the n-th time."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.opened = 0
        self.closed = 0
        self.reads = 0
        self.threads: set[int] = set()

    def open(self) -> Inventory:
        self.opened += 1
        return Inventory(devices=(device(f"{self.name}-0"), device(f"{self.name}-1")))

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        self.reads += 1
        self.threads.add(threading.get_ident())
        if self.fails:
            raise RuntimeError("broken sensor")
        return [Reading(self.reads, power_mw=1000, counter_uj=self.reads) for _ in devices]

    def close(self) -> None:
        self.closed += 1


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.inventories: list[str] = []
        self.heard: list[tuple[str, tuple[Reading, ...]]] = []
        self.news: list[str] = []
        self.given_up: list[str] = []

    def told(self, news) -> None:
        self.news.append(news)

    def gave_up(self, sensor) -> None:
        self.given_up.append(sensor.name)

    def found(self, sensor, inventory) -> None:
        self.inventories.append(sensor.name)

    def received(self, sensor, devices, readings) -> None:
        self.heard.append((sensor.name, tuple(readings)))


@given(
    period_us=st.sampled_from([100_000, S, 7 * S]),
    draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=200),
)
def test_every_period_of_the_grid_is_read_once_and_never_within_50_ms(period_us, draws):
    queue = iter(draws)
    grid = Grid(5, period_us, lambda: next(queue))
    instants = [5]

    for _ in draws:
        instants.append(grid.after(instants[-1]))

    steps = [b - a for a, b in pairwise(instants)]
    assert min(steps) >= MIN_SPACING_US
    if period_us > 2 * MIN_SPACING_US:
        indexes = [grid.index(t) for t in instants]
        assert all(b - a in (1, 2) for a, b in pairwise(indexes))


def test_instants_are_uniform_within_the_period():
    grid = Grid(0, S, random.Random(1).random)
    t_us, phases = 0, []

    for _ in range(4000):
        t_us = grid.after(t_us)
        phases.append(t_us % S / S)

    mean = sum(phases) / len(phases)
    tenths = [sum(k / 10 <= p < (k + 1) / 10 for p in phases) for k in range(10)]
    assert mean == pytest.approx(0.5, abs=0.02)
    assert min(tenths) > 300 and max(tenths) < 500


def test_periods_missed_in_a_stall_are_not_made_up_for():
    grid = Grid(0, S, lambda: 0.5)

    assert grid.after(10_200_000) == 11_500_000


def test_a_listener_hears_every_sensor_it_wants_and_no_other():
    sampler, ear = Sampler(), Ear()
    one, two = FakeSensor("one"), FakeSensor("two")
    other = Ear()

    sampler.attach(ear, [(one, S)])
    sampler.attach(other, [(two, S)])
    assert sampler.read_now(5)
    sampler.detach(ear)
    sampler.detach(other)

    assert ear.inventories == ["one"] and {name for name, _ in ear.heard} == {"one"}
    assert other.inventories == ["two"] and {name for name, _ in other.heard} == {"two"}


def test_sensors_are_opened_and_read_in_one_thread_that_ends_with_the_last_listener():
    sampler, first, second = Sampler(), Ear(), Ear()
    sensor = FakeSensor("shared")
    before = threading.active_count()

    sampler.attach(first, [(sensor, S)])
    sampler.attach(second, [(sensor, S)])
    assert sampler.read_now(5)
    during = threading.active_count()
    sampler.detach(first)
    assert sampler.read_now(5)
    sampler.detach(second)

    assert during == before + 1
    assert threading.active_count() == before
    assert (sensor.opened, sensor.closed) == (1, 1)
    assert len(sensor.threads) == 1 and threading.get_ident() not in sensor.threads


def test_a_sampler_can_be_used_again_after_its_thread_has_ended():
    sampler, sensor = Sampler(), FakeSensor("again")

    for _ in range(3):
        ear = Ear()
        sampler.attach(ear, [(sensor, S)])
        assert sampler.read_now(5)
        sampler.detach(ear)
        assert ear.heard

    assert sensor.opened == sensor.closed == 3


def test_a_sensor_that_raises_is_missing_and_harms_no_other(caplog):
    sampler, ear = Sampler(), Ear()
    broken, sound = FakeSensor("broken", fails=True), FakeSensor("sound")

    sampler.attach(ear, [(broken, S), (sound, S)])
    for _ in range(3):
        assert sampler.read_now(5)
    sampler.detach(ear)

    of_broken = [reading for name, readings in ear.heard if name == "broken" for reading in readings]
    assert of_broken and all(r.power_mw is None and r.counter_uj is None for r in of_broken)
    assert all(r.power_mw == 1000 for name, readings in ear.heard if name == "sound" for r in readings)
    assert sum("broken" in record.message for record in caplog.records) == 1


def test_a_slow_sensor_is_read_in_its_own_period_only():
    clock = [0]
    sampler, ear = Sampler(clock_us=lambda: clock[0], uniform=lambda: 0.0), Ear()
    fast, slow = FakeSensor("fast"), FakeSensor("slow")
    sampler._sources = []
    sampler.attach(ear, [(fast, 100_000), (slow, S)])
    assert sampler.read_now(5)
    sampler.detach(ear)

    # The thread is gone: play its ticks by hand on the fake clock.
    from tracker.sampler import _Source

    for sensor in (fast, slow):
        source = _Source(sensor, {id(ear): 100_000 if sensor is fast else S}, [ear], sensor.open())
        sampler._sources.append(source)
    fast.reads = slow.reads = 0
    sampler._grid = Grid(0, 100_000, lambda: 0.0)
    for tick in range(100):
        clock[0] = tick * 100_000
        sampler._tick(read_all=False)

    assert (fast.reads, slow.reads) == (100, 10)


def test_reading_does_not_touch_the_programs_random_state():
    random.seed(7)
    expected = [random.random() for _ in range(3)]
    random.seed(7)
    sampler, ear = Sampler(), Ear()

    sampler.attach(ear, [(FakeSensor("s"), S)])
    assert sampler.read_now(5)
    sampler.detach(ear)

    assert [random.random() for _ in range(3)] == expected


def test_the_cost_of_sampling_is_known():
    sampler, ear = Sampler(), Ear()
    assert sampler.cost().latency_mean_s is None

    sampler.attach(ear, [(FakeSensor("s"), S)])
    assert sampler.read_now(5)
    sampler.detach(ear)

    cost = sampler.cost()
    assert cost.readings >= 1 and cost.latency_max_s >= cost.latency_mean_s > 0


class StuckSensor(FakeSensor):
    """Its read does not return until it is let go."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.let_go = threading.Event()
        self.is_in_call = threading.Event()
        self.in_call = 0

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        self.in_call += 1
        assert self.in_call == 1, "two threads in one sensor"
        self.is_in_call.set()
        assert self.let_go.wait(30)
        self.in_call -= 1
        return super().read(devices)


def test_a_call_that_does_not_return_is_told_once_and_costs_the_other_sensors_nothing():
    sampler, ear = Sampler(), Ear()
    stuck, healthy = StuckSensor("stuck"), FakeSensor("healthy")
    sampler.attach(ear, [(stuck, S), (healthy, S)])
    assert not sampler.read_now(0.05)
    assert stuck.is_in_call.wait(5) and healthy.reads == 0

    sampler.rescue()  # not yet long enough
    assert not ear.given_up
    sampler.rescue(limit_us=0)

    assert sampler.read_now(5)
    assert healthy.reads >= 1 and stuck.reads == 0
    assert ear.given_up == ["stuck"]
    before = healthy.reads
    assert sampler.read_now(5) and healthy.reads > before

    stuck.let_go.set()
    stuck.is_in_call.clear()
    assert sampler.read_now(5)
    while not stuck.reads:  # the thread given up comes back with a reading that nobody wants
        assert sampler.read_now(5)
    assert stuck.is_in_call.wait(5)
    assert sampler.read_now(5)
    assert "stuck" in [name for name, _ in ear.heard]
    sampler.detach(ear)
    assert stuck.closed and healthy.closed and stuck.opened == 1


def test_leaving_does_not_wait_for_a_call_that_does_not_return():
    clock = FakeClock()
    sampler, ear = Sampler(clock_us=clock), Ear()
    stuck = StuckSensor("stuck")
    sampler.attach(ear, [(stuck, S)])
    assert stuck.is_in_call.wait(5)
    clock.now_us += 2 * S
    sampler.detach(ear, timeout_s=60)
    assert stuck.closed == 0  # its thread is still in it
    stuck.let_go.set()


class StuckAtTheEnd(FakeSensor):
    """Its close does not return until it is let go."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.let_go = threading.Event()

    def close(self) -> None:
        assert self.let_go.wait(30)
        super().close()


def test_a_sensor_that_does_not_close_holds_up_nobody_and_is_opened_again_when_it_has():
    sampler, first, second = Sampler(), Ear(), Ear()
    stuck, healthy = StuckAtTheEnd("stuck"), FakeSensor("healthy")
    sampler.attach(first, [(stuck, S)])
    assert sampler.read_now(5)
    sampler.detach(first, timeout_s=0.05)

    sampler.attach(second, [(healthy, S)])
    while not healthy.reads:
        sampler.rescue(limit_us=0)
        sampler.read_now(0.1)
    third = Ear()
    sampler.attach(third, [(stuck, S)])
    assert stuck.opened == 1
    stuck.let_go.set()
    while "stuck" not in [name for name, _ in third.heard]:
        assert sampler.read_now(5)
    sampler.detach(second)
    sampler.detach(third)

    assert (stuck.opened, stuck.closed) == (2, 2)


def test_a_sensor_wanted_again_while_it_closes_is_opened_again():
    sampler, first, second = Sampler(), Ear(), Ear()
    sensor = StuckAtTheEnd("slow to close")
    sampler.attach(first, [(sensor, S)])
    assert sampler.read_now(5)
    sampler.detach(first, timeout_s=0.05)
    sampler.attach(second, [(sensor, S)])
    sensor.let_go.set()
    while not second.heard:
        assert sampler.read_now(5)
    sampler.detach(second)

    assert (sensor.opened, sensor.closed) in ((1, 1), (2, 2))  # 1: it had not begun to close


class FakeClock:
    def __init__(self) -> None:
        self.now_us = 1_000_000_000

    def __call__(self) -> int:
        return self.now_us


class SlowCounter(FakeSensor):
    """Boards whose counters move with each so-manieth reading; the second of them is refreshed at each."""

    def __init__(self, every: int) -> None:
        super().__init__("slow")
        self.every = every
        self.of_one: list[int] = []
        self.has_moved_twice = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def open(self) -> Inventory:
        boards = [
            Device("gpu", f"G{i}", "G", "fake", True, True, counter_period_us=p) for i, p in ((0, 100_000), (1, 0))
        ]
        return Inventory(devices=tuple(boards))

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        shown = 1 + self.reads // self.every
        self.reads += 1
        if len(devices) == 1:
            assert self.may_go_on.wait(30)
            self.of_one.append(shown)
        if shown >= 3:
            self.has_moved_twice.set()
        return [Reading(self.reads, 1000, shown) for _ in devices]


def test_at_a_runs_end_a_counter_refreshed_now_and_then_is_read_until_it_has_moved_and_no_other_is():
    sampler, ear, sensor = Sampler(clock_us=FakeClock()), Ear(), SlowCounter(every=5)
    sampler.attach(ear, [(sensor, 100 * S)])
    assert sampler.read_now(5)
    before = len(ear.heard)

    assert sampler.read_now(5, edge="end")
    sampler.detach(ear)

    heard = [readings for _, readings in ear.heard[before:]]
    assert len(heard[0]) == 2 and all(len(readings) == 1 for readings in heard[1:])
    shown = [readings[0].counter_uj for readings in heard]
    assert shown == [1] * (len(shown) - 1) + [2]


def test_a_counter_that_does_not_move_is_not_waited_for_longer_than_half_a_period():
    sampler, ear, sensor = Sampler(clock_us=FakeClock()), Ear(), SlowCounter(every=10**9)
    sampler.attach(ear, [(sensor, 100 * S)])

    assert sampler.read_now(5)
    assert sampler.read_now(5, edge="end")
    sampler.detach(ear)

    assert len(sensor.of_one) == SEEK_LIMIT_US["end"] // SEEK_STEP_US  # though this clock stands still


def test_after_a_runs_start_two_moves_are_sought_and_nobody_waits_for_them():
    sampler, ear, sensor = Sampler(clock_us=FakeClock()), Ear(), SlowCounter(every=8)
    sampler.attach(ear, [(sensor, 100 * S)])

    sensor.may_go_on.clear()
    assert sampler.read_now(5, edge="start")
    sensor.may_go_on.set()
    assert sensor.has_moved_twice.wait(5)
    assert sampler.read_now(5)
    sampler.detach(ear)

    assert set(sensor.of_one) == {1, 2, 3} and sensor.of_one.count(3) == 1


def test_who_wants_a_reading_does_not_wait_for_what_is_sought_after_anothers_start():
    sampler, ear, sensor = Sampler(clock_us=FakeClock()), Ear(), SlowCounter(every=10**9)
    sampler.attach(ear, [(sensor, 100 * S)])

    assert sampler.read_now(5, edge="start")
    assert sampler.read_now(5)
    sampler.detach(ear)

    assert len(sensor.of_one) < SEEK_LIMIT_US["start"] // SEEK_STEP_US


def test_what_reads_quickly_comes_next_to_a_runs_start_and_end():
    sampler, ear = Sampler(uniform=lambda: 0.9), Ear()
    quick, slow = FakeSensor("quick"), FakeSensor("slow")
    sampler.attach(ear, [(quick, 100 * S), (slow, 100 * S)])
    assert sampler.read_now(5)
    for source in sampler._sources:
        source.took_s = 60.0 if source.sensor is slow else 0.0
    ear.heard.clear()

    assert sampler.read_now(5, edge="start")
    for source in sampler._sources:
        source.took_s = 60.0 if source.sensor is slow else 0.0
    assert sampler.read_now(5, edge="end")
    sampler.detach(ear)

    assert [name for name, _ in ear.heard] == ["slow", "quick", "quick", "slow"]


class TurningBell(Bell):
    """Lets the clock pass at once by what is waited for, up to an hour that the test sets."""

    def __init__(self, clock: FakeClock, until_us: int) -> None:
        super().__init__()
        self.clock, self.until_us = clock, until_us
        self.is_over = threading.Event()

    def wait(self, timeout_s: float) -> None:
        if self.clock.now_us < self.until_us:
            self.clock.now_us += max(1, round(timeout_s * S))
        else:
            self.is_over.set()
            super().wait(timeout_s)


class TimedSensor(FakeSensor):
    def __init__(self, name: str, clock: FakeClock) -> None:
        super().__init__(name)
        self.clock, self.instants_us = clock, []

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        self.instants_us.append(self.clock.now_us)
        return super().read(devices)


def a_stretch(seconds: int, *, with_beats: bool) -> tuple[list[int], list[int], list[int]]:
    """Instants at which a sensor of 1 s and one of 7 s are read, and those of the beats, from the first reading on."""
    clock, ear, beats = FakeClock(), Ear(), []
    bell = TurningBell(clock, clock.now_us + seconds * S)
    on_beat = (lambda: beats.append(clock.now_us)) if with_beats else None
    sampler = Sampler(clock_us=clock, uniform=random.Random(7).random, bell=bell, on_beat=on_beat)
    often, seldom = TimedSensor("often", clock), TimedSensor("seldom", clock)
    sampler.attach(ear, [(often, S), (seldom, 7 * S)])
    assert bell.is_over.wait(30)
    sampler.detach(ear)
    return often.instants_us, seldom.instants_us, beats


def test_a_beat_comes_right_after_a_reading_and_takes_none_of_those_at_random_instants_away():
    drawn_us, seldom_alone_us, _ = a_stretch(200, with_beats=False)
    read_us, seldom_us, beats_us = a_stretch(200, with_beats=True)

    assert len(beats_us) > 200 and max(b - a for a, b in pairwise(beats_us)) <= S
    assert all(beat - max(t for t in read_us if t <= beat) < MIN_SPACING_US for beat in beats_us)
    assert min(b - a for a, b in pairwise(read_us[1:])) >= MIN_SPACING_US
    # One at random in each second stays, put off by as much as keeps it apart from a beat's.
    assert all(any(0 <= t - drawn <= MIN_SPACING_US for t in read_us) for drawn in drawn_us[:-2])
    assert len(seldom_us) <= len(seldom_alone_us) + 1


def test_a_bell_rung_before_it_is_waited_for_ends_one_wait():
    bell = Bell()
    bell.ring()
    bell.ring()

    bell.wait(60)
    begun_s = time.monotonic()
    bell.wait(0.05)

    assert time.monotonic() - begun_s >= 0.05
