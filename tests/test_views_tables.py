"""Columns of text: whatever users put in names, no line is wider than the terminal and none is broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.views.tables import columns_of, cut, printable, table, wrap

HOSTILE = [
    "two\nlines",
    "tab\tand\rreturn",
    "\x1b[31mred\x1b[0m",
    "長い名前" * 20,
    "🔥" * 60,
    "👨\u200d👩\u200d👧 family",
    "rtl \u202egnp.exe",
    "zero\u200bwidth",
    "z" + "\u0336" * 5000,
    "\u200d" * 5000,
    "lone \udc80 surrogate",
    "n" * 5000,
    "",
]
names = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("rtl \u202egnp", r"rtl \u202egnp"),
        ("lone \udc80", r"lone \udc80"),
        ("naïve 長 🔥", "naïve 長 🔥"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_only_what_could_break_a_line_is_escaped(text, shown):
    assert printable(text) == shown


@given(names)
def test_a_printable_text_is_one_line_that_can_be_encoded(name):
    text = printable(name)

    assert len(text.splitlines()) <= 1
    text.encode("utf-8")


def test_wide_characters_take_two_columns_and_marks_none():
    assert columns_of("長🔥") == 4
    assert columns_of("e\u0301") == 1


@given(names, st.integers(min_value=0, max_value=30))
def test_a_cut_text_fits(name, width):
    assert columns_of(cut(printable(name), width)) <= width


@given(st.lists(names, max_size=8), st.integers(min_value=2, max_value=30))
def test_wrapping_loses_nothing_but_spaces_and_fits(words, width):
    text = printable(" ".join(words))

    lines = wrap(text, width)

    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(columns_of(line) <= width for line in lines)


def test_a_line_is_broken_at_a_space_where_there_is_one():
    assert wrap("one two three", 8) == ["one two", "three"]
    assert wrap("oneandtwo", 5) == ["onean", "dtwo"]


def test_columns_are_two_spaces_apart_and_numbers_aligned_to_the_right():
    assert table([["name", "energy"], ["a", "1 J"]], width=80, right=[1]) == ["name  energy", "a        1 J"]


@given(st.lists(st.tuples(names, names), min_size=1, max_size=5), st.integers(min_value=16, max_value=80))
def test_flexible_columns_give_way_so_that_every_line_fits(pairs, width):
    rows = [["12345678", printable(one), printable(other)] for one, other in pairs]

    lines = table(rows, width=width, flexible=[1, 2])

    assert len(lines) == len(rows)
    assert all(columns_of(line) <= width for line in lines)
    assert all(line.startswith("12345678") for line in lines)


def test_room_that_one_column_does_not_need_goes_to_the_other():
    rows = [["id", "a" * 4, "b" * 40]]

    assert table(rows, width=30, flexible=[1, 2]) == [f"id aaaa {'b' * 19}..."]
