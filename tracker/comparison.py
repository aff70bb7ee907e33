"""Runs side by side: by device and phase, for each unit of progress, what differs, and why their emissions do. Pure."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from tracker.emissions import Timeline
from tracker.records import (
    SPANS_PER_SEGMENT,
    Basis,
    DeviceEnergy,
    DeviceKind,
    IntensityValue,
    Mark,
    Method,
    Run,
    Signal,
    Span,
    plain,
    unix_us_of,
)
from tracker.units import JOULES_PER_KWH, MICROSECONDS_PER_S

# What a unit of progress is called, and the key of a mark that counts it since the mark before. Steps are numbered.
COUNTED: Final[Mapping[str, str]] = {"step": "steps", "epoch": "epochs", "sample": "samples", "token": "tokens"}
EPOCH: Final = re.compile(r"epoch( \d+)?")  # what spans are called that are one
_NUMBERED: Final = ("step", "epoch")  # the key of a mark that numbers it, where none counts it
# Of a run's provenance: where they come from, and what differs between any two runs.
_NOT_SETTINGS: Final = ("own_cost", "run_id", "parent_id", "db")


@dataclass(frozen=True, slots=True)
class ZoneMean:
    """The mean over time of what one source said of a zone, over the time that all compared runs lie in.

    known_s: the time in it of which the source has said anything here.
    """

    provider: str
    zone: str
    signal: Signal
    basis: Basis
    start: datetime
    end: datetime
    intensity_g_per_kwh: float
    known_s: float


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """The alike devices of a run together; None: of one of them it is unknown."""

    kind: DeviceKind
    name: str
    devices: int
    methods: tuple[Method, ...]
    energy_j: float | None
    mean_power_w: float | None
    coverage: float


@dataclass(frozen=True, slots=True)
class PhaseFigures:
    """The spans of one name in a run together, those within or beside another of the name left out.

    Attributes:
        spans: how many are counted.
        beside: how many more ran at the time of a longer one, and are in no figure.
        energy_j: of measured parts, where known; None where of no span it is.
        energy_unknown: how many of the spans are not in energy_j.
        emissions_g: of energy_j, taken as even over a span; PUE included.
    """

    name: str
    spans: int
    beside: int
    duration_s: float
    energy_j: float | None
    mean_power_w: float | None
    energy_unknown: int
    emissions_g: float | None
    intensity_g_per_kwh: float | None


@dataclass(frozen=True, slots=True)
class UnitFigures:
    """Energy and emissions of a whole run, its start and evaluation included, for each unit of its progress."""

    unit: str  # "step", "sample", "token"
    count: float
    energy_j: float | None
    emissions_g: float | None


@dataclass(frozen=True, slots=True)
class Attribution:
    """Why the emissions of a run differ from those of the first: parts that add up to the difference.

    Emissions are E × P × I: energy, PUE and the mean intensity of that energy. I is place + time: the mean of the zone
    over the time of all compared runs, and how far the hours of this run lay from it. A factor's part is its change
    times the mean of what the others were, over all orders in which the three can change (Shapley value).

    Source: Sun, "Changes in energy consumption and energy intensity: a complete decomposition model", Energy Economics
    20 (1998) 85; Albrecht, François, Schoors, "A Shapley decomposition of carbon emissions without residuals", Energy
    Policy 30 (2002) 727.

    Attributes:
        is_modelled: of the emissions of modelled energy.
        difference_g: this run's emissions less the first's; None: one of them is unknown.
        intensity_g: place_g and time_g together.
        place_g, time_g: None on both: the mean of a zone is unknown. time_g None alone: no value knows an hour.
        reason: why something is None, or what must be known of the parts; "" where there is nothing to say.
    """

    run_id: str
    is_modelled: bool
    difference_g: float | None
    energy_g: float | None = None
    pue_g: float | None = None
    intensity_g: float | None = None
    place_g: float | None = None
    time_g: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting, version or part of the hardware that is not the same in all runs, with its value in each."""

    name: str
    values: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side; prints as a table. Figures are worked out when asked for.

    Attributes:
        zone_means: of the zones whose intensity over time priced a run.
    """

    runs: tuple[Run, ...]
    zone_means: tuple[ZoneMean, ...] = ()

    def devices(self) -> tuple[tuple[DeviceFigures, ...], ...]:
        """By device, of each run."""
        return tuple(tuple(devices_of(run)) for run in self.runs)

    def phases(self) -> tuple[tuple[PhaseFigures, ...], ...]:
        """By name of spans, of each run, in order of their beginning."""
        return tuple(tuple(phases_of(run, run.spans)) for run in self.runs)

    def units(self) -> tuple[tuple[UnitFigures, ...], ...]:
        """For each unit of progress, of each run whose marks count it."""
        return tuple(tuple(units_of(run, run.marks)) for run in self.runs)

    def differences(self) -> tuple[Difference, ...]:
        """What is not the same in all runs."""
        return tuple(differences_of(self.runs))

    def attributions(self) -> tuple[Attribution, ...]:
        """Why the emissions of each other run differ from the first's; those of modelled energy where there are any."""
        first, *others = self.runs or (None,)
        return tuple(
            attributed(first, other, self.zone_means, is_modelled=is_modelled)
            for other in others
            if first is not None
            for is_modelled in (False, True)
            if not is_modelled or None not in (first.emissions_modelled_g, other.emissions_modelled_g)
        )

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        from tracker.views.report import comparison_html

        return comparison_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.text())

    def text(self, width: int = 80) -> str:
        """As a table for a terminal of this width."""
        from tracker.views.comparison import comparison_text

        return comparison_text(self, width)

    def to_dict(self) -> dict[str, Any]:
        """In plain types that json.dumps takes."""
        return {
            "runs": [run.to_dict() for run in self.runs],
            "zone_means": plain(self.zone_means),
            "devices": plain(self.devices()),
            "phases": plain(self.phases()),
            "units": plain(self.units()),
            "differences": plain(self.differences()),
            "attributions": plain(self.attributions()),
        }


def devices_of(run: Run) -> Iterator[DeviceFigures]:
    """The devices of a run, alike ones together."""
    groups: dict[tuple[DeviceKind, str], list[DeviceEnergy]] = defaultdict(list)
    for device in run.devices:
        groups[device.kind, device.name].append(device)
    for (kind, name), alike in groups.items():
        yield DeviceFigures(
            kind=kind,
            name=name,
            devices=len(alike),
            methods=tuple(dict.fromkeys(device.method for device in alike)),
            energy_j=_sum_of_all(device.energy_j for device in alike),
            mean_power_w=_sum_of_all(device.mean_power_w for device in alike),
            coverage=math.fsum(device.coverage for device in alike) / len(alike),
        )


def _sum_of_all(values: Iterable[float | None]) -> float | None:
    known = []
    for value in values:
        if value is None:
            return None
        known.append(value)
    return math.fsum(known)


def phases_of(run: Run, spans: Sequence[Span]) -> Iterator[PhaseFigures]:
    """The spans of a run by name."""
    by_name: dict[str, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.started_at):
        by_name[span.name].append(span)
    timeline = Timeline.of_uses(run.own_intensity)
    for name, alike in by_name.items():
        counted = list(_one_at_a_time(alike))
        known = [(span, span.energy_j) for span in counted if span.energy_j is not None and span.ended_at is not None]
        energy_j = math.fsum(energy_j for _, energy_j in known) if known else None
        grams = [_grams(span, energy_j, timeline, run.pue) for span, energy_j in known]
        emissions_g = _sum_of_all(grams) if known else None
        duration_s = math.fsum(span.duration_s or 0.0 for span in counted)
        known_s = math.fsum(span.duration_s or 0.0 for span, _ in known)
        yield PhaseFigures(
            name=name,
            spans=len(counted),
            beside=len(alike) - len(counted),
            duration_s=duration_s,
            energy_j=energy_j,
            mean_power_w=None if energy_j is None or not known_s else energy_j / known_s,
            energy_unknown=len(counted) - len(known),
            emissions_g=emissions_g,
            intensity_g_per_kwh=(
                None if emissions_g is None or not energy_j else emissions_g / (energy_j * run.pue) * JOULES_PER_KWH
            ),
        )


def _one_at_a_time(spans: Sequence[Span]) -> Iterator[Span]:
    """Of spans that overlap, as nested ones and those of several ranks do, the longest: the energy is the machine's."""
    longest: Span | None = None
    until: datetime | None = None
    for span in spans:
        ended_at = span.ended_at or span.started_at
        if longest is None or until is None or span.started_at >= until:
            if longest is not None:
                yield longest
            longest, until = span, ended_at
            continue
        until = max(until, ended_at)
        if (span.duration_s or 0.0) > (longest.duration_s or 0.0):
            longest = span
    if longest is not None:
        yield longest


def _grams(span: Span, energy_j: float, timeline: Timeline, pue: float) -> float | None:
    assert span.ended_at is not None
    level, _ = timeline.mean(unix_us_of(span.started_at), unix_us_of(span.ended_at))
    return None if level is None else energy_j / JOULES_PER_KWH * level * pue


def units_of(run: Run, marks: Sequence[Mark]) -> Iterator[UnitFigures]:
    """The energy of a run for each step, sample and token.

    Samples, tokens, steps and epochs are counted since the mark before, so that they add up, over ranks too. Where a
    step or epoch is a number that grows, the run did all from its first to its last, and as many before its first as
    lie between two marks. Spans named epoch, with their number or without, are epochs where no mark counts them; those
    of processes side by side are the same epochs.
    """
    counts: dict[str, float] = {}
    for unit, key in COUNTED.items():
        counts[unit] = math.fsum(n for mark in marks if (n := _number(mark.values.get(key))) is not None)
    counts["epoch"] = counts["epoch"] or _epochs_of(run.spans)
    for unit in _NUMBERED:
        numbers = sorted({n for mark in marks if (n := _number(mark.values.get(unit))) is not None})
        if not counts[unit] and len(numbers) > 1:
            stride = min(later - earlier for earlier, later in pairwise(numbers))
            counts[unit] = numbers[-1] - numbers[0] + stride
    for unit, count in counts.items():
        if count > 0:
            yield UnitFigures(
                unit=unit,
                count=count,
                energy_j=None if run.energy_j is None else run.energy_j / count,
                emissions_g=None if run.emissions_g is None else run.emissions_g / count,
            )


def _epochs_of(spans: Sequence[Span]) -> int:
    """How many epochs the spans of that name are: of processes that ran side by side those of the busiest."""
    by_process: dict[int, list[Span]] = defaultdict(list)
    for span in spans:
        if EPOCH.fullmatch(span.name) and span.ended_at is not None:
            by_process[span.id // SPANS_PER_SEGMENT].append(span)
    epochs = 0
    most = 0
    until: datetime | None = None
    for own in sorted(by_process.values(), key=lambda own: own[0].started_at):
        if until is not None and own[0].started_at >= until:  # a process that went on where others had ended
            epochs, most = epochs + most, 0
        most = max(most, len(own))
        ended_at = max(span.ended_at for span in own if span.ended_at is not None)
        until = ended_at if until is None else max(until, ended_at)
    return epochs + most


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def differences_of(runs: Sequence[Run]) -> Iterator[Difference]:
    """What is not the same in all runs: devices, tags, settings, hardware and versions."""
    tables = [dict(_traits(run)) for run in runs]
    for name in dict.fromkeys(name for table in tables for name in table):
        values = tuple(table.get(name) for table in tables)
        if len(set(values)) > 1:
            yield Difference(name, values)


def _traits(run: Run) -> Iterator[tuple[str, str]]:
    for figures in devices_of(run):
        yield f"{figures.kind} {figures.name}", str(figures.devices)
    yield "zone", "unknown" if run.zone is None else run.zone.zone
    for key, text in run.tags.items():
        yield f"tag {key}", text
    for room in ("settings", "hardware", "versions"):
        table = run.provenance.get(room)
        if not isinstance(table, Mapping):
            continue
        for key, given in table.items():
            value = given.get("value") if isinstance(given, Mapping) else given  # a setting has its origin beside it
            if key not in (*_NOT_SETTINGS, "zone", "pue") and value is not None:
                yield f"{room.removesuffix('s')} {key}", str(value)


def attributed(first: Run, other: Run, means: Sequence[ZoneMean], *, is_modelled: bool = False) -> Attribution:
    """How much of a difference in emissions comes from energy, from PUE, from place and from time of running.

    Args:
        means: of every zone with values over time, as zone_mean gives them.
    """
    before_g, after_g = (_emitted(run, is_modelled) for run in (first, other))
    if before_g is None or after_g is None:
        named = [run.id for run, g in ((first, before_g), (other, after_g)) if g is None]
        return Attribution(other.id, is_modelled, None, reason=f"the emissions of {', '.join(named)} are unknown")
    difference_g = after_g - before_g
    bases = [use.value.basis for run in (first, other) for use in run.own_intensity[:1]]
    if len(set(bases)) > 1:
        reason = f"their intensities are on different bases ({', '.join(bases)}): no difference means anything"
        return Attribution(other.id, is_modelled, None, reason=reason)
    before, after = (_factors(run, means, is_modelled) for run in (first, other))
    if before is None or after is None:
        return Attribution(other.id, is_modelled, difference_g, reason="a run has no energy that any intensity priced")
    e0, p0, i0 = before.energy_kwh, before.pue, before.intensity_g_per_kwh
    e1, p1, i1 = after.energy_kwh, after.pue, after.intensity_g_per_kwh
    weight = _shapley_weight(e0 * p0, e1 * p1, e0 * p1, e1 * p0)
    place_g = time_g = None
    reason = ""
    if before.place_g_per_kwh is None or after.place_g_per_kwh is None:
        reason = "the mean intensity of a zone is unknown: place and time cannot be told apart"
    else:
        place_g = (after.place_g_per_kwh - before.place_g_per_kwh) * weight
        if before.is_dated or after.is_dated:
            time_g = ((i1 - after.place_g_per_kwh) - (i0 - before.place_g_per_kwh)) * weight
        undated = [run.id for run, f in ((first, before), (other, after)) if not f.is_dated]
        if undated:
            reason = f"{', '.join(undated)}: priced by a value that holds at any hour, so when it ran plays no part"
    return Attribution(
        run_id=other.id,
        is_modelled=is_modelled,
        difference_g=difference_g,
        energy_g=(e1 - e0) * _shapley_weight(p0 * i0, p1 * i1, p0 * i1, p1 * i0),
        pue_g=(p1 - p0) * _shapley_weight(e0 * i0, e1 * i1, e0 * i1, e1 * i0),
        intensity_g=(i1 - i0) * weight,
        place_g=place_g,
        time_g=time_g,
        reason=reason,
    )


def _shapley_weight(before: float, after: float, mixed: float, mixed_other: float) -> float:
    """What the change of one factor of three counts with: the mean product of the other two over all orders."""
    return (before + after) / 3 + (mixed + mixed_other) / 6


def _emitted(run: Run, is_modelled: bool) -> float | None:
    return run.emissions_modelled_g if is_modelled else run.emissions_g


@dataclass(frozen=True, slots=True)
class _Factors:
    """What the emissions of a run are the product of: energy × PUE × (place + deviation of its hours)."""

    energy_kwh: float
    pue: float
    intensity_g_per_kwh: float
    place_g_per_kwh: float | None
    is_dated: bool


def _factors(run: Run, means: Sequence[ZoneMean], is_modelled: bool) -> _Factors | None:
    priced = [(use.value, use.energy_modelled_j if is_modelled else use.energy_j) for use in run.own_intensity]
    energy_j = math.fsum(energy_j for _, energy_j in priced)
    emitted_g = _emitted(run, is_modelled)
    if energy_j <= 0 or emitted_g is None:
        return None
    by_zone = {(mean.provider, mean.zone, mean.signal, mean.basis): mean.intensity_g_per_kwh for mean in means}
    levels = [
        by_zone.get((value.provider, value.zone, value.signal, value.basis))
        if value.start is not None
        else value.intensity_g_per_kwh
        for value, _ in priced
    ]
    place = _sum_of_all(
        None if level is None else level * energy_j for level, (_, energy_j) in zip(levels, priced, strict=True)
    )
    return _Factors(
        energy_kwh=energy_j / JOULES_PER_KWH,
        pue=run.pue,
        # From the emissions themselves, so that the parts add up to their difference whatever was rounded.
        intensity_g_per_kwh=emitted_g / (energy_j / JOULES_PER_KWH * run.pue),
        place_g_per_kwh=None if place is None else place / energy_j,
        is_dated=any(value.start is not None for value, energy_j in priced if energy_j),
    )


def dated_sources(runs: Iterable[Run]) -> list[tuple[str, str, Signal, Basis]]:
    """The sources and zones whose values over time priced runs: provider, zone, signal and basis."""
    values = [use.value for run in runs for use in run.own_intensity if use.value.start is not None]
    return list(dict.fromkeys((value.provider, value.zone, value.signal, value.basis) for value in values))


def zone_mean(values: Sequence[IntensityValue], start: datetime, end: datetime) -> ZoneMean | None:
    """The mean over time of what a source said of a zone, the best value at each instant.

    Args:
        values: dated ones of one source, zone, signal and basis, in any order.
        start, end: from the start of the first of the compared runs to the end of the last.

    Returns:
        None: of no time in it is anything known.
    """
    level, known_us = Timeline.of(values).mean(unix_us_of(start), unix_us_of(end))
    if level is None:
        return None
    of = values[0]
    return ZoneMean(of.provider, of.zone, of.signal, of.basis, start, end, level, known_us / MICROSECONDS_PER_S)


def stretch_of(runs: Sequence[Run]) -> tuple[datetime, datetime] | None:
    """From the start of the first of these runs to the end of the last; None: none has started."""
    starts = [run.started_at for run in runs if run.started_at is not None]
    if not starts:
        return None
    ends = [run.ended_at for run in runs if run.ended_at is not None]
    return min(starts), max((*ends, *starts))
