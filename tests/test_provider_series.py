"""From what a source wrote to values and gaps: what holds for every provider."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.errors import UnbelievableError
from tracker.intensity.providers.neso import PROFILE as DIRECT
from tracker.intensity.providers.protocol import Gap
from tracker.intensity.providers.series import (
    NO_VALUE,
    NULL,
    Row,
    Series,
    answer_of,
    ceil_to,
    chunks,
    floor_to,
    instant,
    layered,
    settled,
    shown,
)

T0 = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)
SERIES = Series(DIRECT, "GB", "intensity", "https://grid.example", T0 + 24 * HOUR)
LIFECYCLE = replace(SERIES, profile=replace(DIRECT, basis="lifecycle"))


def row(start: float, raw: object, hours: float = 1.0, updated: float | None = None) -> Row:
    updated_at = None if updated is None else T0 + updated * HOUR
    return Row(T0 + start * HOUR, T0 + (start + hours) * HOUR, raw, "final", updated_at)


def gaps(
    series: Series, *rows: Row, hours: float = 3.0, stated: tuple[Gap, ...] = ()
) -> list[tuple[float, float, str]]:
    answer = answer_of(series, rows, T0, T0 + hours * HOUR, gaps=stated)
    return [((gap.start - T0) / HOUR, (gap.end - T0) / HOUR, gap.reason) for gap in answer.gaps]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, NULL),
        ("ND", "'ND' is not a number"),
        (True, "True is not a number"),
        ([1], "[1] is not a number"),
        (float("inf"), "inf is not a number"),
        (10**400, "1000"),
        (-36.4, "-36.4 g/kWh is below 0"),
        (2000, "2000 g/kWh is above 1500, which no grid reaches"),
    ],
)
def test_what_is_no_intensity_is_a_gap_with_its_reason(raw: object, reason: str) -> None:
    (gap,) = gaps(SERIES, row(0, 100), row(1, raw), row(2, "120"))

    assert gap[:2] == (1, 2) and gap[2].startswith(reason)


def test_zero_is_an_intensity_where_only_smoke_counts_and_missing_over_a_life_cycle() -> None:
    assert gaps(SERIES, row(0, 0), hours=1) == []
    assert gaps(LIFECYCLE, row(0, 0), row(1, 5), hours=2) == [(0, 1, "0 g/kWh over the life cycle is no grid's")]


def test_marginal_intensity_may_be_higher_than_any_average() -> None:
    marginal = replace(SERIES, profile=replace(DIRECT, signal="marginal"))

    assert gaps(marginal, row(0, 2000), hours=1) == []


def test_numbers_of_which_none_can_be_are_an_error_not_a_gap() -> None:
    with pytest.raises(UnbelievableError, match="none of its values for GB can be an intensity: 250000 g/kWh"):
        gaps(SERIES, row(0, 250_000), row(1, None), row(2, 260_000))


def test_a_step_that_comes_twice_counts_once_the_newer_holds_and_a_conflict_is_a_gap() -> None:
    def value(*rows: Row) -> float | None:
        found = answer_of(SERIES, rows, T0, T0 + HOUR).values
        return found[0].intensity_g_per_kwh if found else None

    assert value(row(0, 100), row(0, 100)) == 100
    assert value(row(0, None), row(0, 100)) == 100
    assert value(row(0, 100, updated=5), row(0, 90, updated=2)) == 100
    assert value(row(0, 90, updated=2), row(0, 100, updated=5)) == 100
    assert value(row(0, 100), row(0, 90)) is None
    assert gaps(SERIES, row(0, 100, updated=5), row(0, 90), hours=1) == [
        (0, 1, "two different values for the same time")
    ]


def test_steps_that_overlap_or_end_before_they_start_are_refused() -> None:
    with pytest.raises(UnbelievableError, match="overlap"):
        gaps(SERIES, row(0, 100), row(0.5, 100))
    with pytest.raises(UnbelievableError, match="before it begins"):
        gaps(SERIES, row(1, 100, hours=0))


def test_gaps_of_one_reason_are_joined_and_a_stated_reason_stands_in_its_time() -> None:
    stated = (Gap(T0 + 2.5 * HOUR, T0 + 9 * HOUR, "no plan"),)

    assert gaps(SERIES, row(0, None), row(1, None), row(4, 7), hours=6, stated=stated) == [
        (0, 2, NULL),
        (2, 2.5, NO_VALUE),
        (2.5, 4, "no plan"),
        (5, 6, "no plan"),
    ]


ROWS = st.lists(
    st.builds(row, st.integers(-2, 8), st.sampled_from([None, 0, 50, 100, -1]), st.sampled_from([1.0]), st.none()),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, stated=st.lists(st.tuples(st.integers(-2, 8), st.integers(1, 4)), max_size=3))
def test_values_and_gaps_cover_what_was_asked_each_instant_once(rows: list[Row], stated: list[tuple[int, int]]) -> None:
    extra = tuple(Gap(T0 + first * HOUR, T0 + (first + length) * HOUR, "stated") for first, length in stated)
    start, end = T0 + 0.5 * HOUR, T0 + 6 * HOUR
    try:
        answer = answer_of(SERIES, rows, start, end, gaps=extra)
    except UnbelievableError:
        return

    pieces = sorted(
        [(max(value.start, start), min(value.end, end)) for value in answer.values]
        + [(gap.start, gap.end) for gap in answer.gaps]
    )

    assert [piece[0] for piece in pieces] == [start, *(piece[1] for piece in pieces[:-1])]
    assert pieces[-1][1] == end


@settings(max_examples=150, deadline=None)
@given(first=ROWS, second=ROWS)
def test_of_two_layers_the_first_is_whole_and_the_second_fills_what_it_leaves(
    first: list[Row], second: list[Row]
) -> None:
    joined = layered(first, second)

    def starts(rows: list[Row]) -> set[datetime]:
        return {found.start for found in rows if found.raw is not None}

    assert starts(joined) == starts(first) | starts(second)
    assert {found.start for found in joined} == {found.start for found in first + second}
    assert all(found in first for found in joined if found.start in starts(first))


def test_a_time_needs_its_offset_unless_the_source_documents_utc() -> None:
    assert instant("Grid", "2024-10-27T02:00:00+02:00") == datetime(2024, 10, 27, tzinfo=UTC)
    assert instant("Grid", "2024-10-27T00:00", naive_is_utc=True) == datetime(2024, 10, 27, tzinfo=UTC)
    for raw, said in (("2024-10-27T02:00", "has no offset"), ("27.10.2024", "is not a time"), (1730000000, "is not")):
        with pytest.raises(UnbelievableError, match=said):
            instant("Grid", raw)


def test_a_value_is_final_once_the_source_corrects_it_no_more() -> None:
    day = replace(DIRECT, final_after=24 * HOUR)

    assert settled(day, T0, T0 + 24 * HOUR) == "final"
    assert settled(day, T0, T0 + 23 * HOUR) == "provisional"
    assert settled(replace(DIRECT, final_after=None), T0, T0 + 1000 * HOUR) == "provisional"


@settings(max_examples=50)
@given(minutes=st.integers(0, 10**6), length=st.integers(1, 500), longest=st.integers(1, 100))
def test_chunks_are_the_stretch_and_steps_enclose_an_instant(minutes: int, length: int, longest: int) -> None:
    moment = T0 + timedelta(minutes=minutes)
    pieces = list(chunks(moment, moment + length * HOUR, longest * HOUR))

    assert pieces[0][0] == moment and pieces[-1][1] == moment + length * HOUR
    assert all(before[1] == after[0] for before, after in pairwise(pieces))
    assert all(stop - first <= longest * HOUR for first, stop in pieces)
    assert floor_to(moment, HOUR) <= moment <= ceil_to(moment, HOUR)
    assert ceil_to(moment, HOUR) - floor_to(moment, HOUR) in (timedelta(0), HOUR)


def test_a_text_of_others_is_one_line_that_can_be_stored() -> None:
    noted = replace(row(0, 100), note="Donn\xe9es\0temps\nr\xe9el")

    assert answer_of(SERIES, [noted], T0, T0 + HOUR).values[0].note == "Donn\xe9es temps r\xe9el"
    assert shown("a\0b\n\ud800 c\x1b[31m") == "a b c [31m"
    assert len(shown("x" * 500)) == 160
