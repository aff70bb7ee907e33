"""Power over time, reduced to what a picture can show: least, most and mean for each of its columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tracker.records import DeviceEnergy, Samples
from tracker.units import MILLIWATTS_PER_W

if TYPE_CHECKING:
    from tracker.records import FloatColumn, IntColumn


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Power in columns of equal length from start_us to end_us; NaN where a column has no reading.

    Every reading lies within the least and the most of its column, so that no peak is lost however wide a column is.

    Attributes:
        start_us, end_us: calendar instants, µs since 1970.
        least_w, most_w, mean_w: (columns,) float64; the mean is that of the readings.
    """

    start_us: int
    end_us: int
    least_w: FloatColumn
    most_w: FloatColumn
    mean_w: FloatColumn


@dataclass(frozen=True, slots=True, eq=False)
class SlotCurves:
    """The measured energy of a run's devices together, slot by slot.

    Attributes:
        start_s: (k,) int64, seconds since 1970.
        slot_s: length of a slot.
        energy_j: (k,) float64.
        emissions_g: (k,) float64; NaN where no intensity is known.
        intensity_g_per_kwh: (k,) float64, of the slot's energy; NaN likewise.
    """

    start_s: IntColumn
    slot_s: int
    energy_j: FloatColumn
    emissions_g: FloatColumn
    intensity_g_per_kwh: FloatColumn


@dataclass(frozen=True, slots=True, eq=False)
class RunCurves:
    """What a picture of a run shows.

    Attributes:
        devices: those with readings, each with its power.
        slots: None where no energy is settled.
        start_us, end_us: of the run, µs since 1970.
    """

    devices: tuple[tuple[DeviceEnergy, Curve], ...]
    slots: SlotCurves | None
    start_us: int
    end_us: int


def reduced(unix_us: IntColumn, power_w: FloatColumn, start_us: int, end_us: int, columns: int) -> Curve:
    """The readings of [start_us, end_us) in so many columns.

    Args:
        unix_us: (k,) int64, not falling.
        power_w: (k,) float64.

    Raises:
        ValueError: no columns, or no time.
    """
    if columns < 1 or end_us <= start_us:
        raise ValueError("a curve needs at least one column and some time")
    least, most, mean = np.full((3, columns), np.nan)
    first, last = np.searchsorted(unix_us, (start_us, end_us))
    inside_us, inside_w = unix_us[first:last], power_w[first:last]
    if len(inside_us):
        column = (inside_us - start_us) * columns // (end_us - start_us)
        begins = np.flatnonzero(np.diff(column, prepend=-1))
        which = column[begins]
        least[which] = np.minimum.reduceat(inside_w, begins)
        most[which] = np.maximum.reduceat(inside_w, begins)
        counts = np.diff(np.append(begins, len(inside_w)))
        mean[which] = np.add.reduceat(inside_w, begins) / counts
    return Curve(start_us, end_us, least, most, mean)


def power_of(pieces: Sequence[Samples]) -> tuple[IntColumn, FloatColumn]:
    """All power readings of a device, in order of time: calendar instants in µs, and W.

    Where a device has none, as the zones of a CPU, its counter gives the mean power between two readings, at the
    later of them; a counter that has gone back, as at a wrap, gives none there.
    """
    instants, powers = [], []
    for samples in pieces:
        if samples.power_known.any():
            known = samples.power_known
            t_us, power_w = samples.t_us[known], samples.power_mw[known] / MILLIWATTS_PER_W
        else:
            counted = samples.counter_known
            t_us, counter_uj = samples.t_us[counted], samples.counter_uj[counted]
            elapsed_us, energy_uj = np.diff(t_us), np.diff(counter_uj)
            is_sound = (elapsed_us > 0) & (energy_uj >= 0)
            t_us, power_w = t_us[1:][is_sound], energy_uj[is_sound] / elapsed_us[is_sound]  # µJ/µs
        instants.append(t_us + samples.unix_offset_us)
        powers.append(power_w)
    if not instants:
        return np.empty(0, dtype=np.int64), np.empty(0)
    unix_us, power_w = np.concatenate(instants), np.concatenate(powers)
    order = np.argsort(unix_us, kind="stable")
    return unix_us[order], power_w[order]
