"""A short round of scripts/torture, and that its referee sees what it is there to see."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torture.plans import ENDS, FORMS, OWN_MIDDLES, PLACES, SENSORS, drawn
from torture.referee import Bout
from torture.rounds import a_round, fight, kinds_of

SEED = 125  # of many, the one with the most kinds in so few
FAULTS = 20 if os.environ.get("TRACKER_TEST_ALL") == "1" else 10
CALM = replace(drawn(SEED, 0, is_short=True), form="with", middles=(), place="", sensor="", end="return")


@pytest.fixture
def shared(standin_library, tmp_path):
    with a_round(standin_library, tmp_path) as shared:
        yield shared


def test_random_faults_lose_nothing_and_harm_nobody(shared):
    plans = [drawn(SEED, number, is_short=True) for number in range(FAULTS)]

    tally = fight(shared, plans, at_once=6, is_timed=False)

    told = [f"{verdict.plan}: {verdict.troubles(has_times=False)}" for verdict in tally.verdicts]
    assert [verdict.troubles(has_times=False) for verdict in tally.verdicts] == [[]] * FAULTS, "\n".join(told)
    assert sum(verdict.is_started for verdict in tally.verdicts) > FAULTS / 2
    assert f"{'runs on record':<22}" in tally.totals() and len(tally.table().splitlines()) == 1 + len(kinds_of(plans))


def test_the_referee_sees_a_run_that_is_not_on_record(shared):
    shared.more = {"TRACKER_DISABLED": "1"}

    assert Bout(shared, CALM).fought().troubles(has_times=False) == ["not on record"]


def test_the_referee_sees_what_is_printed_kept_or_late_because_of_tracking(shared, tmp_path):
    code = "import atexit, signal, time\nprint('of ours')\natexit.register(time.sleep, 2.5)\n"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(code + "signal.signal(signal.SIGUSR1, lambda *_: None)\n")
    shared.more = {"PYTHONPATH": f"{tmp_path / 'site'}:{Path(__file__).parents[1]}"}

    troubles = " ".join(Bout(shared, CALM).fought().troubles())

    assert "other text on stdout" in troubles and "<lambda>" in troubles and "later than untracked" in troubles


def test_faults_are_drawn_alike_from_a_seed_and_of_every_kind():
    plans = [drawn(7, number) for number in range(1000)]

    assert plans == [drawn(7, number) for number in range(1000)] != [drawn(8, number) for number in range(1000)]
    assert {*ENDS, *OWN_MIDDLES, *PLACES, *SENSORS, *(f"by {form}" for form in FORMS)} <= set(kinds_of(plans))


def test_the_script_tells_what_it_takes():
    script = Path(__file__).parents[1] / "scripts" / "torture"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)

    assert all(option in done.stdout for option in ("--faults", "--seed", "--at-once", "--only"))
