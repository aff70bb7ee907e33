"""From readings to energy: exact integers per interval between any instants, the same bits for any cut.

One mechanism serves whole traces (`integrate`), a recorder that settles what it has (`Stream`) and fleets that
join pieces in any order (`Piece`). A trace is settled from one clean cut to the next: a stamp where nothing before
matters to what comes after, but for the power readings around it. That is any stamp of a device without a counter,
and each stamp of one with a counter at which the counter has moved, once the next power reading is known.
Where all is well a block is summed by a few passes over the columns; the rest goes through `counters.settle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from tracker.counters import (
    LONGEST_STRETCH,
    Columns,
    Exact,
    Findings,
    Rules,
    Stamps,
    are_apart,
    columns_of,
    rules_of,
    sample_findings,
    settle,
    stamps_of,
)
from tracker.trapezoid import BLOCK, STRETCH, OutOfOrderError, Stretches
from tracker.units import MICROSECONDS_PER_S

if TYPE_CHECKING:
    from tracker.records import BoolColumn, IntColumn, Samples

__all__ = [
    "EdgeEnergy",
    "Findings",
    "Piece",
    "Rules",
    "Stream",
    "integrate",
    "rules_of",
    "slot_edges",
    "window_bias_bound",
]

SLOT_US: Final = 300 * MICROSECONDS_PER_S
INT64_MAX: Final = 2**63 - 1
NO_EDGES: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class EdgeEnergy:
    """Energy of one device in each of the k intervals between k + 1 instants.

    Attributes:
        edges_us: (k + 1,) increasing, in the samples' clock.
        twice_energy_nj: (k,) of what is known.
        covered_us: (k,) time whose energy is known.
        max_power_mw: (k,) of the trace within covered time; without a power sensor, of counter cells of 0.1 s or
            more. -1: unknown.
        findings: what was seen on the way.
    """

    edges_us: IntColumn
    twice_energy_nj: IntColumn
    covered_us: IntColumn
    max_power_mw: IntColumn
    findings: Findings

    @property
    def total_twice_nj(self) -> int:
        """All intervals together: a Python integer, as the sum may pass int64."""
        return sum(self.twice_energy_nj.tolist())


def integrate(samples: Samples, edges_us: Sequence[int] | IntColumn, rules: Rules) -> EdgeEnergy:
    """Energy between instants, by the counter where it is sane, else by the trapezoid of power, else unknown.

    Args:
        samples: of one device and segment, in any order.
        edges_us: (k + 1,) increasing; they may lie anywhere. What is before the first or after the last is left out.
        rules: how readings are judged (`rules_of`).

    Raises:
        ValueError: the edges do not increase.
        OverflowError: one interval holds more than int64 can (53 days of 1 kW): put an edge in between.

    Source: DESIGN.md, section 4; knowledge/measurement.md, section 3.
    """
    edges = _edges(edges_us)
    columns = columns_of(samples)
    try:
        return _settled(rules, columns, edges).between_edges()
    except OutOfOrderError:
        return _settled(rules, columns.in_order(), edges).between_edges()


class Stream:
    """Energy of one device, block after block, in memory that does not grow.

    What `push` and `finish` give adds up to what `integrate` gives for all samples, to the bit, for any cuts. Not
    settled yet is what follows the last clean cut: one or two samples, and at most some thousands where the counter
    stands still or power is missing.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._walk: _Walk | None = None

    @property
    def settled_until_us(self) -> int | None:
        """Instants up to here are settled; an edge beyond it has to be given again. None: no sample yet."""
        return None if self._walk is None else self._walk.settled_us

    def push(self, samples: Samples, edges_us: Sequence[int] | IntColumn = NO_EDGES) -> EdgeEnergy:
        """Take a block and settle what can be settled.

        Args:
            samples: none from before what is settled.
            edges_us: increasing; only those within the settled time matter.

        Returns:
            The time settled now, from its start to its end, cut at the edges between. No interval: nothing was.

        Raises:
            ValueError: samples that come too late, or edges that do not increase.
        """
        return self._advance(columns_of(samples), edges_us, is_end=False)

    def finish(self, edges_us: Sequence[int] | IntColumn = NO_EDGES) -> EdgeEnergy:
        """Settle the rest; the stream is then as new."""
        energy = self._advance(None, edges_us, is_end=True)
        self._walk = None
        return energy

    def _advance(self, new: Columns | None, edges_us: Sequence[int] | IntColumn, *, is_end: bool) -> EdgeEnergy:
        sums = _Sums(_edges(edges_us, least=0), keeps_outside=True)
        if new is not None and len(new.t_us):
            if self._walk is None:
                self._walk = _Walk(self._rules, new.in_order())
            else:
                self._walk.take(new)
        if self._walk is None:
            return sums.between(0, 0)
        from_us = self._walk.settled_us
        self._walk.advance(sums, is_end=is_end)
        self._walk.forget()
        return sums.between(from_us, self._walk.settled_us)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of a trace, settled as far as it can be alone; adjacent pieces join to the same bits in any order.

    Attributes:
        head: samples up to the first clean cut; all of them where there is no cut.
        sums: from the first to the last clean cut; nothing where there is none.
        tail: samples from the last clean cut on; None: there is no cut.
    """

    rules: Rules
    head: Columns
    sums: _Sums
    tail: Columns | None

    @classmethod
    def of(cls, samples: Samples, edges_us: Sequence[int] | IntColumn, rules: Rules) -> Self:
        """A piece of its own; all pieces of a trace need the same edges, and stamps that do not decrease."""
        return cls._of(columns_of(samples).in_order(), _Sums(_edges(edges_us)), rules)

    @classmethod
    def _of(cls, columns: Columns, sums: _Sums, rules: Rules) -> Self:
        cuts = _certain_cuts(columns, rules)
        if len(cuts) == 0:
            return cls(rules, columns, sums, None)
        first, last = int(cuts[0]), int(cuts[-1])
        sums = sums + _settled(rules, columns.part(first, last + 1), sums.edges_us, begins_at_cut=True)
        return cls(rules, columns.part(0, first + 1).copy(), sums, columns.part(last).copy())

    def join(self, later: Self) -> Self:
        """This piece and the one that follows it."""
        sums = self.sums + later.sums
        if self.tail is None:
            head = self.head.then(later.head)
            if later.tail is None:
                return self._of(head, sums, self.rules)
            return type(self)(self.rules, head, sums, later.tail)
        middle = self.tail.then(later.head)
        last, tail = len(middle.t_us) - 1, later.tail
        if tail is None:
            cuts = _certain_cuts(middle, self.rules)
            last = int(cuts[-1]) if len(cuts) else 0
            tail = middle.part(last).copy()
        sums = sums + _settled(self.rules, middle.part(0, last + 1), sums.edges_us, begins_at_cut=True)
        return type(self)(self.rules, self.head, sums, tail)

    def total(self) -> EdgeEnergy:
        """What `integrate` gives for the samples of all that was joined."""
        sums = self.sums + _settled(self.rules, self.head, self.sums.edges_us)
        if self.tail is not None:
            sums = sums + _settled(self.rules, self.tail, self.sums.edges_us, begins_at_cut=True)
        return sums.between_edges()


def slot_edges(t0_us: int, t1_us: int, unix_offset_us: int, step_us: int = SLOT_US) -> tuple[IntColumn, IntColumn]:
    """The edges that cut [t0, t1] at the UTC slots.

    Args:
        t0_us, t1_us: in the samples' clock.
        unix_offset_us: what to add to it for microseconds since 1970.
        step_us: length of a slot, whole seconds.

    Returns:
        edges_us (k + 1,): t0, the slots' starts between, t1; start_s (k,): seconds since 1970 at which the slot of
        each interval starts.

    Raises:
        ValueError: t1 is not after t0.
    """
    if t1_us <= t0_us:
        raise ValueError(f"t1_us must be after t0_us, got {t0_us} and {t1_us}")
    first = (t0_us + unix_offset_us) // step_us
    last = -(-(t1_us + unix_offset_us) // step_us)
    starts_us = np.arange(first, last, dtype=np.int64) * step_us
    edges_us = np.concatenate(([t0_us], starts_us[1:] - unix_offset_us, [t1_us]))
    return edges_us, starts_us // MICROSECONDS_PER_S


def window_bias_bound(window_us: int, load_period_us: int, low_w: float, high_w: float, duty: float = 0.5) -> float:
    """The greatest relative error of a mean power whose readings all see the same phase of a square wave.

    Readings are means over a window; locked to the load they all hold the same part of its period. What is not
    locked errs less: this bounds a class of sensors, it is no estimate for a run.

    Args:
        window_us: what one reading averages over.
        load_period_us, low_w, high_w, duty: the wave, high for the share duty of each period.

    Source: knowledge/measurement.md, 3.6.
    """
    periods, rest_us = divmod(window_us, load_period_us)
    high_us = duty * load_period_us
    most_high_us = periods * high_us + min(rest_us, high_us)
    most_low_us = periods * (load_period_us - high_us) + min(rest_us, load_period_us - high_us)
    mean_w = low_w + duty * (high_w - low_w)
    error_share = max(most_high_us / window_us - duty, most_low_us / window_us - (1 - duty))
    return abs(high_w - low_w) * error_share / mean_w


def _edges(edges_us: Sequence[int] | IntColumn, least: int = 2) -> IntColumn:
    edges = np.asarray(edges_us, np.int64)
    if edges.ndim != 1 or len(edges) < least or np.any(edges[1:] <= edges[:-1]):
        raise ValueError(f"edges_us must be at least {least} instants that increase, got {edges_us!r}")
    return edges


class _Sums:
    """Running sums per interval: one before the first edge, those between edges, one after the last."""

    def __init__(self, edges_us: IntColumn, *, keeps_outside: bool = False) -> None:
        count = len(edges_us) + 1
        self.edges_us = edges_us
        self._keeps_outside = keeps_outside
        self._twice_energy_nj = np.zeros(count, np.int64)
        self._covered_us = np.zeros(count, np.int64)
        self._max_power_mw = np.full(count, -1, np.int64)
        self.findings = Findings()

    def inside(self, from_us: int, to_us: int) -> tuple[int, IntColumn]:
        """The interval that time after from_us lies in, and the edges between the two instants, without them."""
        first, last = np.searchsorted(self.edges_us, (from_us + 1, to_us))
        return int(first), self.edges_us[first:last]

    def add(
        self, first: int, twice_energy_nj: Exact, covered_us: IntColumn, max_power_mw: IntColumn, findings: Findings
    ) -> None:
        """Add to the intervals from position first on."""
        self.findings = self.findings + findings
        stop = first + len(covered_us)
        skip = 0
        if not self._keeps_outside:
            skip = int(first == 0)
            stop = min(stop, len(self.edges_us))
        here, part = slice(first + skip, stop), slice(skip, stop - first)
        energy, more = self._twice_energy_nj[here], twice_energy_nj[part]
        fits = not np.any(more > INT64_MAX)
        if fits:
            energy += more.astype(np.int64)
        if not fits or np.any(energy < 0):  # of two that fit, neither negative, the sign tells whether the sum does
            raise OverflowError("the energy of one interval passes int64: put an edge in between")
        self._covered_us[here] += covered_us[part]
        np.maximum(self._max_power_mw[here], max_power_mw[part], out=self._max_power_mw[here])

    def __add__(self, other: _Sums) -> _Sums:
        if not np.array_equal(self.edges_us, other.edges_us):
            raise ValueError("pieces join only where they were made with the same edges_us")
        both = _Sums(self.edges_us, keeps_outside=True)
        for one in (self, other):
            both.add(0, one._twice_energy_nj, one._covered_us, one._max_power_mw, one.findings)
        return both

    def between_edges(self) -> EdgeEnergy:
        return self._energy(self.edges_us, slice(1, -1))

    def between(self, from_us: int, to_us: int) -> EdgeEnergy:
        """From one instant to another, beyond which nothing was added, cut at the edges between them."""
        if from_us == to_us:
            return self._energy(NO_EDGES, slice(0, 0))
        first, inside = self.inside(from_us, to_us)
        edges = np.concatenate(([from_us], inside, [to_us]))
        return self._energy(edges, slice(first, first + len(inside) + 1))

    def _energy(self, edges_us: IntColumn, here: slice) -> EdgeEnergy:
        return EdgeEnergy(
            edges_us,
            self._twice_energy_nj[here].copy(),
            self._covered_us[here].copy(),
            self._max_power_mw[here].copy(),
            self.findings,
        )


class _Walk:
    """Settles columns from one clean cut to the next.

    Attributes:
        columns: n > 0 samples in order of time; `forget` drops what is no longer needed.
        at: position of the last sample of the stamp up to which all is settled.
        settled_us: that stamp.
    """

    def __init__(self, rules: Rules, columns: Columns, *, begins_at_cut: bool = False) -> None:
        self.columns = columns
        self.at = 0
        self.settled_us = int(columns.t_us[0])
        self._rules = rules
        self._is_first = not begins_at_cut  # the first sample is not yet counted
        # Samples matter still from here: the last power reading at or before `at`.
        self._context = 0
        # The counter has not moved for LONGEST_STRETCH samples: the trace alone counts until it does.
        self._is_unanchored = False
        self._counter_uj = int(columns.counter_uj[0]) if begins_at_cut and rules.has_counter else None

    def take(self, new: Columns) -> None:
        """Add samples.

        Raises:
            ValueError: one of them belongs to what is settled.
        """
        oldest_us = int(new.t_us.min())
        if oldest_us < self.settled_us or (oldest_us == self.settled_us and not self._is_first):
            raise ValueError(f"a sample at {oldest_us} µs came after {self.settled_us} µs was settled: push in order")
        self.columns = self.columns.then(new).in_order()

    def advance(self, sums: _Sums, *, is_end: bool) -> None:
        """Settle up to the last clean cut, or to the last sample where no more will come.

        Raises:
            OutOfOrderError: a sample is older than the one before it; sums are then worthless.
        """
        last = len(self.columns.t_us) - 1
        size = STRETCH
        stretches = Stretches(self._rules, self.columns)
        while self.at < last:
            # The last sample may have others of its instant to come.
            stop = min(self.at + size, last if is_end else last - 1)
            if stop > self.at and self._settle_stretch(sums, stretches, stop, min(size, BLOCK)):
                size = min(4 * size, STRETCH)
                continue
            size = LONGEST_STRETCH
            if not self._settle_window(sums, is_end=is_end):
                break
        if is_end and self._is_first:
            stamps = stamps_of(self.columns, self._rules)
            sums.add(0, NO_EDGES, NO_EDGES, NO_EDGES, sample_findings(stamps, 0, 0, is_first=True))

    def forget(self) -> None:
        """Drop the samples that are settled, and the block they lie in."""
        self.columns = self.columns.part(self._context).copy()
        self.at -= self._context
        self._context = 0

    def _settle_stretch(self, sums: _Sums, stretches: Stretches, stop: int, size: int) -> bool:
        """Settle block after block up to position stop, as long as all is known and sound; False: not one block."""
        at, t_us = self.at, self.columns.t_us
        if not self._rules.has_power or (self._rules.has_counter and self._is_unanchored):
            return False
        if at and t_us[at - 1] == t_us[at]:
            return False
        first, edges_us = sums.inside(int(t_us[at]), int(t_us[stop]))  # nonsense, and refused, where out of order
        stretch = stretches.settle(at, stop, size, edges_us, is_first=self._is_first)
        if stretch is None:
            return False
        stop, settled = stretch
        sums.add(first, *settled)
        if self._rules.has_counter:
            self._counter_uj = int(self.columns.counter_uj[stop])
        self.at = self._context = stop
        self.settled_us = int(t_us[stop])
        self._is_first = False
        return True

    def _settle_window(self, sums: _Sums, *, is_end: bool) -> bool:
        """Settle up to the last clean cut within LONGEST_STRETCH samples; False: none without more samples."""
        count = len(self.columns.t_us)
        ahead = 2 * LONGEST_STRETCH + 3  # beyond, no power reading can tell of the time up to a cut
        while True:
            stop = min(self.at + ahead, count)
            window = self.columns.part(self._context, stop)
            if np.any(window.t_us[1:] < window.t_us[:-1]):
                raise OutOfOrderError
            has_all = is_end and stop == count
            stamps = stamps_of(window, self._rules)
            if not has_all:
                stamps = stamps.but_last()  # others of its instant may follow
            start = int(np.searchsorted(stamps.last, self.at - self._context))
            cut = self._next_cut(sums, stamps, start, has_all=has_all) if start + 1 < len(stamps) else None
            if cut is not None:
                break
            if stop == count:
                return False
            ahead *= 2
        first, edges_us = sums.inside(self.settled_us, int(stamps.t_us[cut]))
        by_trace = self._is_unanchored or not self._rules.has_counter
        settled = settle(stamps, start, cut, edges_us, self._rules, by_trace=by_trace, is_first=self._is_first)
        sums.add(first, *settled)
        if len(self._moved(stamps, start, cut + 1)):
            self._is_unanchored = False  # where it was, the cut is the first stamp at which the counter has moved
        read = np.flatnonzero(stamps.counter_known[: cut + 1])
        if len(read) and read[-1] >= start:
            self._counter_uj = int(stamps.counter_uj[read[-1]])
        powered = np.flatnonzero(stamps.power_known[: cut + 1])[-1:]
        needed = powered[~are_apart(stamps, powered, np.full(len(powered), cut), self._rules)]
        self.at = self._context + int(stamps.last[cut])
        self._context += int(stamps.first[needed[0] if len(needed) else cut])
        self.settled_us = int(stamps.t_us[cut])
        self._is_first = False
        return True

    def _next_cut(self, sums: _Sums, stamps: Stamps, start: int, *, has_all: bool) -> int | None:
        """Position of the last clean cut after start within LONGEST_STRETCH samples; None: later ones must tell.

        Args:
            has_all: the stamps reach to the end of the trace.
        """
        if self._is_first and stamps.counter_known[start]:
            self._counter_uj = int(stamps.counter_uj[start])
        end = int(np.searchsorted(stamps.last, self.at - self._context + LONGEST_STRETCH, side="right"))
        moved = self._moved(stamps, start, end)
        is_beyond = len(self.columns.t_us) - 1 - self.at > LONGEST_STRETCH
        if self._rules.has_counter and not self._is_unanchored and is_beyond and not len(moved):
            self._is_unanchored = True
            sums.findings = sums.findings + Findings(unanchored=int(self._counter_uj is not None))
        if self._is_unanchored or not self._rules.has_counter:
            end = max(end, start + 2)  # one stamp may have more samples than that
            moved = self._moved(stamps, start, end)
            cuts = np.arange(start + 1, moved[0] + 1 if len(moved) else end)
        elif has_all and not is_beyond:
            cuts = np.array([len(stamps) - 1])
        else:
            cuts = moved
        cuts = cuts[_is_power_settled(stamps, self._rules, has_all=has_all)[cuts]]
        return int(cuts[-1]) if len(cuts) else None

    def _moved(self, stamps: Stamps, start: int, end: int) -> IntColumn:
        """Positions after start and before end at which the counter differs from its reading before."""
        if not self._rules.has_counter:
            return NO_EDGES
        read = start + 1 + np.flatnonzero(stamps.counter_known[start + 1 : end])
        before = -1 if self._counter_uj is None else self._counter_uj
        moved: IntColumn = read[np.diff(stamps.counter_uj[read], prepend=before) != 0]
        return moved


def _is_power_settled(stamps: Stamps, rules: Rules, *, has_all: bool) -> BoolColumn:
    """(u,) whether later samples cannot change the power up to each stamp."""
    is_settled = np.ones(len(stamps), bool)
    known = np.flatnonzero(stamps.power_known)
    if not has_all and len(known):
        is_settled[known[-1] + 1 :] = are_apart(stamps, known[-1:], np.array([len(stamps) - 1]), rules)
    return is_settled


def _settled(rules: Rules, columns: Columns, edges_us: IntColumn, *, begins_at_cut: bool = False) -> _Sums:
    """All of the columns, from their first sample, which is a clean cut or has none before it, to their last."""
    sums = _Sums(edges_us)
    if len(columns.t_us):
        _Walk(rules, columns, begins_at_cut=begins_at_cut).advance(sums, is_end=True)
    return sums


def _certain_cuts(columns: Columns, rules: Rules) -> IntColumn:
    """Positions of clean cuts that no sample before or after these columns can spoil."""
    t_us = columns.t_us
    if len(t_us) < 3:
        return NO_EDGES
    is_cut = np.concatenate(([False], (t_us[1:-1] > t_us[:-2]) & (t_us[1:-1] < t_us[2:]), [False]))
    if rules.has_power:
        is_cut &= columns.power_known & (columns.power_mw >= 0) & (columns.power_mw <= rules.credible_power_mw)
    if rules.has_counter:
        read = np.flatnonzero(columns.counter_known & (columns.counter_uj >= 0))
        moves = np.zeros(len(t_us), bool)
        moves[read[1:]] = np.diff(columns.counter_uj[read]) != 0
        is_cut &= moves
    return np.flatnonzero(is_cut)
