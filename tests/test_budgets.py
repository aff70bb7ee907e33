"""Iterating over a training's items, its progress and its budget, with a GPU of 100 W."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from standin.nvml import Const, Gpu

import tracker
from tracker.machine import boottime_us
from tracker.progress import Progress
from tracker.records import Mark, datetime_of
from tracker.session.iterating import Iteration, figures_of
from tracker.session.judge import Budget, Judge, checked_budget
from tracker.views import amounts


@pytest.fixture(autouse=True)
def gpu(standin_nvml, powercap_tree, tmp_path, monkeypatch):
    standin_nvml.plug(Gpu(power=(Const(100_000),)), epoch_us=boottime_us())
    monkeypatch.delenv("STANDIN_CLOCK")
    monkeypatch.setenv("TRACKER_SYSFS", str(powercap_tree.sysfs))
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TRACKER_ZONE", "FR")


def until(condition, seconds=20.0):
    deadline_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert condition()


def test_items_come_as_they_are_and_progress_is_marked_at_the_end_at_least():
    with tracker.track("x") as live:
        epochs = live.iterate("ab", unit="epoch")
        seen = [(epoch, item) for epoch in epochs for item in live.iterate([3, 4, 5])]

    assert seen == list(itertools.product("ab", [3, 4, 5])) and len(epochs) == 2
    run = tracker.get(live.id)
    assert [dict(mark.values) for mark in run.marks] == [
        {"step": 3, "steps": 3, "total_steps": 6},
        {"step": 6, "steps": 3, "total_steps": 6},
        {"epoch": 2, "epochs": 2, "total_epochs": 2},
    ]
    told = " ".join(run.summary().split())
    assert f"6 steps, each {amounts.energy(run.energy_j / 6)} and" in told and "2 epochs, each " in told


def test_a_fast_loop_leaves_a_mark_a_second_and_not_one_an_item():
    clock_s = itertools.count(step=1 / 128)  # each item takes an exact part of a second
    with tracker.track("x") as live:
        for _ in Iteration(live, Judge(), range(1000), clock_s=lambda: next(clock_s)):
            pass

    steps = [mark.values["step"] for mark in tracker.get(live.id).marks]
    assert steps == [*range(128, 1000, 128), 1000]


def test_what_the_program_raises_goes_on_its_way_and_what_was_done_is_marked():
    def items():
        yield from range(3)
        raise KeyError("of the loader")

    with pytest.raises(KeyError, match="of the loader"), tracker.track("x") as live:
        for _ in live.iterate(items()):
            pass

    (mark,) = tracker.get(live.id).marks
    assert mark.values == {"step": 3, "steps": 3}
    with pytest.raises(TypeError, match="no length"):
        len(live.iterate(iter([])))


class Stream:
    """A loader over a stream, whose length is an error."""

    def __len__(self):
        raise TypeError("a stream has none")

    def __iter__(self):
        return iter(range(3))


def test_a_loader_whose_length_is_an_error_is_iterated_over():
    with tracker.track("x") as live:
        assert list(live.iterate(Stream())) == [0, 1, 2]


class Broken:
    """A tqdm bar on a terminal that has gone."""

    def update(self, made):
        raise OSError("gone")

    set_postfix_str = close = update


def test_a_bar_that_fails_harms_nobody(caplog):
    def train(live):
        for item in live.iterate(range(3), bar=Broken()):
            if item == 2:
                raise KeyError("of the program")

    with tracker.track("x") as live, pytest.raises(KeyError, match="of the program"):
        train(live)

    assert len([message for message in caplog.messages if "bar failed" in message]) == 1


def test_loops_that_follow_one_another_are_not_told_as_done():
    with tracker.track("x") as live:
        for _ in range(2):
            for _ in live.iterate(range(3)):
                pass

    marks = [dict(mark.values) for mark in tracker.get(live.id).marks]
    assert marks == [{"step": 3, "steps": 3, "total_steps": 3}, {"step": 6, "steps": 3}]
    judge = Judge()
    judge.expect("step", 3)
    judge.expect("step", None)
    judged(judge, steps=30, energy_j_per_step=1.0)
    assert "not told" in judge.progress.reason


def test_spans_named_epoch_are_epochs():
    with tracker.track("x") as live:
        for number in range(3):
            with live.span(f"epoch {number}"):
                pass

    assert "3 epochs, each" in tracker.get(live.id).summary()


def test_a_meter_that_answers_late_begins_a_series_of_its_own():
    judge = Judge(total_steps=1000)
    with tracker.track("x"):
        pass
    for number in range(1, 31):
        judge.see([Mark(datetime_of(0), 0.0, {"step": number})])
        run = run_at(None if number <= 10 else number * 5.0, float(number))
        if number <= 10:
            run = replace(run, energy_modelled_j=number * 1.0)
        judge.judge(run, 0.0, 0.0, lambda *_: None)

    assert not judge.progress.is_modelled and judge.progress.energy_j.mean == pytest.approx(5000.0)


def test_progress_is_told_while_the_run_goes_on_and_a_bar_of_ones_own_shows_it():
    bar = Bar()
    with tracker.track("x") as live:
        for _ in live.iterate(range(100_000), bar=bar):
            time.sleep(0.01)
            if bar.figures and bar.figures[-1]:
                progress = live.progress()
                break

    assert (progress.unit, progress.total, progress.is_modelled) == ("step", 100_000, False)
    assert 0 < progress.done < 100_000 and "too little" in progress.reason
    assert "/step" in figures_of(progress) and "/step" in bar.figures[-1]


def test_what_is_expected_comes_with_what_the_run_has_used_until_now():
    judge = Judge()
    judge.expect("step", 1000)

    judged(judge, steps=30, energy_j_per_step=100.0)

    progress = judge.progress
    assert progress.energy_j.mean == pytest.approx(100_000) and progress.left_s.mean == pytest.approx(970)
    assert "100 J/step" in figures_of(progress) and "27.8 Wh expected" in figures_of(progress)


def test_a_budget_that_is_passed_is_told_once_called_once_and_ends_the_loop(caplog):
    calls = []
    with tracker.track("x", budget={"energy_j": 30}, on_budget=calls.append, budget_action="stop") as live:
        for _ in live.iterate(itertools.count()):
            time.sleep(0.01)
    until(lambda: calls)

    run = tracker.get(live.id)
    assert run.status == "finished" and run.energy_j > 30
    passed = [warning for warning in run.warnings if "it is passed" in warning]
    assert len(passed) == 1 and len([message for message in caplog.messages if "it is passed" in message]) == 1
    assert [call.figure for call in calls if call.is_passed] == ["energy_j"] and calls[-1].limit == 30


def test_a_loop_of_ones_own_goes_on_after_the_budget_and_a_callback_that_fails_harms_nobody(caplog):
    def fail(overrun):
        raise RuntimeError("of the user's")

    with tracker.track("x", budget={"energy_kwh": 1e-6, "emissions_g": 1e6}, on_budget=fail) as live:
        until(lambda: any("on_budget failed" in message for message in caplog.messages))

    run = tracker.get(live.id)
    assert run.status == "finished" and any("it is passed" in warning for warning in run.warnings)
    assert not any("emissions" in warning for warning in run.warnings)


def run_at(energy_j, elapsed_s, emissions_g=1.0):
    return replace(tracker.get("last"), energy_j=energy_j, emissions_g=emissions_g, duration_s=elapsed_s)


def judged(judge, *, steps, energy_j_per_step, total=None, emissions_g=1.0):
    warned = []
    with tracker.track("x"):
        pass
    for number in range(1, steps + 1):
        values = {"step": number} | ({} if total is None else {"total_steps": total})
        judge.see([Mark(datetime_of(0), 0.0, values)])
        run = run_at(number * energy_j_per_step, float(number), emissions_g)
        judge.judge(run, 0.0, 0.0, lambda cause, text: warned.append(text))
    return warned


def test_what_will_be_passed_is_told_before_it_is():
    (warning,) = judged(Judge(Budget(energy_j=500.0)), steps=30, energy_j_per_step=10.0, total=100)

    assert "300 J of 500 J" not in warning and "1000 J expected at the end" in warning and "will be passed" in warning


def test_a_budget_within_which_all_stays_is_not_spoken_of():
    assert judged(Judge(Budget(energy_j=5000.0)), steps=30, energy_j_per_step=10.0, total=100) == []


def test_unknown_emissions_are_no_emissions_of_0():
    (warning,) = judged(Judge(Budget(emissions_g=5.0)), steps=12, energy_j_per_step=1.0, emissions_g=None)

    assert "cannot be judged" in warning


def test_one_rank_of_several_does_not_end_its_loop_alone():
    judge = Judge(Budget(energy_j=5.0), action="stop")
    judge.is_one_of(8)

    warned = judged(judge, steps=3, energy_j_per_step=10.0)

    assert not judge.must_stop and any("other ranks" in warning for warning in warned)


def test_numbered_steps_count_from_where_the_run_began():
    judge = Judge(total_steps=1000)
    with tracker.track("x"):
        pass
    for number in range(500, 540):
        judge.see([Mark(datetime_of(0), 0.0, {"step": number})])
        judge.judge(run_at((number - 500) * 2.0, number - 500.0), 0.0, 0.0, lambda *_: None)

    assert judge.progress.energy_j.mean == pytest.approx(2 * 39 + 2 * (1000 - 539))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"budget": {"euro": 5}}, "euro"),
        ({"budget": {}}, "budget"),
        ({"budget": 500}, "budget"),
        ({"budget": {"energy_j": -1}}, "energy_j"),
        ({"budget": {"energy_j": float("nan")}}, "energy_j"),
        ({"budget": {"energy_j": True}}, "energy_j"),
        ({"budget": {"energy_j": 1, "energy_kwh": 1}}, "twice"),
        ({"budget": {"energy_j": 1}, "budget_action": "kill"}, "kill"),
        ({"on_budget": print}, "on_budget"),
        ({"total_steps": 0}, "total_steps"),
        ({"total_steps": float("inf")}, "total_steps"),
    ],
)
def test_a_wrong_budget_is_refused_before_anything_starts(wrong, told):
    with pytest.raises(ValueError, match=told):
        tracker.track("x", **wrong)


def test_units_of_a_budget():
    assert checked_budget({"energy_kwh": 2, "emissions_kg": 0.5}) == Budget(7.2e6, 500.0)


class Bar:
    """What is asked of a tqdm bar."""

    def __init__(self):
        self.made, self.figures, self.is_closed = 0, [], False

    def update(self, made):
        self.made += made

    def set_postfix_str(self, text, refresh):
        self.figures.append(text)

    def close(self):
        self.is_closed = True


def test_a_bar_of_ones_own_is_moved_on_and_stays_open():
    bar = Bar()
    with tracker.track("x") as live:
        assert sum(Iteration(live, Judge(), range(3), bar=bar)) == 3

    assert bar.made == 3 and not bar.is_closed


@pytest.mark.parametrize("bar", ["tqdm", "rich"])
def test_a_bar_shows_how_far_the_loop_has_come(bar, capsys, monkeypatch):
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # else its own thread outlives the test
    with tracker.track("x") as live:
        assert sum(live.iterate(range(1000), bar=bar)) == 499_500

    told = capsys.readouterr()
    assert "1000/1000" in told.err or "100%" in told.out


def test_a_wrong_iteration_is_refused_at_the_call():
    with tracker.track("x") as live:
        for wrong, told in (
            ({"bar": "xyz"}, "bar"),
            ({"unit": "a b"}, "unit"),
            *(({"total": total}, "total") for total in (-5, "a", 1.5, True)),
        ):
            with pytest.raises(ValueError, match=told):
                live.iterate([], **wrong)


def test_figures_of_modelled_energy_say_so():
    modelled = Progress("step", 5.0, None, 2.0, None, is_modelled=True)

    assert figures_of(modelled) == "2.00 J/step, modelled" and figures_of(None) == ""


def test_a_bar_that_is_not_installed_is_named_and_nothing_is_imported_unasked():
    code = """
import sys
sys.modules["tqdm"] = sys.modules["tqdm.auto"] = sys.modules["rich"] = sys.modules["rich.progress"] = None
import tracker
with tracker.track("x") as live:
    assert "tracker.session.judge" not in sys.modules
    for bar in ("tqdm", "rich"):
        try:
            live.iterate([], bar=bar)
        except ValueError as exc:
            print(exc)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count('pip install "gpu-energy-tracker[bar]"') == 2


def test_a_disabled_run_iterates_too(monkeypatch):
    monkeypatch.setenv("TRACKER_DISABLED", "1")

    with tracker.track("x", budget={"energy_j": 1}) as live:
        assert list(live.iterate(range(3))) == [0, 1, 2] and live.progress() is None
