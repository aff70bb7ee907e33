"""Intensity over hours: which value holds when, and the window of a given length with the least. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np

from tracker.emissions import UNPRICED, Timeline
from tracker.errors import SettingError
from tracker.records import IntensityValue, ValueStatus, ZoneChoice, datetime_of, plain, unix_us_of
from tracker.units import MICROSECONDS_PER_S


@dataclass(frozen=True, slots=True)
class Step:
    """The best value that is known of a stretch of time."""

    start: datetime
    end: datetime
    value: IntensityValue


@dataclass(frozen=True, slots=True)
class Window:
    """Time of a given length and the mean intensity in it, of even power.

    Attributes:
        statuses: of the values in it.
    """

    start: datetime
    end: datetime
    intensity_g_per_kwh: float
    statuses: tuple[ValueStatus, ...]


@dataclass(frozen=True, slots=True)
class Greenest:
    """The window of a given length with the least mean intensity, beside starting at once.

    Attributes:
        now: the same work begun at once; None: not all of that time is known.
        worst: the window with the most.
        within_end: the window had to end by then.
        known_until: nothing is known of later.
    """

    window: Window
    now: Window | None
    worst: Window
    within_end: datetime
    known_until: datetime

    @property
    def saves_share(self) -> float | None:
        """Of the emissions of starting at once, how much starting at the window saves; None: these are unknown or 0."""
        if self.now is None or not self.now.intensity_g_per_kwh:
            return None
        return 1 - self.window.intensity_g_per_kwh / self.now.intensity_g_per_kwh

    @property
    def saves_g_per_kwh(self) -> float | None:
        """What starting at the window saves of each kWh."""
        return None if self.now is None else self.now.intensity_g_per_kwh - self.window.intensity_g_per_kwh

    def to_dict(self) -> dict[str, Any]:
        """In plain types that json.dumps takes."""
        derived = {"saves_share": self.saves_share, "saves_g_per_kwh": self.saves_g_per_kwh}
        return {**plain(self), **derived}


@dataclass(frozen=True, slots=True)
class Outlook:
    """The intensity of a zone, today and as far ahead as it is forecast; prints as a chart.

    Attributes:
        zone: None beside a constant of the user's own.
        asked: who was asked: the provider's name; "": nobody.
        title, licence: of who was asked, for people.
        at: the present.
        start, end: what was asked for.
        steps: what is known of it, in order; empty where nobody is asked or answers.
        fallback: the value that holds where nothing is known.
        notes: what must be known beside it.
    """

    zone: ZoneChoice | None
    asked: str
    title: str
    licence: str
    at: datetime
    start: datetime
    end: datetime
    steps: tuple[Step, ...]
    fallback: IntensityValue
    notes: tuple[str, ...]

    @property
    def now(self) -> IntensityValue:
        """The value that holds at present; the fallback where none is known."""
        held = [step.value for step in self.steps if step.start <= self.at < step.end]
        return held[0] if held else self.fallback

    @property
    def is_marginal(self) -> bool:
        return any(step.value.signal == "marginal" for step in self.steps)

    def greenest(self, length: timedelta, within: timedelta | None = None) -> Greenest:
        """The greenest window of this length that begins from now on.

        Args:
            within: it must end so long from now at the latest; None: anywhere in what is known.

        Raises:
            SettingError: the length does not fit, or no window of it is wholly known; the message says why.
        """
        ahead = [step for step in self.steps if step.end > self.at]
        if not ahead:
            who = (
                f"{self.title} gives no forecast" if self.asked else "nobody is asked for a forecast (TRACKER_PROVIDER)"
            )
            raise SettingError(f"no window can be told: {who}")
        known_until = ahead[-1].end
        end = known_until if within is None else self.at + within
        found = greenest(ahead, self.at, end, length)
        worst = greenest(ahead, self.at, end, length, is_worst=True)
        if found is None or worst is None:
            raise SettingError(
                f"no window of {length} is wholly known: there are values until {known_until:%Y-%m-%d %H:%M} UTC, "
                "with holes or too few"
            )
        return Greenest(found, mean_of(ahead, self.at, length), worst, end, known_until)

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = 80, *, is_ascii: bool = False) -> str:
        """As a chart for a terminal of this width."""
        from tracker.views.outlook import outlook_text

        return outlook_text(self, width, is_ascii=is_ascii)

    def to_dict(self) -> dict[str, Any]:
        """In plain types that json.dumps takes."""
        return {**plain(self), "now": plain(self.now)}


def steps_of(values: Iterable[IntensityValue], start: datetime, end: datetime) -> list[Step]:
    """The best value at each instant of [start, end), in order of time; holes are left out.

    Args:
        values: dated ones of one signal, in any order, several revisions of one stretch among them.

    Raises:
        ValueError: average and marginal values are mixed.
    """
    timeline = Timeline.of([*values])
    bounds_us, positions = timeline.within(unix_us_of(start), unix_us_of(end))
    found: list[Step] = []
    for (begin_us, end_us), held in zip(pairwise(bounds_us.tolist()), positions.tolist(), strict=True):
        if held == UNPRICED or begin_us == end_us:
            continue
        value = timeline.candidates[held]
        if found and found[-1].value is value and unix_us_of(found[-1].end) == begin_us:
            found[-1] = Step(found[-1].start, datetime_of(end_us), value)
        else:
            found.append(Step(datetime_of(begin_us), datetime_of(end_us), value))
    return found


def mean_of(steps: Sequence[Step], start: datetime, length: timedelta) -> Window | None:
    """The window that begins then; None: not all of its time is known."""
    return next(iter(_windows(steps, [start], length)), None)


def greenest(
    steps: Sequence[Step], earliest: datetime, latest_end: datetime, length: timedelta, *, is_worst: bool = False
) -> Window | None:
    """The window of this length within [earliest, latest_end) with the least mean intensity, the first of equals.

    The mean over a sliding window of values that hold for steps is linear between the instants at which an end of the
    window meets an end of a step, so its least lies at one of them.

    Args:
        is_worst: the one with the most instead.

    Returns:
        None: no window of this length is wholly known.

    Raises:
        SettingError: the length is none, or longer than the time it must lie in.
    """
    if length <= timedelta(0):
        raise SettingError("a window must be longer than nothing")
    if earliest + length > latest_end:
        raise SettingError(f"a window of {length} does not fit into the {latest_end - earliest} that it must lie in")
    edges = {edge for step in steps for edge in (step.start, step.end)}
    starts = {earliest, latest_end - length, *edges, *(edge - length for edge in edges)}
    fitting = sorted(start for start in starts if earliest <= start <= latest_end - length)
    sign = -1 if is_worst else 1
    return min(_windows(steps, fitting, length), key=lambda window: sign * window.intensity_g_per_kwh, default=None)


def _windows(steps: Sequence[Step], starts: Sequence[datetime], length: timedelta) -> Iterable[Window]:
    """Of these windows those that are wholly known."""
    if not steps:
        return
    begin_us = np.array([unix_us_of(step.start) for step in steps], dtype=np.int64)
    end_us = np.array([unix_us_of(step.end) for step in steps], dtype=np.int64)
    g_per_kwh = np.array([step.value.intensity_g_per_kwh for step in steps])
    length_us = round(length.total_seconds() * MICROSECONDS_PER_S)
    for start in starts:
        start_us = unix_us_of(start)
        overlap_us = np.minimum(end_us, start_us + length_us) - np.maximum(begin_us, start_us)
        is_in = overlap_us > 0
        if int(overlap_us[is_in].sum()) != length_us:
            continue
        mean = float((overlap_us[is_in] * g_per_kwh[is_in]).sum() / length_us)
        inside = [step.value.status for step, within in zip(steps, is_in, strict=True) if within]
        yield Window(start, start + length, mean, tuple(dict.fromkeys(inside)))
