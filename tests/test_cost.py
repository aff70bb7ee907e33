"""What the electricity of a run costs: its price and currency, and what follows from them in every place."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import FRANCE, SECOND_US, START, a_full_run, a_run, after, writer_of

import tracker
from tracker.cli import cli
from tracker.errors import SettingError
from tracker.progress import Point, progress_of
from tracker.records import CostTotal, IntensityUse, Mark, Price, Run, Slot, datetime_of, unix_us_of
from tracker.session.iterating import figures_of
from tracker.session.judge import Judge, Overrun, checked_budget
from tracker.settings import resolve
from tracker.store.opening import open_for_reading
from tracker.units import JOULES_PER_KWH
from tracker.views import amounts
from tracker.views.totals import totals_text


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.delenv("TRACKER_PRICE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs.db"


def a_priced(db, run_id: str, **changes: object) -> Run:
    """A run of 1 kWh in one slot."""
    given = {
        "parent_id": None,
        "energy_j": JOULES_PER_KWH,
        "energy_modelled_j": None,
        "price_per_kwh": 0.25,
        "currency": "EUR",
        "intensity": (IntensityUse(FRANCE, "setting", JOULES_PER_KWH, 0.0, 1),),
    }
    run = dataclasses.replace(a_full_run(run_id), **{**given, **changes})
    start_s = unix_us_of(START) // SECOND_US // 300 * 300
    writer = writer_of(db, run)
    writer.finish(run, [], [Slot(0, start_s, 2 * JOULES_PER_KWH * 10**9, 60 * SECOND_US, None)], after(60.5))
    writer.close()
    return tracker.get(run_id)


def until(condition) -> None:
    """Wait for what another thread does."""
    ends_s = time.monotonic() + 20
    while not condition() and time.monotonic() < ends_s:
        time.sleep(0.01)
    assert condition()


@given(
    energy_j=st.floats(0, 1e12),
    modelled_j=st.none() | st.floats(0, 1e12),
    pue=st.floats(1, 3),
    price=st.floats(0, 1e3),
)
def test_the_cost_is_the_energy_of_the_building_times_the_price(energy_j, modelled_j, pue, price):
    run = a_run(energy_j=energy_j, energy_modelled_j=modelled_j, pue=pue, price_per_kwh=price, currency="EUR")

    assert run.cost == pytest.approx(energy_j * pue * price / JOULES_PER_KWH)
    if modelled_j is None:
        assert run.cost_modelled is None
    else:
        assert run.cost_modelled == pytest.approx(modelled_j * pue * price / JOULES_PER_KWH)


def test_without_a_price_or_energy_the_cost_is_unknown_and_never_0():
    assert a_run(energy_j=1e6).cost is None
    assert a_run(price_per_kwh=0.3, currency="EUR").cost is None
    assert a_run(energy_j=0.0, price_per_kwh=0.3, currency="EUR").cost == 0.0
    assert amounts.money(None, "EUR") == amounts.money(1.0, None) == amounts.UNKNOWN


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("0.30 EUR", Price(0.3, "EUR")),
        (" 12usd ", Price(12.0, "USD")),
        (".5 Gbp / kWh", Price(0.5, "GBP")),
        ("0 EUR", Price(0.0, "EUR")),
    ],
)
def test_a_price_is_a_number_with_its_currency(text, price, tmp_path):
    settings = resolve({}, environ={"TRACKER_PRICE": text, "TRACKER_DB": "x"}, cwd=tmp_path, user_config=tmp_path / "n")

    assert (settings.price_per_kwh, settings.problems) == (price, ())


@pytest.mark.parametrize("wrong", ["0.30", "EUR", "0.30 €", "-1 EUR", "nan EUR", "1e400 EUR", "0.3 EUROS", "1 2 EUR"])
def test_a_price_without_its_currency_is_refused_and_none_is_guessed(wrong, tmp_path):
    with pytest.raises(SettingError, match="price_per_kwh must be a number with its currency"):
        tracker.track(price_per_kwh=wrong)

    settings = resolve(
        {}, environ={"TRACKER_PRICE": wrong, "TRACKER_DB": "x"}, cwd=tmp_path, user_config=tmp_path / "n"
    )
    (problem,) = settings.problems
    assert settings.price_per_kwh is None and problem.startswith("TRACKER_PRICE must be")


def test_a_number_alone_is_no_price():
    with pytest.raises(SettingError, match="currency"):
        tracker.track(price_per_kwh=0.3)


def test_a_run_keeps_its_price_with_its_origin_and_the_database_tells_the_cost(db, monkeypatch):
    monkeypatch.setenv("TRACKER_PRICE", "0.40 EUR")
    with tracker.track("x", pue=1.5, gpus="none", zone="FR") as live:
        pass

    run = tracker.get(live.id)

    assert (run.price_per_kwh, run.currency) == (live.price_per_kwh, live.currency) == (0.4, "EUR")
    assert run.provenance["settings"]["price_per_kwh"] == {"value": "0.4 EUR", "origin": "TRACKER_PRICE"}
    measured = a_priced(db, "measured", pue=1.5, price_per_kwh=0.4)
    with open_for_reading(db).engine.connect() as connection:
        row = connection.execute(sa.text("SELECT cost, currency FROM v_runs WHERE run_id = 'measured'")).one()
    assert row == (pytest.approx(measured.cost), "EUR")
    assert f"cost          {amounts.money(measured.cost, 'EUR')} of the measured energy; PUE 1.5, at 0.4 EUR/kWh" in (
        measured.summary()
    )


def test_sums_are_of_one_currency_each_and_say_what_has_no_price(db):
    a_priced(db, "a", energy_j=3.6e6, energy_modelled_j=None, pue=1.0)
    a_priced(db, "b", energy_j=7.2e6, energy_modelled_j=3.6e6, pue=2.0)
    a_priced(db, "c", energy_j=3.6e6, energy_modelled_j=None, pue=1.0, price_per_kwh=3.0, currency="SEK")
    a_priced(db, "d", energy_j=None, price_per_kwh=None, currency=None)

    (total,) = tracker.totals()

    assert total.costs == (CostTotal("EUR", 1.25, 0.5), CostTotal("SEK", 3.0, None))
    assert (total.runs, total.runs_cost_unknown) == (4, 1)
    told = " ".join(totals_text([total], 120).split())
    assert "1.25 EUR + 3.00 SEK" in told and "no price was given or nothing was measured: 1 run" in told


def test_another_pue_moves_the_cost_and_a_price_can_be_given_afterwards(db):
    a_priced(db, "a", pue=1.0)
    a_priced(db, "b", pue=1.0, price_per_kwh=None, currency=None)
    assert "cost" not in tracker.get("b").summary()

    result = CliRunner().invoke(cli, ["reprice", "a", "--pue", "2", "--store", "--json"])
    priced = CliRunner().invoke(cli, ["reprice", "b", "--price", "0.5 USD", "--store"])

    (one,) = json.loads(result.stdout)["runs"]
    assert (one["before"]["cost"], one["after"]["cost"], one["after"]["currency"]) == (0.25, 0.5, "EUR")
    assert tracker.get("a").cost == 0.5
    assert "cost of the measured energy: unknown before, 0.500 USD after" in priced.stdout
    assert (tracker.get("b").cost, tracker.get("b").currency) == (0.5, "USD")
    assert tracker.get("b").emissions_g == pytest.approx(56)
    told = " ".join(tracker.get("a").summary().split())
    assert "before: 0.250 EUR" in told


def test_what_a_unit_and_the_whole_will_cost_follow_from_their_energy():
    points = [Point(done, done * 10.0, done * 3.6e5, None) for done in range(1, 12)]

    progress = progress_of("step", points, 20).priced(0.5, 2.0, "EUR")

    assert progress.cost_per_unit == pytest.approx(0.1)
    assert progress.cost is not None and progress.cost.mean == pytest.approx(20 * 0.1)
    assert progress.cost.low <= progress.cost.mean <= progress.cost.high
    assert "0.100 EUR/step" in figures_of(progress) and "2.00 EUR" in figures_of(progress)


def seen_by(judge: Judge, run: Run, *, steps: int) -> list[str]:
    """What is warned of when a run has made so many steps, each with as much energy."""
    said: list[str] = []
    for step in range(1, steps + 1):
        judge.see([Mark(datetime_of(0), float(step), {"step": step})])
        now = dataclasses.replace(run, energy_j=step * 3.6e6, duration_s=float(step))
        judge.judge(now, float(step), 0.0, lambda _, text: said.append(text))
    return said


def test_a_budget_of_money_warns_when_it_will_be_passed_and_ends_the_loop_when_it_is():
    called = []
    judge = Judge(checked_budget({"cost_eur": 10}), called.append, "stop", total_steps=40)

    said = seen_by(judge, a_run(price_per_kwh=0.25, currency="EUR", pue=2.0), steps=20)

    expected, passed, _ = said
    assert "20.0 EUR expected at the end" in expected and "of 10.0 EUR used" in expected
    assert passed == "budget: 10.0 EUR of 10.0 EUR used: it is passed"
    assert judge.must_stop
    until(lambda: len(called) == 2)
    assert {(one.figure, one.is_passed, one.limit) for one in called} == {
        ("cost_eur", False, 10.0),
        ("cost_eur", True, 10.0),
    }


def test_a_callback_that_fails_is_logged_once_for_each_cause(caplog):
    def fails(overrun: Overrun) -> None:
        raise ValueError(f"no mail could be sent: {overrun.figure}")

    budget = checked_budget({"cost_eur": 1, "energy_kwh": 1, "emissions_g": 1})
    judge = Judge(budget, fails)

    seen_by(judge, a_run(price_per_kwh=1.0, currency="EUR", emissions_g=2.0), steps=2)

    until(lambda: not any(thread.name == "tracker-budget" for thread in threading.enumerate()))
    assert [record.getMessage() for record in caplog.records if "on_budget" in record.getMessage()] == [
        "tracker: on_budget failed; the run goes on"
    ]


@pytest.mark.parametrize(
    ("priced", "why"),
    [({}, "no price of electricity is given"), ({"price_per_kwh": 0.2, "currency": "USD"}, "the price is in USD")],
)
def test_a_budget_without_a_price_in_its_currency_says_that_it_cannot_be_judged(priced, why):
    (text,) = seen_by(Judge(checked_budget({"cost_eur": 5})), a_run(**priced), steps=3)

    assert why in text and "EUR cannot be judged" in text


def test_a_budget_and_a_price_of_two_currencies_are_refused_before_anything_starts():
    with pytest.raises(SettingError, match="budget is in EUR, and price_per_kwh in USD"):
        tracker.track(budget={"cost_eur": 5}, price_per_kwh="0.2 USD")
    with pytest.raises(SettingError, match="given twice"):
        tracker.track(budget={"cost_eur": 5, "cost_usd": 5})
    with pytest.raises(SettingError, match=r"none of 'cost'.*cost_eur"):
        tracker.track(budget={"cost": 5})
