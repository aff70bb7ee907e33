"""The frozen records that pass between modules, threads and users.

Nothing here measures, opens or imports a heavy library: numpy appears in annotations only.
Calendar instants are aware UTC datetimes; sample instants are integer µs of CLOCK_BOOTTIME.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from tracker.units import GRAMS_PER_KG, JOULES_PER_KWH, MICROSECONDS_PER_S, MILLIWATTS_PER_W

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tracker.comparison import UnitFigures

    IntColumn = npt.NDArray[np.int64]
    BoolColumn = npt.NDArray[np.bool_]
    FloatColumn = npt.NDArray[np.float64]

DeviceKind = Literal["gpu", "cpu_package", "dram", "cpu", "ram"]
Method = Literal["counter", "power", "model", "none"]
RunStatus = Literal["running", "finished", "failed", "interrupted", "disabled"]
Signal = Literal["average", "marginal"]
Basis = Literal["lifecycle", "direct", "unknown"]
ValueStatus = Literal["static", "forecast", "estimated", "provisional", "final"]
STATUSES: Final[tuple[ValueStatus, ...]] = ("static", "forecast", "estimated", "provisional", "final")  # best last
ZoneOrigin = Literal["setting", "cloud", "guessed", "world"]

SPANS_PER_SEGMENT: Final = 2**32  # spans are numbered within their segment; this makes it within the run
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def unix_us_of(instant: datetime) -> int:
    """Microseconds since 1970 of an aware datetime, exactly."""
    delta = instant - EPOCH
    return (delta.days * 86_400 + delta.seconds) * MICROSECONDS_PER_S + delta.microseconds


def datetime_of(unix_us: int) -> datetime:
    """The aware UTC datetime of microseconds since 1970, exactly."""
    seconds, micros = divmod(unix_us, MICROSECONDS_PER_S)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)


@dataclass(frozen=True, slots=True)
class ClockPair:
    """The clocks of one machine at one moment; joins sample instants with the calendar."""

    boottime_us: int
    monotonic_us: int
    unix_us: int

    @property
    def unix_offset_us(self) -> int:
        """What to add to a boottime instant to get microseconds since 1970."""
        return self.unix_us - self.boottime_us


@dataclass(frozen=True, slots=True)
class Device:
    """A part of the machine that a sensor reads, and what its readings mean.

    Attributes:
        kind: what it is.
        key: stable identity within the machine: GPU UUID, powercap zone ("intel-rapl:0"), model key.
        name: for people.
        sensor: which sensor reads it: "nvml", "rapl", "replay", "model".
        counter_modulus_uj: the counter restarts from 0 there; None: it never wraps, or has none.
        counter_period_us: the counter is refreshed this often; 0: at each read; None: unknown, or no counter.
        power_window_us: power is the mean of this long before the reading; None: unknown, or no power.
        max_power_mw: no true energy can exceed this power; None: unknown.
        attributes: what else identifies it (PCI bus, driver, sensor class, rating, scope …), text only.
        notes: what a user must know about these readings ("replayed from …").
    """

    kind: DeviceKind
    key: str
    name: str
    sensor: str
    has_counter: bool
    has_power: bool
    counter_modulus_uj: int | None = None
    counter_period_us: int | None = None
    power_window_us: int | None = None
    max_power_mw: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """One device at one instant. None is what the device did not give; it is never 0."""

    t_us: int  # CLOCK_BOOTTIME at the middle of the call
    power_mw: int | None = None
    counter_uj: int | None = None  # as read: wraps and resets are judged later, with the trace beside it
    power_average_mw: int | None = None  # the device's own mean, where it gives one beside power_mw


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A part of the machine whose energy is unknown, and why."""

    kind: DeviceKind
    name: str
    reason: str
    remedy: str = ""  # the exact command or setting that mends it, "" where there is none
    key: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The readings of one device in one segment, in columns of one length n.

    Attributes:
        device: whose they are.
        t_us: (n,) int64, CLOCK_BOOTTIME µs, not decreasing.
        power_mw: (n,) int64, 0 where unknown.
        power_known: (n,) bool.
        counter_uj: (n,) int64, 0 where unknown.
        counter_known: (n,) bool.
        power_average_mw: (n,) int64, 0 where unknown.
        power_average_known: (n,) bool.
        unix_offset_us: what to add to t_us for microseconds since 1970 (the pair nearest in time).
    """

    device: Device
    t_us: IntColumn
    power_mw: IntColumn
    power_known: BoolColumn
    counter_uj: IntColumn
    counter_known: BoolColumn
    power_average_mw: IntColumn
    power_average_known: BoolColumn
    unix_offset_us: int = 0

    def __len__(self) -> int:
        return len(self.t_us)

    @property
    def power_w(self) -> FloatColumn:
        """(n,) watts, NaN where unknown."""
        import numpy as np

        return np.where(self.power_known, self.power_mw / MILLIWATTS_PER_W, np.nan)

    @property
    def elapsed_s(self) -> FloatColumn:
        """(n,) seconds since the first sample."""
        import numpy as np

        return np.asarray((self.t_us - self.t_us[:1].sum()) / MICROSECONDS_PER_S)

    @property
    def time_utc(self) -> npt.NDArray[np.datetime64]:
        """(n,) datetime64[us], UTC."""
        return (self.t_us + self.unix_offset_us).astype("datetime64[us]")


@dataclass(frozen=True, slots=True)
class IntensityValue:
    """One carbon intensity with its provenance; never a bare number.

    start and end bound its validity [start, end); None on both: it holds at any time (a yearly table
    or the user's constant).
    """

    zone: str
    intensity_g_per_kwh: float
    provider: str  # "user", "bundled", or a grid API's name
    dataset: str
    status: ValueStatus
    signal: Signal = "average"
    basis: Basis = "unknown"
    accounting: str = "unknown"  # production, consumption, …, in the source's terms
    start: datetime | None = None
    end: datetime | None = None
    year: int | None = None
    fetched_at: datetime | None = None
    licence: str = ""
    source: str = ""
    raw_value: float | None = None
    raw_unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class ZoneChoice:
    """Where the run is taken to be, and how that was found."""

    zone: str
    name: str
    origin: ZoneOrigin
    detail: str = ""  # "argument zone", "TRACKER_ZONE", "time zone Europe/Paris", …


@dataclass(frozen=True, slots=True)
class Price:
    """What a kWh of electricity costs, as its user has given it, in a currency of three letters (ISO 4217)."""

    price_per_kwh: float
    currency: str

    def __str__(self) -> str:
        return f"{self.price_per_kwh:.15g} {self.currency}"


@dataclass(frozen=True, slots=True)
class IntensityUse:
    """An intensity value in the emissions of a run, with how much of the run it priced."""

    value: IntensityValue
    zone_origin: ZoneOrigin
    energy_j: float  # measured IT energy priced with it
    energy_modelled_j: float
    slots: int


@dataclass(frozen=True, slots=True)
class Subtotal:
    """Emissions of a run that are in no sum with emissions_g: on another basis, or marginal; PUE included.

    Marginal ones price the same energy once more, by what one kWh more would have emitted.
    """

    signal: Signal
    basis: Basis
    energy_j: float
    energy_modelled_j: float
    emissions_g: float
    emissions_modelled_g: float


@dataclass(frozen=True, slots=True)
class Slot:
    """Energy of one device in one 5-minute UTC slot, in exact integers."""

    device_index: int  # position in the run's devices
    start_s: int  # seconds since 1970, a multiple of 300
    twice_energy_nj: int
    covered_us: int  # time within slot and run whose energy is known
    max_power_mw: int | None


@dataclass(frozen=True, slots=True)
class DeviceEnergy:
    """What one device used during a run.

    energy_j is None where nothing of it is known. coverage is the share of the run's time whose energy is
    known. energy_range_j holds the truth with about 95 % (k = 2), by the budget in the notes; None: not known.
    """

    kind: DeviceKind
    key: str
    name: str
    method: Method
    energy_j: float | None
    mean_power_w: float | None
    max_power_w: float | None
    coverage: float
    energy_range_j: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """A named part of a run. energy_j is that of the measured parts, None while open or where unknown."""

    id: int  # within the run, in order of opening
    parent_id: int | None
    name: str
    attributes: Mapping[str, Any]
    started_at: datetime
    ended_at: datetime | None
    duration_s: float | None
    energy_j: float | None = None
    coverage: float | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of progress within a run: step, loss, tokens, and whatever else was given."""

    at: datetime
    elapsed_s: float  # since the run's start
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Note:
    """What was said of a run after its end."""

    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One process that sampled for a run; identity enough to tell whether it still lives."""

    host: str
    boot_id: str
    pid_namespace: int
    pid: int
    pid_start: int  # /proc/<pid>/stat field 22, clock ticks since boot; 0 where there is no /proc
    started: ClockPair
    hardware: Mapping[str, str] = field(default_factory=dict)


class RunSource(Protocol):
    """Where a Run fetches what is too large to carry: given by the store, or by memory while it runs."""

    def samples(self, run_id: str) -> Sequence[Samples]: ...
    def spans(self, run_id: str) -> Sequence[Span]: ...
    def marks(self, run_id: str) -> Sequence[Mark]: ...
    def notes(self, run_id: str) -> Sequence[Note]: ...


@dataclass(frozen=True, slots=True)
class Run:
    """A run as far as it is known: while it runs, or afterwards.

    energy_j is the IT energy of the measured parts (method counter or power), energy_modelled_j that of the
    modelled ones; each is None when there is none, and they are never added up under one name. Emissions are
    these × PUE × intensity, slot by slot. coverage is the share of (measured device × run time) whose energy
    is known; None where nothing is measured. cost and cost_modelled are these energies × PUE × price_per_kwh, in
    currency; None too where no price was given.
    """

    id: str
    name: str | None
    project: str | None
    tags: Mapping[str, str]
    status: RunStatus
    started_at: datetime | None
    ended_at: datetime | None
    duration_s: float
    energy_j: float | None
    energy_modelled_j: float | None
    emissions_g: float | None
    emissions_modelled_g: float | None
    pue: float
    coverage: float | None
    not_measured: tuple[NotMeasured, ...] = ()
    devices: tuple[DeviceEnergy, ...] = ()
    intensity: tuple[IntensityUse, ...] = ()
    zone: ZoneChoice | None = None
    warnings: tuple[str, ...] = ()
    energy_range_j: tuple[float, float] | None = None
    parent_id: str | None = None
    is_replayed: bool = False
    price_per_kwh: float | None = None
    currency: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)  # versions, settings with origin, own cost
    source: RunSource | None = field(default=None, repr=False, compare=False)

    @property
    def energy_kwh(self) -> float | None:
        return None if self.energy_j is None else self.energy_j / JOULES_PER_KWH

    @property
    def emissions_kg(self) -> float | None:
        return None if self.emissions_g is None else self.emissions_g / GRAMS_PER_KG

    @property
    def cost(self) -> float | None:
        """Of the measured energy, PUE included, in currency."""
        return self._cost_of(self.energy_j)

    @property
    def cost_modelled(self) -> float | None:
        """Of the modelled energy, likewise."""
        return self._cost_of(self.energy_modelled_j)

    def _cost_of(self, energy_j: float | None) -> float | None:
        if energy_j is None or self.price_per_kwh is None:
            return None
        return energy_j / JOULES_PER_KWH * self.pue * self.price_per_kwh

    @property
    def intensity_g_per_kwh(self) -> float | None:
        """Mean of the intensities in emissions_g, by the energy that each priced."""
        own = self.own_intensity
        priced_j = math.fsum(use.energy_j for use in own)
        if not priced_j:
            return None
        return math.fsum(use.energy_j * use.value.intensity_g_per_kwh for use in own) / priced_j

    @property
    def own_intensity(self) -> tuple[IntensityUse, ...]:
        """The uses of intensity that emissions_g and emissions_modelled_g are made of."""
        own_kind = self._own_kind
        return tuple(use for use in self.intensity if (use.value.signal, use.value.basis) == own_kind)

    @property
    def emissions_apart(self) -> tuple[Subtotal, ...]:
        """What emissions_g and emissions_modelled_g leave out because its intensity is of another kind than theirs."""
        kinds = dict.fromkeys((use.value.signal, use.value.basis) for use in self.intensity)
        return tuple(self._subtotal(*kind) for kind in kinds if kind != self._own_kind)

    @property
    def emissions_status(self) -> ValueStatus | None:
        """The worst status of the values that priced some of the energy in emissions_g or beside it; None: none did."""
        used = {use.value.status for use in self.intensity if use.value.signal == "average"}
        return next((status for status in STATUSES if status in used), None)

    @property
    def _own_kind(self) -> tuple[Signal, Basis] | None:
        """Of the intensities that emissions_g is told in: the first average one's."""
        return next(
            (("average", use.value.basis) for use in self.intensity if use.value.signal == "average"),
            None,
        )

    def _subtotal(self, signal: Signal, basis: Basis) -> Subtotal:
        uses = [use for use in self.intensity if (use.value.signal, use.value.basis) == (signal, basis)]
        factor = self.pue / JOULES_PER_KWH
        return Subtotal(
            signal=signal,
            basis=basis,
            energy_j=math.fsum(use.energy_j for use in uses),
            energy_modelled_j=math.fsum(use.energy_modelled_j for use in uses),
            emissions_g=factor * math.fsum(use.energy_j * use.value.intensity_g_per_kwh for use in uses),
            emissions_modelled_g=factor
            * math.fsum(use.energy_modelled_j * use.value.intensity_g_per_kwh for use in uses),
        )

    @property
    def spans(self) -> tuple[Span, ...]:
        """Read from the store each time: keep the tuple if you loop over it."""
        return tuple(self.source.spans(self.id)) if self.source else ()

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Read from the store each time: keep the tuple if you loop over it."""
        return tuple(self.source.marks(self.id)) if self.source else ()

    @property
    def notes(self) -> tuple[Note, ...]:
        """Read from the store each time: keep the tuple if you loop over it."""
        return tuple(self.source.notes(self.id)) if self.source else ()

    def units(self) -> tuple[UnitFigures, ...]:
        """Energy and emissions of the whole run for each step, epoch, sample and token that it has made."""
        from tracker.comparison import units_of

        return tuple(units_of(self, self.marks))

    def samples(self) -> tuple[Samples, ...]:
        """The raw readings, one Samples per device and segment; empty where they were pruned."""
        return tuple(self.source.samples(self.id)) if self.source else ()

    def to_dict(self) -> dict[str, Any]:
        """Everything but samples, in plain types that json.dumps takes; instants as ISO 8601 UTC."""
        out = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "source"}
        out["energy_kwh"] = self.energy_kwh
        out["emissions_kg"] = self.emissions_kg
        out["cost"] = self.cost
        out["cost_modelled"] = self.cost_modelled
        out["emissions_status"] = self.emissions_status
        out["emissions_apart"] = plain(self.emissions_apart)
        out["spans"] = plain(self.spans)
        out["marks"] = plain(self.marks)
        out["notes"] = plain(self.notes)
        out["units"] = plain(self.units()) if out["marks"] or out["spans"] else []
        return out

    def summary(self, width: int = 80) -> str:
        """The run as a short text for people."""
        from tracker.views.summary import summary_text

        return summary_text(self, width=width)

    def _repr_html_(self) -> str:
        from tracker.views.summary import summary_html

        return summary_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.summary())  # what IPython shows in a terminal


class Runs(list[Run]):
    """Several runs: a list that prints as a table."""

    def __str__(self) -> str:
        from tracker.views.listing import runs_table

        return runs_table(self)

    def _repr_html_(self) -> str:
        from tracker.views.report import runs_html

        return runs_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


@dataclass(frozen=True, slots=True)
class CostTotal:
    """What runs with a price in this currency cost together; None: of none of them is such energy known."""

    currency: str
    cost: float | None
    cost_modelled: float | None


@dataclass(frozen=True, slots=True)
class Total:
    """Sums over runs. A run and its parts count once; what is unknown is in no sum, and counted.

    Attributes:
        group: what the runs have in common, by project, name, zone, status and month (of the start, UTC); empty: all.
        runs: how many are summed.
        parts: how many more are left out, because the run that they are part of is summed.
        energy_j: of measured parts; None: of no run is it known. Likewise the others.
        emissions_g, emissions_modelled_g: of the runs priced on basis.
        basis: of the intensities that priced most of the energy; None: none did.
        emissions_apart: of the runs priced on another basis, which is in no sum with the first.
        runs_energy_unknown: how many of the runs are not in energy_j.
        runs_emissions_unknown: how many of the runs are in neither emissions_g nor emissions_apart.
        coverage: mean of the runs' own, weighted by their time.
        costs: by currency, in the order of the alphabet; empty: no run has a price.
        runs_cost_unknown: how many of the runs are in no cost of measured energy.
    """

    group: Mapping[str, str | None]
    runs: int
    parts: int
    duration_s: float
    energy_j: float | None
    energy_modelled_j: float | None
    emissions_g: float | None
    emissions_modelled_g: float | None
    basis: Basis | None
    emissions_apart: tuple[Subtotal, ...]
    runs_energy_unknown: int
    runs_emissions_unknown: int
    coverage: float | None
    costs: tuple[CostTotal, ...] = ()
    runs_cost_unknown: int = 0

    def to_dict(self) -> dict[str, Any]:
        """In plain types that json.dumps takes."""
        return {**plain(self)}


@dataclass(frozen=True, slots=True)
class PricedFigures:
    """What a run emitted by one pricing of it.

    Attributes:
        zone: code of where its electricity came from; None beside an intensity of the user's own.
        intensity_g_per_kwh: mean of those in emissions_g, by energy.
        bases: of the intensities in emissions_g; on different ones, two pricings cannot be compared.
        status: the worst of the values.
        providers: who gave them.
        cost, cost_modelled, price_per_kwh, currency: as in Run.
    """

    zone: str | None
    pue: float
    emissions_g: float | None
    emissions_modelled_g: float | None
    intensity_g_per_kwh: float | None
    bases: tuple[Basis, ...]
    status: ValueStatus | None
    providers: tuple[str, ...]
    cost: float | None = None
    cost_modelled: float | None = None
    price_per_kwh: float | None = None
    currency: str | None = None

    @classmethod
    def of(cls, run: Run) -> PricedFigures:
        """Those of a run as it stands."""
        return cls(
            zone=None if run.zone is None else run.zone.zone,
            pue=run.pue,
            emissions_g=run.emissions_g,
            emissions_modelled_g=run.emissions_modelled_g,
            intensity_g_per_kwh=run.intensity_g_per_kwh,
            bases=tuple(dict.fromkeys(use.value.basis for use in run.own_intensity)),
            status=run.emissions_status,
            providers=tuple(dict.fromkeys(use.value.provider for use in run.intensity)),
            cost=run.cost,
            cost_modelled=run.cost_modelled,
            price_per_kwh=run.price_per_kwh,
            currency=run.currency,
        )


@dataclass(frozen=True, slots=True)
class Repriced:
    """One run, priced anew.

    Attributes:
        is_changed: the result, or a value that it is made of, is another.
        is_stored: it is now what the run shows; the earlier one is kept.
        warnings: what must be said beside it.
    """

    run_id: str
    name: str | None
    started_at: datetime
    before: PricedFigures
    after: PricedFigures
    is_changed: bool
    is_stored: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Repricing:
    """What `tracker.reprice` did; prints as a table.

    Attributes:
        runs: in order of their start.
        skipped: runs that could not be priced, by id, with the reason.
        notes: what must be known: a source that gave no answer, what is left to do.
    """

    runs: tuple[Repriced, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = 80) -> str:
        """As a table for a terminal of this width."""
        from tracker.views.repricing import repricing_text

        return repricing_text(self, width)

    def to_dict(self) -> dict[str, Any]:
        """In plain types that json.dumps takes."""
        return {**plain(self)}


def plain(value: Any) -> Any:
    """A record, or anything within one, in types that json.dumps takes."""
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    return value
