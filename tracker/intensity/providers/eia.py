"""US balancing authorities: hourly generation by fuel from EIA-930, times EIA's own factors, with a free token."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import ForbiddenError, NotServedError, UnauthorisedError, UnbelievableError
from tracker.intensity.providers.protocol import Answer, Gap, Profile
from tracker.intensity.providers.series import (
    Row,
    Series,
    answer_of,
    as_list,
    as_object,
    ceil_to,
    checked_range,
    floor_to,
    instant,
    settled,
)
from tracker.intensity.providers.transport import Access, fetch_json
from tracker.units import GRAMS_PER_LB

DEFAULT_URL: Final = "https://api.eia.gov"
PROFILE: Final = Profile(
    name="eia",
    title="EIA",
    serves='US balancing authorities: "US-CAL-CISO", "US-MIDA-PJM", or by their code alone with "eia:PJM"',
    offers=frozenset({"history"}),
    signal="average",
    basis="direct",
    accounting="production",
    licence="US public domain, U.S. Energy Information Administration",
    needs_token=True,
    is_tested=False,
    untested="all: the sample is a client's own",
    min_interval_s=3600.0,
    final_after=timedelta(days=90),
)

# Source: EIA, "How much carbon dioxide is produced per kilowatthour of U.S. electricity generation?" (FAQ 74), table
# of 2022: pounds of CO2 per kWh. It counts biomass, hydro, solar and wind as neutral, and nuclear burns nothing.
_POUNDS_PER_KWH: Final[Mapping[str, float]] = {
    "COL": 2.30,
    "NG": 0.97,
    "OIL": 2.38,
    **dict.fromkeys(("NUC", "WAT", "SUN", "WND", "SNB", "WNB", "BIO"), 0.0),
}
# What a store gives back was generated, and counted, before.
_STORES: Final = frozenset({"BAT", "PS", "OES", "UES"})
# Geothermal, other and unknown fuels have no factor. An hour with more of them than this has no intensity.
_MAX_SHARE_WITHOUT_FACTOR: Final = 0.1

_HOUR: Final = timedelta(hours=1)
_PAGE: Final = 5000  # the most the service gives at once
_MAX_PAGES: Final = 40
_AUTHORITY: Final = re.compile(r"(?:US-[A-Z]{2,4}-)?([A-Z]{2,5})")


class Eia:
    """What an authority generates, without imports; there is no forecast, and yesterday comes this morning."""

    profile = PROFILE

    def __init__(self, access: Access) -> None:
        self._access = access

    def code_of(self, zone: str) -> str | None:
        """ "PJM" of "US-MIDA-PJM" or "PJM". Two letters alone are a country or a state, and "US-CA" is a state."""
        authority = _AUTHORITY.fullmatch(zone.upper())
        if authority is None or (len(authority[1]) == 2 and "-" not in zone) or authority[1] == "WORLD":
            return None
        return authority[1]

    def fetch(self, zone: str, start: datetime, end: datetime) -> Answer:
        start, end = checked_range(start, end)
        code = self.code_of(zone)
        if code is None:
            raise NotServedError(f"{PROFILE.title}: has no zone {zone!r}; it serves {PROFILE.serves}")
        now = self._access.now()
        # A period is named by the end of its hour.
        first, last = floor_to(start, _HOUR) + _HOUR, ceil_to(end, _HOUR)
        fuels = list(self._generation(code, first, last)) if start < now else []
        rows, gaps = rows_of(fuels, now)
        source = f"{self._access.url}/v2/electricity/rto/fuel-type-data"
        unit = "gCO2/kWh, of MWh by fuel and EIA's factors of 2022"
        return answer_of(Series(PROFILE, zone, "EIA-930", source, now, unit), rows, start, end, gaps=gaps)

    def _generation(self, code: str, first: datetime, last: datetime) -> Iterator[Generation]:
        key = self._access.needed_token()
        offset = 0
        for _ in range(_MAX_PAGES):
            params = [
                ("api_key", key),
                ("frequency", "hourly"),
                ("data[]", "value"),
                ("facets[respondent][]", code),
                ("start", f"{first:%Y-%m-%dT%H}"),
                ("end", f"{last:%Y-%m-%dT%H}"),
                ("sort[0][column]", "period"),
                ("sort[0][direction]", "asc"),
                ("offset", str(offset)),
                ("length", str(_PAGE)),
            ]
            try:
                payload = fetch_json(self._access, "/v2/electricity/rto/fuel-type-data/data/", params)
            except ForbiddenError as exc:
                if "API_KEY" in str(exc):  # its gate refuses a wrong key with 403
                    raise UnauthorisedError(f"{exc}; set {self._access.variable}_TOKEN") from None
                raise
            page, total = page_of(payload, code)
            yield from page
            offset += len(page)
            if not page or offset >= total:
                return
        raise UnbelievableError(f"{PROFILE.title}: still not at the end after {_MAX_PAGES} pages")


@dataclass(frozen=True, slots=True)
class Generation:
    """One fuel in the hour that ends at `end`; raw is its MWh, as written."""

    end: datetime
    fuel: str
    raw: object


def page_of(payload: object, code: str) -> tuple[list[Generation], int]:
    """The rows of a page, and how many there are in all.

    Raises:
        UnbelievableError: it is no such answer, or that of another authority, step or unit.
    """
    who = PROFILE.title
    response = as_object(who, "response", as_object(who, "the answer", payload).get("response"))
    if response.get("frequency", "hourly") != "hourly":
        raise UnbelievableError(f"{who}: asked for hours, it answered {response.get('frequency')!r:.40}")
    total = response.get("total")
    if not str(total).isdecimal():
        raise UnbelievableError(f"{who}: {total!r:.40} is no number of rows")
    page = []
    for item in as_list(who, "data", response.get("data")):
        row = as_object(who, "a row", item)
        if row.get("respondent") != code:
            raise UnbelievableError(f"{who}: asked for {code}, it answered {row.get('respondent')!r:.40}")
        if row.get("value-units", "megawatthours") != "megawatthours":
            raise UnbelievableError(f"{who}: answered in {row.get('value-units')!r:.40}, not in MWh")
        end = instant(who, row.get("period"), naive_is_utc=True)
        page.append(Generation(end, str(row.get("fueltype")), row.get("value")))
    return page, int(str(total)[:9])


def rows_of(generation: Iterable[Generation], now: datetime) -> tuple[list[Row], list[Gap]]:
    """The intensity of each hour, and the hours that have none.

    An hour counts only with every fuel that the authority has in any hour: without one the intensity would be
    wrong rather than missing. Less than nothing generated (pumping, own use) counts as nothing.
    """
    hours: dict[datetime, dict[str, object]] = defaultdict(dict)
    conflicts = set()
    for fuel in generation:
        if hours[fuel.end].setdefault(fuel.fuel, fuel.raw) != fuel.raw:
            conflicts.add(fuel.end)
    fuels = {name for hour in hours.values() for name in hour}
    rows, gaps = [], []
    for end, hour in sorted(hours.items()):
        try:
            start = end - _HOUR
        except OverflowError:
            raise UnbelievableError(f"{PROFILE.title}: {end.isoformat()} is not a time of this grid") from None
        reason = "two different values for the same time" if end in conflicts else ""
        intensity, doubt, note = _mixed({name: hour.get(name) for name in sorted(fuels)})
        if reason or doubt:
            gaps.append(Gap(start, end, reason or doubt))
        else:
            rows.append(Row(start, end, intensity, settled(PROFILE, end, now), note=note))
    return rows, gaps


def _mixed(hour: Mapping[str, object]) -> tuple[float | None, str, str]:
    """g/kWh of an hour's generation by fuel, or why there is none, and what must be said of it."""
    generated_mwh: dict[str, float] = {}
    for name, raw in hour.items():
        if name in _STORES:
            continue
        try:
            amount = float(raw) if isinstance(raw, (int, float, str)) and not isinstance(raw, bool) else math.nan
        except (ValueError, OverflowError):
            amount = math.nan
        if not math.isfinite(amount):
            return None, f"no generation of {name} for this hour", ""
        generated_mwh[name] = max(amount, 0.0)
    total_mwh = math.fsum(generated_mwh.values())
    with_factor = {name: amount for name, amount in generated_mwh.items() if name in _POUNDS_PER_KWH}
    known_mwh = math.fsum(with_factor.values())
    if known_mwh <= 0 or not math.isfinite(total_mwh):
        return None, "nothing generated in this hour", ""
    without_factor = 1 - known_mwh / total_mwh
    if without_factor > _MAX_SHARE_WITHOUT_FACTOR:
        return None, f"{without_factor:.0%} of the generation is of fuels without a published factor", ""
    pounds = math.fsum(amount * _POUNDS_PER_KWH[name] for name, amount in with_factor.items())
    note = f"without {without_factor:.1%} of other fuels" if without_factor else ""
    return pounds / known_mwh * GRAMS_PER_LB, "", note
