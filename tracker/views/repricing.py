"""Runs priced anew, before and after, as a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tracker.records import PricedFigures, Repriced, Repricing
from tracker.views import amounts
from tracker.views.listing import dashed
from tracker.views.tables import cut, printable, table, wrap

_MOST_ROWS: Final = 50  # more of them nobody reads; the sums, and what is said of how many, stay
_ID_LENGTH: Final = 12


def repricing_text(repricing: Repricing, width: int = 80) -> str:
    """Emissions of each run before and after, their sum, and what must be said of them."""
    lines: list[str] = []
    shown = repricing.runs[:_MOST_ROWS]
    if shown:
        titles = ("id", "name", "before", "after", "", "intensity", "values")
        found = [_row(one) for one in shown]
        if len(repricing.runs) > 1:
            found.append(_sum(repricing.runs))
        lines.extend(table([titles, *dashed(found)], width=width, flexible=(1,), right=(2, 3, 4, 5)))
    if len(repricing.runs) > len(shown):
        lines.append(f"and {len(repricing.runs) - len(shown)} more, in the sum too (--json shows all)")
    if not repricing.runs and not repricing.skipped:
        lines.append("no runs to price")
    for text in _said(repricing):
        lines.extend(wrap(text, width))
    return "\n".join(lines)


def _row(one: Repriced) -> tuple[str, ...]:
    before_g, after_g = one.before.emissions_g, one.after.emissions_g
    is_modelled = before_g is None and after_g is None
    if is_modelled:
        before_g, after_g = one.before.emissions_modelled_g, one.after.emissions_modelled_g
    mark = " (model)" if is_modelled else ""
    return (
        one.run_id[:_ID_LENGTH],
        printable(one.name) if one.name else "(no name)",
        amounts.mass(before_g) + mark,
        amounts.mass(after_g) + mark,
        _change(before_g, after_g),
        amounts.intensity(one.after.intensity_g_per_kwh),
        _values(one.after),
    )


def _values(figures: PricedFigures) -> str:
    return ", ".join(filter(None, (*(printable(name) for name in figures.providers), figures.status)))


def _change(before_g: float | None, after_g: float | None) -> str:
    if before_g is None or after_g is None or not before_g:
        return ""
    return f"{(after_g - before_g) / before_g:+.1%}".replace("%", " %")


def _sum(runs: Iterable[Repriced]) -> tuple[str, ...]:
    pairs = [(one.before.emissions_g, one.after.emissions_g) for one in runs]
    both = [(before_g, after_g) for before_g, after_g in pairs if before_g is not None and after_g is not None]
    if not both:
        return ("sum", "", amounts.UNKNOWN, amounts.UNKNOWN, "", "", "")
    before_g, after_g = (math.fsum(column) for column in zip(*both, strict=True))
    return ("sum", f"of {len(both)}", amounts.mass(before_g), amounts.mass(after_g), _change(before_g, after_g), "", "")


def _said(repricing: Repricing) -> Iterator[str]:
    runs = repricing.runs
    stored = sum(one.is_stored for one in runs)
    changed = sum(one.is_changed for one in runs)
    if runs:
        if stored:
            said = f"{stored} of {len(runs)} show the new result from now on; the earlier pricings are kept"
        elif changed:
            said = "what if: nothing is stored"
        else:
            said = "nothing better is known than what is stored"
        yield said
    marks = (("measured energy; PUE ", [one.after.pue for one in runs]),)
    for what, values in marks:
        if values:
            low, high = min(values), max(values)
            yield f"CO2e of the {what}{low:g}" + ("" if low == high else f" to {high:g}")
    yield from _costs(runs)
    for text, count in Counter(warning for one in runs for warning in one.warnings).items():
        yield printable(text if len(runs) == 1 else f"{count} of {len(runs)}: {text}")
    for reason, ids in _by_reason(repricing).items():
        named = ", ".join(run_id[:_ID_LENGTH] for run_id in ids[:_FEW]) + (" …" if len(ids) > _FEW else "")
        yield f"not priced ({len(ids)}): {named}: {reason}"
    for note in repricing.notes:
        yield printable(cut(note, _LONGEST_NOTE))


def _costs(runs: Sequence[Repriced]) -> Iterator[str]:
    """What the energy cost before and after, by currency, of the runs with a price."""
    before, after = _by_currency(one.before for one in runs), _by_currency(one.after for one in runs)
    for currency in dict.fromkeys((*before, *after)):
        was, now = (amounts.money(cost.get(currency), currency) for cost in (before, after))
        yield printable(f"cost of the measured energy: {was} before, {now} after")


def _by_currency(figures: Iterable[PricedFigures]) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    for one in figures:
        if one.cost is not None and one.currency is not None:
            sums.setdefault(one.currency, []).append(one.cost)
    return {currency: math.fsum(costs) for currency, costs in sums.items()}


_FEW: Final = 5
_LONGEST_NOTE: Final = 500


def _by_reason(repricing: Repricing) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for run_id, reason in repricing.skipped.items():
        found.setdefault(reason, []).append(run_id)
    return found
