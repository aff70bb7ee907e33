"""Energy × intensity × PUE, slot by slot. Pure: numbers in, numbers and provenance out."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from tracker.errors import SettingError
from tracker.records import STATUSES, Basis, IntensityUse, IntensityValue, Slot, ZoneOrigin, unix_us_of
from tracker.units import (
    JOULES_PER_KWH,
    MICROSECONDS_PER_S,
    SECONDS_PER_HOUR,
    TWICE_NANOJOULES_PER_J,
    joules_of_twice_nj,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tracker.records import BoolColumn, FloatColumn, IntColumn

SLOT_S: Final = 300
UNPRICED: Final = -1

_LOW_BITS: Final = 32

_WARNINGS: Final = re.compile(
    r"(marginal: )?(no intensity for \S+ of the energy: .*"
    r"|\S+ of the energy (was priced with the fallback, in |is priced on another basis \().*"
    r"|the intensity changed within \d+ of the slots .*)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, eq=False)
class SlotEnergies:
    """Energy per device and slot in columns of one length k; a slot whose energy is unknown has no row.

    Attributes:
        start_s: (k,) int64, seconds since 1970.
        twice_energy_nj: (k,) int64.
        is_modelled: (k,) bool: the device's method is "model".
    """

    start_s: IntColumn
    twice_energy_nj: IntColumn
    is_modelled: BoolColumn

    @classmethod
    def of(cls, slots: Sequence[Slot], modelled_devices: Collection[int] = ()) -> SlotEnergies:
        """The columns of slots; modelled_devices are positions in the run's devices."""
        known = [slot for slot in slots if slot.covered_us > 0]
        return cls(
            start_s=np.array([slot.start_s for slot in known], dtype=np.int64),
            twice_energy_nj=np.array([slot.twice_energy_nj for slot in known], dtype=np.int64),
            is_modelled=np.array([slot.device_index in modelled_devices for slot in known], dtype=np.bool_),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Emissions:
    """What the energy of a run emitted, and which value priced what.

    Attributes:
        emissions_g: of the measured energy, PUE included; None where none is known or priced.
        emissions_modelled_g: of the modelled energy, likewise.
        uses: the values that priced some of it: first those on the basis of the emissions, whose energy × intensity
            × pue adds up to them; then the others. Within these in the order given, the fallback last.
        unpriced_energy_j: measured and modelled energy in time that no value covers; not in the emissions.
        slot_g: (k,) float64, per row of the slots; NaN where no value covers any of it.
        slot_value: (k,) int64, position of the value that priced most of the row; len(values) is the fallback,
            UNPRICED none.
        slot_is_averaged: (k,) bool: the intensity changed within the slot and was averaged over its time.
        warnings: what must be said beside the sum.
    """

    emissions_g: float | None
    emissions_modelled_g: float | None
    pue: float
    uses: tuple[IntensityUse, ...]
    unpriced_energy_j: float
    slot_g: FloatColumn
    slot_value: IntColumn
    slot_is_averaged: BoolColumn
    warnings: tuple[str, ...] = ()


def checked_pue(pue: float, origin: str = "argument pue") -> float:
    """The PUE as given.

    Raises:
        SettingError: it is below 1 or not finite: the whole site cannot use less than its computers.
    """
    if not math.isfinite(pue) or pue < 1:
        raise SettingError(f"{origin}: a PUE is 1.0 (IT energy only) or more, not {pue!r}")
    return pue


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Intensity values made ready to price any number of runs with.

    At each instant the value of the best status holds, among equals the one fetched last.

    Attributes:
        candidates: the values, then the fallback if there is one.
        fallback: prices the time that no value covers.
        edges_us: (u,) int64, the instants at which another value may hold.
        value_between: (u + 1,) int64, the position of the value before, between and after them; UNPRICED where none.
        g_per_kwh: (m + 1,) float64, of the candidates; the NaN at its end is what UNPRICED points at.
        bases: (m + 1,) likewise; "" at its end.
    """

    candidates: tuple[IntensityValue, ...]
    fallback: IntensityValue | None
    edges_us: IntColumn
    value_between: IntColumn
    g_per_kwh: FloatColumn
    bases: NDArray[np.str_]

    @classmethod
    def of(cls, values: Sequence[IntensityValue], fallback: IntensityValue | None = None) -> Timeline:
        """A timeline of values with their validity [start, end), in any order; without start and end they always hold.

        Raises:
            ValueError: an intensity is not a finite number of 0 or more, or average and marginal values are mixed,
                which answer different questions and have no common sum.
        """
        candidates = (*values,) if fallback is None else (*values, fallback)
        for value in candidates:
            if not math.isfinite(value.intensity_g_per_kwh) or value.intensity_g_per_kwh < 0:
                raise ValueError(f"{value.provider}, {value.zone}: no intensity: {value.intensity_g_per_kwh!r} g/kWh")
        if len({value.signal for value in candidates}) > 1:
            raise ValueError("average and marginal intensities cannot be summed: price the run once with each")
        edges_us, value_between = _validity(candidates, len(values))
        return cls(
            candidates,
            fallback,
            edges_us,
            value_between,
            np.array([*(value.intensity_g_per_kwh for value in candidates), np.nan]),
            np.array([*(value.basis for value in candidates), ""]),
        )

    @classmethod
    def of_uses(cls, uses: Sequence[IntensityUse]) -> Timeline:
        """The timeline that the values of these uses make again: those that always hold stand in for the dated."""
        dated = [use.value for use in uses if use.value.start is not None]
        always = [use.value for use in uses if use.value.start is None]
        return cls.of(dated, always[-1] if always else None)

    def within(self, start_us: int, end_us: int) -> tuple[IntColumn, IntColumn]:
        """What holds when in a stretch.

        Returns:
            (n + 1,) the instants at which another value may hold, start_us and end_us among them; (n,) the position
            of the value between each two of them, UNPRICED where none holds.
        """
        first = int(np.searchsorted(self.edges_us, start_us, side="right"))
        last = max(first, int(np.searchsorted(self.edges_us, end_us, side="left")))
        bounds_us = np.concatenate(([start_us], self.edges_us[first:last], [end_us]))
        return bounds_us, self.value_between[first : last + 1]

    def mean(self, start_us: int, end_us: int) -> tuple[float | None, int]:
        """The mean intensity in g/kWh over the known time of a stretch, and how long that is; of an instant its own."""
        bounds_us, positions = self.within(start_us, end_us)
        is_known = positions != UNPRICED
        lengths_us = np.diff(bounds_us)[is_known]
        levels = self.g_per_kwh[positions[is_known]]
        known_us = int(lengths_us.sum())
        if not known_us:
            return (float(levels[0]) if len(levels) else None), 0
        return math.fsum((levels * lengths_us).tolist()) / known_us, known_us


def price(
    energies: SlotEnergies,
    values: Sequence[IntensityValue] | Timeline,
    *,
    zone_origin: ZoneOrigin = "setting",
    fallback: IntensityValue | None = None,
    fallback_origin: ZoneOrigin = "setting",
    pue: float = 1.0,
    slot_s: int = SLOT_S,
    covered: tuple[datetime, datetime] | None = None,
) -> Emissions:
    """Σ slot energy × the intensity valid in the slot × PUE; never mean × total.

    Energy is taken as even within a slot: where values change inside one, each gets the energy of its share of the
    slot's time. Values over the life cycle and of direct emissions have no common sum: the emissions are those priced
    on the basis of most of the energy that a value other than the fallback priced; what another basis priced stands
    apart.

    Args:
        energies: k rows, in any order.
        values: m values, or a timeline with a fallback of its own.
        zone_origin: how the zone of values was found.
        fallback: as in Timeline; its energy is a use of its own.
        fallback_origin: how its zone was found.
        pue: ratio of the site's energy to that of its computers.
        slot_s: length of a slot.
        covered: the run's first and last instant: time of a slot outside it has no share in the slot's energy.

    Returns:
        Sums that are None where nothing is known; the same for any order of rows and values.

    Raises:
        SettingError: the PUE is below 1.
        ValueError: as for Timeline.of.

    Source: DESIGN.md, section 4; knowledge/grid.md, section 12.
    """
    checked_pue(pue)
    timeline = values if isinstance(values, Timeline) else Timeline.of(values, fallback)
    fallback = timeline.fallback
    pieces = _pieces(energies, timeline, slot_s, covered)
    piece_g_per_kwh = timeline.g_per_kwh[pieces.value]
    uses = _uses(energies, timeline, pieces, zone_origin, fallback_origin)
    basis = _main_basis(uses, fallback)
    uses = tuple(sorted(uses, key=lambda use: use.value.basis != basis))
    is_unpriced = pieces.value == UNPRICED
    unpriced = pieces.twice_energy_nj[is_unpriced]
    unpriced_energy_j = joules_of_twice_nj(*_exact_sums(unpriced, np.zeros(len(unpriced), dtype=np.int64), 1))

    rows = len(energies.start_s)
    piece_g = pieces.twice_energy_nj * (pue / TWICE_NANOJOULES_PER_J / JOULES_PER_KWH) * piece_g_per_kwh
    slot_g = np.full(rows, np.nan)
    slot_g[pieces.row[~is_unpriced]] = 0.0
    np.add.at(slot_g, pieces.row[~is_unpriced], piece_g[~is_unpriced])
    slot_is_averaged = np.zeros(rows, dtype=np.bool_)
    same_row = pieces.row[1:] == pieces.row[:-1]
    is_change = same_row & (piece_g_per_kwh[1:] != piece_g_per_kwh[:-1])  # NaN, unpriced, differs from all
    slot_is_averaged[pieces.row[1:][is_change]] = True

    main = [use for use in uses if use.value.basis == basis]
    is_main = timeline.bases[pieces.value] == basis
    is_modelled = energies.is_modelled[pieces.row]
    return Emissions(
        emissions_g=pue * grams_of(main) if bool((is_main & ~is_modelled).any()) else None,
        emissions_modelled_g=pue * grams_of(main, modelled=True) if bool((is_main & is_modelled).any()) else None,
        pue=pue,
        uses=uses,
        unpriced_energy_j=unpriced_energy_j,
        slot_g=slot_g,
        slot_value=_main_value(pieces, rows),
        slot_is_averaged=slot_is_averaged,
        warnings=_warnings(
            uses, fallback, unpriced_energy_j, len(set(energies.start_s[slot_is_averaged].tolist())), slot_s
        ),
    )


def grams_of(uses: Iterable[IntensityUse], *, modelled: bool = False) -> float:
    """What the measured, or the modelled, energy of these uses emitted; without PUE."""
    return math.fsum(
        (use.energy_modelled_j if modelled else use.energy_j) / JOULES_PER_KWH * use.value.intensity_g_per_kwh
        for use in uses
    )


def _main_basis(uses: Sequence[IntensityUse], fallback: IntensityValue | None) -> Basis:
    """The basis that the emissions are told on; the first of the alphabet among equals."""
    by_basis: dict[Basis, float] = defaultdict(float)
    for use in uses:
        if use.value is not fallback:
            by_basis[use.value.basis] += use.energy_j + use.energy_modelled_j
    if not by_basis:
        return "unknown" if fallback is None else fallback.basis
    return min(by_basis, key=lambda basis: (-by_basis[basis], basis))


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Slots cut where the value changes, p pieces in the order of the rows and of time.

    Attributes:
        row: (p,) row of the slots.
        value: (p,) position among the candidates, or UNPRICED.
        overlap_us: (p,) time of the piece.
        twice_energy_nj: (p,) its energy; the pieces of a row add up to the row's exactly.
    """

    row: IntColumn
    value: IntColumn
    overlap_us: IntColumn
    twice_energy_nj: IntColumn


def _pieces(
    energies: SlotEnergies,
    timeline: Timeline,
    slot_s: int,
    covered: tuple[datetime, datetime] | None,
) -> _Pieces:
    edges_us, value_between = timeline.edges_us, timeline.value_between
    start_us = energies.start_s * MICROSECONDS_PER_S
    end_us = start_us + slot_s * MICROSECONDS_PER_S
    if covered is not None:
        first_us, last_us = map(unix_us_of, covered)
        clipped_us = np.maximum(start_us, first_us), np.minimum(end_us, last_us)
        # A wall clock that was set during the run can leave a slot outside it: then all of the slot counts.
        is_inside = clipped_us[0] < clipped_us[1]
        start_us, end_us = np.where(is_inside, clipped_us, (start_us, end_us))

    first = np.searchsorted(edges_us, start_us, side="right")
    count = np.searchsorted(edges_us, end_us, side="left") - first + 1
    row = np.repeat(np.arange(len(start_us)), count)
    is_last = np.zeros(len(row), dtype=np.bool_)
    is_last[np.cumsum(count) - 1] = True
    between = np.arange(len(row)) - np.repeat(np.cumsum(count) - count - first, count)
    bounds_us = np.concatenate(([np.iinfo(np.int64).min], edges_us, [np.iinfo(np.int64).max]))
    overlap_us = np.minimum(bounds_us[between + 1], end_us[row]) - np.maximum(bounds_us[between], start_us[row])

    # A product of energy and time needs more than 64 bits, so the share is a float; the last piece takes the rest.
    share = overlap_us / (end_us - start_us)[row]
    twice_energy_nj = np.where(is_last, 0, np.rint(energies.twice_energy_nj[row] * share).astype(np.int64))
    given = np.zeros(len(start_us), dtype=np.int64)
    np.add.at(given, row, twice_energy_nj)
    twice_energy_nj[is_last] = energies.twice_energy_nj - given
    return _Pieces(row, value_between[between], overlap_us, twice_energy_nj)


def _validity(candidates: Sequence[IntensityValue], fallback_index: int) -> tuple[IntColumn, IntColumn]:
    """Which value holds when.

    Returns:
        The u instants at which that may change, and (u + 1,) the position of the value before, between and after.
    """
    edges_us = np.array(
        sorted({unix_us_of(edge) for value in candidates for edge in (value.start, value.end) if edge}), dtype=np.int64
    )
    value_between = np.full(len(edges_us) + 1, UNPRICED, dtype=np.int64)
    # Painted from the worst to the best, so the best is what stays visible.
    for index in sorted(range(len(candidates)), key=lambda i: (i != fallback_index, *_rank(candidates[i]))):
        value = candidates[index]
        first = np.searchsorted(edges_us, unix_us_of(value.start)) + 1 if value.start else 0
        end = np.searchsorted(edges_us, unix_us_of(value.end)) + 1 if value.end else None
        value_between[first:end] = index
    return edges_us, value_between


def _rank(value: IntensityValue) -> tuple[int | float | str, ...]:
    """Better values rank higher; what follows the time of fetching only makes the order of values irrelevant."""
    return (
        STATUSES.index(value.status),
        -math.inf if value.fetched_at is None else unix_us_of(value.fetched_at),
        value.year or 0,
        value.provider,
        value.dataset,
        value.zone,
        value.intensity_g_per_kwh,
    )


def _uses(
    energies: SlotEnergies, timeline: Timeline, pieces: _Pieces, zone_origin: ZoneOrigin, fallback_origin: ZoneOrigin
) -> tuple[IntensityUse, ...]:
    """The use of each value that priced some of the energy, in the order of the candidates.

    Their energies are exact, so the order of the rows does not touch the grams.
    """
    is_priced = pieces.value != UNPRICED
    value, row = pieces.value[is_priced], pieces.row[is_priced]
    used = np.flatnonzero(np.bincount(value, minlength=1))  # of the thousands that a year has
    place = np.searchsorted(used, value)
    cell = 2 * place + energies.is_modelled[row]
    twice_energy_nj = _exact_sums(pieces.twice_energy_nj[is_priced], cell, 2 * len(used))
    slots = _distinct_starts(place, energies.start_s[row], len(used))
    uses = []
    for at, index in enumerate(used.tolist()):
        candidate = timeline.candidates[index]
        origin = fallback_origin if candidate is timeline.fallback else zone_origin
        energy_j, energy_modelled_j = (joules_of_twice_nj(twice_energy_nj[2 * at + kind]) for kind in (0, 1))
        uses.append(IntensityUse(candidate, origin, energy_j, energy_modelled_j, slots[at]))
    return tuple(uses)


def _distinct_starts(value: IntColumn, start_s: IntColumn, values: int) -> list[int]:
    """How many different slots each value priced. (np.unique would import numpy.ma, in a thread of ours.)"""
    order = np.lexsort((start_s, value))
    value, start_s = value[order], start_s[order]
    is_new = np.ones(len(value), dtype=np.bool_)
    is_new[1:] = (value[1:] != value[:-1]) | (start_s[1:] != start_s[:-1])
    counts: list[int] = np.bincount(value[is_new], minlength=values).tolist()
    return counts


def _exact_sums(column: IntColumn, cell: IntColumn, cells: int) -> list[int]:
    """The sum of each cell as a Python integer: 53 days of 1 kW overflow int64, sums of its two halves do not."""
    high, low = np.zeros((2, cells), dtype=np.int64)
    np.add.at(high, cell, column >> _LOW_BITS)
    np.add.at(low, cell, column & ((1 << _LOW_BITS) - 1))
    return [(upper << _LOW_BITS) + lower for upper, lower in zip(high.tolist(), low.tolist(), strict=True)]


def _main_value(pieces: _Pieces, rows: int) -> IntColumn:
    """(k,) for each row the value with most of its time, the earlier of equals."""
    order = np.lexsort((-np.arange(len(pieces.row)), pieces.overlap_us, pieces.value != UNPRICED))
    main = np.full(rows, UNPRICED, dtype=np.int64)
    main[pieces.row[order]] = pieces.value[order]  # of repeated rows the last one stays
    return main


def is_of_pricing(warning: str) -> bool:
    """Whether a run's warning is one that price() gave, and so goes when the run is priced anew."""
    return _WARNINGS.fullmatch(warning) is not None


def _length(length_s: float) -> str:
    hours = length_s / SECONDS_PER_HOUR
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def _warnings(
    uses: Sequence[IntensityUse],
    fallback: IntensityValue | None,
    unpriced_energy_j: float,
    averaged_slots: int,
    slot_s: int,
) -> tuple[str, ...]:
    warnings = []
    total_j = math.fsum(use.energy_j + use.energy_modelled_j for use in uses)
    if unpriced_energy_j:
        share = unpriced_energy_j / (unpriced_energy_j + total_j)
        warnings.append(f"no intensity for {share:.1%} of the energy: it is not in the emissions")
    fallback_j = math.fsum(use.energy_j + use.energy_modelled_j for use in uses if use.value is fallback)
    if fallback is not None and fallback_j:
        fallback_s = sum(use.slots for use in uses if use.value is fallback) * slot_s
        warnings.append(
            f"{fallback_j / total_j:.1%} of the energy was priced with the fallback, in {_length(fallback_s)}: "
            f"{fallback.provider}, {fallback.zone}, {fallback.intensity_g_per_kwh:g} g/kWh"
        )
    by_basis: dict[str, float] = defaultdict(float)
    for use in uses:
        by_basis[use.value.basis] += use.energy_j + use.energy_modelled_j
    if len(by_basis) > 1 and total_j:
        main, *others = by_basis
        warnings.extend(
            f"{by_basis[basis] / total_j:.1%} of the energy is priced on another basis ({basis}, not {main}): "
            "its emissions stand apart and are in no sum"
            for basis in others
        )
    if averaged_slots:
        warnings.append(f"the intensity changed within {averaged_slots} of the slots and was averaged there")
    return tuple(warnings)
