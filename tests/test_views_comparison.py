"""Runs side by side as text, whole at 80 columns, whatever they are called."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from textwrap import dedent

import pytest
from test_views_summary import HOSTILE, MEASURED, NOTHING_MEASURED

from tracker.comparison import Comparison, ZoneMean
from tracker.records import Mark, Span
from tracker.views.comparison import comparison_text
from tracker.views.tables import columns_of

START = datetime(2026, 11, 25, 4, 17, 3, tzinfo=UTC)


class Source:
    """What a run fetches from its database, here from memory."""

    def __init__(self, name="epoch", energy_j=1_000_000.0):
        self._name, self._energy_j = name, energy_j

    def samples(self, run_id):
        return ()

    def notes(self, run_id):
        return ()

    def spans(self, run_id):
        end = START + timedelta(seconds=1800)
        return (Span(0, None, self._name, {}, START, end, 1800.0, self._energy_j, 1.0),)

    def marks(self, run_id):
        return (Mark(START, 0.0, {"step": 1, "tokens": 500}), Mark(START, 1.0, {"step": 2, "tokens": 500}))


def test_runs_side_by_side_are_multiples_of_the_first_and_the_difference_is_explained():
    first = replace(MEASURED, source=Source())
    uses = tuple(replace(use, energy_j=use.energy_j / 2) for use in MEASURED.intensity)
    half = replace(
        MEASURED, id="dddddddd", name="half", energy_j=2_250_000.0, emissions_g=35.0, intensity=uses, source=Source()
    )

    assert comparison_text(Comparison((first, half))) == dedent("""\
        id     name   lasted          energy           CO2e          intensity  cover
        3f9c2a digits 1.00 h 1.00 x 1.25 kWh  1.00 x 70.0 g  1.00 x 56.0 g/kWh 99.9 %
        dddddd half   1.00 h 1.00 x   625 Wh 0.500 x 35.0 g 0.500 x 56.0 g/kWh 99.9 %
        x: times the first; energy and CO2e: of what was measured; cover: the share of
        it that is known

        device                    id           energy          power  cover method
        GPU NVIDIA H100 80GB HBM3 3f9c2a 8 x 1.20 kWh 1.00 x 1.20 kW  100 % counter
                                  dddddd 8 x 1.20 kWh 1.00 x 1.20 kW  100 % counter
        CPU package-0             3f9c2a 1 x  50.0 Wh 1.00 x  50.0 W 99.8 % counter
                                  dddddd 1 x  50.0 Wh 1.00 x  50.0 W 99.8 % counter

        phase  id      spans    lasted  energy          power    CO2e   intensity
        epoch  3f9c2a      1  30.0 min  278 Wh  1.00 x  556 W  15.6 g  56.0 g/kWh
               dddddd      1  30.0 min  278 Wh  1.00 x  556 W  15.6 g  56.0 g/kWh

        for each  id        of    energy              CO2e
        step      3f9c2a     2    625 Wh   1.00 x   35.0 g   1.00 x
                  dddddd     2    312 Wh  0.500 x   17.5 g  0.500 x
        epoch     3f9c2a     1  1.25 kWh   1.00 x   70.0 g   1.00 x
                  dddddd     1    625 Wh  0.500 x   35.0 g  0.500 x
        token     3f9c2a  1000   1.25 Wh   1.00 x  70.0 mg   1.00 x
                  dddddd  1000    2250 J  0.500 x  35.0 mg  0.500 x

        CO2e            id      difference  by energy  PUE  place  time
        against 3f9c2a  dddddd     -35.0 g    -35.0 g  0 g    0 g     -
        energy, PUE, place and time add up to the difference (Shapley value of energy x
        PUE x intensity); place: the zone's mean intensity; time: how far the run's
        hours lay from it
        CO2e: 3f9c2a, dddddd: priced by a value that holds at any hour, so when it ran
        plays no part""")


def test_no_runs_is_a_sentence_and_one_run_has_nothing_to_explain():
    assert comparison_text(Comparison(())) == "no runs"
    assert "difference" not in comparison_text(Comparison((MEASURED,)))


def test_what_makes_runs_unlike_is_said():
    other = replace(NOTHING_MEASURED, is_replayed=True, pue=1.2)

    text = " ".join(comparison_text(Comparison((MEASURED, other))).split())

    for caveat in (
        "not alike: measured parts (3f9c2a: CPU + GPU, 77aa01: none)",
        "not alike: PUE (3f9c2a: PUE 1.0 (IT energy only), 77aa01: PUE 1.2)",
        "not alike: basis of the intensity (3f9c2a: lifecycle, 77aa01: none)",
        "not alike: replayed (3f9c2a: no, 77aa01: yes)",
        "not alike: status (3f9c2a: finished, 77aa01: failed)",
        "not alike: share known (3f9c2a: 99.9 %, 77aa01: unknown)",
        "CO2e: the emissions of 77aa01 are unknown",
    ):
        assert caveat in text


def test_the_mean_of_a_zone_is_shown_with_the_time_that_is_known_of_it():
    mean = ZoneMean("grid", "FR", "average", "lifecycle", START, START + timedelta(hours=3), 56.0, 5400.0)

    text = " ".join(comparison_text(Comparison((MEASURED, MEASURED), (mean,))).split())

    assert (
        "mean of FR (grid): 56.0 g/kWh over the 1.5 h known between 2026-11-25 04:17 and 2026-11-25 07:17 UTC" in text
    )


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("width", [80, 200])
def test_no_name_breaks_a_comparison(name, width):
    device = replace(MEASURED.devices[0], name=name)
    hostile = replace(
        MEASURED,
        id="cccccccc",
        name=name,
        tags={name: name},
        devices=(device, *MEASURED.devices[1:]),
        provenance={"settings": {"gpus": {"value": name}}},
        source=Source(name),
    )

    lines = comparison_text(Comparison((MEASURED, hostile, NOTHING_MEASURED)), width).split("\n")

    assert all(columns_of(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)
