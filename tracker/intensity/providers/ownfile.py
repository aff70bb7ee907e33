"""The user's own series of intensities, from a CSV or JSON file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, Final, NoReturn, cast, get_args

from tracker.errors import IntensityFileError, NotServedError
from tracker.intensity.providers.protocol import Answer, Profile
from tracker.intensity.providers.series import Row, Series, answer_of, checked_range, shown
from tracker.records import Basis, Signal, ValueStatus
from tracker.units import GRAMS_PER_KG, GRAMS_PER_LB

PROFILE: Final = Profile(
    name="file",
    title="intensity file",
    serves="what its column zone says; without one, any zone",
    offers=frozenset({"history", "latest", "forecast"}),
    signal="average",
    basis="unknown",
    accounting="user",
    licence="",
    needs_token=False,
    is_tested=True,
    min_interval_s=0.0,
    final_after=None,
)

_TIMES: Final = ("start", "datetime", "time", "timestamp")
# One of each unit in g/kWh; the names end in it, or are it.
_UNITS: Final[Mapping[str, float]] = {
    "g_per_kwh": 1.0,
    "kg_per_mwh": 1.0,
    "kg_per_kwh": float(GRAMS_PER_KG),
    "t_per_mwh": 1000.0,
    "lb_per_mwh": GRAMS_PER_LB / 1000,
    "lbs_per_mwh": GRAMS_PER_LB / 1000,
}
_EXAMPLE: Final = "columns start (2026-11-25T14:00Z), g_per_kwh, and if you like end, zone, status"
_NAMED: Final = ("zone", "signal", "basis", "accounting", "licence", "source")
_MAX_BYTES: Final = 64 * 1024 * 1024

_Record = tuple[str, Mapping[str, object]]  # where it stands, and what it says


@dataclass(frozen=True, slots=True)
class _Entry:
    """One record of the file; end is None where it gives none, number where it knows none."""

    where: str
    zone: str
    start: datetime
    end: datetime | None
    number: float | None
    status: ValueStatus


class OwnFile:
    """A file as it was when it was opened.

    CSV (comma, semicolon or tab) or JSON: a list of objects, or an object with that list under "values" and beside
    it zone, signal, basis, accounting, licence, source. A value holds from its start to its end; without an end to
    the next start, but no longer than the shortest distance between two starts.
    """

    def __init__(self, path: Path, now: datetime) -> None:
        """Reads the file.

        Raises:
            IntensityFileError: it cannot be read as such a file; the message names the line.
        """
        self._path = path
        self._read_at = now
        facts, records, column = _read(path)
        self._column = column
        signal, basis = facts.get("signal", "average"), facts.get("basis", "unknown")
        if signal not in get_args(Signal) or basis not in get_args(Basis):
            _fail(str(path), "signal is average or marginal, and basis lifecycle, direct or unknown")
        self.profile = replace(
            PROFILE,
            signal=cast(Signal, signal),
            basis=cast(Basis, basis),
            accounting=facts.get("accounting", PROFILE.accounting),
            licence=facts.get("licence", ""),
        )
        self._source = facts.get("source", shown(str(path)))
        entries = list(_entries(records, column, facts.get("zone", "")))
        # A record without a zone holds in every zone.
        self._rows = {
            zone: list(_rows([entry for entry in entries if entry.zone in ("", zone)]))
            for zone in {entry.zone for entry in entries}
        }

    def code_of(self, zone: str) -> str | None:
        return zone if zone.upper() in self._rows or "" in self._rows else None

    def fetch(self, zone: str, start: datetime, end: datetime) -> Answer:
        start, end = checked_range(start, end)
        rows = self._rows.get(zone.upper(), self._rows.get(""))
        if rows is None:
            raise NotServedError(
                f"{self._path}: has no values for zone {zone}, but for {', '.join(sorted(self._rows))}"
            )
        dataset, unit = shown(self._path.name), _unit_of(self._column)
        series = Series(self.profile, zone, dataset, self._source, self._read_at, unit, _UNITS[unit])
        return answer_of(series, rows, start, end)


def _read(path: Path) -> tuple[Mapping[str, str], list[_Record], str]:
    """What the file says of all its values, its records with where each stands, and the name of their value."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)  # a device may have any number of bytes, and tells none
        if len(content) > _MAX_BYTES:
            _fail(str(path), f"is larger than {_MAX_BYTES} bytes")
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise IntensityFileError(f"{path}: cannot be read ({exc})") from None
    if text.lstrip()[:1] in ("[", "{"):
        facts, records = _of_json(path, text)
    else:
        facts, records = {}, _of_csv(path, text)
    if not records:
        _fail(str(path), "holds no values")
    where, first = records[0]
    columns = [name for name in first if _unit_of(name)]
    if len(columns) != 1 or not any(name in first for name in _TIMES):
        _fail(where, f"is missing a time or one value; write {_EXAMPLE} (or another of {', '.join(_UNITS)})")
    return facts, records, columns[0]


def _of_json(path: Path, text: str) -> tuple[Mapping[str, str], list[_Record]]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise IntensityFileError(f"{path}: is not JSON ({exc})") from None
    facts = {}
    if isinstance(content, dict):
        facts = {name: shown(str(content[name])) for name in _NAMED if content.get(name)}
        content = content.get("values")
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        _fail(str(path), 'must be a list of objects, or an object with such a list as "values"')
    return facts, [(f"{path}, value {number}", item) for number, item in enumerate(content, 1)]


def _of_csv(path: Path, text: str) -> list[_Record]:
    header = text.partition("\n")[0]
    delimiter = next((char for char in ";\t" if char in header), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[_Record] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(names):
                _fail(where, f"has {len(cells)} cells under {len(names)} columns")
            records.append((where, {name: cell.strip() or None for name, cell in zip(names, cells, strict=True)}))
    except csv.Error as exc:
        raise IntensityFileError(f"{path}: is no CSV ({exc})") from None
    return records


def _entries(records: Sequence[_Record], column: str, zone: str) -> Iterator[_Entry]:
    for where, record in records:
        start = _time(where, next((record[name] for name in _TIMES if name in record), None))
        end = None if record.get("end") is None else _time(where, record["end"])
        if end is not None and end <= start:
            _fail(where, "ends before it starts")
        status = record.get("status") or "final"
        if status not in get_args(ValueStatus):
            _fail(where, f"status {status!r:.40} is none of {', '.join(get_args(ValueStatus))}")
        own_zone = str(record.get("zone") or zone).strip().upper()
        yield _Entry(where, own_zone, start, end, _number(where, record.get(column)), cast(ValueStatus, status))


def _rows(entries: Sequence[_Entry]) -> Iterator[Row]:
    """The entries of one zone in order of time, each with its end."""
    ordered = sorted(entries, key=lambda entry: entry.start)
    shortest = min((later.start - earlier.start for earlier, later in pairwise(ordered)), default=None)
    for entry, following in zip_longest(ordered, ordered[1:]):
        if following is not None and following.start == entry.start:
            _fail(following.where, f"starts when {entry.where} does")
        end = entry.end
        if end is None:
            if shortest is None:
                _fail(entry.where, "is the only value, so how long it holds is unknown; write an end")
            end = entry.start + shortest
        if following is not None and end > following.start:
            _fail(entry.where, f"still holds when {following.where} begins")
        yield Row(entry.start, end, entry.number, entry.status)


def _time(where: str, raw: object) -> datetime:
    try:
        found = datetime.fromisoformat(raw) if isinstance(raw, str) else None
        if found is not None and found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        found = None
    fault = (
        "is not a time; write it like 2026-11-25T14:00Z or 2026-11-25T15:00+01:00"
        if found is None
        else "could be any time zone's; add Z or its offset, as in 15:00+01:00"
    )
    raise IntensityFileError(f"{where}: {raw!r:.40} {fault}")


def _number(where: str, raw: object) -> float | None:
    """The value, or None for an empty cell and null: an hour that the file does not know."""
    if raw is None:
        return None
    try:
        number = float(raw) if isinstance(raw, (int, float, str)) and not isinstance(raw, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        _fail(where, f"{raw!r:.40} is no intensity; write a number of 0 or more with a decimal point, or nothing")
    return number


def _unit_of(name: str) -> str:
    """The unit that a column's name is or ends in; "" where it has none."""
    return next((unit for unit in _UNITS if name == unit or name.endswith(f"_{unit}")), "")


def _fail(where: str, fault: str) -> NoReturn:
    raise IntensityFileError(f"{where}: {fault}")
