"""Adaptive units: three significant digits, the right unit at every boundary, and unknown never as 0."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.views import amounts

SIZES = {
    amounts.energy: {"mJ": 1e-3, "J": 1, "Wh": 3600, "kWh": 3.6e6, "MWh": 3.6e9},
    amounts.mass: {"mg": 1e-3, "g": 1, "kg": 1e3, "t": 1e6},
    amounts.power: {"mW": 1e-3, "W": 1, "kW": 1e3, "MW": 1e6},
    amounts.duration: {"ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86_400},
    amounts.intensity: {"g/kWh": 1},
}
quantities = st.sampled_from(list(SIZES))
values = st.floats(min_value=1e-5, max_value=1e15)


def parsed(show, text):
    number, unit = text.split()
    return float(number) * SIZES[show][unit]


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (amounts.energy, 0.0, "0 J"),
        (amounts.energy, 0.0123, "12.3 mJ"),
        (amounts.energy, 999.95, "1000 J"),
        (amounts.energy, 3590, "3590 J"),
        (amounts.energy, 3599, "1.00 Wh"),
        (amounts.energy, 3600, "1.00 Wh"),
        (amounts.energy, 3_599_000, "1.00 kWh"),
        (amounts.energy, 1.287e6 * 3.6e6, "1290 MWh"),
        (amounts.energy, 1e-9, "<0.001 mJ"),
        (amounts.mass, 0.00069, "0.690 mg"),
        (amounts.mass, 999.4, "999 g"),
        (amounts.mass, 999.95, "1.00 kg"),
        (amounts.mass, 552e6, "552 t"),
        (amounts.power, 999.95, "1.00 kW"),
        (amounts.power, 342.25, "342 W"),
        (amounts.duration, 0.25, "250 ms"),
        (amounts.duration, 59.94, "59.9 s"),
        (amounts.duration, 59.96, "60.0 s"),
        (amounts.duration, 59.98, "1.00 min"),
        (amounts.duration, 86_399, "1.00 d"),
        (amounts.intensity, 56.0, "56.0 g/kWh"),
        (amounts.intensity, 0, "0 g/kWh"),
    ],
)
def test_a_quantity_reads_as_people_write_it(show, value, text):
    assert show(value) == text


@pytest.mark.parametrize("show", [*SIZES, amounts.share])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_unknown_says_so_and_is_not_0(show, value):
    assert show(value) == "unknown"


@given(quantities, values)
def test_at_most_three_significant_digits_are_shown(show, value):
    number = show(value).split()[0]

    digits = number.lstrip("<0.").replace(".", "")

    assert len(digits.rstrip("0")) <= 3
    assert "e" not in number


@given(quantities, values)
def test_what_is_shown_is_within_half_of_the_third_digit(show, value):
    text = show(value)

    assert text.startswith("<") or parsed(show, text) == pytest.approx(value, rel=0.005)


@given(quantities, values, values)
def test_a_larger_value_never_reads_smaller(show, one, other):
    small, large = sorted((one, other))
    texts = show(small), show(large)

    assert texts[0].startswith("<") or parsed(show, texts[0]) <= parsed(show, texts[1]) * (1 + 1e-12)


@given(quantities, values)
def test_the_unit_is_the_largest_that_leaves_a_one_before_the_point(show, value):
    units = SIZES[show]
    text = show(value)
    if text.startswith("<"):
        return

    number, unit = text.split()
    larger = [size for size in units.values() if size > units[unit]]

    assert float(number) >= 1 or units[unit] == min(units.values())
    assert all(float(f"{value / size:.2e}") < 1 for size in larger)


@given(st.floats(min_value=5e-324, max_value=1e15), quantities)
def test_what_is_not_0_is_never_shown_as_0(value, show):
    assert not re.match(r"0(\.0*)? ", show(value))


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(1, "100 %"), (0.99999, "99.9 %"), (0.57, "57.0 %"), (0.0004, "<0.1 %"), (0, "0 %"), (0.001, "0.1 %")],
)
def test_only_all_is_100_percent_and_only_none_is_0_percent(fraction, text):
    assert amounts.share(fraction) == text


def test_a_ratio_to_nothing_or_to_the_unknown_is_unknown():
    assert amounts.ratio(3.0, 2.0) == "1.50 x"
    assert amounts.ratio(3.0, 0.0) == "unknown"
    assert amounts.ratio(3.0, None) == "unknown"
    assert amounts.ratio(None, 2.0) == "unknown"
