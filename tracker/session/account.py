"""From the slots of a run's devices to its record: totals, coverage, ranges, emissions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tracker.emissions import Emissions, SlotEnergies, Timeline, price
from tracker.intensity.choice import IntensityChoice
from tracker.records import (
    Device,
    DeviceEnergy,
    IntensityUse,
    Method,
    NotMeasured,
    Run,
    RunSource,
    RunStatus,
    ZoneOrigin,
    datetime_of,
    unix_us_of,
)
from tracker.sensors.host import range_factors
from tracker.units import MICROSECONDS_PER_S, MILLIWATTS_PER_W, joules_of_twice_nj

if TYPE_CHECKING:
    from tracker.records import IntColumn

# Yang, Adamek, Armour, arXiv 2312.02741: of 19 boards the sensor's gain was off by 3.7 % rms and its offset had a
# standard deviation of 5.9 W (knowledge, measurement 1.5 and 3.6).
GPU_GAIN_SD: Final = 0.037
GPU_OFFSET_SD_W: Final = 5.9
COVERAGE_FACTOR: Final = 2  # k = 2: about 95 %
GAP_PERIODS: Final = 3
DEFAULT_PERIOD_S: Final = 1.0
MIN_GAP_US: Final = 2 * MICROSECONDS_PER_S
MIN_UNKNOWN_US: Final = MICROSECONDS_PER_S  # less is the edge of a run


def gap_us_of(interval_s: float | None) -> int:
    """The longest time between two power readings over which power is interpolated.

    Three periods, since readings drawn within their periods lie up to two apart, and 2 s at least. A straight line over
    more would hide what a program did while it held the interpreter's lock: three seconds at thrice the power.
    """
    return max(MIN_GAP_US, round(GAP_PERIODS * (interval_s or DEFAULT_PERIOD_S) * MICROSECONDS_PER_S))


@dataclass(frozen=True, slots=True, eq=False)
class DeviceAccount:
    """What is known of one device's energy in a run.

    Attributes:
        start_s, twice_energy_nj, covered_us: (k,) int64, its slots.
        max_power_mw: largest power seen; None: none was.
        method: how most of it is known.
        edge_j: half-width of what is not known at the run's two ends, where the counter is refreshed now and then.
        notes: for people, on these readings.
        readings: how many of them there are.
    """

    device: Device
    start_s: IntColumn
    twice_energy_nj: IntColumn
    covered_us: IntColumn
    max_power_mw: int | None
    method: Method
    edge_j: float = 0.0
    disagreement_j: float = 0.0
    notes: tuple[str, ...] = ()
    readings: int = 0

    @property
    def is_modelled(self) -> bool:
        return self.method == "model"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run before anything is measured."""

    id: str
    name: str | None
    project: str | None
    tags: Mapping[str, str]
    parent_id: str | None
    is_replayed: bool
    pue: float
    started_at: datetime
    provenance: Mapping[str, Any] = field(default_factory=dict)
    price_per_kwh: float | None = None
    currency: str | None = None


def device_energy(account: DeviceAccount, duration_us: int) -> DeviceEnergy:
    """One device's line of the record."""
    covered_us = int(account.covered_us.sum())
    device = account.device
    unknown = DeviceEnergy(
        kind=device.kind,
        key=device.key,
        name=device.name,
        method="none",
        energy_j=None,
        mean_power_w=None,
        max_power_w=None,
        coverage=0.0,
        notes=account.notes,
        attributes=dict(device.attributes),
    )
    if covered_us == 0:
        return unknown
    energy_j = joules_of_twice_nj(sum(account.twice_energy_nj.tolist()))
    missing_us = duration_us - covered_us
    notes = account.notes
    if missing_us >= MIN_UNKNOWN_US:
        notes = (*notes, f"of {missing_us / MICROSECONDS_PER_S:.1f} s its energy is unknown, and in no figure")
    return replace(
        unknown,
        notes=notes,
        method=account.method,
        energy_j=energy_j,
        mean_power_w=energy_j / (covered_us / MICROSECONDS_PER_S),
        max_power_w=None if account.max_power_mw is None else account.max_power_mw / MILLIWATTS_PER_W,
        coverage=min(1.0, covered_us / duration_us) if duration_us > 0 else 0.0,
        energy_range_j=_range_j(account, energy_j, covered_us, duration_us),
    )


def _range_j(account: DeviceAccount, energy_j: float, covered_us: int, duration_us: int) -> tuple[float, float] | None:
    """Where the true energy of a GPU lies with about 95 %; None for parts whose sensors nobody has published on.

    Gain and offset of the board's sensor, and the run's edges, in quadrature; a disagreement of counter and power
    and time whose energy is unknown widen it. A model's range is its own.

    Source: knowledge, measurement 3.6.
    """
    device = account.device
    if account.is_modelled:
        factors = range_factors(device.attributes)
        if factors is None:
            return None
        low_j, high_j = energy_j * factors[0], energy_j * factors[1]
    elif device.kind == "gpu":
        seconds = covered_us / MICROSECONDS_PER_S
        spread_j = COVERAGE_FACTOR * math.hypot(GPU_GAIN_SD * energy_j, GPU_OFFSET_SD_W * seconds) + account.edge_j
        low_j = energy_j - spread_j + min(0.0, account.disagreement_j)
        high_j = energy_j + spread_j + max(0.0, account.disagreement_j)
    else:
        return None
    missing_us = max(0, duration_us - covered_us)
    if missing_us and device.max_power_mw is not None:
        high_j += missing_us * device.max_power_mw / MICROSECONDS_PER_S / MILLIWATTS_PER_W
    return max(0.0, low_j), high_j


@dataclass(frozen=True, slots=True)
class Priced:
    """What the energy of a run emitted, told in average intensities, with the uses of marginal ones beside it."""

    emissions: Emissions
    uses: tuple[IntensityUse, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pricer:
    """Prices any number of runs that have the same choice of intensities.

    Attributes:
        average, marginal: what holds when; None: there are no marginal values.
    """

    average: Timeline
    marginal: Timeline | None
    origin: ZoneOrigin

    @classmethod
    def of(cls, choice: IntensityChoice) -> Pricer:
        average = [value for value in choice.series if value.signal == choice.value.signal]
        marginal = [value for value in choice.series if value.signal != choice.value.signal]
        return cls(
            average=Timeline.of(average, choice.value) if choice.has_source else Timeline.of([choice.value]),
            marginal=Timeline.of(marginal) if marginal else None,
            origin=choice.zone.origin if choice.zone is not None else "setting",
        )

    def price(self, energies: SlotEnergies, pue: float, covered: tuple[datetime, datetime]) -> Priced:
        """The emissions of slots.

        Args:
            covered: the run's start and end.
        """
        origin = self.origin
        emissions = price(energies, self.average, zone_origin=origin, fallback_origin=origin, pue=pue, covered=covered)
        uses, warnings = emissions.uses, emissions.warnings
        if self.marginal is not None:
            beside = price(energies, self.marginal, zone_origin=origin, pue=pue, covered=covered)
            uses = (*uses, *beside.uses)
            warnings = (*warnings, *(f"marginal: {warning}" for warning in beside.warnings))
        return Priced(emissions, uses, warnings)


def covered_of(started_at: datetime, duration_us: int) -> tuple[datetime, datetime]:
    """A run's start and end, as price() takes them."""
    return started_at, datetime_of(unix_us_of(started_at) + max(duration_us, 1))


def energies_of(accounts: Sequence[DeviceAccount]) -> SlotEnergies:
    """The slots of all devices."""
    known = [(a, a.covered_us > 0) for a in accounts]
    return SlotEnergies(
        start_s=_joined([a.start_s[is_known] for a, is_known in known]),
        twice_energy_nj=_joined([a.twice_energy_nj[is_known] for a, is_known in known]),
        is_modelled=np.repeat(
            np.array([a.is_modelled for a, _ in known], dtype=np.bool_), [int(is_known.sum()) for _, is_known in known]
        ),
    )


def build_run(
    facts: RunFacts,
    accounts: Sequence[DeviceAccount],
    choice: IntensityChoice,
    *,
    status: RunStatus,
    duration_us: int,
    is_ended: bool,
    not_measured: Sequence[NotMeasured],
    warnings: Sequence[str],
    source: RunSource | None = None,
) -> Run:
    """The record of a run, from its devices' slots."""
    devices = tuple(device_energy(account, duration_us) for account in accounts)
    missing = [
        NotMeasured(device.kind, device.name, _why_unknown(account), key=device.key)
        for device, account in zip(devices, accounts, strict=True)
        if device.method == "none"
    ]
    measured = [d for d in devices if d.method in ("counter", "power")]
    modelled = [d for d in devices if d.method == "model"]
    started_us = unix_us_of(facts.started_at)
    covered = covered_of(facts.started_at, duration_us)
    told = Pricer.of(choice).price(energies_of(accounts), facts.pue, covered)
    emissions = told.emissions
    return Run(
        id=facts.id,
        name=facts.name,
        project=facts.project,
        tags=facts.tags,
        status=status,
        started_at=facts.started_at,
        ended_at=datetime_of(started_us + duration_us) if is_ended else None,
        duration_s=duration_us / MICROSECONDS_PER_S,
        energy_j=_sum_j(measured),
        energy_modelled_j=_sum_j(modelled),
        emissions_g=emissions.emissions_g,
        emissions_modelled_g=emissions.emissions_modelled_g,
        pue=facts.pue,
        coverage=sum(d.coverage for d in measured) / len(measured) if measured else None,
        not_measured=tuple(dict.fromkeys((*not_measured, *missing))),
        devices=devices,
        intensity=told.uses,
        zone=choice.zone,
        warnings=tuple(dict.fromkeys((*choice.warnings, *told.warnings, *warnings))),
        energy_range_j=_range_of_sum(measured),
        parent_id=facts.parent_id,
        is_replayed=facts.is_replayed,
        price_per_kwh=facts.price_per_kwh,
        currency=facts.currency,
        provenance=facts.provenance,
        source=source,
    )


def _why_unknown(account: DeviceAccount) -> str:
    """The reason why nothing of a device's energy is known, as far as its readings tell it."""
    if not account.readings:
        return "no reading of it succeeded"
    said = [note for note in account.notes if note not in account.device.notes]
    if not said:
        said = ["but one reading of it" if account.readings == 1 else "its readings are too far apart"]
    return "; ".join(said)


def _sum_j(devices: Sequence[DeviceEnergy]) -> float | None:
    return math.fsum(d.energy_j for d in devices if d.energy_j is not None) if devices else None


def _range_of_sum(devices: Sequence[DeviceEnergy]) -> tuple[float, float] | None:
    """Ranges added up as if all boards erred alike, the safe side; None where a part has none."""
    ranges = [d.energy_range_j for d in devices]
    if not ranges or any(r is None for r in ranges):
        return None
    return math.fsum(r[0] for r in ranges if r), math.fsum(r[1] for r in ranges if r)


def _joined(columns: Sequence[IntColumn]) -> IntColumn:
    return np.concatenate(columns) if columns else np.empty(0, dtype=np.int64)
