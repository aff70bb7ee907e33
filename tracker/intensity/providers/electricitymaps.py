"""The world: Electricity Maps, v3 and v4, hourly, with a token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, cast, get_args

from tracker.errors import ForbiddenError, NotServedError, UnbelievableError
from tracker.intensity.providers.protocol import Answer, Gap, Profile
from tracker.intensity.providers.series import (
    Row,
    Series,
    after,
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
from tracker.records import Basis, ValueStatus

DEFAULT_URL: Final = "https://api.electricitymaps.com/v3"
PROFILE: Final = Profile(
    name="electricitymaps",
    title="Electricity Maps",
    serves="its own zones: countries, and parts of them such as DK-DK1, US-CAL-CISO, CA-ON",
    offers=frozenset({"history", "latest", "forecast"}),
    signal="average",
    basis="lifecycle",
    accounting="consumption",  # flow-traced
    licence="Electricity Maps terms of service (free plan: personal and academic use); Source: ElectricityMaps.com",
    needs_token=True,
    is_tested=True,
    untested="past ranges, forecast, v4",
    min_interval_s=900.0,
    final_after=timedelta(days=90),
)

_HOUR: Final = timedelta(hours=1)
_HISTORY: Final = timedelta(hours=24)
_LONGEST: Final = timedelta(days=10)
_HORIZONS_H: Final = (6, 24, 48, 72)
_GRANULARITIES: Final[Mapping[str, timedelta]] = {
    "5_minutes": timedelta(minutes=5),
    "15_minutes": timedelta(minutes=15),
    "hourly": _HOUR,
}
_ZONE: Final = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,6})*")
_NOT_THEIRS: Final = re.compile(r"US-([A-Z]{2}|EGRID.*)")  # they divide the US by grid, not by state
_UNIT: Final = re.compile(r"g ?CO2(eq|e)?/kWh", re.IGNORECASE)
_LISTS: Final = ("history", "data", "forecast")
_SANDBOX: Final = "answers with made-up data: TRACKER_ELECTRICITYMAPS_TOKEN is a sandbox token; give one for production"


class ElectricityMaps:
    """The free plan answers for one zone, now and the 24 hours before; the rest is refused, and the answer says so."""

    profile = PROFILE

    def __init__(self, access: Access) -> None:
        self._access = access
        self._version = "" if re.search(r"/v\d+$", access.url) else "/v3"

    def code_of(self, zone: str) -> str | None:
        code = zone.upper()
        return code if _ZONE.fullmatch(code) and not _NOT_THEIRS.fullmatch(code) else None

    def fetch(self, zone: str, start: datetime, end: datetime) -> Answer:
        start, end = checked_range(start, end)
        code = self.code_of(zone)
        if code is None:
            raise NotServedError(
                f"{PROFILE.title}: has no zone {zone!r}; it serves {PROFILE.serves} (list: app.electricitymaps.com)"
            )
        now = self._access.now()
        recent_from = floor_to(now, _HOUR) - _HISTORY + _HOUR
        layers: list[list[Row]] = []
        gaps: list[Gap] = []
        refusals: list[ForbiddenError] = []
        if end > recent_from and start < now:
            rows = self._rows("history", code, now)
            last = max((row.end for row in rows if row.raw is not None), default=recent_from)
            if last <= now and last < end:  # the hour under way is often in "latest" only
                rows = layered(rows, self._rows("latest", code, now))
            layers.append(rows)
        if start < min(end, recent_from):
            try:
                layers.append(self._past(code, start, min(end, recent_from), now))
            except ForbiddenError as exc:
                refusals.append(exc)
                gaps.append(Gap(start, min(end, recent_from), "the plan of this token has no past ranges"))
        if end > now:
            hours = (end - now) / _HOUR
            horizon_h = next((offer for offer in _HORIZONS_H if offer >= hours), _HORIZONS_H[-1])
            try:
                layers.append(self._rows("forecast", code, now, ("horizonHours", str(horizon_h))))
            except ForbiddenError as exc:
                refusals.append(exc)
                gaps.append(Gap(max(start, now), end, "the plan of this token has no forecast"))
        if refusals and not layers:
            raise refusals[0]
        source = f"{self._access.url}{self._version}/carbon-intensity"
        series = Series(PROFILE, zone, "carbon-intensity", source, now)
        return answer_of(series, layered(*layers), start, end, gaps=gaps, warnings=[str(exc) for exc in refusals])

    def _past(self, code: str, start: datetime, end: datetime, now: datetime) -> list[Row]:
        rows: list[Row] = []
        for first, stop in chunks(floor_to(start, _HOUR), ceil_to(end, _HOUR), _LONGEST):
            found = self._rows("past-range", code, now, ("start", _minute(first)), ("end", _minute(stop)))
            rows = layered(rows, found)  # some plans give the hour at the border to both chunks
        return rows

    def _rows(self, kind: str, code: str, now: datetime, *params: tuple[str, str]) -> list[Row]:
        payload = fetch_json(
            self._access,
            f"{self._version}/carbon-intensity/{kind}",
            # An unknown zone is otherwise answered with that of the caller's address.
            [("zone", code), ("shouldUseFallbackCallerLookup", "false"), *params],
            headers={"auth-token": self._access.needed_token()},
        )
        return list(rows_of(payload, code, now, is_forecast=kind == "forecast"))


def rows_of(payload: object, code: str, now: datetime, *, is_forecast: bool = False) -> Iterator[Row]:
    """The steps of an answer: a list under one of three names, or a single record.

    Raises:
        UnbelievableError: it is no such answer, that of another zone, or synthetic data of a sandbox token.
    """
    who = PROFILE.title
    answer = as_object(who, "the answer", payload)
    if "SANDBOX" in str(answer.get("_disclaimer", "")).upper():
        raise UnbelievableError(f"{who}: {_SANDBOX}")
    name = next((name for name in _LISTS if name in answer), None)
    for item in [answer] if name is None else as_list(who, name, answer[name]):
        record = as_object(who, "a record", item)
        yield _row(who, answer, record, code, now, is_forecast)


def _row(
    who: str, answer: Mapping[str, object], record: Mapping[str, object], code: str, now: datetime, is_forecast: bool
) -> Row:
    method = str(record.get("estimationMethod") or "").upper()
    if "SANDBOX" in method:
        raise UnbelievableError(f"{who}: {_SANDBOX}")
    zones = {holder["zone"] for holder in (answer, record) if isinstance(holder.get("zone"), str)}
    if zones != {code}:
        named = ", ".join(sorted(map(repr, zones)))[:40]
        raise UnbelievableError(f"{who}: asked for zone {code}, it answered {named or 'without a zone'}")
    key = next((key for key in ("carbonIntensity", "value") if key in record), None)
    if key is None:
        raise UnbelievableError(f"{who}: a record has no carbonIntensity")
    unit = record.get("unit", answer.get("unit"))
    if unit is not None and not _UNIT.fullmatch(str(unit)):
        raise UnbelievableError(f"{who}: answered in {unit!r:.40}, not in gCO2eq/kWh")
    granularity = record.get("temporalGranularity", answer.get("temporalGranularity", "hourly"))
    length = _GRANULARITIES.get(str(granularity))
    if length is None:
        raise UnbelievableError(f"{who}: answered in steps of {granularity!r:.40}")
    start = instant(who, record.get("datetime"))
    end = after(who, start, length)
    updated = record.get("updatedAt")
    status: ValueStatus
    if is_forecast or start > now:
        status = "forecast"
    elif end > now or record.get("isEstimated") is not False:
        status = "estimated"  # also where the source does not say, and of an hour that is not over
    else:
        status = settled(PROFILE, end, now)
    basis = record.get("emissionFactorType", PROFILE.basis)
    return Row(
        start,
        end,
        record[key],
        status,
        updated_at=None if updated is None else instant(who, updated),
        basis=cast(Basis, basis) if basis in get_args(Basis) else "unknown",
        note=method.replace("_", " ").lower(),
    )


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%MZ}"
