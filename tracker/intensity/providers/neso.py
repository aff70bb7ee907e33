"""Great Britain: the Carbon Intensity API of the National Energy System Operator, half-hourly, without a token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import NotServedError, UnbelievableError
from tracker.intensity.providers.protocol import Answer, Profile
from tracker.intensity.providers.series import (
    Row,
    Series,
    answer_of,
    as_list,
    as_object,
    ceil_to,
    checked_range,
    chunks,
    floor_to,
    instant,
    layered,
    settled,
)
from tracker.intensity.providers.transport import Access, fetch_json

DEFAULT_URL: Final = "https://api.carbonintensity.org.uk"
PROFILE: Final = Profile(
    name="neso",
    title="NESO Carbon Intensity",
    serves="GB; its regions GB-1 to GB-17, GB-ENG, GB-SCT, GB-WLS; postcode areas such as GB-RG10",
    offers=frozenset({"history", "latest", "forecast"}),
    signal="average",
    basis="direct",
    accounting="consumption",  # imports and grid losses are in it
    licence="CC BY 4.0, National Energy System Operator; terms at carbonintensity.org.uk",
    needs_token=False,
    is_tested=True,
    min_interval_s=900.0,
    final_after=timedelta(hours=24),
)

_STEP: Final = timedelta(minutes=30)
_LONGEST: Final = timedelta(days=13)  # 14 days with both ends in them
_NATIONS: Final[Mapping[str, str]] = {"ENG": "15", "SCT": "16", "WLS": "17"}  # by the API's list of regions
_REGIONS: Final = frozenset(str(number) for number in range(1, 18))
_OUTWARD: Final = re.compile(r"([A-Z]{1,2}[0-9][0-9A-Z]?)( ?[0-9][A-Z]{2})?")


class Neso:
    """The national figure is measured half an hour later; a region's is a forecast and is never anything else."""

    profile = PROFILE

    def __init__(self, access: Access) -> None:
        self._access = access

    def code_of(self, zone: str) -> str | None:
        """ "GB", "regionid/13" or "postcode/RG10": of a full postcode only the outward half, which the API takes."""
        code = zone.upper().removeprefix("GB-")
        if code in ("GB", "UK"):
            return "GB"
        if (region := _NATIONS.get(code, code)) in _REGIONS:
            return f"regionid/{region}"
        postcode = _OUTWARD.fullmatch(code)
        return f"postcode/{postcode[1]}" if postcode else None

    def fetch(self, zone: str, start: datetime, end: datetime) -> Answer:
        start, end = checked_range(start, end)
        code = self.code_of(zone)
        if code is None:
            raise NotServedError(f"{PROFILE.title}: has no zone {zone!r}; it serves {PROFILE.serves}")
        now = self._access.now()
        prefix, suffix = ("/intensity", "") if code == "GB" else ("/regional/intensity", f"/{code}")
        rows: list[Row] = []
        for first, stop in chunks(floor_to(start, _STEP), ceil_to(end, _STEP), _LONGEST):
            payload = fetch_json(self._access, f"{prefix}/{_minute(first)}/{_minute(stop)}{suffix}")
            # Both ends are in the answer, so the step at a border is in both chunks.
            rows = layered(rows, rows_of(payload, code, now))
        series = Series(PROFILE, zone, prefix.strip("/"), f"{self._access.url}{prefix}{suffix}", now, "gCO2/kWh")
        return answer_of(series, rows, start, end)


def rows_of(payload: object, code: str, now: datetime) -> Iterator[Row]:
    """The steps of an answer; without a measured figure the forecast, marked as one.

    Raises:
        UnbelievableError: it is no such answer, or that of another region.
    """
    who = PROFILE.title
    answer = as_object(who, "the answer", payload)
    if "error" in answer:
        raise UnbelievableError(f"{who}: answered an error with status 200")
    data = answer.get("data", [])  # {} is seen where there is nothing
    if code != "GB" and data != []:
        # A region comes as an object from the range, as a list of one from the current figure.
        region = as_object(who, "the region", data[0] if isinstance(data, list) else data)
        kind, _, asked = code.partition("/")
        if str(region.get(kind)).upper() != asked:
            raise UnbelievableError(f"{who}: asked for {kind} {asked}, it answered {region.get(kind)!r:.40}")
        data = region.get("data")
    for item in as_list(who, "data", data):
        step = as_object(who, "a step", item)
        intensity = as_object(who, "an intensity", step.get("intensity"))
        start, end = instant(who, step.get("from")), instant(who, step.get("to"))
        measured = intensity.get("actual")
        if measured is not None:
            yield Row(start, end, measured, settled(PROFILE, end, now))
        else:
            yield Row(start, end, intensity.get("forecast"), "forecast")


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%MZ}"
