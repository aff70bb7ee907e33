"""The intensity of a zone as a small chart for a terminal, and the greenest window as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from tracker.curve import Greenest, Outlook, Step
from tracker.records import IntensityValue, unix_us_of
from tracker.views import amounts
from tracker.views.tables import printable, wrap

_HEIGHT: Final = 8
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
_MOST_COLUMNS: Final = 144
_MARGIN: Final = 7  # of the scale at the left
_FORECAST: Final = ("forecast",)


def outlook_text(outlook: Outlook, width: int = 80, *, is_ascii: bool = False) -> str:
    """What holds now, the curve with the present marked, and where it comes from."""
    lines: list[str] = []
    zone = outlook.zone
    place = "" if zone is None else f"{zone.name} ({zone.zone}): " if zone.name else f"{zone.zone}: "
    lines.extend(wrap(printable(f"{place}{_now(outlook)}"), width))
    if outlook.steps:
        lines.append("")
        lines.extend(_chart(outlook, width, is_ascii))
        lines.append("")
        lines.extend(wrap(printable(_source(outlook)), width))
    for note in outlook.notes:
        lines.extend(wrap(printable(note), width))
    if not outlook.asked and outlook.fallback.provider != "user":
        lines.extend(wrap("nobody is asked for the hour's intensity: set TRACKER_PROVIDER, or give --provider", width))
    return "\n".join(lines)


def greenest_text(found: Greenest, outlook: Outlook, energy_kwh: float | None, width: int = 80) -> str:
    """When to start, and what that saves."""
    window = found.window
    what = "marginal intensity" if outlook.is_marginal else "mean intensity"
    statuses = " and ".join(window.statuses)
    hours = f"{_moment(window.start, outlook.at)}, until {_moment(window.end, outlook.at)}"
    lines = [f"greenest start: {hours}: {what} {amounts.intensity(window.intensity_g_per_kwh)} ({statuses})"]
    if found.now is None:
        lines.append("started now: unknown, as not all of that time has a value")
    else:
        share = found.saves_share
        saved = "" if share is None else f": the greenest start saves {amounts.share(share) if share else 'nothing'}"
        lines.append(f"started now: {amounts.intensity(found.now.intensity_g_per_kwh)}{saved}")
        if energy_kwh is not None and found.saves_g_per_kwh is not None:
            before_g, after_g = (energy_kwh * w.intensity_g_per_kwh for w in (found.now, window))
            lines.append(
                f"of {energy_kwh:g} kWh: {amounts.mass(after_g)} CO2e instead of {amounts.mass(before_g)}, "
                f"{amounts.mass(before_g - after_g)} less"
            )
    lines.append(
        f"worst: {amounts.intensity(found.worst.intensity_g_per_kwh)} from {_moment(found.worst.start, outlook.at)}"
    )
    if found.known_until < found.within_end:
        lines.append(f"values are known until {_moment(found.known_until, outlook.at)} alone")
    return "\n".join(part for line in lines for part in wrap(line, width))


def _now(outlook: Outlook) -> str:
    value = outlook.now
    if value is outlook.fallback:
        age = f" of {value.year}" if value.year else ""
        kind = "your own value" if value.provider == "user" else f"a yearly mean{age}, {value.basis}, {value.status}"
        return f"{amounts.intensity(value.intensity_g_per_kwh)} ({kind}); nothing is known of the present hour"
    return f"{amounts.intensity(value.intensity_g_per_kwh)} now ({_kind(value)})"


def _kind(value: IntensityValue) -> str:
    return ", ".join(part for part in (value.status, value.signal, value.basis, value.accounting) if part != "unknown")


def _source(outlook: Outlook) -> str:
    kinds = dict.fromkeys(
        ", ".join(part for part in (step.value.signal, step.value.basis, step.value.accounting) if part != "unknown")
        for step in outlook.steps
    )
    licence = f"; licence: {outlook.licence}" if outlook.licence else ""
    return f"{outlook.title}: {' and '.join(kinds)}{licence}"


def _moment(instant: datetime, at: datetime) -> str:
    """In local time, with the day where it is not today's."""
    local, today = instant.astimezone(), at.astimezone().date()
    day = "" if local.date() == today else f"{local:%a %d %b} "
    return f"{day}{local:%H:%M}"


def _chart(outlook: Outlook, width: int, is_ascii: bool) -> Iterator[str]:
    start, end = outlook.steps[0].start, outlook.steps[-1].end
    columns = max(8, min(width - _MARGIN - 1, _MOST_COLUMNS))
    levels, is_forecast = _columns(outlook.steps, start, end, columns)
    known = levels[~np.isnan(levels)]
    top = float(known.max())
    bottom = min(0.0, float(known.min()))
    scale = (top - bottom) or 1.0
    eighths = np.where(np.isnan(levels), 0, np.maximum(1, np.rint((levels - bottom) / scale * _HEIGHT * 8)))
    for row in range(_HEIGHT, 0, -1):
        cells = np.clip(eighths - (row - 1) * 8, 0, 8).astype(int)
        label = {_HEIGHT: f"{top:.0f}", 1: f"{bottom:.0f}", _HEIGHT // 2 + 1: f"{(top + bottom) / 2:.0f}"}.get(row, "")
        bar = "".join(("#" if cell >= 4 else " ") if is_ascii else _EIGHTHS[cell] for cell in cells)
        yield f"{label:>{_MARGIN - 1}} {bar}".rstrip()
    measured_mark, forecast_mark, now_mark = "=.^" if is_ascii else "━┄▲"
    marks = [forecast_mark] * columns
    for column in range(columns):
        if np.isnan(levels[column]):
            marks[column] = "?"
        elif not is_forecast[column]:
            marks[column] = measured_mark
    now = _column(outlook.at, start, end, columns)
    if 0 <= now < columns:
        marks[now] = now_mark
    yield f"{'g/kWh':>{_MARGIN - 1}} {''.join(marks)}"
    yield f"{'':>{_MARGIN}}{_hours(start, end, columns)}"
    marked = [(now_mark, "now")] if 0 <= now < columns else []
    marked += [(measured_mark, "measured or estimated"), (forecast_mark, "forecast")]
    marked += [("?", "unknown")] if np.isnan(levels).any() else []
    legend = "; ".join((*(f"{mark} {meaning}" for mark, meaning in marked), "local time"))
    for line in wrap(legend, width - _MARGIN):
        yield f"{'':>{_MARGIN}}{line}"


def _columns(steps: Sequence[Step], start: datetime, end: datetime, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean level of each column's time, NaN where nothing is known of it; and whether most of it is a forecast."""
    bounds = np.linspace(unix_us_of(start), unix_us_of(end), columns + 1)
    known, weighted, forecast = np.zeros((3, columns))
    for step in steps:
        overlap = np.minimum(bounds[1:], unix_us_of(step.end)) - np.maximum(bounds[:-1], unix_us_of(step.start))
        overlap = np.maximum(overlap, 0)
        known += overlap
        weighted += overlap * step.value.intensity_g_per_kwh
        if step.value.status in _FORECAST:
            forecast += overlap
    with np.errstate(invalid="ignore", divide="ignore"):
        levels = np.where(known > 0, weighted / known, np.nan)
    return levels, forecast * 2 > known


def _column(instant: datetime, start: datetime, end: datetime, columns: int) -> int:
    return int((instant - start) / (end - start) * columns)


def _hours(start: datetime, end: datetime, columns: int) -> str:
    """Full hours of local time below their columns, as many as there is room for."""
    hours = (end - start) / timedelta(hours=1)
    every = next((n for n in (1, 2, 3, 6, 12, 24) if columns / hours * n >= 6), 24)
    line = [" "] * columns
    hour = start.astimezone().replace(minute=0, second=0, microsecond=0)
    while hour <= end:
        at = _column(hour, start, end, columns)
        text = f"{hour:%H}:00" if hour.hour else f"{hour:%a}"
        if hour >= start and hour.hour % every == 0 and at + len(text) <= columns:
            line[at : at + len(text)] = text
        hour = (hour + timedelta(hours=1)).astimezone()
    return "".join(line).rstrip()
