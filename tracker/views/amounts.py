"""Quantities as people read them: three significant digits in the unit that fits.

Plain ASCII, so that a terminal in the C locale shows it. What is unknown says so and is never shown as 0; what is
known and not 0 is never rounded to 0.
"""

from __future__ import annotations

import math
from typing import Final

from tracker.units import GRAMS_PER_KG, JOULES_PER_KWH, MILLIJOULES_PER_J

UNKNOWN: Final = "unknown"

_Ladder = tuple[tuple[float, str], ...]  # (size in the base unit, name), largest first

# J up to 1 Wh, then the units of an electricity bill: 3599 J is "3600 J" or "1.00 Wh", never "3.60 kJ".
_ENERGY_J: Final[_Ladder] = (
    (1_000 * JOULES_PER_KWH, "MWh"),
    (JOULES_PER_KWH, "kWh"),
    (JOULES_PER_KWH / 1_000, "Wh"),
    (1, "J"),
    (1 / MILLIJOULES_PER_J, "mJ"),
)
_MASS_G: Final[_Ladder] = ((1_000 * GRAMS_PER_KG, "t"), (GRAMS_PER_KG, "kg"), (1, "g"), (1 / 1_000, "mg"))
_POWER_W: Final[_Ladder] = ((1_000_000, "MW"), (1_000, "kW"), (1, "W"), (1 / 1_000, "mW"))

_SIZE_BYTES: Final[_Ladder] = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
_DURATION_S: Final[_Ladder] = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (1 / 1_000, "ms"))

_SMALLEST_SHOWN: Final = 0.001  # of the smallest unit


def energy(energy_j: float | None) -> str:
    """Energy in mJ, J, Wh, kWh or MWh."""
    return _in_ladder(energy_j, _ENERGY_J)


def mass(emissions_g: float | None) -> str:
    """A mass in mg, g, kg or t."""
    return _in_ladder(emissions_g, _MASS_G)


def power(power_w: float | None) -> str:
    """Power in mW, W, kW or MW."""
    return _in_ladder(power_w, _POWER_W)


def intensity(intensity_g_per_kwh: float | None) -> str:
    """A carbon intensity in g/kWh."""
    return _in_ladder(intensity_g_per_kwh, ((1, "g/kWh"),))


def money(cost: float | None, currency: str | None) -> str:
    """A cost in its currency; unknown where either is."""
    return UNKNOWN if currency is None else _in_ladder(cost, ((1, currency),))


def size(size_bytes: float | None) -> str:
    """A size in bytes, kB, MB or GB."""
    return _in_ladder(size_bytes, _SIZE_BYTES)


def duration(duration_s: float | None) -> str:
    """A duration in ms, s, min, h or d."""
    return _in_ladder(duration_s, _DURATION_S)


def share(fraction: float | None) -> str:
    """A share in percent, cut to 0.1 %, so that 100 % means all and 0 % none."""
    if fraction is None or not math.isfinite(fraction):
        return UNKNOWN
    if fraction in (0, 1):
        return f"{100 * fraction:.0f} %"
    if not 0 < fraction < 1:
        return f"{100 * fraction:.1f} %"  # a fault upstream, shown as it is
    if fraction < 0.001:
        return "<0.1 %"
    tenths = min(math.floor(round(fraction * 1_000, 6)), 999)  # round: 0.57 * 1000 is 569.99…
    return f"{tenths / 10:.1f} %"


def ratio(value: float | None, reference: float | None) -> str:
    """How many times the reference a value is; unknown where either is, or the reference is 0."""
    if value is None or reference is None or not reference:
        return UNKNOWN
    return _in_ladder(value / reference, ((1, "x"),))


def _in_ladder(value: float | None, ladder: _Ladder) -> str:
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 0:
        return f"-{_in_ladder(-value, ladder)}"
    smallest, name = ladder[-1]
    if value == 0:
        name = next(name for size, name in ladder if size == 1)
        return f"0 {name}"
    for size, unit in ladder:
        rounded = _three_digits(value / size)
        if rounded >= 1:
            return f"{_text(rounded)} {unit}"
    rounded = _three_digits(value / smallest)
    if rounded < _SMALLEST_SHOWN:
        return f"<{_SMALLEST_SHOWN} {name}"
    return f"{_text(rounded)} {name}"


def _three_digits(value: float) -> float:
    return float(f"{value:.2e}")


def _text(rounded: float) -> str:
    """A number of three significant digits, without exponent and with its trailing zeros."""
    exponent = int(f"{rounded:.2e}".partition("e")[2])
    return f"{rounded:.{max(0, 2 - exponent)}f}"
