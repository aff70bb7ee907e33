"""Sums by project and month as the lines of a chart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from tracker.records import Total
from tracker.units import GRAMS_PER_KG, JOULES_PER_KWH
from tracker.views.tables import printable

MOST_LINES: Final = 8  # that the eye can tell apart; of more projects those of least energy are one line


def lines_of(totals: Sequence[Total]) -> dict[str, Any]:
    """What the charts of trends show.

    Args:
        totals: by project and month.

    Returns:
        "months": "2026-11", every one from the first to the last; "start_s": when each began (UTC); "lines": of each
        project, the one of most energy first, its "label", "energy_kwh" and "emissions_kg" by month. 0: there was no
        run; None: what its runs used is unknown.
    """
    months = list(_months_of({str(total.group["month"]) for total in totals if total.group["month"]}))
    by_project: dict[str | None, dict[str, list[Total]]] = {}
    for total in totals:
        by_project.setdefault(total.group["project"], {}).setdefault(str(total.group["month"]), []).append(total)
    in_order = sorted(by_project.items(), key=lambda item: -_sum(item[1].values(), "energy_j"))
    if len(in_order) > MOST_LINES:
        rest = in_order[MOST_LINES - 1 :]
        others: dict[str, list[Total]] = {}
        for _, of_project in rest:
            for month, found in of_project.items():
                others.setdefault(month, []).extend(found)
        lines = [(_label(project), found) for project, found in in_order[: MOST_LINES - 1]]
        lines.append((f"{len(rest)} others", others))
    else:
        lines = [(_label(project), found) for project, found in in_order]
    return {
        "months": months,
        "start_s": [datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC).timestamp() for month in months],
        "lines": [
            {
                "label": label,
                "energy_kwh": [_of_month(found.get(month, ()), "energy_j", JOULES_PER_KWH) for month in months],
                "emissions_kg": [_of_month(found.get(month, ()), "emissions_g", GRAMS_PER_KG) for month in months],
            }
            for label, found in lines
        ],
    }


def _label(project: str | None) -> str:
    return "(no project)" if project is None else printable(project)


def _sum(groups: Iterable[Sequence[Total]], figure: str) -> float:
    return math.fsum(getattr(total, figure) or 0.0 for totals in groups for total in totals)


def _of_month(totals: Sequence[Total], figure: str, size: float) -> float | None:
    known = [value for total in totals if (value := getattr(total, figure)) is not None]
    if not totals:
        return 0.0
    bases = {total.basis for total in totals if total.basis is not None}
    if not known or (figure == "emissions_g" and len(bases) > 1):  # no sum can hold two bases
        return None
    return math.fsum(known) / size


def _months_of(found: set[str]) -> Iterator[str]:
    """Every month from the first to the last."""
    if not found:
        return
    year, month = map(int, min(found).split("-"))
    while (text := f"{year:04d}-{month:02d}") <= max(found):
        yield text
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
