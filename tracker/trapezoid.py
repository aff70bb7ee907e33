"""Stretches in which every reading is known and sound: energy per interval by a few passes over each block.

`energy` goes by `counters.settle` where such a stretch ends; on one, both give the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tracker.counters import (
    SAFE_INT64,
    UNEVEN,
    Columns,
    Findings,
    Rules,
    Settled,
    is_overlong,
    is_possible,
    placed_twice_nj,
    power_at_mw,
    twice_energy_to_nj,
)
from tracker.units import TWICE_NANOJOULES_PER_MICROJOULE

if TYPE_CHECKING:
    import numpy.typing as npt

    from tracker.records import IntColumn

# Measured: smaller blocks fit L2, but pay numpy's price per call more often (benchmarks/hot_loop.py).
BLOCK: Final = 131_072
STRETCH: Final = 16 * BLOCK  # what edges ask for is worked out once for so many samples
LONGEST_STEP_US: Final = 2**31 - 1  # its square fits int64


class OutOfOrderError(Exception):
    """A sample is older than the one before it."""


class _Block(NamedTuple):
    """What the passes over one block gave.

    Attributes:
        begin, end: positions of its first and last sample; the next block begins where this one ends.
        step_us: between its samples; UNEVEN where steps differ.
        places: (k + 1,) of the first sample of the interval that the block begins in, which is 0, and of the first
            after each of its k edges, counted from begin.
        minus_twice_nj: (k + 1,) of the samples of each of these intervals.
        highest_mw: (k + 1,) of them; a negative reading is a giant.
    """

    begin: int
    end: int
    step_us: int
    places: IntColumn
    minus_twice_nj: IntColumn
    highest_mw: npt.NDArray[np.uint64]


class Stretches:
    """Energy of the sound stretches of columns in order of time.

    The trapezoids are summed by parts: Σ (p[i] + p[i+1]) · (t[i+1] - t[i]) = Σ p[i] · (t[i+1] - t[i-1]), where the
    first and the last sample have a step at one side only. So a block takes one array of its size, whose steps, sums
    of two steps and energies stand in one place one after the other: what is in cache is used at once, and memory
    that the system has to hand out anew costs more than all the arithmetic.

    All is int64 and exact. A step is below 2**31 µs and a credible power below 2**31 mW, so that power times two
    steps is below 2**63. None is negative, so no sum, in any order, passes twice the highest powers of the blocks
    times their lengths, and a stretch ends before that reaches `SAFE_INT64`.
    """

    def __init__(self, rules: Rules, columns: Columns) -> None:
        self._rules = rules
        self._columns = columns
        self._gap_us = LONGEST_STEP_US if rules.gap_us is None else min(rules.gap_us, LONGEST_STEP_US)
        size = min(BLOCK, len(columns.t_us))
        self._minus_step_us = np.empty(size + 2, np.int64)  # from the second on; then what is made of the steps
        self._moved_uj = np.empty(size if rules.has_counter else 0, np.int64)

    def settle(
        self, at: int, stop: int, size: int, edges_us: IntColumn, *, is_first: bool
    ) -> tuple[int, Settled] | None:
        """Energy from the sample at on, in blocks up to the first that is not sound or up to the sample stop.

        Args:
            at: with no sample of the same instant before it.
            size: samples in a block, up to BLOCK.
            edges_us: (e,) increasing, all that lie between the instants of at and stop and on neither.
            is_first: nothing lies before at, so it counts as a sample here.

        Returns:
            The last sample of the stretch, and what was used up to it; None: the first block is not sound.

        Raises:
            OutOfOrderError
        """
        t_us, power_mw = self._columns.t_us, self._columns.power_mw
        blocks = self._safe(self._passes(at, stop, size, edges_us))
        if not blocks:
            return None
        stop = blocks[-1].end
        next_ = np.concatenate([b.places[1:] + b.begin for b in blocks])  # the first sample after each edge
        energy, max_mw = np.zeros((2, len(next_) + 1), np.int64)
        first = 0
        for block in blocks:
            here = slice(first, first + len(block.places))
            energy[here] -= block.minus_twice_nj
            np.maximum(max_mw[here], block.highest_mw.view(np.int64), out=max_mw[here])
            first = here.stop - 1  # the next block goes on with the interval
        # Between two edges of one cell there is nothing to reduce, and reduceat gives one sample all the same.
        is_within_cell = next_[1:] == next_[:-1]
        energy[1:-1][is_within_cell] = 0
        max_mw[1:-1][is_within_cell] = 0

        edges_us = edges_us[: len(next_)]
        before = next_ - 1
        t0_us, p0_mw, p1_mw = t_us.take(before), power_mw.take(before), power_mw.take(next_)
        elapsed_us, length_us = edges_us - t0_us, t_us.take(next_) - t0_us
        part = twice_energy_to_nj(p0_mw, p1_mw, length_us, elapsed_us)
        beyond = p0_mw * length_us - part  # the last sample before an edge brought its step across it
        energy[:-1] -= beyond
        energy[1:] += beyond
        edge_mw = power_at_mw(p0_mw, p1_mw, length_us, elapsed_us)
        np.maximum(max_mw[:-1], edge_mw, out=max_mw[:-1])
        np.maximum(max_mw[1:], edge_mw, out=max_mw[1:])
        steps_us = {b.step_us for b in blocks}
        findings = Findings(step_us=steps_us.pop() if len(steps_us) == 1 else UNEVEN, samples=stop - at + is_first)
        if self._rules.has_counter:
            findings = findings + Findings(compared_power_twice_nj=sum(energy.tolist()))
            energy, counted = self._by_counter(at, stop, next_, elapsed_us, length_us, part)
            findings = findings + counted
        bounds_us = np.concatenate((t_us[at : at + 1], edges_us, t_us[stop : stop + 1]))
        return stop, Settled(energy, bounds_us[1:] - bounds_us[:-1], max_mw, findings)

    def _passes(self, at: int, stop: int, size: int, edges_us: IntColumn) -> list[_Block]:
        """The blocks from the sample at on, as long as they are known and sound but for the power's height."""
        t_us, power_mw, known = self._columns.t_us, self._columns.power_mw, self._columns.power_known[at : stop + 1]
        unknown = int(known.argmin())
        if not known[unknown]:
            stop = at + unknown - 1
        if stop <= at:
            return []
        blocks: list[_Block] = []
        begins = range(at, stop, size)
        ends = [*begins[1:], stop]
        # What lies before a block is searched with its edges, and finds its first sample.
        edges_us = np.concatenate((t_us[at : at + 1] - 1, edges_us))
        found = 0
        for begin, end, until in zip(begins, ends, edges_us.searchsorted(t_us[ends]).tolist(), strict=True):
            t, p = t_us[begin : end + 1], power_mw[begin : end + 1]
            step_us = self._step_us(at, begin, end)
            if step_us == 0:
                break
            places = t[:-1].searchsorted(edges_us[found:until], side="right")
            steps, energy = self._minus_step_us[: end - begin + 2], self._minus_step_us[: end - begin + 1]
            steps[0] = steps[-1] = 0
            np.add(steps[1:], energy, out=energy)
            np.multiply(energy, p, out=energy)
            minus_twice_nj = np.add.reduceat(energy, places)
            highest_mw = np.maximum.reduceat(p.view(np.uint64), places)
            blocks.append(_Block(begin, end, step_us, places, minus_twice_nj, highest_mw))
            found = until - 1
        if blocks and blocks[-1].end + 1 < len(t_us) and t_us[blocks[-1].end + 1] <= t_us[blocks[-1].end]:
            blocks.pop()  # its last instant has more samples
        return blocks

    def _safe(self, blocks: list[_Block]) -> list[_Block]:
        """The blocks up to the first with a power that is not credible, or whose energy may be too large to add."""
        t_us, most_twice_nj = self._columns.t_us, 0
        for count, block in enumerate(blocks):
            highest_mw = int(block.highest_mw.max())
            most_twice_nj += 2 * highest_mw * int(t_us[block.end] - t_us[block.begin])
            if highest_mw > self._rules.credible_power_mw or most_twice_nj >= SAFE_INT64:
                return blocks[:count]
        return blocks

    def _step_us(self, at: int, begin: int, end: int) -> int:
        """The step between the samples from begin to end, if all there is sound but for the power.

        Returns:
            The step, UNEVEN where steps differ, 0 where one is too long or of no length, or the counter not sound.
            In self._minus_step_us, from the second on: the steps, negative.
        """
        t_us, minus_step_us = self._columns.t_us[begin : end + 1], self._minus_step_us[1 : end - begin + 1]
        np.subtract(t_us[:-1], t_us[1:], out=minus_step_us)
        # Backwards, so that as uint64 one minimum finds the longest step, and a step of 0 or back in time looks
        # longer than any.
        longest_us = 2**64 - int(np.minimum.reduce(minus_step_us.view(np.uint64)))
        if longest_us > 2**63 and np.any(minus_step_us > 0):
            raise OutOfOrderError
        if longest_us > self._gap_us:
            return 0
        if self._rules.has_counter and not self._is_counter_sound(at, begin, end, longest_us):
            return 0
        return longest_us if longest_us * (end - begin) == t_us[-1] - t_us[0] else UNEVEN

    def _is_counter_sound(self, at: int, begin: int, end: int, longest_us: int) -> bool:
        """Whether the counter is known, moves and stays plausible in all cells from the sample begin to end."""
        rules, here = self._rules, slice(begin, end + 1)
        counter_uj = self._columns.counter_uj[here]
        if not self._columns.counter_known[here].all() or counter_uj[0] < 0:
            return False
        minus_step_us, moved_uj = self._minus_step_us[1 : end - begin + 1], self._moved_uj[: end - begin]
        np.subtract(counter_uj[1:], counter_uj[:-1], out=moved_uj)
        travel_uj = int(counter_uj[-1]) - int(self._columns.counter_uj[at])
        limit = max(20_000 * travel_uj, 21 * rules.wrap_power_mw * (longest_us + rules.counter_slack_us))
        if moved_uj.min() <= 0 or limit >= SAFE_INT64 or is_overlong(longest_us, rules):
            return False
        if rules.max_power_mw is None:
            return True
        most_uj, shortest_us = moved_uj.max(keepdims=True), -minus_step_us.max(keepdims=True)
        if is_possible(most_uj, shortest_us, rules.max_power_mw, rules):  # true of all where steps are nearly alike
            return True
        return bool(is_possible(moved_uj, -minus_step_us, rules.max_power_mw, rules).all())

    def _by_counter(
        self, at: int, stop: int, next_: IntColumn, elapsed_us: IntColumn, length_us: IntColumn, part: IntColumn
    ) -> tuple[IntColumn, Findings]:
        """Energy per interval by the counter of a stretch: only cells with an edge inside need the trace.

        Args:
            next_: (e,) the first sample after each edge.
            elapsed_us, length_us, part: (e,) of the cell with the edge: time before it, time in all, and twice the
                energy before it by the trace.
        """
        columns, counter_uj = self._columns, self._columns.counter_uj
        whole = (columns.power_mw[next_ - 1] + columns.power_mw[next_]) * length_us
        until_nj = (counter_uj[next_ - 1] - counter_uj[at]) * TWICE_NANOJOULES_PER_MICROJOULE
        cell_nj = (counter_uj[next_] - counter_uj[next_ - 1]) * TWICE_NANOJOULES_PER_MICROJOULE
        until_nj += placed_twice_nj(cell_nj, part, whole, elapsed_us, length_us).astype(np.int64)
        total_nj = int(counter_uj[stop] - counter_uj[at]) * TWICE_NANOJOULES_PER_MICROJOULE
        span_us = int(columns.t_us[stop] - columns.t_us[at])
        return np.diff(until_nj, prepend=0, append=total_nj), Findings(
            counter_us=span_us,
            linear=int(np.count_nonzero((whole == 0) & (elapsed_us > 0))),
            compared_us=span_us,
            compared_counter_twice_nj=total_nj,
        )
