"""Denmark: Energinet's Energi Data Service, every five minutes, without a token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import NotServedError, UnbelievableError
from tracker.intensity.providers.protocol import Answer, Profile
from tracker.intensity.providers.series import (
    Row,
    Series,
    after,
    answer_of,
    as_list,
    as_object,
    ceil_to,
    checked_range,
    floor_to,
    instant,
    layered,
    settled,
)
from tracker.intensity.providers.transport import Access, fetch_json

DEFAULT_URL: Final = "https://api.energidataservice.dk"
PROFILE: Final = Profile(
    name="energidataservice",
    title="Energi Data Service",
    serves="DK-DK1 (west), DK-DK2 (east)",
    offers=frozenset({"history", "latest", "forecast"}),
    signal="average",
    basis="direct",
    accounting="consumption",
    licence="CC BY 4.0, Source: Energinet (www.energidataservice.dk)",
    needs_token=False,
    is_tested=True,
    untested="forecast",
    min_interval_s=60.0,  # more than one request a minute and dataset, and it refuses the address
    final_after=timedelta(hours=48),
)

_MEASURED: Final = "CO2Emis"
_FORECAST: Final = "CO2EmisProg"
_STEP: Final = timedelta(minutes=5)
_MEASURED_LAG: Final = timedelta(minutes=30)
_AREAS: Final[Mapping[str, str]] = {"DK-DK1": "DK1", "DK-DK2": "DK2", "DK1": "DK1", "DK2": "DK2"}


class EnergiDataService:
    """Emissions of the electricity consumed in western or eastern Denmark."""

    profile = PROFILE

    def __init__(self, access: Access) -> None:
        self._access = access

    def code_of(self, zone: str) -> str | None:
        return _AREAS.get(zone.upper())

    def fetch(self, zone: str, start: datetime, end: datetime) -> Answer:
        start, end = checked_range(start, end)
        area = self.code_of(zone)
        if area is None:
            raise NotServedError(f"{PROFILE.title}: has no zone {zone!r}; it serves {PROFILE.serves}")
        now = self._access.now()
        layers = []
        if start < now:
            layers.append(self._rows(_MEASURED, area, start, min(end, now), now))
        if end > now - _MEASURED_LAG:
            layers.append(self._rows(_FORECAST, area, max(start, now - _MEASURED_LAG), end, now))
        series = Series(PROFILE, zone, _MEASURED, f"{self._access.url}/dataset/{_MEASURED}", now, "gCO2/kWh")
        return answer_of(series, layered(*layers), start, end)

    def _rows(self, dataset: str, area: str, start: datetime, end: datetime, now: datetime) -> list[Row]:
        params = [
            ("start", _minute(floor_to(start, _STEP))),
            ("end", _minute(ceil_to(end, _STEP))),
            ("timezone", "UTC"),  # else start and end are Danish time
            ("filter", json.dumps({"PriceArea": [area]}, separators=(",", ":"))),
            ("sort", "Minutes5UTC asc"),
            ("limit", "0"),  # all
        ]
        payload = fetch_json(self._access, f"/dataset/{dataset}", params)
        return list(rows_of(payload, area, dataset, now))


def rows_of(payload: object, area: str, dataset: str, now: datetime) -> Iterator[Row]:
    """The steps of an answer.

    Raises:
        UnbelievableError: it is no such answer, or that of another area or dataset.
    """
    who = PROFILE.title
    answer = as_object(who, "the answer", payload)
    if answer.get("dataset", dataset) != dataset:
        raise UnbelievableError(f"{who}: asked for {dataset}, it answered {answer.get('dataset')!r:.40}")
    for item in as_list(who, "records", answer.get("records")):
        record = as_object(who, "a record", item)
        if record.get("PriceArea") != area:
            raise UnbelievableError(f"{who}: asked for {area}, it answered {record.get('PriceArea')!r:.40}")
        start = instant(who, record.get("Minutes5UTC"), naive_is_utc=True)
        end = after(who, start, _STEP)
        status = "forecast" if dataset == _FORECAST else settled(PROFILE, end, now)
        yield Row(start, end, record.get("CO2Emission"), status, dataset=dataset)


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M}"
