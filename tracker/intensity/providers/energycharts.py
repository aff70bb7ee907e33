"""European countries: Energy-Charts of Fraunhofer ISE, every quarter of an hour, without a token."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
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
    settled,
    unix_instant,
)
from tracker.intensity.providers.transport import Access, fetch_json

DEFAULT_URL: Final = "https://api.energy-charts.info"
PROFILE: Final = Profile(
    name="energycharts",
    title="Energy-Charts",
    serves="countries of Europe",
    offers=frozenset({"history", "latest", "forecast"}),
    signal="average",
    basis="unknown",  # which factors it uses is not documented with the API
    accounting="production",
    licence="Fraunhofer ISE, energy-charts.info: CC BY 4.0 by its API, personal use by its site",
    needs_token=False,
    is_tested=False,
    untested="all: the sample may be a client's own",
    min_interval_s=900.0,  # 2 requests a minute are allowed
    final_after=timedelta(days=7),
    notice=(
        "Energy-Charts: its API says CC BY 4.0, its site's notes say personal use; ask Fraunhofer ISE before you "
        "publish or sell what rests on its values"
    ),
)

_QUARTER: Final = timedelta(minutes=15)
_HOUR: Final = timedelta(hours=1)
# Members of ENTSO-E and its neighbours; what the service lacks of them it refuses by name.
# fmt: off
_COUNTRIES: Final = frozenset({
    "AL", "AM", "AT", "AZ", "BA", "BE", "BG", "BY", "CH", "CY", "CZ", "DE", "DK", "EE", "ES",
    "FI", "FR", "GB", "GE", "GR", "HR", "HU", "IE", "IT", "LT", "LU", "LV", "MD", "ME", "MK",
    "MT", "NL", "NO", "PL", "PT", "RO", "RS", "SE", "SI", "SK", "TR", "UA", "XK",
})
# fmt: on


class EnergyCharts:
    """Emissions of what a country produces, by factors of the service's own."""

    profile = PROFILE

    def __init__(self, access: Access) -> None:
        self._access = access

    def code_of(self, zone: str) -> str | None:
        code = zone.upper()
        return {"GB": "uk"}.get(code, code.lower()) if code in _COUNTRIES else None

    def fetch(self, zone: str, start: datetime, end: datetime) -> Answer:
        start, end = checked_range(start, end)
        code = self.code_of(zone)
        if code is None:
            raise NotServedError(f"{PROFILE.title}: has no zone {zone!r}; it serves {PROFILE.serves}")
        now = self._access.now()
        params = [
            ("country", code),
            # The hour ahead shows the length of the steps where only one is asked for.
            ("start", _minute(floor_to(start, _HOUR) - _HOUR)),
            ("end", _minute(ceil_to(end, _HOUR))),
        ]
        payload = fetch_json(self._access, "/co2eq", params)
        series = Series(PROFILE, zone, "co2eq", f"{self._access.url}/co2eq", now)
        warnings = [PROFILE.notice]
        if as_object(PROFILE.title, "the answer", payload).get("deprecated"):
            warnings.append(f"{PROFILE.title}: says that this request is going to end (deprecated)")
        return answer_of(series, rows_of(payload, now), start, end, warnings=warnings)


def rows_of(payload: object, now: datetime) -> Iterator[Row]:
    """The steps of an answer: where there is no measured value, the forecast.

    Raises:
        UnbelievableError: it is no such answer, or its lists are not of one length.
    """
    who = PROFILE.title
    answer = as_object(who, "the answer", payload)
    starts = [unix_instant(who, raw) for raw in as_list(who, "unix_seconds", answer.get("unix_seconds"))]
    measured = as_list(who, "co2eq", answer.get("co2eq"))
    expected = as_list(who, "co2eq_forecast", answer.get("co2eq_forecast", [None] * len(starts)))
    if not len(starts) == len(measured) == len(expected):
        raise UnbelievableError(
            f"{who}: {len(starts)} times, {len(measured)} values and {len(expected)} forecasts do not fit together"
        )
    distances = [later - earlier for earlier, later in pairwise(starts)]
    length = min((distance for distance in distances if distance), default=_QUARTER)
    if not timedelta(0) < length <= _HOUR:
        raise UnbelievableError(f"{who}: its times are {length} apart")
    for start, value, guess in zip(starts, measured, expected, strict=True):
        end = after(who, start, length)
        if value is None:
            yield Row(start, end, guess, "forecast", dataset="co2eq_forecast")
        else:
            yield Row(start, end, value, settled(PROFILE, end, now))


def _minute(time: datetime) -> str:
    return time.isoformat("T", "minutes")
