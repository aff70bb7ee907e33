"""Energy × intensity × PUE, slot by slot. Pure: numbers in, numbers and provenance out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from tracker.errors import SettingError
from tracker.records import IntensityUse, IntensityValue, Slot, ValueStatus, ZoneOrigin, unix_us_of
from tracker.units import JOULES_PER_KWH, MICROSECONDS_PER_S, TWICE_NANOJOULES_PER_J, joules_of_twice_nj

if TYPE_CHECKING:
    from tracker.records import BoolColumn, FloatColumn, IntColumn

SLOT_S: Final = 300
UNPRICED: Final = -1

_STATUSES: Final[tuple[ValueStatus, ...]] = ("static", "forecast", "estimated", "provisional", "final")  # best last
_LOW_BITS: Final = 32


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
        uses: the values that priced some of it, in the order given; the fallback last. Their energy × intensity
            × pue adds up to the emissions.
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


def price(
    energies: SlotEnergies,
    values: Sequence[IntensityValue],
    *,
    zone_origin: ZoneOrigin = "setting",
    fallback: IntensityValue | None = None,
    fallback_origin: ZoneOrigin = "setting",
    pue: float = 1.0,
    slot_s: int = SLOT_S,
    covered: tuple[datetime, datetime] | None = None,
) -> Emissions:
    """Σ slot energy × the intensity valid in the slot × PUE; never mean × total.

    At each instant the value of the best status holds, among equals the one fetched last. Energy is taken as
    even within a slot: where values change inside one, each gets the energy of its share of the slot's time.

    Args:
        energies: k rows, in any order.
        values: m values with their validity [start, end), in any order; without start and end they always hold.
        zone_origin: how the zone of values was found.
        fallback: prices the time that no value covers; its energy is a use of its own.
        fallback_origin: how its zone was found.
        pue: ratio of the site's energy to that of its computers.
        slot_s: length of a slot.
        covered: the run's first and last instant: time of a slot outside it has no share in the slot's energy.

    Returns:
        Sums that are None where nothing is known; the same for any order of rows and values.

    Raises:
        SettingError: the PUE is below 1.
        ValueError: an intensity is not a finite number of 0 or more, or average and marginal values are mixed,
            which answer different questions and have no common sum.

    Source: DESIGN.md, section 4; knowledge/grid.md, section 12.
    """
    checked_pue(pue)
    candidates = [*values] if fallback is None else [*values, fallback]
    for value in candidates:
        if not math.isfinite(value.intensity_g_per_kwh) or value.intensity_g_per_kwh < 0:
            raise ValueError(f"{value.provider}, {value.zone}: no intensity: {value.intensity_g_per_kwh!r} g/kWh")
    if len({value.signal for value in candidates}) > 1:
        raise ValueError("average and marginal intensities cannot be summed: price the run once with each")

    pieces = _pieces(energies, candidates, len(values), slot_s, covered)
    # The NaN at the end is what UNPRICED, -1, points at.
    piece_g_per_kwh = np.array([value.intensity_g_per_kwh for value in candidates] + [np.nan])[pieces.value]
    uses, sums_g = _uses(energies, candidates, pieces, [zone_origin] * len(values) + [fallback_origin])
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

    return Emissions(
        emissions_g=None if sums_g[0] is None else pue * sums_g[0],
        emissions_modelled_g=None if sums_g[1] is None else pue * sums_g[1],
        pue=pue,
        uses=uses,
        unpriced_energy_j=unpriced_energy_j,
        slot_g=slot_g,
        slot_value=_main_value(pieces, rows),
        slot_is_averaged=slot_is_averaged,
        warnings=_warnings(uses, fallback, unpriced_energy_j, len(set(energies.start_s[slot_is_averaged].tolist()))),
    )


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
    candidates: Sequence[IntensityValue],
    fallback_index: int,
    slot_s: int,
    covered: tuple[datetime, datetime] | None,
) -> _Pieces:
    edges_us, value_between = _timeline(candidates, fallback_index)
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


def _timeline(candidates: Sequence[IntensityValue], fallback_index: int) -> tuple[IntColumn, IntColumn]:
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
        _STATUSES.index(value.status),
        -math.inf if value.fetched_at is None else unix_us_of(value.fetched_at),
        value.year or 0,
        value.provider,
        value.dataset,
        value.zone,
        value.intensity_g_per_kwh,
    )


def _uses(
    energies: SlotEnergies, candidates: Sequence[IntensityValue], pieces: _Pieces, origins: Sequence[ZoneOrigin]
) -> tuple[tuple[IntensityUse, ...], list[float | None]]:
    """The use of each value, and the grams of the measured and the modelled energy, without PUE.

    The grams come from the exact energy per value, so the order of the rows does not touch them.
    """
    is_priced = pieces.value != UNPRICED
    value, row = pieces.value[is_priced], pieces.row[is_priced]
    cell = 2 * value + energies.is_modelled[row]
    twice_energy_nj = _exact_sums(pieces.twice_energy_nj[is_priced], cell, 2 * len(candidates))
    rows = np.bincount(cell, minlength=2 * len(candidates)).tolist()
    slots = _distinct_starts(value, energies.start_s[row], len(candidates))

    uses = []
    grams: tuple[list[float], list[float]] = ([], [])
    for index, candidate in enumerate(candidates):
        energy_j = [joules_of_twice_nj(twice_energy_nj[2 * index + kind]) for kind in (0, 1)]
        for kind in (0, 1):
            if rows[2 * index + kind]:
                grams[kind].append(energy_j[kind] / JOULES_PER_KWH * candidate.intensity_g_per_kwh)
        if rows[2 * index] or rows[2 * index + 1]:
            uses.append(IntensityUse(candidate, origins[index], energy_j[0], energy_j[1], slots[index]))
    return tuple(uses), [math.fsum(parts) if parts else None for parts in grams]


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


def _warnings(
    uses: Sequence[IntensityUse],
    fallback: IntensityValue | None,
    unpriced_energy_j: float,
    averaged_slots: int,
) -> tuple[str, ...]:
    warnings = []
    total_j = math.fsum(use.energy_j + use.energy_modelled_j for use in uses)
    if unpriced_energy_j:
        share = unpriced_energy_j / (unpriced_energy_j + total_j)
        warnings.append(f"no intensity for {share:.1%} of the energy: it is not in the emissions")
    fallback_j = math.fsum(use.energy_j + use.energy_modelled_j for use in uses if use.value is fallback)
    if fallback is not None and fallback_j:
        warnings.append(
            f"{fallback_j / total_j:.1%} of the energy was priced with the fallback: "
            f"{fallback.provider}, {fallback.zone}, {fallback.intensity_g_per_kwh:g} g/kWh"
        )
    by_basis: dict[str, float] = defaultdict(float)
    for use in uses:
        by_basis[use.value.basis] += use.energy_j + use.energy_modelled_j
    if len(by_basis) > 1 and total_j:
        shares = ", ".join(f"{basis} {energy_j / total_j:.1%}" for basis, energy_j in by_basis.items())
        warnings.append(f"the emissions add up intensities of more than one basis (share of the energy: {shares})")
    if averaged_slots:
        warnings.append(f"the intensity changed within {averaged_slots} of the slots and was averaged there")
    return tuple(warnings)
