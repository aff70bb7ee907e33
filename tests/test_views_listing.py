"""Runs in a table and side by side, whole and at 80 columns."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from textwrap import dedent

import pytest
from test_views_summary import HOSTILE, MEASURED, NOTHING_MEASURED

from tracker.records import Comparison
from tracker.views.listing import comparison_text, runs_table
from tracker.views.tables import columns_of


def test_runs_are_listed_a_line_each():
    assert runs_table([MEASURED, NOTHING_MEASURED]) == dedent("""\
        id     name      project 2026 UTC    lasted   energy   CO2e  cover status
        3f9c2a digits    demo    11-25 04:17 1.00 h 1.25 kWh 70.0 g 99.9 % finished
        77aa01 (no name)         11-25 04:17 12.0 s        -      -      - failed
        energy and CO2e: of what was measured; cover: the share of it that is known""")


def test_replays_parts_and_modelled_energy_are_marked():
    part = replace(MEASURED, id="aaaaaaaa", parent_id=MEASURED.id, is_replayed=True)
    run = replace(MEASURED, project=None, is_replayed=True, energy_modelled_j=1.0)

    assert runs_table([replace(part, project=None), run]) == dedent("""\
        id     name   2026 UTC    lasted   energy   CO2e  cover status
        aaaaaa digits 11-25 04:17 1.00 h 1.25 kWh 70.0 g 99.9 % finished replayed
        3f9c2a digits 11-25 04:17 1.00 h 1.25 kWh 70.0 g 99.9 % finished replayed
        energy and CO2e: of what was measured; cover: the share of it that is known
        with modelled energy besides (tracker show RUN): 3f9c2a
        parts, whose energy their run holds too: aaaaaa of 3f9c2a""")


def test_the_year_stands_with_each_run_where_years_differ():
    older = replace(MEASURED, id="bbbbbbbb", started_at=datetime(2025, 1, 2, tzinfo=UTC))

    text = runs_table([MEASURED, older])

    assert "started UTC" in text
    assert "2026-11-25" in text
    assert "2025-01-02" in text


def test_ids_are_as_long_as_it_takes_to_tell_them_apart():
    text = runs_table([replace(MEASURED, id="abcdefg1"), replace(MEASURED, id="abcdefg2")])

    assert "abcdefg1" in text
    assert "abcdefg2" in text


def test_no_runs_is_a_sentence():
    assert runs_table([]) == "no runs"
    assert comparison_text(Comparison(())) == "no runs"


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("width", [80, 120])
def test_no_name_breaks_a_table(name, width):
    hostile = replace(MEASURED, id="cccccccc", name=name, project=name, status="interrupted", is_replayed=True)
    runs = [hostile, replace(MEASURED, project=name), NOTHING_MEASURED]

    for text in (runs_table(runs, width), comparison_text(Comparison(tuple(runs)), width)):
        lines = text.split("\n")
        assert all(columns_of(line) <= width for line in lines)
        assert all(line.isprintable() for line in lines)


def test_runs_side_by_side_are_multiples_of_the_first():
    half = replace(MEASURED, id="dddddddd", name="half", duration_s=1800.0, energy_j=2_250_000.0, emissions_g=70.0)

    assert comparison_text(Comparison((MEASURED, half))) == dedent("""\
        id      name      lasted             energy             CO2e           cover
        3f9c2a  digits    1.00 h   1.00 x  1.25 kWh   1.00 x  70.0 g  1.00 x  99.9 %
        dddddd  half    30.0 min  0.500 x    625 Wh  0.500 x  70.0 g  1.00 x  99.9 %
        x: times the first; energy and CO2e: of what was measured; cover: the share of
        it that is known""")


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
    ):
        assert caveat in text
