"""Sums over runs as a table, and as rows for other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tracker.records import CostTotal, Total
from tracker.views import amounts
from tracker.views.export import Column
from tracker.views.tables import printable, table, wrap

_BAR_WIDTH: Final = 10
_NOTE: Final = (
    "a run and its parts count once; energy and CO2e: of what was measured; cover: the share of it that is known"
)


def totals_text(totals: Sequence[Total], width: int = 80) -> str:
    """Totals in the order given, a line each, and below them what is in no sum.

    Where they are grouped by month, a bar shows the trend of the energy.
    """
    if not any(total.runs for total in totals):
        return "no runs"
    titles, rows, right = totals_grid(totals)
    if "month" in totals[0].group:
        titles.append("")
        rows = [[*row, bar] for row, bar in zip(rows, _bars(totals), strict=True)]
    lines = table([titles, *rows], width=width, flexible=range(len(totals[0].group)), right=right)
    for note in totals_notes(totals):
        lines.extend(wrap(note, width))
    return "\n".join(lines)


def totals_grid(totals: Sequence[Total]) -> tuple[list[str], list[list[str]], list[int]]:
    """The titles and rows of the totals, and which of the columns are figures."""
    groups = list(totals[0].group) if totals else []
    columns: list[tuple[str, list[str]]] = [(name, [_label(total.group[name]) for total in totals]) for name in groups]
    columns += [
        ("runs", [str(total.runs) for total in totals]),
        ("lasted", [amounts.duration(total.duration_s) for total in totals]),
        ("energy", [amounts.energy(total.energy_j) for total in totals]),
        ("modelled", [amounts.energy(total.energy_modelled_j) for total in totals]),
        ("CO2e", [amounts.mass(total.emissions_g) for total in totals]),
        ("modelled", [amounts.mass(total.emissions_modelled_g) for total in totals]),
        ("cost", [_costs(total.costs, "cost") for total in totals]),
        ("modelled", [_costs(total.costs, "cost_modelled") for total in totals]),
        ("cover", [amounts.share(total.coverage) for total in totals]),
    ]
    always = {*groups, "runs", "energy", "CO2e"}
    columns = [
        (title, cells)
        for title, cells in columns
        if title in always or any(cell not in ("", amounts.UNKNOWN) for cell in cells)
    ]
    rows = [
        ["-" if cell == amounts.UNKNOWN else cell for cell in row] for row in zip(*(c for _, c in columns), strict=True)
    ]
    return [title for title, _ in columns], rows, list(range(len(groups), len(columns)))


def _costs(costs: Sequence[CostTotal], figure: str) -> str:
    """Sums of money, one for each currency."""
    known = [(getattr(cost, figure), cost.currency) for cost in costs]
    return printable(" + ".join(amounts.money(*each) for each in known if each[0] is not None)) or amounts.UNKNOWN


def _label(value: str | None) -> str:
    return "(none)" if value is None else printable(value)


def _bars(totals: Sequence[Total]) -> list[str]:
    most_j = max((total.energy_j or 0.0 for total in totals), default=0.0)
    if not most_j:
        return [""] * len(totals)
    return ["#" * round(_BAR_WIDTH * (total.energy_j or 0.0) / most_j) for total in totals]


def totals_notes(totals: Sequence[Total]) -> Iterator[str]:
    """What the sums leave out."""
    yield _NOTE
    if any(total.energy_modelled_j is not None for total in totals):
        yield "modelled: an estimate, of parts that no meter reads; not part of energy and CO2e"
    unknown = sum(total.runs_energy_unknown for total in totals)
    if unknown:
        yield f"in no sum of energy, as nothing of it was measured: {_runs(unknown)}"
    unpriced = sum(total.runs_emissions_unknown for total in totals)
    if unpriced > unknown:
        yield f"in no sum of CO2e, as no intensity is known: {_runs(unpriced - unknown)}"
    unpaid = sum(total.runs_cost_unknown for total in totals)
    if unpaid and any(total.costs for total in totals):
        yield f"in no sum of cost, as no price was given or nothing was measured: {_runs(unpaid)}"
    parts = sum(total.parts for total in totals)
    if parts:
        yield f"left out as parts of runs that are counted: {_runs(parts)}"
    bases = {total.basis for total in totals if total.basis is not None}
    for total in totals:
        for apart in total.emissions_apart:
            where = ", ".join(_label(value) for value in total.group.values())
            yield (
                f"{where + ': ' if where else ''}besides {amounts.mass(apart.emissions_g)} CO2e on another basis "
                f"({apart.basis}, not {total.basis}), of {amounts.energy(apart.energy_j)}; no sum can hold both"
            )
    if len(bases) > 1:
        yield f"the lines are on several bases ({', '.join(sorted(bases))}): their CO2e cannot be added up"


def _runs(n: int) -> str:
    return "1 run" if n == 1 else f"{n} runs"


TOTAL_COLUMNS: Final = (
    Column("runs", "", "how many are summed"),
    Column("parts", "", "how many more are left out, as parts of runs that are summed"),
    Column("duration_s", "s", "sum of the runs' durations"),
    Column("energy_j", "J", "measured IT energy"),
    Column("energy_modelled_j", "J", "modelled IT energy; not part of energy_j"),
    Column("emissions_g", "g CO2e", "of the measured energy of the runs priced on basis"),
    Column("emissions_modelled_g", "g CO2e", "of their modelled energy"),
    Column("basis", "", "of the intensities: lifecycle, direct or unknown"),
    Column("emissions_apart", "", "of runs priced on another basis, as a JSON array"),
    Column("runs_energy_unknown", "", "how many of the runs are not in energy_j"),
    Column("runs_emissions_unknown", "", "how many of the runs are not in the emissions"),
    Column("coverage", "", "mean coverage of the runs, weighted by their time"),
    Column("costs", "", "what the energy cost by currency, of the runs with a price, as a JSON array"),
    Column("runs_cost_unknown", "", "how many of the runs are in no cost of measured energy"),
)


def total_columns(totals: Sequence[Total]) -> tuple[Column, ...]:
    """The columns of totals, those of their groups first."""
    groups = totals[0].group if totals else {}
    return (*(Column(name, "", f"the runs' {name}") for name in groups), *TOTAL_COLUMNS)


def total_row(total: Total) -> dict[str, Any]:
    """A total as a row of total_columns."""
    row = total.to_dict()
    return {**row.pop("group"), **row}
