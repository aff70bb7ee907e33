"""Runs side by side as text: totals, devices, phases, units of progress, what differs, and why emissions do."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from tracker.comparison import Comparison
from tracker.records import Run
from tracker.units import SECONDS_PER_HOUR
from tracker.views import amounts
from tracker.views.listing import FIGURES, dashed, name_of, short_ids
from tracker.views.summary import KIND_LABELS, part_name, pue_text
from tracker.views.tables import cut, printable, table, wrap

_VALUE_WIDTH: Final = 40  # of a setting that differs; more of it is in the record
_ROUNDING: Final = 1e-9  # of a difference: smaller parts of it are none, but sums of floats

Row = tuple[str, ...]
Key = TypeVar("Key", bound=Hashable)
Figures = TypeVar("Figures")


@dataclass(frozen=True, slots=True)
class Part:
    """A table of a comparison: its titles, its rows, and from which column on they are figures."""

    titles: Row
    rows: tuple[Row, ...]
    right_from: int

    @property
    def right(self) -> list[int]:
        """The columns that are aligned to the right."""
        return [at for at in range(self.right_from, len(self.titles)) if self.titles[at] != "method"]


def comparison_text(comparison: Comparison, width: int = 80) -> str:
    """Runs side by side, each as a multiple of the first, why they differ, and what stands against comparing them."""
    if not comparison.runs:
        return "no runs"
    lines: list[str] = []
    for at, part in enumerate(comparison_parts(comparison)):
        if at:
            lines.append("")
        lines.extend(table([part.titles, *part.rows], width=width, flexible=(0 if at else 1,), right=part.right))
        if not at:
            lines.extend(wrap(f"x: times the first; {FIGURES}", width))
    notes, differing = comparison_notes(comparison)
    for note in notes:
        lines.extend(wrap(note, width))
    for at, line in enumerate(differing):
        if not at and line.startswith("differs"):
            lines.append("")
        lines.extend(wrap(line, width))
    return "\n".join(lines)


def comparison_parts(comparison: Comparison) -> Iterator[Part]:
    """The tables: of the runs whole, then by device, phase and unit of progress, and why emissions differ."""
    ids = short_ids(comparison.runs)
    names = [ids[run.id] for run in comparison.runs]
    for titles, rows, right_from in (
        (
            ("id", "name", "lasted", "", "energy", "", "CO2e", "", "intensity", "cover"),
            _totals(comparison.runs, ids),
            2,
        ),
        (("cost", "id", "of measured", "", "modelled", "price of a kWh", "PUE"), _costs(comparison.runs, ids), 2),
        (("device", "id", "", "energy", "", "power", "cover", "method"), _devices(comparison, names), 3),
        (("phase", "id", "spans", "lasted", "energy", "", "power", "CO2e", "intensity"), _phases(comparison, names), 2),
        (("for each", "id", "of", "energy", "", "CO2e", ""), _units(comparison, names), 2),
        (("CO2e", "id", "difference", "by energy", "PUE", "place", "time"), _reasons(comparison, ids), 2),
    ):
        found = tuple(map(tuple, dashed(rows)))
        if found:
            yield Part(titles, found, right_from)


def comparison_notes(comparison: Comparison) -> tuple[list[str], list[str]]:
    """What must be known of the figures; and what differs, with what stands against comparing the runs."""
    ids = short_ids(comparison.runs)
    names = [ids[run.id] for run in comparison.runs]
    differing = [f"differs: {what}: {_by_run(values, names)}" for what, values in _differing(comparison)]
    differing += [f"not alike: {caveat}" for caveat in _caveats(comparison.runs, ids)]
    return list(_notes(comparison, ids)), differing


def _totals(runs: Sequence[Run], ids: dict[str, str]) -> Iterator[Row]:
    first = runs[0]
    for run in runs:
        yield (
            ids[run.id],
            name_of(run),
            amounts.duration(run.duration_s),
            amounts.ratio(run.duration_s, first.duration_s),
            amounts.energy(run.energy_j),
            amounts.ratio(run.energy_j, first.energy_j),
            amounts.mass(run.emissions_g),
            amounts.ratio(run.emissions_g, first.emissions_g),
            amounts.intensity(run.intensity_g_per_kwh),
            amounts.share(run.coverage),
        )


def _costs(runs: Sequence[Run], ids: dict[str, str]) -> Iterator[Row]:
    """Of the electricity, where a run has a price."""
    if all(run.currency is None for run in runs):
        return
    first = runs[0]
    for run in runs:
        price = amounts.UNKNOWN if run.price_per_kwh is None else f"{run.price_per_kwh:.10g} {run.currency}"
        yield (
            "",
            ids[run.id],
            printable(amounts.money(run.cost, run.currency)),
            amounts.ratio(run.cost, first.cost if first.currency == run.currency else None),
            printable(amounts.money(run.cost_modelled, run.currency)),
            printable(price),
            f"{run.pue:g}",
        )


def _devices(comparison: Comparison, names: Sequence[str]) -> Iterator[Row]:
    tables = [{(f.kind, f.name): f for f in figures} for figures in comparison.devices()]
    return _side_by_side(
        tables,
        names,
        lambda key: printable(part_name(*key)),
        lambda figures, first: (
            f"{figures.devices} x",
            amounts.energy(figures.energy_j),
            amounts.ratio(figures.energy_j, first.energy_j if first else None),
            amounts.power(figures.mean_power_w),
            amounts.share(figures.coverage),
            ", ".join(figures.methods),
        ),
    )


def _phases(comparison: Comparison, names: Sequence[str]) -> Iterator[Row]:
    tables = [{f.name: f for f in figures} for figures in comparison.phases()]
    return _side_by_side(
        tables,
        names,
        printable,
        lambda figures, first: (
            str(figures.spans),
            amounts.duration(figures.duration_s),
            amounts.energy(figures.energy_j),
            amounts.ratio(figures.energy_j, first.energy_j if first else None),
            amounts.power(figures.mean_power_w),
            amounts.mass(figures.emissions_g),
            amounts.intensity(figures.intensity_g_per_kwh),
        ),
    )


def _units(comparison: Comparison, names: Sequence[str]) -> Iterator[Row]:
    tables = [{f.unit: f for f in figures} for figures in comparison.units()]
    return _side_by_side(
        tables,
        names,
        str,
        lambda figures, first: (
            f"{figures.count:g}",
            amounts.energy(figures.energy_j),
            amounts.ratio(figures.energy_j, first.energy_j if first else None),
            amounts.mass(figures.emissions_g),
            amounts.ratio(figures.emissions_g, first.emissions_g if first else None),
        ),
    )


def _side_by_side(
    tables: Sequence[Mapping[Key, Figures]],
    names: Sequence[str],
    lead_of: Callable[[Key], str],
    cells_of: Callable[[Figures, Figures | None], Row],
) -> Iterator[Row]:
    """What is alike in the runs below each other, named once.

    Args:
        tables: of each run its figures by what they are of.
        cells_of: the cells of one run's figures, beside those of the first run where it has them.
    """
    for key in dict.fromkeys(key for found in tables for key in found):
        lead = lead_of(key)
        for name, found in zip(names, tables, strict=True):
            if key in found:
                yield (lead, name, *cells_of(found[key], tables[0].get(key)))
                lead = ""


def _reasons(comparison: Comparison, ids: dict[str, str]) -> Iterator[Row]:
    for found in comparison.attributions():
        if found.difference_g is not None:
            yield (
                "modelled part" if found.is_modelled else f"against {ids[comparison.runs[0].id]}",
                ids[found.run_id],
                *(
                    _signed(g, found.difference_g)
                    for g in (found.difference_g, found.energy_g, found.pue_g, found.place_g, found.time_g)
                ),
            )


def _signed(difference_g: float | None, in_all_g: float) -> str:
    if difference_g is None:
        return amounts.UNKNOWN
    if abs(difference_g) < _ROUNDING * abs(in_all_g):
        return amounts.mass(0.0)
    return f"{'+' if difference_g > 0 else ''}{amounts.mass(difference_g)}"


def _notes(comparison: Comparison, ids: dict[str, str]) -> Iterator[str]:
    attributions = comparison.attributions()
    if any(found.energy_g is not None for found in attributions):
        yield (
            "energy, PUE, place and time add up to the difference (Shapley value of energy x PUE x intensity); "
            "place: the zone's mean intensity; time: how far the run's hours lay from it"
        )
    for mean in comparison.zone_means:
        hours = f"{mean.known_s / SECONDS_PER_HOUR:.3g} h known between {mean.start:%Y-%m-%d %H:%M}"
        yield printable(
            f"mean of {mean.zone} ({mean.provider}): {amounts.intensity(mean.intensity_g_per_kwh)} over the {hours} "
            f"and {mean.end:%Y-%m-%d %H:%M} UTC"
        )
    for reason in dict.fromkeys(found.reason for found in attributions if found.reason):
        yield f"CO2e: {_with_short_ids(reason, ids)}"
    if any(run.energy_modelled_j is not None for run in comparison.runs):
        yield "modelled energy is in no figure but those marked model and modelled"
    phases = [figures for of_run in comparison.phases() for figures in of_run]
    beside = sum(figures.beside for figures in phases)
    if beside:
        yield f"phases: {beside} spans within or beside a longer one of their name are in no figure"
    unknown = sum(figures.energy_unknown for figures in phases)
    if unknown:
        yield f"phases: of {unknown} spans the energy is unknown and in no figure"


def _with_short_ids(reason: str, ids: dict[str, str]) -> str:
    for long, short in ids.items():
        reason = reason.replace(long, short)
    return reason


def _differing(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    for difference in comparison.differences():
        values = ["none" if v is None else cut(printable(v), _VALUE_WIDTH) for v in difference.values]
        yield cut(printable(difference.name), _VALUE_WIDTH), values


def _caveats(runs: Sequence[Run], ids: dict[str, str]) -> Iterator[str]:
    """What differs between the runs, beside their work, that moves their figures."""
    traits: tuple[tuple[str, Callable[[Run], str]], ...] = (
        ("measured parts", _parts),
        ("PUE", lambda run: pue_text(run.pue)),
        ("basis of the intensity", lambda run: _joined(use.value.basis for use in run.intensity)),
        ("replayed", lambda run: "yes" if run.is_replayed else "no"),
        ("status", lambda run: run.status),
        ("share known", lambda run: amounts.share(run.coverage)),
    )
    for what, trait in traits:
        values = [trait(run) for run in runs]
        if len(set(values)) > 1:
            yield f"{what} ({_by_run(values, [ids[run.id] for run in runs])})"


def _by_run(values: Sequence[str], names: Sequence[str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))


def _parts(run: Run) -> str:
    return _joined(KIND_LABELS[d.kind] for d in run.devices if d.method in ("counter", "power"))


def _joined(words: Iterable[str]) -> str:
    return " + ".join(sorted(set(words))) or "none"
