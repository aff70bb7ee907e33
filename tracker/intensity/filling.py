"""What stands in where a source has no value between, after or before those that it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from tracker.records import STATUSES, IntensityValue

LONGEST_HOLE: Final = timedelta(hours=3)  # a grid's daily curve bends within about six
FILLED: Final = "(filled)"


def filled(values: Iterable[IntensityValue], start: datetime, end: datetime) -> list[IntensityValue]:
    """Values for the holes in [start, end) that are short enough: the mean of the neighbours, or the only neighbour.

    Most sources tell an hour only when it is over, and leave out some. Over a short hole the hours beside it are nearer
    to the truth than a yearly mean, which may be on another basis too. A filled value says so: its provider ends in
    "(filled)", and its status is at best "estimated".

    Args:
        values: dated ones of one source and signal, in any order; several revisions of one stretch may be among them.

    Returns:
        Only what is filled, in order of time.
    """
    steps = _visible(values)
    found = []
    before: IntensityValue | None = None
    edge = start
    for step in [*steps, None]:
        hole_end = end if step is None else min(_start_of(step), end)
        if edge < hole_end and (value := _between(before, step, edge, hole_end)) is not None:
            found.append(value)
        if step is None or _start_of(step) >= end:
            break
        before, edge = step, max(edge, _end_of(step))
    return found


def _between(
    before: IntensityValue | None, after: IntensityValue | None, start: datetime, end: datetime
) -> IntensityValue | None:
    hole_start = start if before is None else _end_of(before)
    hole_end = end if after is None else _start_of(after)
    is_short = hole_end - hole_start <= LONGEST_HOLE
    beside = [value for value in (before, after) if value is not None]
    if not is_short:  # then only what is near to one of its ends
        if before is not None and start < hole_start + LONGEST_HOLE:
            beside, end = [before], min(end, hole_start + LONGEST_HOLE)
        else:
            return None
    if not beside or len({value.basis for value in beside}) > 1:
        return None
    mean_g_per_kwh = sum(value.intensity_g_per_kwh for value in beside) / len(beside)
    what = "the mean of the values beside it" if len(beside) > 1 else "the value beside it"
    worst = min((value.status for value in beside), key=STATUSES.index)
    return replace(
        beside[0],
        provider=f"{beside[0].provider} {FILLED}",
        intensity_g_per_kwh=mean_g_per_kwh,
        status=min(worst, "estimated", key=STATUSES.index),
        start=start,
        end=end,
        raw_value=None,
        raw_unit="",
        note=f"the source has no value: {what}",
    )


def _visible(values: Iterable[IntensityValue]) -> Sequence[IntensityValue]:
    """The best value of each stretch, in order of time."""
    best: dict[tuple[datetime, datetime], IntensityValue] = {}
    for value in values:
        stretch = _start_of(value), _end_of(value)
        held = best.get(stretch)
        if held is None or _rank(value) >= _rank(held):
            best[stretch] = value
    return [best[stretch] for stretch in sorted(best)]


def _rank(value: IntensityValue) -> tuple[int, float]:
    return STATUSES.index(value.status), value.fetched_at.timestamp() if value.fetched_at else 0.0


def _start_of(value: IntensityValue) -> datetime:
    assert value.start is not None
    return value.start


def _end_of(value: IntensityValue) -> datetime:
    assert value.end is not None
    return value.end
