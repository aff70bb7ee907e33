"""The factors between units, against the definitions of the units."""

from __future__ import annotations

from fractions import Fraction

from tracker import units


def test_a_kilowatt_hour_is_a_thousand_watts_for_an_hour():
    assert units.JOULES_PER_KWH == 1_000 * 60 * 60


def test_a_pound_is_the_international_avoirdupois_pound():
    assert Fraction(str(units.GRAMS_PER_LB)) == Fraction("0.45359237") * units.GRAMS_PER_KG


def test_milliwatts_times_microseconds_are_nanojoules():
    per_j = units.MILLIWATTS_PER_W * units.MICROSECONDS_PER_S

    assert per_j == units.NANOJOULES_PER_J


def test_the_steps_down_from_a_joule_agree_with_each_other():
    assert units.MICROJOULES_PER_J == units.MILLIJOULES_PER_J * units.MICROJOULES_PER_MILLIJOULE
    assert units.NANOJOULES_PER_J == units.MICROJOULES_PER_J * units.NANOJOULES_PER_MICROJOULE
    assert units.TWICE_NANOJOULES_PER_MICROJOULE * units.MICROJOULES_PER_J == units.TWICE_NANOJOULES_PER_J


def test_a_joule_kept_as_twice_its_nanojoules_is_a_joule():
    assert units.joules_of_twice_nj(2_000_000_000) == 1.0
    assert units.joules_of_twice_nj(units.TWICE_NANOJOULES_PER_J * 10**12) == 1e12
