"""Records as rows of the tables, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from tracker.records import (
    SPANS_PER_SEGMENT,
    ClockPair,
    Device,
    DeviceEnergy,
    IntensityUse,
    IntensityValue,
    Mark,
    NotMeasured,
    Run,
    Samples,
    Segment,
    Span,
    ZoneChoice,
    datetime_of,
    plain,
    unix_us_of,
)
from tracker.store.codec import CHUNK_FORMAT, encode_chunk
from tracker.units import MICROSECONDS_PER_S

Row = dict[str, Any]


def storable(text: str) -> str:
    """Text as every database takes it: lone surrogates and NULs become escapes.

    Names, projects and tags with either are refused long before; the names of spans and devices are not.
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def json_of(value: Mapping[str, Any] | Sequence[Any]) -> str:
    # ASCII with escapes, so that any text comes back as it was.
    return json.dumps(plain(value), default=str)


def run_row(run: Run) -> Row:
    """What stays as it is from the start, with the zone."""
    return {
        "id": run.id,
        "name": None if run.name is None else storable(run.name),
        "project": None if run.project is None else storable(run.project),
        "started_unix_us": None if run.started_at is None else unix_us_of(run.started_at),
        "parent_id": run.parent_id,
        "is_replayed": run.is_replayed,
        "pue": run.pue,
        **price_columns(run),
        **zone_columns(run.zone),
    }


def totals_row(run: Run, through: ClockPair) -> Row:
    """What changes with every seal."""
    return {
        "ended_unix_us": _unix_us_or_none(run.ended_at),
        "duration_us": _us(run.duration_s),
        "energy_j": run.energy_j,
        "energy_modelled_j": run.energy_modelled_j,
        **_range_columns(run.energy_range_j),
        "emissions_g": run.emissions_g,
        "emissions_modelled_g": run.emissions_modelled_g,
        "pue": run.pue,
        "coverage": run.coverage,
        "is_replayed": run.is_replayed,
        "totals_through_unix_us": through.unix_us,
        **zone_columns(run.zone),
    }


def details_row(run: Run) -> Row:
    return {
        "not_measured": json_of(run.not_measured),
        "warnings": json_of(run.warnings),
        "provenance": json_of(run.provenance),
    }


def run_of(row: Any, tags: Sequence[Any], devices: Sequence[Any], uses: Sequence[Any]) -> Run:
    """The run of a row of runs and run_details, with its rows of tags, devices and (joined) pricing_uses."""
    zone = ZoneChoice(row.zone, row.zone_name, row.zone_origin, row.zone_detail or "") if row.zone else None
    return Run(
        id=row.id,
        name=row.name,
        project=row.project,
        tags={tag.key: tag.value for tag in tags},
        status=row.status,
        started_at=datetime_of(row.started_unix_us),
        ended_at=_datetime_or_none(row.ended_unix_us),
        duration_s=_s(row.duration_us or 0),
        energy_j=row.energy_j,
        energy_modelled_j=row.energy_modelled_j,
        emissions_g=row.emissions_g,
        emissions_modelled_g=row.emissions_modelled_g,
        pue=row.pue,
        coverage=row.coverage,
        not_measured=tuple(NotMeasured(**part) for part in json.loads(row.not_measured)),
        devices=tuple(_device_energy_of(device) for device in devices),
        intensity=tuple(_intensity_use_of(use) for use in uses),
        zone=zone,
        warnings=tuple(json.loads(row.warnings)),
        energy_range_j=_range_of(row),
        parent_id=row.parent_id,
        is_replayed=row.is_replayed,
        price_per_kwh=row.price_per_kwh,
        currency=row.currency,
        provenance=json.loads(row.provenance),
    )


def segment_row(segment: Segment) -> Row:
    started = segment.started
    return {
        "host": storable(segment.host),
        "boot_id": segment.boot_id,
        "pid_namespace": segment.pid_namespace,
        "pid": segment.pid,
        "pid_start": segment.pid_start,
        "hardware": json_of(segment.hardware),
        "started_boottime_us": started.boottime_us,
        "started_monotonic_us": started.monotonic_us,
        "started_unix_us": started.unix_us,
        "last_commit_boottime_us": started.boottime_us,
        "last_commit_unix_us": started.unix_us,
    }


def segment_of(row: Any) -> Segment:
    return Segment(
        host=row.host,
        boot_id=row.boot_id,
        pid_namespace=row.pid_namespace,
        pid=row.pid,
        pid_start=row.pid_start,
        started=ClockPair(row.started_boottime_us, row.started_monotonic_us, row.started_unix_us),
        hardware=json.loads(row.hardware),
    )


def device_row(device: Device, host: str) -> Row:
    return {
        "host": storable(host),
        "kind": device.kind,
        "key": storable(device.key),
        "name": storable(device.name),
        "sensor": device.sensor,
        "has_counter": device.has_counter,
        "has_power": device.has_power,
        "counter_modulus_uj": device.counter_modulus_uj,
        "counter_period_us": device.counter_period_us,
        "power_window_us": device.power_window_us,
        "max_power_mw": device.max_power_mw,
        "attributes": json_of(device.attributes),
        "notes": json_of(device.notes),
    }


def device_of(row: Any) -> Device:
    return Device(
        kind=row.kind,
        key=row.key,
        name=row.name,
        sensor=row.sensor,
        has_counter=row.has_counter,
        has_power=row.has_power,
        counter_modulus_uj=row.counter_modulus_uj,
        counter_period_us=row.counter_period_us,
        power_window_us=row.power_window_us,
        max_power_mw=row.max_power_mw,
        attributes=json.loads(row.attributes),
        notes=tuple(json.loads(row.notes)),
    )


def notes_of(energy_notes: str | None) -> tuple[str, ...]:
    """A column energy_notes; NULL until the first totals."""
    return tuple(json.loads(energy_notes)) if energy_notes else ()


def device_totals_row(device: DeviceEnergy, notes_before: Sequence[str] = ()) -> Row:
    """notes_before: what segments before this one had to say of the device."""
    return {
        "method": device.method,
        "energy_j": device.energy_j,
        **_range_columns(device.energy_range_j),
        "mean_power_w": device.mean_power_w,
        "max_power_w": device.max_power_w,
        "coverage": device.coverage,
        "energy_notes": json_of(list(dict.fromkeys((*notes_before, *device.notes)))),
    }


def _device_energy_of(row: Any) -> DeviceEnergy:
    return DeviceEnergy(
        kind=row.kind,
        key=row.key,
        name=row.name,
        method=row.method or "none",  # NULL until the first seal
        energy_j=row.energy_j,
        mean_power_w=row.mean_power_w,
        max_power_w=row.max_power_w,
        coverage=row.coverage or 0.0,
        energy_range_j=_range_of(row),
        notes=tuple(json.loads(row.energy_notes or row.notes)),
        attributes=json.loads(row.attributes),
    )


def chunk_row(samples: Samples, settled_us: int | None) -> Row:
    power_mw = samples.power_mw[samples.power_known]
    return {
        "t0_us": int(samples.t_us[0]),
        "t1_us": int(samples.t_us[-1]),
        "settled_us": settled_us,
        "n": len(samples),
        "min_power_mw": int(power_mw.min()) if len(power_mw) else None,
        "max_power_mw": int(power_mw.max()) if len(power_mw) else None,
        "format": CHUNK_FORMAT,
        "payload": encode_chunk(samples),
    }


def span_row(span: Span) -> Row:
    return {
        "id": span.id,
        "parent_id": span.parent_id,
        "name": storable(span.name),
        "attributes": json_of(span.attributes),
        "started_unix_us": unix_us_of(span.started_at),
        "ended_unix_us": _unix_us_or_none(span.ended_at),
        "duration_us": None if span.duration_s is None else _us(span.duration_s),
        "energy_j": span.energy_j,
        "coverage": span.coverage,
    }


def span_of(row: Any) -> Span:
    base = row.segment * SPANS_PER_SEGMENT
    return Span(
        id=base + row.id,
        parent_id=None if row.parent_id is None else base + row.parent_id,
        name=row.name,
        attributes=json.loads(row.attributes),
        started_at=datetime_of(row.started_unix_us),
        ended_at=_datetime_or_none(row.ended_unix_us),
        duration_s=None if row.duration_us is None else _s(row.duration_us),
        energy_j=row.energy_j,
        coverage=row.coverage,
    )


def mark_row(mark: Mark) -> Row:
    return {"unix_us": unix_us_of(mark.at), "elapsed_us": _us(mark.elapsed_s), "values": json_of(mark.values)}


def mark_of(row: Any) -> Mark:
    # By name: `values` is a method of rows.
    return Mark(datetime_of(row.unix_us), _s(row.elapsed_us), json.loads(row._mapping["values"]))


_INTENSITY_FIELDS: Final = tuple(field.name for field in fields(IntensityValue))


def intensity_row(value: IntensityValue) -> Row:
    """Equal values have equal rows, id included."""
    items = {name: getattr(value, name) for name in _INTENSITY_FIELDS}
    digest = hashlib.sha256(repr(tuple(items.values())).encode("utf-8", "backslashreplace")).hexdigest()
    row = {name: storable(item) if isinstance(item, str) else item for name, item in items.items()}
    for instant in ("start", "end", "fetched_at"):
        del row[instant]
    return {
        **row,
        "id": digest[:32],
        "start_unix_us": _unix_us_or_none(value.start),
        "end_unix_us": _unix_us_or_none(value.end),
        "fetched_unix_us": _unix_us_or_none(value.fetched_at),
    }


def intensity_of(row: Any) -> IntensityValue:
    """The value of a row of intensities."""
    return IntensityValue(
        zone=row.zone,
        intensity_g_per_kwh=row.intensity_g_per_kwh,
        provider=row.provider,
        dataset=row.dataset,
        status=row.status,
        signal=row.signal,
        basis=row.basis,
        accounting=row.accounting,
        start=_datetime_or_none(row.start_unix_us),
        end=_datetime_or_none(row.end_unix_us),
        year=row.year,
        fetched_at=_datetime_or_none(row.fetched_unix_us),
        licence=row.licence,
        source=row.source,
        raw_value=row.raw_value,
        raw_unit=row.raw_unit,
        note=row.note,
    )


def intensity_use_row(use: IntensityUse, intensity_id: str) -> Row:
    return {
        "intensity_id": intensity_id,
        "zone_origin": use.zone_origin,
        "energy_j": use.energy_j,
        "energy_modelled_j": use.energy_modelled_j,
        "slots": use.slots,
    }


def _intensity_use_of(row: Any) -> IntensityUse:
    return IntensityUse(intensity_of(row), row.zone_origin, row.energy_j, row.energy_modelled_j, row.slots)


def zone_columns(zone: ZoneChoice | None) -> Row:
    return {
        "zone": storable(zone.zone) if zone else None,
        "zone_name": storable(zone.name) if zone else None,
        "zone_origin": zone.origin if zone else None,
        "zone_detail": storable(zone.detail) if zone else None,
    }


def price_columns(run: Run) -> Row:
    return {"price_per_kwh": run.price_per_kwh, "currency": run.currency}


def _range_columns(range_j: tuple[float, float] | None) -> Row:
    low_j, high_j = range_j or (None, None)
    return {"energy_low_j": low_j, "energy_high_j": high_j}


def _range_of(row: Any) -> tuple[float, float] | None:
    return None if row.energy_low_j is None else (row.energy_low_j, row.energy_high_j)


def _us(seconds: float) -> int:
    return round(seconds * MICROSECONDS_PER_S)


def _s(us: int) -> float:
    return us / MICROSECONDS_PER_S


def _unix_us_or_none(instant: datetime | None) -> int | None:
    return None if instant is None else unix_us_of(instant)


def _datetime_or_none(unix_us: int | None) -> datetime | None:
    return None if unix_us is None else datetime_of(unix_us)
