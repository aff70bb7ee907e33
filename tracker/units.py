"""Factors between the units at rest and those people read."""

from typing import Final

MICROSECONDS_PER_S: Final = 1_000_000
SECONDS_PER_HOUR: Final = 3_600
MILLIWATTS_PER_W: Final = 1_000
MILLIJOULES_PER_J: Final = 1_000
MICROJOULES_PER_J: Final = 1_000_000
MICROJOULES_PER_MILLIJOULE: Final = 1_000
NANOJOULES_PER_MICROJOULE: Final = 1_000
NANOJOULES_PER_J: Final = 1_000_000_000
JOULES_PER_KWH: Final = 3_600_000
GRAMS_PER_KG: Final = 1_000
GRAMS_PER_LB: Final = 453.59237  # international avoirdupois pound, exact by definition (1959)

# Energy in slots is kept as twice its nanojoules, because the trapezoid's (p0 + p1) * dt in
# mW * µs is an exact integer of that unit (DESIGN.md, section 4).
TWICE_NANOJOULES_PER_J: Final = 2 * NANOJOULES_PER_J
TWICE_NANOJOULES_PER_MICROJOULE: Final = 2 * NANOJOULES_PER_MICROJOULE


def joules_of_twice_nj(twice_energy_nj: int) -> float:
    """Joules of an energy kept as twice its nanojoules."""
    return twice_energy_nj / TWICE_NANOJOULES_PER_J
