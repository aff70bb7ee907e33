"""Energy by definition, sample by sample in fractions: slow, plain, and shares no code with tracker.energy."""

from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np

from tracker.energy import Rules
from tracker.records import Device, Samples

RAPL_MAX_UJ = 262_143_328_850


def gpu(**changes: object) -> Rules:
    """A GPU with counter and power, whose counter is fresh at each read."""
    return Rules(**{"has_counter": True, "has_power": True, "counter_period_us": 0, **changes})


def samples_of(
    t_us: list[int], power_mw: list[int | None] | None = None, counter_uj: list[int | None] | None = None
) -> Samples:
    """Samples from plain lists, None where unknown."""

    def column(values: list[int | None] | None) -> tuple[np.ndarray, np.ndarray]:
        values = [None] * len(t_us) if values is None else values
        known = np.array([v is not None for v in values], bool)
        return np.array([v or 0 for v in values], np.int64), known

    device = Device("gpu", "GPU-0", "GPU", "nvml", counter_uj is not None, power_mw is not None)
    return Samples(device, np.array(t_us, np.int64), *column(power_mw), *column(counter_uj), *column(None))


def part(samples: Samples, start: int, stop: int | None = None) -> Samples:
    """Samples from one position to another."""
    return Samples(samples.device, *(column[start:stop] for column in columns(samples)))


def columns(samples: Samples) -> list[np.ndarray]:
    """The columns of samples, as Samples takes them."""
    return [getattr(samples, f.name) for f in fields(samples)[1:8]]


@dataclass(frozen=True)
class _Span:
    """A stretch of time with its power: from p0 to p1, or that of a counter laid out over it; None: unknown."""

    t0_us: int
    t1_us: int
    p0_mw: Fraction | None = None
    p1_mw: Fraction | None = None
    scale: Fraction = Fraction(1)
    peak_mw: int = -1

    @property
    def is_known(self) -> bool:
        return self.p0_mw is not None

    def power(self, t_us: int) -> Fraction:
        return self.p0_mw + (self.p1_mw - self.p0_mw) * Fraction(t_us - self.t0_us, self.t1_us - self.t0_us)

    def twice_nj(self, a_us: int, b_us: int) -> Fraction:
        return (self.power(a_us) + self.power(b_us)) * (b_us - a_us) * self.scale

    def cut(self, a_us: int, b_us: int) -> "_Span":
        return _Span(a_us, b_us, self.power(a_us), self.power(b_us)) if self.is_known else _Span(a_us, b_us)


def reference(samples: Samples, edges_us: list[int], rules: Rules) -> tuple[list[tuple[Fraction, int, int]], Fraction]:
    """Twice the energy in nJ, covered µs and greatest power (-1: unknown) between each two edges.

    And by how much whole numbers may miss that energy: each split rounds down by less than one, in the trace, and
    a counter's cell is split in proportion to the trace.
    """
    trace, readings = _trace(samples, rules)
    spans = _with_counter(trace, readings, rules) if rules.has_counter else trace
    slack = 2 * sum((1 + span.scale for span in spans), Fraction(1))
    out = []
    for a_us, b_us in pairwise(edges_us):
        energy, covered, peak = Fraction(0), 0, -1
        for span in spans:
            low, high = max(a_us, span.t0_us), min(b_us, span.t1_us)
            if span.is_known and low < high:
                energy += span.twice_nj(low, high)
                covered += high - low
            if low < high:
                peak = max(peak, span.peak_mw)
        for span in trace if rules.has_power else []:
            low, high = max(a_us, span.t0_us), min(b_us, span.t1_us)
            if span.is_known and low < high:
                peak = max(peak, ceil(span.power(low)), ceil(span.power(high)))
        out.append((energy, covered, peak))
    return out, slack


def _trace(samples: Samples, rules: Rules) -> tuple[list[_Span], list[tuple[int, int]]]:
    """Spans between all stamps by power alone; and (t, counter) of the readings."""
    most = (2**31 - 1) if rules.max_power_mw is None else 2 * rules.max_power_mw
    rows = sorted(range(len(samples)), key=lambda i: samples.t_us[i])
    powers: dict[int, list[int]] = {}
    readings: dict[int, int] = {}
    for i in rows:
        t = int(samples.t_us[i])
        powers.setdefault(t, [])
        if rules.has_power and samples.power_known[i] and 0 <= samples.power_mw[i] <= most:
            powers[t].append(int(samples.power_mw[i]))
        if samples.counter_known[i]:
            readings[t] = int(samples.counter_uj[i])
    known = [t for t, p in powers.items() if p]
    lines = [
        _Span(a, b, Fraction(max(powers[a])), Fraction(min(powers[b])))
        for a, b in pairwise(known)
        if rules.gap_us is None or b - a <= rules.gap_us
    ]
    stamps = list(powers)
    spans = []
    for a, b in pairwise(stamps):
        line = next((x for x in lines if x.t0_us <= a and b <= x.t1_us), None)
        spans.append(line.cut(a, b) if line else _Span(a, b))
    return spans, list(readings.items())


def _with_counter(trace: list[_Span], readings: list[tuple[int, int]], rules: Rules) -> list[_Span]:
    """The trace's spans, and in place of them those of the counter wherever it is believed."""
    out = list(trace)
    i = 0
    while i + 1 < len(readings):
        j = i + 1
        while readings[i][1] == readings[j][1] and j + 1 < len(readings) and readings[j + 1][1] == readings[i][1]:
            j += 1
        (a, c0), (b, c1) = readings[i], readings[j]
        inside = [s for s in trace if a <= s.t0_us and s.t1_us <= b]
        is_traced = all(s.is_known for s in inside)
        traced = sum((s.twice_nj(s.t0_us, s.t1_us) for s in inside if s.is_known), Fraction(0))
        energy_uj = _believed_uj(c1 - c0, b - a, traced if is_traced else None, rules)
        if energy_uj is None and c1 == c0 and is_traced and j + 1 < len(readings):
            end, moved_uj = readings[j + 1][0], readings[j + 1][1] - c1
            after = [s for s in trace if b <= s.t0_us and s.t1_us <= end]
            own = sum((s.twice_nj(s.t0_us, s.t1_us) for s in after if s.is_known), Fraction(0))
            is_late = moved_uj > 0 and (2000 * moved_uj) ** 3 > own**2 * (own + traced)
            if all(s.is_known for s in after) and is_late and not _is_overlong(b - a, rules):
                j += 1
                b, inside, traced = end, inside + after, traced + own
                energy_uj = _believed_uj(moved_uj, b - a, traced, rules)
        if energy_uj is not None:
            twice_nj = Fraction(2000 * energy_uj)
            out = [s for s in out if s not in inside]
            peak = -1 if rules.has_power or b - a < 100_000 else ceil(twice_nj / 2 / (b - a))
            if is_traced and traced:
                share = twice_nj / traced
                out += [_Span(s.t0_us, s.t1_us, s.p0_mw, s.p1_mw, share, peak) for s in inside]
            else:
                mean = twice_nj / 2 / (b - a)
                out.append(_Span(a, b, mean, mean, peak_mw=peak))
        i = j
    return out


def _believed_uj(moved_uj: int, length_us: int, traced: Fraction | None, rules: Rules) -> int | None:
    slack_us = 100_000 if rules.counter_period_us is None else rules.counter_period_us
    limit_mw = 2_000_000 if rules.max_power_mw is None else rules.max_power_mw

    def is_possible(energy_uj: int) -> bool:
        return energy_uj * 1000 <= Fraction(105, 100) * limit_mw * (length_us + slack_us)

    modulus_uj = rules.counter_modulus_uj
    if _is_overlong(length_us, rules):
        return None
    if moved_uj < 0:
        return moved_uj + modulus_uj if modulus_uj is not None and is_possible(moved_uj + modulus_uj) else None
    if moved_uj > 0:
        return moved_uj if rules.max_power_mw is None or is_possible(moved_uj) else None
    is_long = length_us >= 1_000_000 and length_us > 10 * (rules.counter_period_us or 0)
    return None if is_long and (traced is None or traced >= 2 * 10**9) else 0


def _is_overlong(length_us: int, rules: Rules) -> bool:
    limit_mw = 2_000_000 if rules.max_power_mw is None else rules.max_power_mw
    modulus_uj = rules.counter_modulus_uj
    return modulus_uj is not None and length_us >= Fraction(modulus_uj * 1000, limit_mw)
