"""Runs in a table, whole and at 80 columns."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from textwrap import dedent

import pytest
from test_views_summary import HOSTILE, MEASURED, NOTHING_MEASURED

from tracker.views.listing import LIST_COLUMNS, runs_table
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


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("width", [80, 120])
def test_no_name_breaks_a_table(name, width):
    hostile = replace(MEASURED, id="cccccccc", name=name, project=name, status="interrupted", is_replayed=True)
    runs = [hostile, replace(MEASURED, project=name), NOTHING_MEASURED]

    for columns in ((), tuple(LIST_COLUMNS)[:6]):
        lines = runs_table(runs, width, columns).split("\n")
        assert all(columns_of(line) <= width for line in lines)
        assert all(line.isprintable() for line in lines)
