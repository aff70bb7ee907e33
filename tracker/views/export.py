"""Runs and what they are made of as rows for other programs: CSV, JSON lines or Parquet, with what the columns mean.

Units stand in the names. What is unknown is empty in CSV and null in JSON, never 0.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import islice
from typing import IO, Any, Final, Literal

from tracker.errors import SettingError
from tracker.records import Device, Run, Samples, Slot, datetime_of, plain
from tracker.units import (
    MICROJOULES_PER_J,
    MICROSECONDS_PER_S,
    MILLIWATTS_PER_W,
    joules_of_twice_nj,
)
from tracker.views.listing import devices_text, mean_power_w

Kind = Literal["runs", "devices", "slots", "samples", "spans", "marks", "intensities"]
Form = Literal["text", "number", "integer", "instant", "flag"]
Row = dict[str, Any]

_ROWS_AT_ONCE: Final = 65_536
# A spreadsheet takes a cell that begins so for a formula, and may run it.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an export: what it holds, in which unit ("": none)."""

    name: str
    unit: str
    meaning: str

    @property
    def form(self) -> Form:
        """Of its values; lists and objects are JSON text."""
        if self.unit == "UTC":
            return "instant"
        if self.name in _INTEGERS:
            return "integer"
        if self.name.startswith("is_"):
            return "flag"
        return "number" if self.unit or self.name in _RATIOS else "text"


_INTEGERS: Final = frozenset({"device_index", "position", "slots", "boottime_us"})
_RATIOS: Final = frozenset({"pue", "coverage", "raw_value"})
_RUN_ID: Final = Column("run_id", "", "the run")
_DEVICE: Final = (
    Column("device_index", "", "the device's number in the run"),
    Column("device_kind", "", "gpu, cpu_package or dram (measured), cpu or ram (modelled)"),
    Column("device_key", "", "what the device is known by: UUID of a GPU, zone of a CPU"),
    Column("device_name", "", "the device's name"),
)

COLUMNS: Final[Mapping[Kind, tuple[Column, ...]]] = {
    "runs": (
        _RUN_ID,
        Column("name", "", "the run's name"),
        Column("project", "", "the run's project"),
        Column("tags", "", "tags, as a JSON object"),
        Column("status", "", "running, finished, failed or interrupted"),
        Column("started_at", "UTC", "start, ISO 8601"),
        Column("ended_at", "UTC", "end, ISO 8601; unknown while it runs"),
        Column("duration_s", "s", "from start to end"),
        Column("energy_j", "J", "measured IT energy (by counters and power readings)"),
        Column("energy_low_j", "J", "lower end of the range of energy_j, about 95 % (k = 2)"),
        Column("energy_high_j", "J", "upper end of it"),
        Column("energy_modelled_j", "J", "modelled IT energy, of parts that no meter reads; not part of energy_j"),
        Column("emissions_g", "g CO2e", "of energy_j: slot by slot × intensity × PUE"),
        Column("emissions_modelled_g", "g CO2e", "of energy_modelled_j, likewise"),
        Column("emissions_status", "", "of the worst value in them: static, forecast, estimated, provisional or final"),
        Column("emissions_apart", "", "on another basis or marginal, in no sum with emissions_g, as a JSON array"),
        Column("pue", "", "power usage effectiveness in the emissions; 1: IT energy only"),
        Column("coverage", "", "share of measured device × time whose energy is known"),
        Column("cost", "in currency", "of energy_j: × PUE × price_per_kwh"),
        Column("cost_modelled", "in currency", "of energy_modelled_j, likewise"),
        Column("price_per_kwh", "currency/kWh", "price of electricity, as the user gave it"),
        Column("currency", "", "of cost and price, in three letters"),
        Column("zone", "", "where the electricity is taken to come from"),
        Column("zone_origin", "", "setting, cloud, guessed or world"),
        Column("intensity_g_per_kwh", "g/kWh", "mean intensity by energy of what was measured"),
        Column("mean_power_w", "W", "mean power of the measured parts together, over the time it is known for"),
        Column("devices", "", "the measured and modelled parts in short"),
        Column("intensity_datasets", "", "where the intensities are from, each once"),
        Column("not_measured", "", "parts of the machine that energy_j lacks, with the reasons, as a JSON array"),
        Column("warnings", "", "what was said of the run, as a JSON array"),
        Column("notes", "", "notes made afterwards, as a JSON array"),
        Column("parent_id", "", "the run that this one is a part of; a total counts a run or its parts, never both"),
        Column("is_replayed", "", "true: a recorded trace stood in for hardware"),
        Column("version", "", "of the tracker that measured"),
    ),
    "devices": (
        _RUN_ID,
        *_DEVICE,
        Column("method", "", "counter, power, model or none: how its energy is known"),
        Column("energy_j", "J", "its energy in the run; that of method model is an estimate"),
        Column("energy_low_j", "J", "lower end of its range"),
        Column("energy_high_j", "J", "upper end of it"),
        Column("mean_power_w", "W", "energy over the time that it is known for"),
        Column("max_power_w", "W", "largest power seen"),
        Column("coverage", "", "share of the run's time whose energy is known"),
        Column("notes", "", "what must be known of its readings, as a JSON array"),
    ),
    "slots": (
        _RUN_ID,
        *_DEVICE,
        Column("start", "UTC", "start of the 5-minute slot, ISO 8601"),
        Column("energy_j", "J", "energy of the device within slot and run"),
        Column("covered_s", "s", "time within slot and run whose energy is known"),
        Column("max_power_w", "W", "largest power seen in the slot"),
    ),
    "samples": (
        _RUN_ID,
        *_DEVICE,
        Column("time", "UTC", "instant of the reading, ISO 8601"),
        Column("boottime_us", "us", "the same on the machine's own clock since boot (CLOCK_BOOTTIME)"),
        Column("power_w", "W", "power as read"),
        Column("power_average_w", "W", "the device's own mean of it (NVML: over 1 s)"),
        Column("counter_j", "J", "energy counter as read: it wraps and restarts; judge it as README tells"),
    ),
    "spans": (
        _RUN_ID,
        Column("span_id", "", "the span's number in the run"),
        Column("parent_id", "", "the number of the span around it"),
        Column("name", "", "the span's name"),
        Column("attributes", "", "what it was given, as a JSON object"),
        Column("started_at", "UTC", "start, ISO 8601"),
        Column("ended_at", "UTC", "end, ISO 8601"),
        Column("duration_s", "s", "from start to end"),
        Column("energy_j", "J", "measured energy of the machine in it; spans side by side hold the same energy"),
        Column("coverage", "", "share of it whose energy is known"),
    ),
    "marks": (
        _RUN_ID,
        Column("time", "UTC", "instant of the mark, ISO 8601"),
        Column("elapsed_s", "s", "time since the start of the run"),
        Column("values", "", "what was marked, as a JSON object"),
    ),
    "intensities": (
        _RUN_ID,
        Column("position", "", "the use's number in the run's pricing"),
        Column("zone", "", "where the value holds"),
        Column("zone_origin", "", "setting, cloud, guessed or world"),
        Column("start", "UTC", "it holds from then, ISO 8601; empty: at any time"),
        Column("end", "UTC", "it holds until then, ISO 8601"),
        Column("intensity_g_per_kwh", "g/kWh", "carbon intensity"),
        Column("energy_j", "J", "measured energy that it priced"),
        Column("energy_modelled_j", "J", "modelled energy that it priced"),
        Column("slots", "", "5-minute slots that it priced some of"),
        Column("signal", "", "average, or marginal: the same energy once more, in no sum with the average"),
        Column("basis", "", "lifecycle, direct or unknown"),
        Column("accounting", "", "production, consumption, marginal, user or unknown"),
        Column("status", "", "static, forecast, estimated, provisional or final"),
        Column("provider", "", "who says so"),
        Column("dataset", "", "of the provider"),
        Column("year", "", "of a yearly value"),
        Column("fetched_at", "UTC", "when it was asked for, ISO 8601"),
        Column("licence", "", "of the value"),
        Column("source", "", "where it was published"),
        Column("raw_value", "", "as the source gave it, in raw_unit"),
        Column("raw_unit", "", "unit of raw_value"),
        Column("note", "", "what must be known of it"),
    ),
}


def run_row(run: Run) -> Row:
    """A run as a row of COLUMNS["runs"]."""
    low_j, high_j = run.energy_range_j or (None, None)
    datasets = dict.fromkeys(" ".join(filter(None, (u.value.provider, u.value.dataset))) for u in run.intensity)
    return {
        "run_id": run.id,
        "name": run.name,
        "project": run.project,
        "tags": dict(run.tags),
        "status": run.status,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "duration_s": run.duration_s,
        "energy_j": run.energy_j,
        "energy_low_j": low_j,
        "energy_high_j": high_j,
        "energy_modelled_j": run.energy_modelled_j,
        "emissions_g": run.emissions_g,
        "emissions_modelled_g": run.emissions_modelled_g,
        "emissions_status": run.emissions_status,
        "emissions_apart": plain(run.emissions_apart),
        "pue": run.pue,
        "coverage": run.coverage,
        "cost": run.cost,
        "cost_modelled": run.cost_modelled,
        "price_per_kwh": run.price_per_kwh,
        "currency": run.currency,
        "zone": run.zone.zone if run.zone else None,
        "zone_origin": run.zone.origin if run.zone else None,
        "intensity_g_per_kwh": run.intensity_g_per_kwh,
        "mean_power_w": mean_power_w(run),
        "devices": devices_text(run),
        "intensity_datasets": "; ".join(datasets),
        "not_measured": [f"{part.kind} {part.name}: {part.reason}" for part in run.not_measured],
        "warnings": list(run.warnings),
        "notes": [f"{note.at:%Y-%m-%d}: {note.text}" for note in run.notes],
        "parent_id": run.parent_id,
        "is_replayed": run.is_replayed,
        "version": run.provenance.get("versions", {}).get("tracker"),
    }


def device_rows(run: Run) -> Iterator[Row]:
    """The devices of a run as rows of COLUMNS["devices"]."""
    for index, device in enumerate(run.devices):
        low_j, high_j = device.energy_range_j or (None, None)
        yield {
            "run_id": run.id,
            "device_index": index,
            "device_kind": device.kind,
            "device_key": device.key,
            "device_name": device.name,
            "method": device.method,
            "energy_j": device.energy_j,
            "energy_low_j": low_j,
            "energy_high_j": high_j,
            "mean_power_w": device.mean_power_w,
            "max_power_w": device.max_power_w,
            "coverage": device.coverage,
            "notes": list(device.notes),
        }


def slot_rows(run_id: str, devices: Sequence[Device], slots: Iterable[Slot]) -> Iterator[Row]:
    """Slots as rows of COLUMNS["slots"]; without the time whose energy is not known at all."""
    for slot in slots:
        yield {
            **_identity(run_id, slot.device_index, devices[slot.device_index]),
            "start": datetime_of(slot.start_s * MICROSECONDS_PER_S),
            "energy_j": joules_of_twice_nj(slot.twice_energy_nj) if slot.covered_us else None,
            "covered_s": slot.covered_us / MICROSECONDS_PER_S,
            "max_power_w": None if slot.max_power_mw is None else slot.max_power_mw / MILLIWATTS_PER_W,
        }


def sample_rows(run_id: str, device_index: int, samples: Samples) -> Iterator[Row]:
    """Readings as rows of COLUMNS["samples"]."""
    identity = _identity(run_id, device_index, samples.device)
    columns = (
        (samples.power_mw, samples.power_known, MILLIWATTS_PER_W),
        (samples.power_average_mw, samples.power_average_known, MILLIWATTS_PER_W),
        (samples.counter_uj, samples.counter_known, MICROJOULES_PER_J),
    )
    values = [
        [value / scale if is_known else None for value, is_known in zip(v.tolist(), k.tolist(), strict=True)]
        for v, k, scale in columns
    ]
    for t_us, power_w, average_w, counter_j in zip(samples.t_us.tolist(), *values, strict=True):
        yield {
            **identity,
            "time": datetime_of(t_us + samples.unix_offset_us),
            "boottime_us": t_us,
            "power_w": power_w,
            "power_average_w": average_w,
            "counter_j": counter_j,
        }


def span_rows(run: Run) -> Iterator[Row]:
    """The spans of a run as rows of COLUMNS["spans"]."""
    for span in run.spans:
        yield {
            "run_id": run.id,
            "span_id": str(span.id),
            "parent_id": None if span.parent_id is None else str(span.parent_id),
            "name": span.name,
            "attributes": plain(span.attributes),
            "started_at": span.started_at,
            "ended_at": span.ended_at,
            "duration_s": span.duration_s,
            "energy_j": span.energy_j,
            "coverage": span.coverage,
        }


def mark_rows(run: Run) -> Iterator[Row]:
    """The marks of a run as rows of COLUMNS["marks"]."""
    for mark in run.marks:
        yield {"run_id": run.id, "time": mark.at, "elapsed_s": mark.elapsed_s, "values": plain(mark.values)}


def intensity_rows(run: Run) -> Iterator[Row]:
    """What priced a run as rows of COLUMNS["intensities"]."""
    for position, use in enumerate(run.intensity):
        yield {
            **{field.name: getattr(use.value, field.name) for field in fields(use.value)},
            "run_id": run.id,
            "position": position,
            "zone_origin": use.zone_origin,
            "energy_j": use.energy_j,
            "energy_modelled_j": use.energy_modelled_j,
            "slots": use.slots,
            "year": None if use.value.year is None else str(use.value.year),
        }


def _identity(run_id: str, device_index: int, device: Device) -> Row:
    return {
        "run_id": run_id,
        "device_index": device_index,
        "device_kind": device.kind,
        "device_key": device.key,
        "device_name": device.name,
    }


def write_csv(rows: Iterable[Row], columns: Sequence[Column], file: IO[str]) -> int:
    """Write rows as CSV (RFC 4180) with a heading; how many.

    A text that a spreadsheet would take for a formula gets an apostrophe before it, and so does one that begins with
    an apostrophe: take one off to have it back.
    """
    writer = csv.writer(file)
    writer.writerow([column.name for column in columns])
    count = 0
    for row in rows:
        writer.writerow([_cell(row[column.name]) for column in columns])
        count += 1
    return count


def write_jsonl(rows: Iterable[Row], columns: Sequence[Column], file: IO[str]) -> int:
    """Write rows as JSON lines, in ASCII; how many."""
    count = 0
    for row in rows:
        file.write(json.dumps({column.name: _plain(row[column.name]) for column in columns}) + "\n")
        count += 1
    return count


def write_parquet(rows: Iterable[Row], columns: Sequence[Column], file: IO[bytes]) -> int:
    """Write rows as Parquet, typed, with unit and meaning of each column in its metadata; how many.

    Raises:
        SettingError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as exc:
        raise SettingError('Parquet needs pyarrow: pip install "gpu-energy-tracker[parquet]"') from exc
    types = {
        "text": pa.string(),
        "number": pa.float64(),
        "integer": pa.int64(),
        "instant": pa.timestamp("us", tz="UTC"),
        "flag": pa.bool_(),
    }
    schema = pa.schema(
        pa.field(column.name, types[column.form], metadata={"unit": column.unit, "meaning": column.meaning})
        for column in columns
    )
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        some = iter(rows)
        while batch := list(islice(some, _ROWS_AT_ONCE)):
            values = [[_typed(row[column.name], column.form) for row in batch] for column in columns]
            arrays = [pa.array(value, field.type) for value, field in zip(values, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            count += len(batch)
    return count


def _typed(value: Any, form: Form) -> Any:
    if form != "text" or value is None or isinstance(value, str):
        return value if not isinstance(value, str) else value.encode("utf-8", "backslashreplace").decode()
    return json.dumps(value)


def dictionary_text(kind: Kind) -> str:
    """The columns of an export as Markdown: name, unit, meaning."""
    lines = [f"# Columns of the export of {kind}", "", "| column | unit | meaning |", "|---|---|---|"]
    lines += [f"| `{column.name}` | {column.unit} | {column.meaning} |" for column in COLUMNS[kind]]
    lines += ["", "Unknown is empty in CSV and null in JSON and Parquet, never 0. Times are UTC.", ""]
    return "\n".join(lines)


def _cell(value: Any) -> Any:
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        value = json.dumps(value)
    if isinstance(value, str) and value.startswith((*_FORMULA_STARTS, "'")):
        return f"'{value}"
    return value


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
