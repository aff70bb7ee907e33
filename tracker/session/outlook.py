"""intensity_of(): the intensity of a zone, now, today and as far ahead as it is forecast."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from tracker import settings as settings_module
from tracker.curve import Outlook, steps_of
from tracker.errors import SettingError, StoreError
from tracker.records import IntensityValue, unix_us_of
from tracker.session.asking import Asker
from tracker.session.checks import CHECKS, checked_arguments
from tracker.session.feed import MIN_PERIOD_S, Source, source_of
from tracker.session.recorder import choice_of
from tracker.store.intensities import Fetch, SharedValues
from tracker.units import MICROSECONDS_PER_S

AHEAD: Final = timedelta(hours=48)  # forecasts of grids go 24 to 72 hours
_LENGTH: Final = re.compile(r"([0-9]{1,5}(?:\.[0-9]+)?)\s*(min|m|h|d)")
_UNITS: Final = {
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


def length_of(text: str | timedelta, what: str) -> timedelta:
    """A length of time: "90m", "6h", "1.5d".

    Raises:
        SettingError: it is none.
    """
    if isinstance(text, timedelta):
        return text
    found = _LENGTH.fullmatch(text.strip())
    if found is None:
        raise SettingError(f"{what}: {text!r} is no length of time; write 90m, 6h or 1.5d")
    return float(found[1]) * _UNITS[found[2]]


def intensity_of(
    zone: str | None = None,
    *,
    provider: str | None = None,
    intensity_file: str | Path | None = None,
    ahead: str | timedelta = AHEAD,
    db: str | Path | None = None,
    now: datetime | None = None,
) -> Outlook:
    """The intensity of a zone from the last midnight on, and its forecast.

    The source that a run with these settings would have is asked, unless the database has its answer of just now.
    Without one nothing goes on the network, and the static value of the zone is all there is.

    Args:
        zone: by default that of the settings, as for a run.
        provider, intensity_file: as for a run.
        ahead: how far, for example "24h".
        now: aware; default the present.

    Raises:
        SettingError: (a ValueError) a wrong argument.
    """
    given = {"zone": zone, "provider": provider, "intensity_file": intensity_file, "db": db}
    settings = settings_module.resolve(checked_arguments(given), checks=CHECKS)
    far = length_of(ahead, "ahead")
    at = (now or datetime.now(UTC)).astimezone(UTC)
    start = at.astimezone().replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    end = at + far
    choice = choice_of(settings)
    source, said = source_of(settings, choice)
    notes = dict.fromkeys(text for text in (*choice.warnings, said) if text)
    values: list[IntensityValue] = []
    if source is not None:
        values = _values(source, start, end, at, settings.db, notes)
    profile = None if source is None else source.choice.provider.profile
    return Outlook(
        zone=choice.zone,
        asked="" if profile is None else profile.name,
        title="" if profile is None else profile.title,
        licence="" if profile is None else profile.licence,
        at=at,
        start=start,
        end=end,
        steps=tuple(steps_of(values, start, end)) if values else (),
        fallback=choice.value,
        notes=tuple(notes),
    )


def _values(
    source: Source, start: datetime, end: datetime, at: datetime, db: str, notes: dict[str, None]
) -> list[IntensityValue]:
    """What is known of this time: what the database has of just now, else what the source says."""
    name, zone = source.name, source.choice.zone
    asker = Asker(notes.setdefault)

    def whole(_: datetime) -> Iterator[tuple[datetime, datetime]]:
        yield start, end

    if source.is_local:
        return [value for answer in asker.answers(source, whole) for value in answer.values]
    shared: SharedValues | None = None
    try:
        shared = SharedValues(db)
        known = shared.known(name, zone, start, end)
        last = shared.last_fetch(name, zone)
        if last is not None and _is_fresh(last, source, start, end, at):
            return known
    except StoreError as exc:
        notes.setdefault(f"{exc}: the values are not kept")
        known, shared = [], None
    fetch = Fetch(unix_us_of(start), unix_us_of(end), unix_us_of(at))
    came: list[IntensityValue] = []
    for answer in asker.answers(source, whole):
        came.extend(answer.values)
        for gap in answer.gaps if not answer.values else ():
            notes.setdefault(gap.reason)
        if shared is not None and shared.exists:
            try:
                shared.add(answer.values, zone, fetch)
            except StoreError as exc:
                notes.setdefault(f"{exc}: the values are not kept")
    return [*known, *came]


def _is_fresh(last: Fetch, source: Source, start: datetime, end: datetime, at: datetime) -> bool:
    period_s = max(MIN_PERIOD_S, source.choice.provider.profile.min_interval_s)
    age_s = (unix_us_of(at) - last.asked_unix_us) / MICROSECONDS_PER_S
    covered_end_us = last.end_unix_us + round(age_s * MICROSECONDS_PER_S)  # as far ahead, seen from then
    covers = last.start_unix_us <= unix_us_of(start) and covered_end_us >= unix_us_of(end)
    return covers and 0 <= age_s < period_s
