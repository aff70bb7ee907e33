"""Providers of others: the entry points of the group tracker.intensity_providers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Final, TypeVar, get_args

from tracker.errors import OfflineError, ProviderError, SettingError, TemporaryError, UnbelievableError
from tracker.intensity.providers.protocol import Answer, Profile, Provider
from tracker.intensity.providers.series import checked_range, holes
from tracker.intensity.providers.transport import Access
from tracker.records import IntensityValue, ValueStatus

logger = logging.getLogger(__name__)

GROUP: Final = "tracker.intensity_providers"
_T = TypeVar("_T")


def plugin_names() -> tuple[str, ...]:
    """The names of what is installed; none of it is imported."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def plugin(name: str, access: Access) -> Provider:
    """The provider that an entry point makes: a callable that takes an Access and returns a Provider.

    Raises:
        SettingError: there is none of that name, or it cannot be loaded.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        raise SettingError(f"no provider of intensity is called {name!r}")
    try:
        return Plugin(points[0].load()(access), access)
    except Exception as exc:
        logger.exception("%s: cannot be loaded", points[0].value)
        raise SettingError(f"{name}: {points[0].value} cannot be loaded ({type(exc).__name__})") from None


class Plugin:
    """Another's provider, whose answers and exceptions are looked at before they are let in."""

    def __init__(self, inner: Provider, access: Access) -> None:
        if not isinstance(inner.profile, Profile):
            raise TypeError("profile must be a Profile")
        self.profile = inner.profile
        self._inner = inner
        self._access = access

    def code_of(self, zone: str) -> str | None:
        return self._guarded(lambda: self._inner.code_of(zone))

    def fetch(self, zone: str, start: datetime, end: datetime) -> Answer:
        start, end = checked_range(start, end)
        if self._access.offline:
            raise OfflineError(f"{self.profile.title}: not asked, TRACKER_OFFLINE is set")

        def checked() -> Answer:
            answer = self._inner.fetch(zone, start, end)
            if fault := _fault(answer, self.profile, zone):
                raise UnbelievableError(f"{self.profile.title}: {fault}")
            values = tuple(value for value in answer.values if value.start < end and value.end > start)  # type: ignore[operator]
            return replace(answer, values=values, gaps=tuple(holes(values, answer.gaps, start, end)))

        return self._guarded(checked)

    def _guarded(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except ProviderError:
            raise
        except Exception as exc:
            logger.exception("%s: failed", self.profile.name)
            raise TemporaryError(f"{self.profile.title}: failed ({type(exc).__name__})") from None


def _fault(answer: Answer, profile: Profile, zone: str) -> str:
    """What is wrong with an answer; "" where nothing is."""
    for value in answer.values:
        if not isinstance(value, IntensityValue) or value.start is None or value.end is None:
            return "a value is no IntensityValue with start and end"
        if value.start.utcoffset() is None or not value.start < value.end:
            return f"{value.start.isoformat()} is no start of a value: it is naive or not before its end"
        if not math.isfinite(value.intensity_g_per_kwh) or value.intensity_g_per_kwh < 0:
            return f"{value.intensity_g_per_kwh!r} g/kWh is no intensity"
        if (value.zone, value.signal) != (zone, profile.signal) or value.status not in get_args(ValueStatus):
            return f"asked for {profile.signal} of {zone}, it answered {value.signal} of {value.zone}, {value.status}"
    for earlier, later in pairwise(answer.values):
        if later.start < earlier.end:  # type: ignore[operator]
            return f"values overlap or are not in order at {later.start}"
    return ""
