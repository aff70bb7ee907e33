"""Marginal intensity: WattTime v3, every five minutes, with a login. Never an average, and never added to one."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import ForbiddenError, NotServedError, UnauthorisedError, UnbelievableError
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
)
from tracker.intensity.providers.transport import Access, fetch_json
from tracker.units import GRAMS_PER_LB

DEFAULT_URL: Final = "https://api.watttime.org"
PROFILE: Final = Profile(
    name="watttime",
    title="WattTime",
    serves='its own regions, named with it: "watttime:CAISO_NORTH" (the free plan has that one alone)',
    offers=frozenset({"history", "latest", "forecast"}),
    signal="marginal",
    basis="direct",
    accounting="marginal",
    licence="WattTime hosted licence: research and non-commercial, not to be passed on",
    needs_token=True,
    is_tested=True,
    untested="login, forecast",
    min_interval_s=300.0,
    final_after=timedelta(0),  # until a newer model rewrites all of it; the note names the model
)

_SIGNAL: Final = "co2_moer"
_UNIT: Final = "lbs_co2_per_mwh"
_KWH_PER_MWH: Final = 1000
_STEP: Final = timedelta(minutes=5)
_LONGEST: Final = timedelta(days=30)  # about 32 are given
_MAX_HORIZON_H: Final = 72
_LOGIN_HOLDS: Final = timedelta(minutes=25)  # of 30
_REGION: Final = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


class WattTime:
    """TRACKER_WATTTIME_TOKEN is user:password; what the login answers is kept in memory and nowhere else."""

    profile = PROFILE

    def __init__(self, access: Access) -> None:
        self._access = access
        self._login = ""
        self._login_until = access.now()

    def code_of(self, zone: str) -> str | None:
        return zone.upper() if _REGION.fullmatch(zone.upper()) else None

    def fetch(self, zone: str, start: datetime, end: datetime) -> Answer:
        start, end = checked_range(start, end)
        code = self.code_of(zone)
        if code is None:
            raise NotServedError(f"{PROFILE.title}: {zone!r} is no region of it; it serves {PROFILE.serves}")
        now = self._access.now()
        rows: list[Row] = []
        gaps: list[Gap] = []
        warnings: list[str] = []
        if start < now:
            for first, stop in chunks(floor_to(start, _STEP), ceil_to(min(end, now), _STEP), _LONGEST):
                # Both ends are in the answer: the value at a border comes twice.
                params = [("start", first.isoformat("T", "minutes")), ("end", stop.isoformat("T", "minutes"))]
                found, said = self._rows("historical", code, params)
                rows = layered(rows, found)
                warnings += said
        if end > now:
            horizon_h = min(-(-(end - now) // timedelta(hours=1)), _MAX_HORIZON_H)
            try:
                found, said = self._rows("forecast", code, [("horizon_hours", str(horizon_h))])
                rows = layered(rows, found)
                warnings += said
            except ForbiddenError as exc:
                if not start < now:
                    raise
                gaps.append(Gap(now, end, "the plan of this token has no forecast"))
                warnings.append(str(exc))
        series = Series(
            PROFILE, zone, _SIGNAL, f"{self._access.url}/v3", now, _UNIT, unit_g_per_kwh=GRAMS_PER_LB / _KWH_PER_MWH
        )
        return answer_of(series, rows, start, end, gaps=gaps, warnings=warnings)

    def _rows(self, kind: str, code: str, params: Sequence[tuple[str, str]]) -> tuple[list[Row], list[str]]:
        query = [("region", code), ("signal_type", _SIGNAL), *params]
        try:
            payload = self._get(kind, query)
        except UnauthorisedError:  # the login ran out early, or was ended from elsewhere
            self._login = ""
            payload = self._get(kind, query)
        return list(rows_of(payload, code, is_forecast=kind == "forecast")), warnings_of(payload)

    def _get(self, kind: str, query: Sequence[tuple[str, str]]) -> object:
        login = self._logged_in()
        return fetch_json(
            self._access, f"/v3/{kind}", query, headers={"Authorization": f"Bearer {login}"}, secret=login
        )

    def _logged_in(self) -> str:
        if self._login and self._access.now() < self._login_until:
            return self._login
        who, pair = PROFILE.title, self._access.needed_token()
        if ":" not in pair:
            raise UnauthorisedError(f"{who}: {self._access.variable}_TOKEN must be user:password of your account")
        basic = b64encode(pair.encode()).decode()
        payload = fetch_json(self._access, "/login", headers={"Authorization": f"Basic {basic}"}, secret=basic)
        login = as_object(who, "the login", payload).get("token")
        if not isinstance(login, str) or not login:
            raise UnbelievableError(f"{who}: the login gave no token")
        self._login, self._login_until = login, self._access.now() + _LOGIN_HOLDS
        return login


def rows_of(payload: object, code: str, *, is_forecast: bool = False) -> Iterator[Row]:
    """The steps of an answer, in pounds per MWh.

    Raises:
        UnbelievableError: it is no such answer, or that of another region, signal or unit.
    """
    who = PROFILE.title
    answer = as_object(who, "the answer", payload)
    meta = as_object(who, "meta", answer.get("meta"))
    for key, asked in (("region", code), ("signal_type", _SIGNAL), ("units", _UNIT)):
        if meta.get(key) != asked:
            raise UnbelievableError(f"{who}: asked for {key} {asked}, it answered {meta.get(key)!r:.40}")
    period_s = meta.get("data_point_period_seconds")
    if not isinstance(period_s, int) or not 0 < period_s <= 86_400:
        raise UnbelievableError(f"{who}: answered in steps of {period_s!r:.40} s")
    model = meta.get("model")
    date = model.get("date") if isinstance(model, dict) else None
    note = f"model of {date}" if date else ""
    for item in as_list(who, "data", answer.get("data")):
        point = as_object(who, "a point", item)
        start = instant(who, point.get("point_time"))
        updated = point.get("last_updated")
        is_imputed = bool(point.get("imputed_data_used"))
        yield Row(
            start,
            after(who, start, timedelta(seconds=period_s)),
            point.get("value"),
            "forecast" if is_forecast else "estimated" if is_imputed else "final",
            updated_at=None if updated is None else instant(who, updated),
            note=note,
        )


def warnings_of(payload: object) -> list[str]:
    """What the service says beside its values."""
    who = PROFILE.title
    meta = as_object(who, "meta", as_object(who, "the answer", payload).get("meta"))
    said = as_list(who, "warnings", meta.get("warnings", []))
    return [f"{who}: {item['message']}" for item in said if isinstance(item, dict) and item.get("message")]
