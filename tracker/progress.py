"""How far a run has come, what each unit of its progress costs, and what all of it will. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from tracker.records import plain
from tracker.units import JOULES_PER_KWH

MIN_INTERVALS: Final = 5  # of recent progress: fewer say nothing of how much it varies
MOST_POINTS: Final = 512  # kept; of more every second one goes

# Quantiles 0.975 of Student's t for 1 to 30 degrees of freedom; beyond, that of the normal distribution comes near.
# Source: NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2.
_T_975: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_T_975_BEYOND: Final = 2.0


@dataclass(frozen=True, slots=True)
class Point:
    """What a run had done and used at some moment; None: unknown.

    is_modelled: the energy and emissions are modelled, as none are measured.
    """

    done: float
    elapsed_s: float
    energy_j: float | None
    emissions_g: float | None
    is_modelled: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """A figure at the end of the run: what is expected, and the range in which about 95 % of such figures lie."""

    low: float
    mean: float
    high: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        unit: "step", "epoch", …
        done, total: in this unit; total None: not told.
        energy_j_per_unit, emissions_g_per_unit: since the first point; None: unknown.
        is_modelled: these are of modelled energy, as none is measured.
        left_s: time to the end.
        energy_j, emissions_g: of the whole run at its end.
        currency: of the costs, which are those of the energy; None: no price was given.
        reason: why nothing is expected; "" where something is.
    """

    unit: str
    done: float
    total: float | None
    energy_j_per_unit: float | None
    emissions_g_per_unit: float | None
    is_modelled: bool
    left_s: Expected | None = None
    energy_j: Expected | None = None
    emissions_g: Expected | None = None
    cost_per_unit: float | None = None
    cost: Expected | None = None
    currency: str | None = None
    reason: str = ""

    def priced(self, price_per_kwh: float, pue: float, currency: str) -> Progress:
        """With what the energy costs."""
        factor = price_per_kwh * pue / JOULES_PER_KWH
        per_unit, expected = self.energy_j_per_unit, self.energy_j
        return replace(
            self,
            cost_per_unit=None if per_unit is None else per_unit * factor,
            cost=None
            if expected is None
            else Expected(expected.low * factor, expected.mean * factor, expected.high * factor),
            currency=currency,
        )

    def to_dict(self) -> dict[str, Any]:
        """In plain types that json.dumps takes."""
        return {**plain(self)}


def progress_of(unit: str, points: Sequence[Point], total: float | None) -> Progress:
    """How far a run has come, and what it will have used at its end.

    What is left is taken to go on as the more recent half of what was done. Its intervals between points give a rate
    and how much that varies from one to the next; from these comes the prediction interval for the mean of as many
    future intervals as are left (Student's t). It holds where the rate varies at random, and not where the work itself
    changes: a longer sequence, an evaluation at the end.

    Source: Hahn and Meeker, Statistical Intervals (1991), section 4.8.

    Args:
        points: in order of time; the last is now.
        total: units in all, counted as done is.
    """
    last = points[-1]
    first = points[0]
    made = last.done - first.done
    so_far = Progress(
        unit=unit,
        done=last.done,
        total=total,
        energy_j_per_unit=_per_unit(first.energy_j, last.energy_j, made),
        emissions_g_per_unit=_per_unit(first.emissions_g, last.emissions_g, made),
        is_modelled=last.is_modelled,
    )
    if total is None:
        return replace(
            so_far, reason="how much there is to do is not told: iterate over what has a length, or give total"
        )
    if last.done >= total:
        return replace(so_far, reason="all is done")
    middle = first.done + made / 2
    recent = [point for point in points if point.done >= middle]
    steps = [(a, b) for a, b in pairwise(recent) if b.done > a.done]
    if len(steps) < MIN_INTERVALS:
        return replace(so_far, reason=f"too little has been done to tell: {len(steps)} of {MIN_INTERVALS} intervals")
    left = total - last.done

    def at_end(figure: Callable[[Point], float | None], start: float) -> Expected | None:
        known = []
        for a, b in steps:
            begin, end = figure(a), figure(b)
            if begin is not None and end is not None:
                known.append((b.done - a.done, end - begin))
        return None if len(known) < MIN_INTERVALS else _expected(known, left, start)

    return replace(
        so_far,
        left_s=at_end(lambda point: point.elapsed_s, 0.0),
        energy_j=None if last.energy_j is None else at_end(lambda point: point.energy_j, last.energy_j),
        emissions_g=None if last.emissions_g is None else at_end(lambda point: point.emissions_g, last.emissions_g),
    )


def _per_unit(begin: float | None, end: float | None, made: float) -> float | None:
    """What a unit cost since the first point, which already holds what went before it: loading, say."""
    return (end - begin) / made if begin is not None and end is not None and made > 0 else None


def _expected(intervals: Sequence[tuple[float, float]], left: float, start: float) -> Expected:
    """The figure at the end, from intervals of (units done, figure's growth)."""
    count = len(intervals)
    done = math.fsum(units for units, _ in intervals)
    rate = math.fsum(growth for _, growth in intervals) / done
    length = done / count
    # Of the growth of an interval of mean length, whatever its own length is.
    squares = math.fsum((growth - rate * units) ** 2 * length / units for units, growth in intervals)
    deviation = math.sqrt(squares / (count - 1))
    to_come = left / length
    spread = _t_975(count - 1) * deviation * to_come * math.sqrt(1 / count + 1 / to_come)
    mean = start + rate * left
    return Expected(max(start, mean - spread), mean, mean + spread)


def _t_975(degrees: int) -> float:
    return _T_975[degrees - 1] if degrees <= len(_T_975) else _T_975_BEYOND


def thinned(points: Sequence[Point]) -> list[Point]:
    """The first, the last and every second point between them."""
    return [*points[:-1:2], points[-1]]
