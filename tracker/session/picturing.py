"""What a picture of a run shows: its power by device, and its intensity and emissions by slot, on one time axis."""

from __future__ import annotations

import math

import numpy as np

from tracker.curves import RunCurves, SlotCurves, power_of, reduced
from tracker.emissions import SLOT_S, SlotEnergies, Timeline, price
from tracker.records import Run, Samples, unix_us_of
from tracker.session.account import covered_of
from tracker.store.reading import RunReader
from tracker.units import MICROSECONDS_PER_S, TWICE_NANOJOULES_PER_J

COLUMNS = 1200  # more than a printed page shows


def curves_of(run: Run, columns: int = COLUMNS) -> RunCurves:
    """A run from the database as a picture shows it; without raw samples, as after `tracker db prune`, by its slots."""
    if run.started_at is None:
        return RunCurves((), None, 0, 0)
    start_us = unix_us_of(run.started_at)
    end_us = start_us + max(1, round(run.duration_s * MICROSECONDS_PER_S))
    by_device: dict[int, list[Samples]] = {}  # by number: two machines may have devices of one key
    for index, samples in run.source.each_samples(run.id) if isinstance(run.source, RunReader) else ():
        by_device.setdefault(index, []).append(samples)
    found = []
    for index, device in enumerate(run.devices):
        unix_us, power_w = power_of(by_device.get(index, []))
        if len(unix_us):
            found.append((device, reduced(unix_us, power_w, start_us, end_us, columns)))
    return RunCurves(tuple(found), slots_of(run), start_us, end_us)


def slots_of(run: Run) -> SlotCurves | None:
    """Measured energy of all devices by slot, and what it emitted; without what another basis priced, as in the sum."""
    slots = run.source.slots(run.id) if isinstance(run.source, RunReader) else []
    modelled = {index for index, device in enumerate(run.devices) if device.method == "model"}
    measured = [slot for slot in slots if slot.device_index not in modelled]
    energies = SlotEnergies.of(measured)
    if not len(energies.start_s) or run.started_at is None:
        return None
    covered = covered_of(run.started_at, round(run.duration_s * MICROSECONDS_PER_S))
    timeline = Timeline.of_uses(run.own_intensity)
    slot_g = price(energies, timeline, pue=run.pue, covered=covered).slot_g
    starts = sorted(set(energies.start_s.tolist()))
    place = np.searchsorted(starts, energies.start_s)
    energy_j, emissions_g = np.zeros((2, len(starts)))
    np.add.at(energy_j, place, energies.twice_energy_nj / TWICE_NANOJOULES_PER_J)
    np.add.at(emissions_g, place, slot_g)
    first_us, last_us = map(unix_us_of, covered)
    levels = []
    for start_s in starts:
        begin_us = max(first_us, start_s * MICROSECONDS_PER_S)
        level, _ = timeline.mean(begin_us, max(begin_us, min(last_us, (start_s + SLOT_S) * MICROSECONDS_PER_S)))
        levels.append(math.nan if level is None else level)
    return SlotCurves(np.array(starts, dtype=np.int64), SLOT_S, energy_j, emissions_g, np.array(levels))
