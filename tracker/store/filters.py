"""Which runs are asked for and in which order: checked, and as conditions on the tables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from datetime import time as time_of_day
from typing import Any, Final, get_args

import sqlalchemy as sa

from tracker.errors import SettingError
from tracker.machine import unix_us
from tracker.records import DeviceKind, Run, RunStatus, unix_us_of
from tracker.store import tables
from tracker.store.rows import storable
from tracker.units import JOULES_PER_KWH, MICROSECONDS_PER_S

When = datetime | date | str
Instant = Callable[[], int]

_AGO: Final = re.compile(r"([0-9]{1,6})\s*([mhdw])")
_AGO_UNITS_S: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LATEST_US: Final = 2**63 - 1


def instant_us(when: When, what: str = "a time", now_unix_us: Instant = unix_us) -> int:
    """Microseconds since 1970 of an instant as people give it.

    Text is ISO 8601, or so long ago: "30m", "24h", "7d", "2w". What has no offset, text, date or datetime, is in the
    local time of this process, as everywhere in Python; a day alone is its first moment.

    Args:
        what: names it in an error.

    Raises:
        SettingError: the text is no time, or one that no calendar holds.
    """
    ago = _AGO.fullmatch(when.strip()) if isinstance(when, str) else None
    if ago is not None:
        number, unit = ago.groups()
        return now_unix_us() - int(number) * _AGO_UNITS_S[unit] * MICROSECONDS_PER_S
    try:
        if isinstance(when, str):
            when = datetime.fromisoformat(when.strip())
        elif not isinstance(when, datetime):
            when = datetime.combine(when, time_of_day())
        return unix_us_of(when.astimezone() if when.tzinfo is None else when)
    except (ValueError, OverflowError):
        raise SettingError(
            f"{what}: {when!r} is no time; write 2026-11-01, 2026-11-01T08:30+01:00, or 24h, 7d, 2w for so long ago"
        ) from None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """What a run must fit, all of it; None asks for nothing. A run whose figure is unknown fits no bound on it.

    Attributes:
        project, name: exactly these.
        status: as judged when read.
        since: started then or later; how instants are read: instant_us.
        until: started before then.
        tags: every one.
        device: had a device of this kind, whose key begins so, or whose name holds this, in whatever case.
        zone: exactly this code, or the zone's name.
        host: exactly this machine sampled for it.

    Raises:
        SettingError: a value that cannot be, with its name.
    """

    project: str | None = None
    name: str | None = None
    status: RunStatus | None = None
    since: When | None = None
    until: When | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None
    zone: str | None = None
    host: str | None = None
    min_energy_j: float | None = None
    max_energy_j: float | None = None
    min_emissions_g: float | None = None
    max_emissions_g: float | None = None

    def __post_init__(self) -> None:
        if self.status is not None and self.status not in get_args(RunStatus):
            raise SettingError(f"status: {self.status!r} is none of {', '.join(get_args(RunStatus))}")
        for name in ("project", "name", "device", "zone", "host"):
            text = getattr(self, name)
            if text is not None and not isinstance(text, str):
                raise SettingError(f"{name}: {text!r} is no text")
        if self.device is not None and not self.device.strip():
            raise SettingError("device: is empty; give a kind (gpu), the beginning of a key, or a part of a name")
        for figure, low, high in self._bounds():
            for bound, value in ((f"min_{figure}", low), (f"max_{figure}", high)):
                if value is not None and not _is_amount(value):
                    raise SettingError(f"{bound}: {value!r} is no number of 0 or more")
            if low is not None and high is not None and low > high:
                raise SettingError(f"min_{figure} {low:g} is above max_{figure} {high:g}: no run can fit")
        since_us, until_us = self.stretch_us()
        if since_us >= until_us:
            raise SettingError(f"since {self.since} is not before until {self.until}: no run can fit")

    def stretch_us(self, now_unix_us: Instant = unix_us) -> tuple[int, int]:
        """The first instant of starting that fits, and the first after it that does not."""
        since_us = 0 if self.since is None else instant_us(self.since, "since", now_unix_us)
        return since_us, _LATEST_US if self.until is None else instant_us(self.until, "until", now_unix_us)

    @property
    def has_bounds(self) -> bool:
        return any(bound is not None for _, *bounds in self._bounds() for bound in bounds)

    def fits_bounds(self, run: Run) -> bool:
        """Whether the figures of a run are within the bounds."""
        for figure, low, high in self._bounds():
            value = getattr(run, figure)
            if (low is not None or high is not None) and value is None:
                return False
            if (low is not None and value < low) or (high is not None and value > high):
                return False
        return True

    def _bounds(self) -> tuple[tuple[str, float | None, float | None], ...]:
        return (
            ("energy_j", self.min_energy_j, self.max_energy_j),
            ("emissions_g", self.min_emissions_g, self.max_emissions_g),
        )


def _is_amount(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0  # type: ignore[operator, arg-type]


def conditions(
    wanted: RunFilter, c: Any, live_ids: Callable[[], Sequence[str]], now_unix_us: Instant, *, with_bounds: bool = True
) -> Iterator[sa.ColumnElement[bool]]:
    """The filter as conditions on a run.

    Args:
        c: the columns of runs, or of an alias of it.
        live_ids: the runs that are being written now; called only where the status matters.
        with_bounds: with those on figures, as they are stored.
    """
    for column, text in ((c.project, wanted.project), (c.name, wanted.name)):
        if text is not None:
            yield column == storable(text)
    since_us, until_us = wanted.stretch_us(now_unix_us)
    if wanted.since is not None:
        yield c.started_unix_us >= since_us
    if wanted.until is not None:
        yield c.started_unix_us < until_us
    for key, value in wanted.tags.items():
        of_tag = tables.tags.c
        yield c.id.in_(sa.select(of_tag.run_id).where(of_tag.key == storable(key), of_tag.value == storable(value)))
    if wanted.zone is not None:
        zone = storable(wanted.zone.strip())
        yield sa.or_(c.zone.in_((zone, zone.upper())), c.zone_name == zone)
    if wanted.host is not None:
        of_segment = tables.segments.c
        yield c.id.in_(sa.select(of_segment.run_id).where(of_segment.host == storable(wanted.host)))
    if wanted.device is not None:
        of_device = tables.devices.c
        yield sa.exists().where(of_device.run_id == c.id, _is_device(wanted.device.strip()))
    if wanted.status is not None:
        yield _is_status(wanted.status, c, live_ids)
    if with_bounds:
        for column, low, high in (
            (c.energy_j, wanted.min_energy_j, wanted.max_energy_j),
            (c.emissions_g, wanted.min_emissions_g, wanted.max_emissions_g),
        ):
            if low is not None:
                yield column >= low
            if high is not None:
                yield column <= high


def _is_device(text: str) -> sa.ColumnElement[bool]:
    c, text = tables.devices.c, storable(text)
    if text.lower() in get_args(DeviceKind):
        return c.kind == text.lower()
    return sa.or_(c.key.startswith(text, autoescape=True), c.name.icontains(text, autoescape=True))


def _is_status(status: RunStatus, c: Any, live_ids: Callable[[], Sequence[str]]) -> sa.ColumnElement[bool]:
    if status not in ("running", "interrupted"):
        return sa.and_(c.status == status)
    is_open, is_live = c.status == "running", c.id.in_(live_ids())
    if status == "running":
        return sa.and_(is_open, is_live)
    return sa.or_(c.status == status, sa.and_(is_open, sa.not_(is_live)))


@dataclass(frozen=True, slots=True)
class Sort:
    """An order of runs: unknown values last either way, the newest first among equals.

    Attributes:
        expression: of the columns of runs.
        value: the same of a Run.
        is_figure: it changes while the run goes on.
        largest_first: as it is asked for mostly.
    """

    expression: Callable[[Any], Any]
    value: Callable[[Run], Any]
    is_figure: bool = True
    largest_first: bool = True


def _intensity_g_per_kwh(run: Run) -> float | None:
    if run.emissions_g is None or not run.energy_j:
        return None
    return run.emissions_g / (run.energy_j * run.pue) * JOULES_PER_KWH


SORTS: Final[Mapping[str, Sort]] = {
    "started": Sort(lambda c: c.started_unix_us, lambda run: run.started_at, is_figure=False),
    "duration": Sort(lambda c: c.duration_us, lambda run: run.duration_s),
    "energy": Sort(lambda c: c.energy_j, lambda run: run.energy_j),
    "energy_modelled": Sort(lambda c: c.energy_modelled_j, lambda run: run.energy_modelled_j),
    "emissions": Sort(lambda c: c.emissions_g, lambda run: run.emissions_g),
    "emissions_modelled": Sort(lambda c: c.emissions_modelled_g, lambda run: run.emissions_modelled_g),
    # What a measured kWh emitted, without PUE. NULLIF: a division by 0 is an error on servers.
    "intensity": Sort(
        lambda c: c.emissions_g / sa.func.nullif(c.energy_j * c.pue, 0) * JOULES_PER_KWH, _intensity_g_per_kwh
    ),
    # Amounts, whatever the currency.
    "cost": Sort(lambda c: c.energy_j / JOULES_PER_KWH * c.pue * c.price_per_kwh, lambda run: run.cost),
    "cost_modelled": Sort(
        lambda c: c.energy_modelled_j / JOULES_PER_KWH * c.pue * c.price_per_kwh, lambda run: run.cost_modelled
    ),
    "coverage": Sort(lambda c: c.coverage, lambda run: run.coverage),
    "pue": Sort(lambda c: c.pue, lambda run: run.pue, is_figure=False),
    "name": Sort(lambda c: c.name, lambda run: run.name, is_figure=False, largest_first=False),
    "project": Sort(lambda c: c.project, lambda run: run.project, is_figure=False, largest_first=False),
    "zone": Sort(
        lambda c: c.zone, lambda run: run.zone.zone if run.zone else None, is_figure=False, largest_first=False
    ),
    "status": Sort(lambda c: c.status, lambda run: run.status, largest_first=False),
}


@dataclass(frozen=True, slots=True)
class Order:
    """The order that people ask for: by what, and whether the other way round.

    Raises:
        SettingError: there is no such order.
    """

    by: str = "started"
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.by not in SORTS:
            raise SettingError(f"sort: {self.by!r} is none of {', '.join(SORTS)}")

    @property
    def sort(self) -> Sort:
        return SORTS[self.by]

    @property
    def is_descending(self) -> bool:
        return self.sort.largest_first != self.reverse

    def clauses(self, c: Any) -> list[Any]:
        """For ORDER BY."""
        column = self.sort.expression(c)
        newest_first = self.is_descending if self.by == "started" else True
        ties = [c.started_unix_us.desc(), c.id.desc()] if newest_first else [c.started_unix_us, c.id]
        if self.by == "started":
            return ties
        # NULLS LAST is beyond SQLite 3.26.
        return [column.is_(None), column.desc() if self.is_descending else column, *ties]

    def sorted(self, runs: Sequence[Run]) -> list[Run]:
        """Runs in the order that the database would give them in."""
        newest_first = self.is_descending if self.by == "started" else True
        out = sorted(runs, key=lambda run: (run.started_at, run.id), reverse=newest_first)
        if self.by != "started":
            value = self.sort.value
            known = [run for run in out if value(run) is not None]
            # Equals keep their order also where it is reversed.
            known.sort(key=value, reverse=self.is_descending)
            out = known + [run for run in out if value(run) is None]
        return out


def page_of(
    fetch: Callable[[int | None, int], list[Run]], extras: Sequence[Run], order: Order, limit: int | None, offset: int
) -> list[Run]:
    """A page of the runs of a query and of some besides it, in one order, without reading all of them.

    Args:
        fetch: so many runs of the query (None: all) after so many, in the order.
        extras: none of them among those.
    """
    if not extras:
        return fetch(limit, offset)
    # So many extras at most come before the page: the query's part of it begins no earlier.
    first = max(0, offset - len(extras))
    fetched = fetch(None if limit is None else offset + limit - first, first)
    merged = order.sorted([*fetched, *extras])
    at = offset - first
    return merged[at : None if limit is None else at + limit]


EVERY_RUN: Final = RunFilter()
NEWEST_FIRST: Final = Order()
