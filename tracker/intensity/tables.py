"""The bundled yearly carbon intensities: countries, sub-national zones, the world.

Made by scripts/build_intensity_tables, which says what became of suspicious values. Read when first asked for.

Codes are ISO 3166 ("FR", "US-CA", "CA-QC", "CN-BJ"; Kosovo is "XK"); bidding zones stand below their country as
at Electricity Maps ("SE-SE3"), eGRID subregions below "US-EGRID" ("US-EGRID-CAMX"), which itself is the national
value on the basis of the US states; "US" has the lifecycle basis of the other countries. "WORLD" is the average.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, cast

from tracker.records import Basis, IntensityValue

WORLD: Final = "WORLD"

# Not importlib.resources: its import takes longer (13 ms) than reading the tables.
_DATA: Final = Path(__file__).with_name("data")


@dataclass(frozen=True, slots=True)
class ZoneRow:
    """A zone with what is known of it.

    Attributes:
        parent: code of the country it belongs to, "" for a country and the world.
        aliases: other codes and names for it.
        doubt: what a user of the value must be told, or why there is none; mostly "".
        cells: the whole line of the table.
    """

    code: str
    name: str
    parent: str
    aliases: tuple[str, ...]
    doubt: str
    cells: Mapping[str, str] = field(repr=False, hash=False)

    @property
    def value(self) -> IntensityValue | None:
        """Its intensity; None where no source has one that can be believed."""
        # Made when asked for: a run wants one or two of hundreds, and their making was half of the reading.
        return _value_of(self.cells) if self.cells["intensity_g_per_kwh"] else None


@cache
def zones() -> Mapping[str, ZoneRow]:
    """Every bundled zone by its code."""
    return {row["code"]: _zone_row(row) for row in _records("zones.csv")}


def lookup(code: str) -> IntensityValue | None:
    """The bundled value of a canonical zone code; None where there is none."""
    row = zones().get(code)
    return row.value if row else None


@cache
def countries_by_time_zone() -> Mapping[str, str]:
    """ISO 3166 alpha-2 code of each time zone's country; names that are no place (UTC, EST) are not in it."""
    return {row["time_zone"]: row["country"] for row in _records("time_zones.csv")}


@dataclass(frozen=True, slots=True)
class CloudRegion:
    """A region of a cloud operator."""

    provider: str
    region: str
    location: str
    country: str


@cache
def cloud_regions() -> Mapping[tuple[str, str], CloudRegion]:
    """Every bundled region by operator and name."""
    return {(row["provider"], row["region"]): CloudRegion(**row) for row in _records("cloud_regions.csv")}


def _records(name: str) -> Iterator[dict[str, str]]:
    with (_DATA / name).open(encoding="utf-8", newline="") as file:
        lines = csv.reader(line for line in file if not line.startswith("#"))
        columns = next(lines)
        for line in lines:
            yield dict(zip(columns, line, strict=True))


def _zone_row(row: Mapping[str, str]) -> ZoneRow:
    aliases = tuple(row["aliases"].split("|")) if row["aliases"] else ()
    return ZoneRow(row["code"], row["name"], row["parent"], aliases, row["doubt"], row)


def _value_of(row: Mapping[str, str]) -> IntensityValue:
    return IntensityValue(
        zone=row["code"],
        intensity_g_per_kwh=float(row["intensity_g_per_kwh"]),
        provider="bundled",
        dataset=row["dataset"],
        status="static",
        basis=cast(Basis, row["basis"]),
        accounting=row["accounting"],
        year=int(row["year"]),
        licence=row["licence"],
        source=row["source"],
        raw_value=float(row["raw_value"]),
        raw_unit=row["raw_unit"],
        note="; ".join(filter(None, (row["doubt"], row["note"]))),
    )
