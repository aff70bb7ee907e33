"""What a run will have used at its end: exact where the rate is constant, within its range as often as said."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import a_run

from tracker.progress import MIN_INTERVALS, Point, progress_of, thinned
from tracker.records import Mark, Span, datetime_of
from tracker.session.judge import Judge


def points(rates_j, units=10.0, seconds=2.0):
    found = [Point(0.0, 0.0, 0.0, 0.0)]
    for rate_j in rates_j:
        last = found[-1]
        energy_j = last.energy_j + rate_j * units
        found.append(Point(last.done + units, last.elapsed_s + seconds, energy_j, energy_j / 100))
    return found


@given(st.floats(0.1, 1e6), st.integers(2 * MIN_INTERVALS, 60), st.integers(1, 1000))
def test_a_constant_rate_is_told_exactly(rate_j, intervals, more):
    total = 10.0 * (intervals + more)

    found = progress_of("step", points([rate_j] * intervals), total)

    assert found.energy_j.mean == pytest.approx(rate_j * total)
    assert found.energy_j.low == pytest.approx(found.energy_j.high, rel=1e-6)
    assert found.left_s.mean == pytest.approx(0.2 * 10 * more) and found.emissions_g.mean == pytest.approx(
        rate_j * total / 100
    )
    assert found.energy_j_per_unit == pytest.approx(rate_j) and found.reason == ""


def test_the_end_of_a_run_of_random_rate_lies_within_the_range_as_often_as_said():
    rng = random.Random(7)
    within = 0
    for _ in range(400):
        rates = [max(0.0, rng.gauss(100, 20)) for _ in range(200)]
        told = progress_of("step", points(rates[:40]), 2000.0).energy_j
        within += told.low <= sum(rates) * 10 <= told.high
    assert 0.90 < within / 400 < 0.99


@given(st.lists(st.floats(0, 1000), min_size=12, max_size=60), st.integers(1, 100))
def test_what_was_used_is_used_and_the_mean_lies_in_its_range(rates, more):
    known = points(rates)

    found = progress_of("step", known, known[-1].done + more)

    assert known[-1].energy_j <= found.energy_j.low <= found.energy_j.mean <= found.energy_j.high


def test_warming_up_is_not_taken_for_the_rate_of_the_rest():
    found = progress_of("step", points([500.0] * 5 + [100.0] * 15), 1000.0)

    assert found.energy_j.mean == pytest.approx(500 * 50 + 100 * 950, rel=0.02)


@pytest.mark.parametrize(
    ("known", "total", "reason"),
    [
        (points([1.0] * 30), None, "not told"),
        (points([1.0] * 4), 1000.0, "too little"),
        (points([1.0] * 30), 300.0, "all is done"),
        (points([]), 300.0, "too little"),
    ],
)
def test_nothing_is_told_before_there_is_enough_to_say_so(known, total, reason):
    found = progress_of("step", known, total)

    assert reason in found.reason and found.energy_j is None and found.left_s is None


def test_unknown_energy_is_unknown_and_time_is_still_told():
    blind = [Point(point.done, point.elapsed_s, None, None) for point in points([1.0] * 30)]

    found = progress_of("step", blind, 1000.0)

    assert found.energy_j is None and found.energy_j_per_unit is None and found.left_s.mean == pytest.approx(140.0)


def test_fewer_points_tell_the_same_of_a_constant_rate():
    all_of_them = points([3.0] * 100)

    assert thinned(all_of_them)[0] == all_of_them[0] and thinned(all_of_them)[-1] == all_of_them[-1]
    assert progress_of("step", thinned(all_of_them), 2000.0).energy_j.mean == pytest.approx(6000.0)


def test_ended_spans_named_epoch_are_progress_until_marks_number_epochs():
    judge = Judge()

    def look(epochs: int, *marks: Mark) -> None:
        ended = Span(epochs, None, "epoch", {}, datetime_of(0), datetime_of(1), 1.0)
        opened = Span(99, None, "epoch", {}, datetime_of(0), None, None)
        judge.see(marks, [ended, opened])
        run = a_run(energy_j=100.0 * epochs, duration_s=10.0 * epochs)
        judge.judge(run, float(epochs), 0.0, lambda *_: None)

    for epoch in range(1, 15):
        look(epoch, Mark(datetime_of(0), 0.0, {"total_epochs": 20}))

    assert judge.progress is not None
    assert (judge.progress.unit, judge.progress.done, judge.progress.total) == ("epoch", 14, 20)
    assert judge.progress.energy_j_per_unit == pytest.approx(100)
    assert judge.progress.energy_j is not None and judge.progress.energy_j.mean == pytest.approx(2000)
    look(15, Mark(datetime_of(0), 0.0, {"epoch": 3}))
    look(16)
    assert judge._done == {"epoch": 3.0}
