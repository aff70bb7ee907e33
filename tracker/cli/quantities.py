"""Amounts on the command line: a number with its unit, as a number in the base unit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import click

from tracker.units import GRAMS_PER_KG, JOULES_PER_KWH

_AMOUNT: Final = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)")


class Quantity(click.ParamType):  # type: ignore[type-arg]  # generic in its stubs alone
    """A number of 0 or more with its unit: "1.5 kWh", "500g"."""

    def __init__(self, name: str, units: Mapping[str, float]) -> None:
        self.name = name
        self._units = units

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _AMOUNT.fullmatch(value.strip())
        size = None if found is None else self._units.get(found[2])
        try:
            number = math.nan if found is None else float(found[1])
        except ValueError:  # two points
            number = math.nan
        if size is None or not math.isfinite(number):
            self.fail(f"{value!r}: write a number with its unit, one of {', '.join(self._units)}", param, ctx)
        return number * size


ENERGY: Final = Quantity(
    "ENERGY", {"J": 1.0, "Wh": JOULES_PER_KWH / 1_000, "kWh": JOULES_PER_KWH, "MWh": 1_000.0 * JOULES_PER_KWH}
)
EMISSIONS: Final = Quantity("MASS", {"mg": 0.001, "g": 1.0, "kg": GRAMS_PER_KG, "t": 1_000.0 * GRAMS_PER_KG})
