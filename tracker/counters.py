"""What a stretch of readings says about energy: gaps, duplicates, and counters that wrap, restart, stick or lie.

Exact for any readings, and vectorised, but several passes over its window; `energy` goes round it where all is well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import add, attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tracker.units import (
    MICROSECONDS_PER_S,
    NANOJOULES_PER_MICROJOULE,
    TWICE_NANOJOULES_PER_J,
    TWICE_NANOJOULES_PER_MICROJOULE,
)

if TYPE_CHECKING:
    from tracker.records import BoolColumn, Device, IntColumn, Samples

# Readings that a counter which does not move, or power which is not known, may last before the rest of the
# trace is taken without it. It bounds what a stream holds, and is counted in readings so that no cut moves it.
LONGEST_STRETCH: Final = 4096
# NVML documents no refresh period; 20 to 100 ms are seen (knowledge/measurement.md, 1.1).
UNKNOWN_COUNTER_PERIOD_US: Final = 100_000
# Only to tell a wrap from a restart where the device names no limit: no package or board draws as much.
UNKNOWN_MAX_POWER_MW: Final = 2_000_000
# Short spikes above a board's limit are real, a reading of twice the limit is not.
IMPLAUSIBLE_POWER_FACTOR: Final = 2
SHORTEST_FROZEN_US: Final = MICROSECONDS_PER_S
FROZEN_PERIODS: Final = 10
# A counter that moves each 100 ms, read 50 ms apart, shows twice the power.
SHORTEST_PEAK_US: Final = 100_000
SAFE_INT64: Final = 2**62
UNEVEN: Final = -1

# int64, or Python integers (dtype object) where a window's numbers would not fit.
Exact = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """How the readings of one device are judged.

    Attributes:
        gap_us: power readings farther apart say nothing about the time between; None: no limit.
        counter_modulus_uj: the counter restarts from 0 there; None: a decrease is always a restart.
        counter_period_us: the counter is refreshed this often; None: unknown.
        max_power_mw: no energy beyond 1.05 × this is believed; None: unknown.
        max_reading_mw: no power reading beyond this is believed; None: twice max_power_mw.
    """

    has_counter: bool
    has_power: bool
    gap_us: int | None = None
    counter_modulus_uj: int | None = None
    counter_period_us: int | None = None
    max_power_mw: int | None = None
    max_reading_mw: int | None = None

    @property
    def credible_power_mw(self) -> int:
        """The highest power reading that is believed."""
        limit = self.max_reading_mw
        if limit is None:
            limit = 2**31 - 1 if self.max_power_mw is None else IMPLAUSIBLE_POWER_FACTOR * self.max_power_mw
        return min(limit, 2**31 - 1)

    @property
    def counter_slack_us(self) -> int:
        """What a counter cell may hold beyond its own time, as the counter moves in steps."""
        return UNKNOWN_COUNTER_PERIOD_US if self.counter_period_us is None else self.counter_period_us

    @property
    def wrap_power_mw(self) -> int:
        return UNKNOWN_MAX_POWER_MW if self.max_power_mw is None else self.max_power_mw


def rules_of(device: Device, gap_us: int | None) -> Rules:
    """The rules for a device, with the run's limit on the time between two power readings."""
    return Rules(
        has_counter=device.has_counter,
        has_power=device.has_power,
        gap_us=gap_us,
        counter_modulus_uj=device.counter_modulus_uj,
        counter_period_us=device.counter_period_us,
        max_power_mw=device.max_power_mw,
        max_reading_mw=device.max_power_mw if device.sensor == "nvml" else None,  # which has its margin in it
    )


@dataclass(frozen=True, slots=True)
class Findings:
    """What was seen while readings were turned into energy; those of two adjacent pieces add up.

    They speak of all samples given, also of those outside the edges.

    Attributes:
        step_us: between two stamps, where all steps are alike; UNEVEN: they are not; 0: there is none.
        samples: how many; 0 and 1 leave the energy unknown.
        gap_us: time between the first and the last sample whose energy is unknown.
        counter_us: time whose energy a counter gave.
        wraps: counter cells in which the counter passed its modulus.
        resets: counter cells in which it restarted; their energy is the trace's where there is one.
        implausible: counter cells beyond what the device can draw; likewise.
        overlong: cells of a wrapping counter so long that it may have wrapped unseen; likewise.
        frozen: stretches in which the counter stood still and the trace did not say 0; likewise.
        unanchored: times that the counter did not move for LONGEST_STRETCH readings; likewise.
        linear: edges at which a counter's energy was split by time, for want of a trace.
        rejected: power readings that no device gives: negative, or beyond twice the limit.
        conflicts: stamps that occur with more than one power.
        compared_us: time in which counter and trace are both known,
        compared_counter_twice_nj, compared_power_twice_nj: and what each says it used, as twice the nanojoules.
    """

    step_us: int = 0
    samples: int = 0
    gap_us: int = 0
    counter_us: int = 0
    wraps: int = 0
    resets: int = 0
    implausible: int = 0
    overlong: int = 0
    frozen: int = 0
    unanchored: int = 0
    linear: int = 0
    rejected: int = 0
    conflicts: int = 0
    compared_us: int = 0
    compared_counter_twice_nj: int = 0
    compared_power_twice_nj: int = 0

    def __add__(self, other: Findings) -> Findings:
        steps = {self.step_us, other.step_us} - {0}
        step_us = UNEVEN if len(steps) > 1 else max(steps, default=0)
        return Findings(step_us, *map(add, _summed(self), _summed(other)))

    @property
    def is_evenly_spaced(self) -> bool:
        """No counter, and steps of one length: a load in step with them cannot be excluded."""
        return self.counter_us == 0 and self.samples > 2 and self.step_us > 0


_summed = attrgetter(*[f.name for f in fields(Findings)][1:])


class Columns(NamedTuple):
    """The columns of Samples that energy is made of; each (n,), as there."""

    t_us: IntColumn
    power_mw: IntColumn
    power_known: BoolColumn
    counter_uj: IntColumn
    counter_known: BoolColumn

    def part(self, start: int, stop: int | None = None) -> Columns:
        return self.each(lambda column: column[start:stop])

    def copy(self) -> Columns:
        return self.each(lambda column: column.copy())

    def in_order(self) -> Columns:
        """The same samples by time; those of one instant stay as they came."""
        if not np.any(self.t_us[1:] < self.t_us[:-1]):
            return self
        order = np.argsort(self.t_us, kind="stable")
        return self.each(lambda column: column[order])

    def then(self, later: Columns) -> Columns:
        """These samples and those after them."""
        rest = iter(later)
        return self.each(lambda column: np.concatenate((column, next(rest))))

    def each(self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Columns:
        """The columns, each changed alike, from first to last."""
        return Columns(*map(change, self))


def columns_of(samples: Samples) -> Columns:
    return Columns(samples.t_us, samples.power_mw, samples.power_known, samples.counter_uj, samples.counter_known)


@dataclass(frozen=True, slots=True)
class Stamps:
    """Samples by distinct instant, u of them. Samples of one instant sort by power: a step of no length.

    Attributes:
        t_us: (u,) increasing.
        first, last: (u,) positions of the instant's samples.
        arriving_mw, leaving_mw: (u,) the least and the greatest power, at the end of the cell before and at the
            start of the cell after.
        power_known: (u,) a credible power is known.
        rejected: (u,) how many readings were not credible.
        counter_uj: (u,) the last counter reading of the instant.
        counter_known: (u,).
    """

    t_us: IntColumn
    first: IntColumn
    last: IntColumn
    arriving_mw: IntColumn
    leaving_mw: IntColumn
    power_known: BoolColumn
    rejected: IntColumn
    counter_uj: IntColumn
    counter_known: BoolColumn

    def __len__(self) -> int:
        return len(self.t_us)

    def but_last(self) -> Stamps:
        return Stamps(*(getattr(self, f.name)[:-1] for f in fields(self)))


def stamps_of(columns: Columns, rules: Rules) -> Stamps:
    """Columns of n > 0 samples in order, by distinct instant."""
    t_us = columns.t_us
    first = np.flatnonzero(np.concatenate(([True], t_us[1:] != t_us[:-1])))
    given = columns.power_known & rules.has_power
    credible = given & (columns.power_mw >= 0) & (columns.power_mw <= rules.credible_power_mw)
    leaving_mw = np.maximum.reduceat(np.where(credible, columns.power_mw, -1), first)
    counted = columns.counter_known & (columns.counter_uj >= 0)
    newest = np.maximum.reduceat(np.where(counted, np.arange(len(t_us)), -1), first)
    return Stamps(
        t_us=t_us[first],
        first=first,
        last=np.append(first[1:], len(t_us)) - 1,
        arriving_mw=np.minimum.reduceat(np.where(credible, columns.power_mw, SAFE_INT64), first),
        leaving_mw=leaving_mw,
        power_known=leaving_mw >= 0,
        rejected=np.add.reduceat((given & ~credible).astype(np.int64), first),
        counter_uj=columns.counter_uj[newest],
        counter_known=newest >= 0,
    )


class Settled(NamedTuple):
    """What a window used in each of the e + 1 intervals that e edges inside it make."""

    twice_energy_nj: Exact
    covered_us: IntColumn
    max_power_mw: IntColumn  # -1: unknown
    findings: Findings


class _Trace(NamedTuple):
    """What power says of each step between two knots."""

    twice_energy_nj: Exact  # (s,) 0 where not live
    is_live: BoolColumn  # (s,)
    max_power_mw: IntColumn  # (s,) -1 where not live


class _Cells(NamedTuple):
    """The g cells between counter readings, and what the trace says of them."""

    nodes: IntColumn  # (g + 1,) knots at their ends
    length_us: IntColumn  # (g,)
    moved_uj: Exact  # (g,) as read: negative where the counter wrapped or restarted
    traced_twice_nj: Exact  # (g,)
    is_traced: BoolColumn  # (g,) the trace knows the whole cell


class _CounterCells(NamedTuple):
    """The g cells between counter readings, and which of them are believed."""

    nodes: IntColumn  # (g + 1,) knots at their ends
    twice_energy_nj: Exact  # (g,)
    is_believed: BoolColumn  # (g,)


def twice_energy_to_nj(p0_mw: Exact, p1_mw: Exact, length_us: Exact, elapsed_us: Exact) -> Exact:
    """Twice the energy from the start of a cell to an instant within it, rounded down, exactly.

    2 · ∫ (p0 + (p1 - p0) · t / h) dt = 2 · p0 · d + (p1 - p0) · d² / h. The quotient is taken in two steps, as d²
    alone would overflow int64: exact for cells below 2**31 µs.
    """
    rise = (p1_mw - p0_mw) * elapsed_us
    quotient = rise // length_us
    remainder = rise - quotient * length_us
    energy: Exact = (2 * p0_mw + quotient) * elapsed_us + remainder * elapsed_us // length_us
    return energy


def power_at_mw(p0_mw: Exact, p1_mw: Exact, length_us: Exact, elapsed_us: Exact) -> Exact:
    """Power on the straight line through a cell, rounded up, so that no mean exceeds a maximum made of it."""
    power: Exact = p0_mw - (p0_mw - p1_mw) * elapsed_us // length_us
    return power


def placed_twice_nj(energy: Exact, trace_to: Exact, trace: Exact, elapsed_us: Exact, length_us: Exact) -> Exact:
    """How much of the energies of counter cells lies before instants within them, rounded down.

    By the trace, where it knows the whole cell (trace > 0), else by time. Python integers: products pass int64.

    Source: knowledge/measurement.md, 3.3.
    """
    share = np.where(trace > 0, trace_to, elapsed_us).astype(object)
    whole = np.where(trace > 0, trace, length_us).astype(object)
    placed: Exact = energy.astype(object) * share // whole
    return placed


def is_possible(energy_uj: Exact, length_us: Exact, power_mw: int, rules: Rules) -> BoolColumn:
    """Whether counter cells hold no more than 1.05 × this power gives, and one step of the counter."""
    most = 21 * power_mw * (length_us + rules.counter_slack_us)  # of 20 nJ
    return np.asarray(20 * NANOJOULES_PER_MICROJOULE * energy_uj <= most, bool)


def is_overlong(length_us: Exact | int, rules: Rules) -> BoolColumn | bool:
    """Whether the counter may have gone round within cells of this length, and nobody can tell."""
    modulus_uj = rules.counter_modulus_uj
    return modulus_uj is not None and length_us * rules.wrap_power_mw >= modulus_uj * NANOJOULES_PER_MICROJOULE


def are_apart(stamps: Stamps, begin: IntColumn, end: IntColumn, rules: Rules) -> BoolColumn:
    """Whether power known at two stamps, positions given, says nothing of the time between."""
    apart = stamps.last[end] - stamps.last[begin] > LONGEST_STRETCH
    if rules.gap_us is not None:
        apart |= stamps.t_us[end] - stamps.t_us[begin] > rules.gap_us
    return apart


def settle(
    stamps: Stamps, start: int, stop: int, edges_us: IntColumn, rules: Rules, *, by_trace: bool, is_first: bool
) -> Settled:
    """Energy from one stamp to a later one; the stamps around them only tell the power between.

    Args:
        stamps: with the counter readings at start and stop those of clean cuts (`energy`), or none.
        start, stop: positions in stamps.
        edges_us: (e,) increasing, between the two stamps and on neither.
        by_trace: leave the counter out.
        is_first: nothing lies before start, so it counts as a sample here.
    """
    knots = np.sort(np.concatenate((stamps.t_us[start : stop + 1], edges_us)))
    # np.union1d would import numpy.ma, in a thread of the recorder's (DESIGN.md, section 8).
    knots = knots[np.concatenate(([True], knots[1:] != knots[:-1]))]
    number = _number_type(stamps, start, stop, rules)
    steps_us = np.diff(knots)
    trace = _trace(stamps, knots, rules, number)
    cuts = np.searchsorted(knots, edges_us)
    used, covered_us, max_power_mw = trace.twice_energy_nj, np.where(trace.is_live, steps_us, 0), trace.max_power_mw
    before_cut = np.zeros(len(cuts), number)
    findings = sample_findings(stamps, start, stop, is_first=is_first)
    if rules.has_counter and not by_trace:
        cells, counted = _counter_cells(stamps, start, stop, knots, trace, rules, number)
        cell = np.searchsorted(cells.nodes, np.arange(len(steps_us)), side="right") - 1
        inside = (cell >= 0) & (cell < len(cells.is_believed))
        inside[inside] = cells.is_believed[cell[inside]]
        used = np.where(inside, np.zeros(1, number), used)
        used[cells.nodes[:-1][cells.is_believed]] = cells.twice_energy_nj[cells.is_believed]
        covered_us = np.where(inside, steps_us, covered_us)
        if not rules.has_power:
            max_power_mw = _counter_power_mw(cells, cell, inside, knots)
        before_cut, linear = _before_cuts(cells, cuts, knots, trace)
        findings = findings + counted + Findings(linear=linear)
    bounds = np.concatenate(([0], cuts, [len(knots) - 1]))
    # The whole of a believed cell stands at its first knot: at a cut within it only a share counts as used.
    until = np.concatenate((np.zeros(1, number), np.cumsum(used)))[bounds]
    until[1:-1] += before_cut
    covered = np.add.reduceat(covered_us, bounds[:-1])
    return Settled(
        np.diff(until),
        covered,
        np.maximum.reduceat(max_power_mw, bounds[:-1]),
        findings + Findings(gap_us=int(knots[-1] - knots[0] - covered.sum())),
    )


def _number_type(stamps: Stamps, start: int, stop: int, rules: Rules) -> npt.DTypeLike:
    """int64 where nothing in `settle` can pass it, else Python integers."""
    longest = float(np.diff(stamps.t_us[stamps.power_known]).max(initial=0))
    span = float(stamps.t_us[stop] - stamps.t_us[start]) + longest + rules.counter_slack_us
    power = max(float(stamps.leaving_mw.max()), rules.wrap_power_mw)
    moves = np.diff(stamps.counter_uj[start : stop + 1][stamps.counter_known[start : stop + 1]].astype(float))
    travel = float(np.abs(moves).sum()) + (rules.counter_modulus_uj or 0) * float(np.count_nonzero(moves < 0))
    is_safe = longest < 2**31 and max(21 * power * span, 20_000 * travel) < SAFE_INT64
    return np.int64 if is_safe else object


def _trace(stamps: Stamps, knots: IntColumn, rules: Rules, number: npt.DTypeLike) -> _Trace:
    """The power between knots: on the line between two known readings, unknown beyond the gap limit."""
    known = np.flatnonzero(stamps.power_known)
    begin, end = known[:-1], known[1:]
    length_us = stamps.t_us[end] - stamps.t_us[begin]
    live = ~are_apart(stamps, begin, end, rules)
    cell = np.searchsorted(stamps.t_us[known], knots[:-1], side="right") - 1
    is_live = (cell >= 0) & (cell < len(live))
    is_live[is_live] = live[cell[is_live]]
    cell = cell[is_live]
    p0_mw = stamps.leaving_mw[begin][cell].astype(number)
    p1_mw = stamps.arriving_mw[end][cell].astype(number)
    length = length_us[cell].astype(number)
    start_us = stamps.t_us[begin][cell]
    since = (knots[:-1][is_live] - start_us).astype(number)
    until = (knots[1:][is_live] - start_us).astype(number)
    twice_energy_nj = np.zeros(len(is_live), number)
    twice_energy_nj[is_live] = twice_energy_to_nj(p0_mw, p1_mw, length, until) - twice_energy_to_nj(
        p0_mw, p1_mw, length, since
    )
    max_power_mw = np.full(len(is_live), -1, np.int64)
    max_power_mw[is_live] = np.maximum(
        power_at_mw(p0_mw, p1_mw, length, since), power_at_mw(p0_mw, p1_mw, length, until)
    )
    return _Trace(twice_energy_nj, is_live, max_power_mw)


def _counter_cells(
    stamps: Stamps,
    start: int,
    stop: int,
    knots: IntColumn,
    trace: _Trace,
    rules: Rules,
    number: npt.DTypeLike,
) -> tuple[_CounterCells, Findings]:
    """The cells between counter readings, judged. Readings of one value in a row make one cell.

    Source: knowledge/measurement.md, 3.4.
    """
    read = start + np.flatnonzero(stamps.counter_known[start : stop + 1])
    value = stamps.counter_uj[read]
    moves = value[1:] != value[:-1]
    ends = read[np.concatenate(([True], moves)) | np.concatenate((moves, [True]))] if len(read) else read
    cells = _cells_between(ends, stamps, knots, trace, number)
    late = _catches_up(cells, _is_frozen(cells, rules))
    if late.any():
        cells = _cells_between(np.delete(ends, 1 + np.flatnonzero(late)), stamps, knots, trace, number)
    frozen = _is_frozen(cells, rules)
    nodes, length_us, moved_uj, traced, is_traced = cells
    length = length_us.astype(number)

    modulus_uj = rules.counter_modulus_uj
    decreases = np.asarray(moved_uj < 0, bool)
    wraps = overlong = np.zeros(len(decreases), bool)
    energy_uj = moved_uj
    if modulus_uj is not None:
        overlong = np.asarray(is_overlong(length, rules), bool)
        wraps = decreases & ~overlong & is_possible(moved_uj + modulus_uj, length, rules.wrap_power_mw, rules)
        energy_uj = np.where(wraps, moved_uj + modulus_uj, moved_uj)
    resets = decreases & ~overlong & ~wraps
    implausible = np.zeros(len(decreases), bool)
    if rules.max_power_mw is not None:
        implausible = ~decreases & ~overlong & ~is_possible(moved_uj, length, rules.max_power_mw, rules)
    is_believed = ~(overlong | resets | implausible | frozen)
    energy = np.where(is_believed, energy_uj, 0) * TWICE_NANOJOULES_PER_MICROJOULE
    compared = is_believed & is_traced
    return _CounterCells(nodes, energy, is_believed), Findings(
        counter_us=int(length_us[is_believed].sum()),
        wraps=int(wraps.sum()),
        resets=int(resets.sum()),
        implausible=int(implausible.sum()),
        overlong=int(overlong.sum()),
        frozen=int(frozen.sum()),
        compared_us=int(length_us[compared].sum()),
        compared_counter_twice_nj=int(energy[compared].sum()),
        compared_power_twice_nj=int(traced[compared].sum()),
    )


def _cells_between(ends: IntColumn, stamps: Stamps, knots: IntColumn, trace: _Trace, number: npt.DTypeLike) -> _Cells:
    """The cells between these stamps, given by position, at each of which the counter was read."""
    nodes = np.searchsorted(knots, stamps.t_us[ends])
    length_us = np.diff(knots[nodes])
    traced = np.diff(np.concatenate((np.zeros(1, number), np.cumsum(trace.twice_energy_nj)))[nodes])
    live_us = np.diff(np.concatenate(([0], np.cumsum(np.where(trace.is_live, np.diff(knots), 0))))[nodes])
    return _Cells(nodes, length_us, np.diff(stamps.counter_uj[ends].astype(number)), traced, live_us == length_us)


def _is_frozen(cells: _Cells, rules: Rules) -> BoolColumn:
    """Whether the counter stood still though energy was used."""
    stands = np.asarray(cells.moved_uj == 0, bool) & (cells.length_us >= SHORTEST_FROZEN_US)
    if rules.counter_period_us is not None:
        stands &= cells.length_us > FROZEN_PERIODS * rules.counter_period_us
    stands &= ~np.asarray(is_overlong(cells.length_us, rules), bool)
    # What is powered uses energy: a counter that stands still is believed only where a trace agrees with it.
    stands &= ~(cells.is_traced & np.asarray(cells.traced_twice_nj < TWICE_NANOJOULES_PER_J, bool))
    return stands


def _catches_up(cells: _Cells, frozen: BoolColumn) -> BoolColumn:
    """Whether the move after a frozen cell holds the energy of that cell too: the refresh was late, nothing was lost.

    By the trace: the move is nearer to what both cells used than to what its own did, in ratio, as counter and power
    of some boards differ by a factor. Of the way from the one to the other a third decides: that a refresh is late is
    common, that a counter goes on without what it has not shown is not.
    """
    own = cells.traced_twice_nj[1:].astype(float)
    both = own + cells.traced_twice_nj[:-1].astype(float)
    moved = cells.moved_uj[1:].astype(float) * TWICE_NANOJOULES_PER_MICROJOULE
    is_known = cells.is_traced[:-1] & cells.is_traced[1:]
    is_nearer_both: BoolColumn = (moved > 0) & (moved**3 > own**2 * both)
    return frozen[:-1] & is_known & is_nearer_both


def _before_cuts(cells: _CounterCells, cuts: IntColumn, knots: IntColumn, trace: _Trace) -> tuple[Exact, int]:
    """For each cut, what to add to the energy of all cells begun before it; and how many were split by time."""
    correction = np.zeros(len(cuts), cells.twice_energy_nj.dtype)
    cell = np.searchsorted(cells.nodes, cuts, side="left") - 1
    within = (cell >= 0) & (cell < len(cells.is_believed))
    within[within] = cells.is_believed[cell[within]] & (cells.nodes[cell[within] + 1] != cuts[within])
    cell, cut = cell[within], cuts[within]
    begin, end = cells.nodes[cell], cells.nodes[cell + 1]
    energy = cells.twice_energy_nj[cell]
    traced = np.concatenate((np.zeros(1, correction.dtype), np.cumsum(trace.twice_energy_nj)))
    dark = np.concatenate(([0], np.cumsum(~trace.is_live)))
    whole = np.where(dark[end] == dark[begin], traced[end] - traced[begin], 0)
    lasts_us = knots[end] - knots[begin]
    placed = placed_twice_nj(energy, traced[cut] - traced[begin], whole, knots[cut] - knots[begin], lasts_us)
    correction[within] = placed - energy
    return correction, int(np.count_nonzero(np.asarray(whole == 0, bool)))


def _counter_power_mw(cells: _CounterCells, cell: IntColumn, inside: BoolColumn, knots: IntColumn) -> IntColumn:
    """Mean power of the counter cell that each step lies in, rounded up; -1 where none is, or it is too short."""
    length_us = np.diff(knots[cells.nodes])
    power_mw = np.full(len(length_us), -1, np.int64)
    fit = cells.is_believed & (length_us >= SHORTEST_PEAK_US)
    power_mw[fit] = -(-cells.twice_energy_nj[fit] // (2 * length_us[fit]))
    steps_mw = np.full(len(cell), -1, np.int64)
    steps_mw[inside] = power_mw[cell[inside]]
    return steps_mw


def sample_findings(stamps: Stamps, start: int, stop: int, *, is_first: bool) -> Findings:
    """What the samples after one stamp and up to another show by themselves; with the first one's if is_first."""
    own = slice(start if is_first else start + 1, stop + 1)
    steps_us = np.diff(stamps.t_us[start : stop + 1])
    conflicts = stamps.power_known[own] & (stamps.arriving_mw[own] != stamps.leaving_mw[own])
    return Findings(
        samples=int((stamps.last[own] - stamps.first[own] + 1).sum()),
        step_us=0 if not len(steps_us) else int(steps_us[0]) if np.all(steps_us == steps_us[0]) else UNEVEN,
        rejected=int(stamps.rejected[own].sum()),
        conflicts=int(np.count_nonzero(conflicts)),
    )
