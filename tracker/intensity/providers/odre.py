"""France: RTE's éCO2mix by way of ODRÉ's open data, without a token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import NotServedError
from tracker.intensity.providers.protocol import Answer, Profile
from tracker.intensity.providers.series import (
    Row,
    Series,
    after,
    answer_of,
    as_list,
    as_object,
    checked_range,
    floor_to,
    instant,
    layered,
)
from tracker.intensity.providers.transport import Access, fetch_json

DEFAULT_URL: Final = "https://odre.opendatasoft.com"
PROFILE: Final = Profile(
    name="odre",
    title="RTE éCO2mix (ODRÉ)",
    serves="FR",
    offers=frozenset({"history", "latest"}),
    signal="average",
    basis="direct",
    accounting="production",
    licence="Licence Ouverte 2.0, RTE and ODRÉ",
    needs_token=False,
    is_tested=False,
    untested="the API of today (v2.1): the verbatim sample is of v1",
    min_interval_s=900.0,
    final_after=None,  # the source says of each row what it is
)

_REAL_TIME: Final = "eco2mix-national-tr"
_CONSOLIDATED: Final = "eco2mix-national-cons-def"
_CONSOLIDATED_AFTER: Final = timedelta(days=20)  # a month's rows are consolidated about a month later
_REAL_TIME_UNTIL: Final = timedelta(days=75)
_QUARTER: Final = timedelta(minutes=15)
_HALF: Final = timedelta(minutes=30)
_PAGE: Final = 100  # the most that /records gives; /exports gives all


class Odre:
    """Emissions per kWh produced in France, imports left out."""

    profile = PROFILE

    def __init__(self, access: Access) -> None:
        self._access = access

    def code_of(self, zone: str) -> str | None:
        return "FR" if zone.upper() == "FR" else None

    def fetch(self, zone: str, start: datetime, end: datetime) -> Answer:
        start, end = checked_range(start, end)
        if self.code_of(zone) is None:
            raise NotServedError(f"{PROFILE.title}: has no zone {zone!r}; it serves {PROFILE.serves}")
        now = self._access.now()
        layers = []
        if start < now - _CONSOLIDATED_AFTER:
            layers.append(self._rows(_CONSOLIDATED, start, end))
        if end > now - _REAL_TIME_UNTIL:
            layers.append(self._rows(_REAL_TIME, start, end))
        series = Series(PROFILE, zone, _REAL_TIME, f"{self._access.url}/explore", now, "gCO2/kWh")
        return answer_of(series, layered(*layers), start, end)

    def _rows(self, dataset: str, start: datetime, end: datetime) -> list[Row]:
        # An hour ahead of what is asked shows whether the rows are quarters or halves of an hour.
        first = floor_to(start, timedelta(hours=1)) - timedelta(hours=1)
        is_long = (end - first) / _QUARTER > _PAGE
        params = [
            ("select", "date_heure,taux_co2,nature"),
            ("where", f'taux_co2 is not null and date_heure>="{_second(first)}" and date_heure<"{_second(end)}"'),
            ("order_by", "date_heure"),
            ("timezone", "UTC"),  # else its times are those of Paris
            *([] if is_long else [("limit", str(_PAGE))]),
        ]
        kind = "exports/json" if is_long else "records"
        path = f"/api/explore/v2.1/catalog/datasets/{dataset}/{kind}"
        return [replace(row, dataset=dataset) for row in rows_of(fetch_json(self._access, path, params))]


def rows_of(payload: object) -> list[Row]:
    """The steps of an answer: quarters of an hour, or halves where no quarter between them has a value.

    Raises:
        UnbelievableError: it is no such answer.
    """
    who = PROFILE.title
    if isinstance(payload, dict):
        payload = payload.get("results")
    rows = list(_quarters(who, payload))
    if any(row.raw is not None and row.start.minute % 30 for row in rows):
        return rows
    return [replace(row, end=after(who, row.start, _HALF)) for row in rows if row.start.minute % 30 == 0]


def _quarters(who: str, payload: object) -> Iterator[Row]:
    for item in as_list(who, "the list of results", payload):
        record = as_object(who, "a result", item)
        start = instant(who, record.get("date_heure"))
        nature = str(record.get("nature"))
        is_final = "définitives" in nature
        yield Row(
            start,
            after(who, start, _QUARTER),
            record.get("taux_co2"),
            "final" if is_final else "provisional",
            note=nature,
        )


def _second(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
