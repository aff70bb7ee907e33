"""From what a source wrote to values and gaps: the same judgement for every provider."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tracker.errors import UnbelievableError
from tracker.intensity.providers.protocol import Answer, Gap, Profile
from tracker.records import EPOCH, Basis, IntensityValue, ValueStatus

# The dirtiest plants (old lignite) emit about 1300 g/kWh; a marginal rate holds ramping and import effects too.
MAX_AVERAGE_G_PER_KWH: Final = 1500.0
MAX_MARGINAL_G_PER_KWH: Final = 3000.0
NO_VALUE: Final = "no value in the answer"
_MAX_SHOWN: Final = 160
NO_FORECAST: Final = "not over yet, and the source has no forecast"
NULL: Final = "the source gives no value (null)"


@dataclass(frozen=True, slots=True)
class Row:
    """One step of a source, as it wrote it.

    Attributes:
        raw: a number, a number as text, or what stands there in its place.
        updated_at: when the source wrote it: of two for one step the later holds.
        basis, dataset: where they differ from those of the series; None and "" where not.
    """

    start: datetime
    end: datetime
    raw: object
    status: ValueStatus
    updated_at: datetime | None = None
    basis: Basis | None = None
    dataset: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """What the values of one answer share; see IntensityValue.

    Attributes:
        unit_g_per_kwh: one raw unit in g/kWh.
    """

    profile: Profile
    zone: str
    dataset: str
    source: str
    fetched_at: datetime
    raw_unit: str = "gCO2eq/kWh"
    unit_g_per_kwh: float = 1.0


def checked_range(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """start and end in UTC.

    Raises:
        ValueError: start is not before end, or one of them is naive.
    """
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError("start and end need a time zone")
    if not start < end:
        raise ValueError(f"start must be before end, not {start.isoformat()} and {end.isoformat()}")
    return start.astimezone(UTC), end.astimezone(UTC)


def floor_to(instant: datetime, step: timedelta) -> datetime:
    """The last multiple of step since 1970 that is not after the instant."""
    return instant - (instant - EPOCH) % step


def ceil_to(instant: datetime, step: timedelta) -> datetime:
    """The first multiple of step since 1970 that is not before the instant."""
    return instant + (EPOCH - instant) % step


def chunks(start: datetime, end: datetime, longest: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """[start, end) in pieces of at most the longest that a source answers at once."""
    while start < end:
        stop = min(start + longest, end)
        yield start, stop
        start = stop


def as_object(who: str, what: str, thing: object) -> Mapping[str, object]:
    """A JSON object.

    Raises:
        UnbelievableError: it is something else.
    """
    if not isinstance(thing, dict):
        raise UnbelievableError(f"{who}: {what} is no JSON object but {_kind(thing)}")
    return thing


def as_list(who: str, what: str, thing: object) -> Sequence[object]:
    """A JSON list.

    Raises:
        UnbelievableError: it is something else.
    """
    if not isinstance(thing, list):
        raise UnbelievableError(f"{who}: {what} is no JSON list but {_kind(thing)}")
    return thing


def instant(who: str, raw: object, *, naive_is_utc: bool = False) -> datetime:
    """An ISO 8601 time with its offset, in UTC.

    Args:
        naive_is_utc: the source documents that its times without an offset are UTC.

    Raises:
        UnbelievableError: it is none, or has no offset where it needs one.
    """
    try:
        found = datetime.fromisoformat(raw) if isinstance(raw, str) else None
        if found is not None and found.tzinfo is None and naive_is_utc:
            found = found.replace(tzinfo=UTC)
        if found is not None and found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        found = None
    fault = "is not a time" if found is None else "has no offset from UTC"
    raise UnbelievableError(f"{who}: {_short(raw)} {fault}")


def unix_instant(who: str, raw: object) -> datetime:
    """A time in seconds since 1970.

    Raises:
        UnbelievableError: it is none.
    """
    if isinstance(raw, int) and not isinstance(raw, bool):
        try:
            return EPOCH + timedelta(seconds=raw)
        except OverflowError:
            pass
    raise UnbelievableError(f"{who}: {_short(raw)} is not a time in seconds since 1970")


def after(who: str, start: datetime, length: timedelta) -> datetime:
    """The end of a step.

    Raises:
        UnbelievableError: beyond what a calendar holds.
    """
    try:
        return start + length
    except OverflowError:
        raise UnbelievableError(f"{who}: {start.isoformat()} is not a time of this grid") from None


def settled(profile: Profile, end: datetime, now: datetime) -> ValueStatus:
    """The status of a measured value: final once the source does not correct it any more."""
    is_final = profile.final_after is not None and now - end >= profile.final_after
    return "final" if is_final else "provisional"


def layered(*layers: Iterable[Row]) -> list[Row]:
    """The rows of several series as one: where an earlier layer has a value, the later ones are left out."""
    taken: list[Row] = []
    nulls: list[Row] = []
    for layer in layers:
        starts = [row.start for row in taken]
        ends = [row.end for row in taken]
        fresh = []
        for row in layer:
            if row.raw is None:
                nulls.append(row)
            elif bisect_right(ends, row.start) == bisect_left(starts, row.end):
                fresh.append(row)
        taken = sorted([*taken, *fresh], key=_by_start)
    starts = [row.start for row in taken]
    ends = [row.end for row in taken]
    kept = {(row.start, row.end): row for row in nulls if bisect_right(ends, row.start) == bisect_left(starts, row.end)}
    return sorted([*taken, *kept.values()], key=_by_start)


def answer_of(
    series: Series,
    rows: Iterable[Row],
    start: datetime,
    end: datetime,
    *,
    gaps: Sequence[Gap] = (),
    warnings: Sequence[str] = (),
) -> Answer:
    """Values and gaps over [start, end).

    A step without a number, with a negative or an absurd one, and with two different ones of which neither is the
    newer, is a gap; so is 0 g/kWh over a lifecycle, which no grid has and which stands for missing in some sources.

    Args:
        gaps: what the provider knows of time that it has no rows for.

    Raises:
        UnbelievableError: steps overlap, or numbers are given and none of them can be an intensity.
    """
    who = series.profile.title
    values: list[IntensityValue] = []
    stated = list(gaps)
    if "forecast" not in series.profile.offers and end > series.fetched_at:
        stated.append(Gap(max(start, series.fetched_at), end, NO_FORECAST))
    refused = []
    for row, conflict in _one_per_step(who, [row for row in rows if row.start < end and row.end > start]):
        number, doubt = _judged(series, row)
        if number is not None and not conflict:
            values.append(_value(series, row, number))
            continue
        stated.append(Gap(row.start, row.end, conflict or doubt))
        if row.raw is not None:
            refused.append(doubt)
    if refused and not values and all(refused):
        raise UnbelievableError(f"{who}: none of its values for {series.zone} can be an intensity: {refused[0]}")
    return Answer(tuple(values), tuple(holes(values, stated, start, end)), tuple(dict.fromkeys(map(shown, warnings))))


def _value(series: Series, row: Row, raw_value: float) -> IntensityValue:
    profile = series.profile
    return IntensityValue(
        zone=series.zone,
        intensity_g_per_kwh=raw_value * series.unit_g_per_kwh,
        provider=profile.name,
        dataset=row.dataset or series.dataset,
        status=row.status,
        signal=profile.signal,
        basis=row.basis or profile.basis,
        accounting=profile.accounting,
        start=row.start,
        end=row.end,
        year=row.start.year,
        fetched_at=series.fetched_at,
        licence=profile.licence,
        source=series.source,
        raw_value=raw_value,
        raw_unit=series.raw_unit,
        note=shown(row.note),
    )


def _judged(series: Series, row: Row) -> tuple[float | None, str]:
    """The number that a row gives, in its own unit, or why it gives none."""
    raw = row.raw
    if raw is None:
        return None, NULL
    try:
        number = float(raw) if isinstance(raw, (int, float, str)) and not isinstance(raw, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not math.isfinite(number):
        return None, f"{_short(raw)} is not a number"
    value_g_per_kwh = number * series.unit_g_per_kwh
    is_average = series.profile.signal == "average"
    limit_g_per_kwh = MAX_AVERAGE_G_PER_KWH if is_average else MAX_MARGINAL_G_PER_KWH
    if value_g_per_kwh < 0:
        return None, f"{value_g_per_kwh:g} g/kWh is below 0"
    if value_g_per_kwh > limit_g_per_kwh:
        return None, f"{value_g_per_kwh:g} g/kWh is above {limit_g_per_kwh:g}, which no grid reaches"
    if value_g_per_kwh == 0 and is_average and (row.basis or series.profile.basis) == "lifecycle":
        return None, "0 g/kWh over the life cycle is no grid's"
    return number, ""


def _one_per_step(who: str, rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    """One row per step in order of time, with the conflict that makes its value unknown, or ""."""
    steps: dict[tuple[datetime, datetime], list[Row]] = defaultdict(list)
    for row in rows:
        if row.start >= row.end:
            raise UnbelievableError(f"{who}: a step ends at {row.end.isoformat()}, before it begins")
        steps[row.start, row.end].append(row)
    last_end = datetime.min.replace(tzinfo=UTC)
    for (first, end), same in sorted(steps.items()):
        if first < last_end:
            raise UnbelievableError(f"{who}: two steps overlap at {first.isoformat()}")
        last_end = end
        given = [row for row in same if row.raw is not None] or same
        updates = [row.updated_at for row in given if row.updated_at is not None]
        if len(updates) == len(given):
            given = [row for row in given if row.updated_at == max(updates)]
        differ = any(row.raw != given[0].raw for row in given)
        yield given[-1], "two different values for the same time" if differ else ""


def holes(values: Sequence[IntensityValue], stated: Iterable[Gap], start: datetime, end: datetime) -> list[Gap]:
    """What of [start, end) no value covers, with the reason where one is stated, neighbours of one reason joined."""
    reasons = sorted(stated, key=lambda gap: gap.start)
    starts = [gap.start for gap in reasons]
    found: list[Gap] = []
    edge = start
    for first, stop in [*((value.start, value.end) for value in values), (end, end)]:
        assert first is not None and stop is not None
        while edge < first:
            later = bisect_right(starts, edge)
            until = min(starts[later] if later < len(starts) else end, first)
            reason = NO_VALUE
            if later and reasons[later - 1].end > edge:
                until = min(reasons[later - 1].end, until)
                reason = reasons[later - 1].reason
            if found and found[-1].end == edge and found[-1].reason == reason:
                found[-1] = Gap(found[-1].start, until, reason)
            else:
                found.append(Gap(edge, until, reason))
            edge = until
        edge = max(edge, stop)
    return found


def _by_start(row: Row) -> datetime:
    return row.start


def _kind(thing: object) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "true or false"}.get(
        type(thing), "a number"
    )


def _short(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 40 else f"{text[:39]}…"


def shown(text: str) -> str:
    """A text of others as one line that can be printed and stored, cut where it is long."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
