"""What a counter tells of the two ends of a run, which lie between its readings and between its own refreshes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from tracker.counters import Rules, is_possible
from tracker.units import TWICE_NANOJOULES_PER_MICROJOULE, joules_of_twice_nj

if TYPE_CHECKING:
    from tracker.records import Samples

# So near, a device's power at its reading tells more of the time up to it than the mean of a whole cell does.
NEAR_US: Final = 50_000
# Periods of 10 to 100 ms are known. Over this a counter has not been refreshed late, it has stood still.
LONGEST_PERIOD_US: Final = 250_000
SOUGHT_US: Final = 4 * LONGEST_PERIOD_US


class Move(NamedTuple):
    """A counter has moved between two instants less than a period apart."""

    from_us: int
    until_us: int
    moved_uj: int

    @property
    def at_us(self) -> int:
        return (self.from_us + self.until_us) // 2


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time that begins or ends with the run, and the energy it has beyond what the counter's cells say.

    Attributes:
        from_us, until_us: readings, or the run's start or end.
        wanted_twice_nj: its energy.
        margin_j: half-width of what is not known of that.
        counted_twice_nj: what its cells have been found to hold so far.
    """

    from_us: int
    until_us: int
    wanted_twice_nj: int
    margin_j: float = 0.0
    counted_twice_nj: int = 0

    def counting(self, from_us: int, until_us: int, twice_energy_nj: int) -> Self:
        """With the energy of an interval, if that is a part of it."""
        if from_us < self.from_us or until_us > self.until_us:
            return self
        return replace(self, counted_twice_nj=self.counted_twice_nj + twice_energy_nj)

    @property
    def missing_twice_nj(self) -> int:
        """What the cells lack."""
        return self.wanted_twice_nj - self.counted_twice_nj


@dataclass(frozen=True, slots=True)
class End:
    """What is known of a counter at the start or the end of a run.

    Attributes:
        stretch: where that is known; None: it is not.
        still_us: no move was seen from that instant on for so long.
        period_us: the counter was seen to be refreshed this often, 0: at each read; None: it was not.
        power_mw: as read next to that instant; None: it was not.
    """

    stretch: Stretch | None = None
    still_us: int = 0
    period_us: int | None = None
    power_mw: int | None = None

    def counting(self, from_us: int, until_us: int, twice_energy_nj: int) -> Self:
        """As Stretch.counting."""
        if self.stretch is None:
            return self
        return replace(self, stretch=self.stretch.counting(from_us, until_us, twice_energy_nj))


def start_of(samples: Samples, start_us: int, period_us: int, rules: Rules) -> End:
    """How a counter stands at a run's start.

    Args:
        samples: the first ones of the run, with one before its start.
        period_us: the counter is refreshed this often, as far as is known; 0: at each read.
    """
    before = int(samples.t_us.searchsorted(start_us, side="right")) - 1
    end = _by_moves(samples, start_us, period_us, rules) if period_us else End(period_us=0)
    if end.period_us == 0:
        return replace(end, stretch=_by_power(samples, start_us, before))
    return replace(end, power_mw=_power_mw(samples, before))


def end_of(samples: Samples, stop_us: int, period_us: int, rules: Rules) -> End:
    """How a counter stands at a run's end; as start_of, with samples from beyond it."""
    after = int(samples.t_us.searchsorted(stop_us))
    end = _by_moves(samples, stop_us, period_us, rules) if period_us else End(period_us=0)
    if end.period_us == 0:
        return replace(end, stretch=_by_power(samples, stop_us, after))
    return replace(end, power_mw=_power_mw(samples, after))


def _power_mw(samples: Samples, position: int) -> int | None:
    is_known = 0 <= position < len(samples.t_us) and samples.power_known[position]
    return int(samples.power_mw[position]) if is_known else None


def _by_power(samples: Samples, edge_us: int, position: int) -> Stretch | None:
    """From or to a reading next to an edge, at the power it tells: a counter read in the middle of a run of a load
    that goes up and down says what a whole second used, not what these few ms did.
    """
    if not 0 <= position < len(samples.t_us):
        return None
    t_us = int(samples.t_us[position])
    is_known = samples.counter_known[position] and samples.power_known[position]
    if not is_known or not 0 < abs(t_us - edge_us) <= NEAR_US:
        return None
    power_mw = int(samples.power_mw[position])
    return Stretch(min(t_us, edge_us), max(t_us, edge_us), 2 * power_mw * abs(t_us - edge_us))


def _by_moves(samples: Samples, edge_us: int, period_us: int, rules: Rules) -> End:
    """From an edge to the first move after it.

    The counter is right at the instants at which it moves, and what it moves by is the energy of the period before.
    The share of that period that lies after the edge is taken of it; more than that where the first reading came so
    late that a move before may have been missed.
    """
    first, last = samples.t_us.searchsorted((edge_us - period_us // 2, edge_us + SOUGHT_US))
    known = samples.counter_known[first:last]
    t_us, counter_uj = samples.t_us[first:last][known].tolist(), samples.counter_uj[first:last][known].tolist()
    readings = list(zip(t_us, counter_uj, strict=True))
    moves: list[Move] = []
    still_until_us = edge_us
    for (from_us, from_uj), (until_us, until_uj) in pairwise(readings):
        if until_us <= edge_us:
            continue
        if from_uj == until_uj:
            still_until_us = until_us if not moves else still_until_us
            continue
        move = Move(from_us, until_us, until_uj - from_uj)
        is_sound = until_us - from_us < period_us and move.moved_uj > 0
        if not is_sound or not _is_possible(move, rules):
            break
        moves.append(move)
        if len(moves) == 2:
            break
    first_us = max(edge_us, readings[0][0]) if readings else edge_us
    still_us = max(0, still_until_us - first_us)
    if not moves:
        return End(still_us=still_us)
    if _move_at_each_read(moves, period_us):
        return End(period_us=0)
    move, seen_us = _sharpened(moves, period_us)
    # Longer than believed is what no move was seen in.
    shown_us = max(seen_us or period_us, move.at_us - readings[0][0])
    return End(_stretch(move, moves[0].until_us, edge_us, shown_us), still_us, seen_us)


def _is_possible(move: Move, rules: Rules) -> bool:
    limit_mw = rules.max_power_mw
    moved_uj, length_us = np.array([move.moved_uj]), np.array([move.until_us - move.from_us])
    return limit_mw is None or bool(is_possible(moved_uj, length_us, limit_mw, rules).all())


def _move_at_each_read(moves: list[Move], period_us: int) -> bool:
    """Whether a counter has moved twice in a row within the period that is believed, with no reading between."""
    if len(moves) < 2:
        return False
    first, second = moves
    return first.until_us == second.from_us and second.until_us - first.from_us <= period_us


def _sharpened(moves: list[Move], period_us: int) -> tuple[Move, int | None]:
    """The first move as the second one tells of it too, and the period where the two do not fit the one believed."""
    first = moves[0]
    if len(moves) < 2:
        return first, None
    second = moves[1]
    from_us, until_us = max(first.from_us, second.from_us - period_us), min(first.until_us, second.until_us - period_us)
    if from_us <= until_us:
        return Move(from_us, until_us, first.moved_uj), None
    seen_us = second.at_us - first.at_us
    return first, seen_us if seen_us <= LONGEST_PERIOD_US else None


def _stretch(move: Move, until_us: int, edge_us: int, period_us: int) -> Stretch:
    after_us = move.at_us - edge_us
    twice_nj = move.moved_uj * TWICE_NANOJOULES_PER_MICROJOULE
    # Of a load that never draws more than twice its mean, a share s of the time has from 2 s - 1 to 2 s of the energy,
    # and from 0 to 1: at most min(s, 1 - s) more or less than s. Nothing is known of what lies beyond the period.
    share = max(0.0, after_us / period_us)
    doubt = (move.until_us - move.from_us) / 2 / period_us
    margin_j = joules_of_twice_nj(twice_nj) * (min(share, abs(1 - share)) + doubt)
    return Stretch(edge_us, until_us, twice_nj * after_us // period_us, margin_j)
