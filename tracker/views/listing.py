"""Several runs as the list that `tracker runs` shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tracker.records import Run
from tracker.views import amounts
from tracker.views.summary import KIND_LABELS
from tracker.views.tables import printable, table, wrap

_ID_LENGTH: Final = 6
FIGURES: Final = "energy and CO2e: of what was measured; cover: the share of it that is known"


@dataclass(frozen=True, slots=True)
class ListColumn:
    """A column of the list that can be asked for.

    Attributes:
        title: at its head; start and id make their own.
        cells: of these runs.
        exported: names of the same in an export of runs.
        is_text: cut where room is short; others are figures, to the right.
    """

    title: str
    cells: Callable[[Sequence[Run]], list[str]]
    exported: tuple[str, ...]
    is_text: bool = False
    is_right: bool = True


def _each(cell: Callable[[Run], str]) -> Callable[[Sequence[Run]], list[str]]:
    return lambda runs: [cell(run) for run in runs]


def _text(title: str, cell: Callable[[Run], str], *exported: str) -> ListColumn:
    return ListColumn(title, _each(cell), exported, is_text=True, is_right=False)


def _figure(title: str, cell: Callable[[Run], str], *exported: str) -> ListColumn:
    return ListColumn(title, _each(cell), exported)


def _word(title: str, cell: Callable[[Run], str], *exported: str) -> ListColumn:
    return ListColumn(title, _each(cell), exported, is_right=False)


def runs_table(runs: Sequence[Run], width: int = 80, columns: Sequence[str] = ()) -> str:
    """Runs in the order given, a line each, and below them what the figures leave out.

    Args:
        runs: any number.
        width: in columns of the terminal; texts are cut to fit.
        columns: of LIST_COLUMNS; without any those that fit the width.
    """
    if not runs:
        return "no runs"
    chosen = columns or (WIDE_COLUMNS if width >= _WIDE else DEFAULT_COLUMNS)
    shown = _shown(runs, chosen, are_all=bool(columns))
    lines = table(
        [
            [title for title, _, _ in shown],
            *dashed(zip(*(cells for _, _, cells in shown), strict=True)),
        ],
        width=width,
        flexible=[at for at, (_, column, _) in enumerate(shown) if column.is_text],
        right=[at for at, (_, column, _) in enumerate(shown) if column.is_right],
    )
    for note in list_notes(runs, chosen):
        lines.extend(wrap(note, width))
    return "\n".join(lines)


def runs_grid(runs: Sequence[Run]) -> tuple[list[str], list[list[str]], list[int]]:
    """The titles and rows of the list, and which of its columns are figures, for a view as wide as it needs."""
    shown = _shown(runs, WIDE_COLUMNS, are_all=False)
    rows = dashed(zip(*(cells for _, _, cells in shown), strict=True))
    right = [at for at, (_, column, _) in enumerate(shown) if column.is_right]
    return [title for title, _, _ in shown], list(rows), right


def _shown(runs: Sequence[Run], chosen: Sequence[str], *, are_all: bool) -> list[tuple[str, ListColumn, list[str]]]:
    """Title, column and cells of those columns that hold something, or of all."""
    shown: list[tuple[str, ListColumn, list[str]]] = []
    for name in chosen:
        column = LIST_COLUMNS[name]
        cells = column.cells(runs)
        if are_all or any(cell not in ("", amounts.UNKNOWN) for cell in cells) or name in ("energy", "emissions"):
            shown.append((_started(runs)[0] if name == "started" else column.title, column, cells))
    return shown


def mean_power_w(run: Run) -> float | None:
    """Mean power of the measured parts together; None where that of one of them is unknown."""
    powers = [device.mean_power_w for device in run.devices if device.method in ("counter", "power")]
    known = [power for power in powers if power is not None]
    return math.fsum(known) if known and len(known) == len(powers) else None


def _range(range_j: tuple[float, float] | None) -> str:
    return amounts.UNKNOWN if range_j is None else " to ".join(map(amounts.energy, range_j))


def _zone(run: Run) -> str:
    if run.zone is None:
        return ""
    return printable(run.zone.zone) + (" (guessed)" if run.zone.origin == "guessed" else "")


def devices_text(run: Run) -> str:
    """The measured and modelled parts in short: "8 x NVIDIA H100, CPU"."""
    counts = Counter(
        device.name if device.kind == "gpu" else KIND_LABELS[device.kind]
        for device in run.devices
        if device.method != "none"
    )
    return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items())


def name_of(run: Run) -> str:
    return printable(run.name) if run.name else "(no name)"


def dashed(rows: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """Rows with a dash for what is unknown: tables are narrow."""
    return (["-" if cell == amounts.UNKNOWN else cell for cell in row] for row in rows)


def short_ids(runs: Sequence[Run]) -> dict[str, str]:
    """The shortest prefixes, of one length, that tell these runs apart."""
    ids = {run.id for run in runs}
    length = next(n for n in range(_ID_LENGTH, 65) if len({id_[:n] for id_ in ids}) == len(ids))
    return {id_: id_[:length] for id_ in ids}


def _started(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """The starts in UTC with their heading, which holds the year where it is the same for all."""
    starts = [run.started_at for run in runs]
    years = {start.year for start in starts if start is not None}
    heading, pattern = (f"{years.pop()} UTC", "%m-%d %H:%M") if len(years) == 1 else ("started UTC", "%Y-%m-%d")
    return heading, [format(start, pattern) if start is not None else amounts.UNKNOWN for start in starts]


def list_notes(runs: Sequence[Run], columns: Sequence[str]) -> Iterator[str]:
    """What the figures of the list leave out."""
    ids = short_ids(runs)
    if not {"energy", "emissions", "coverage"}.isdisjoint(columns):
        yield FIGURES
    has_modelled = any(run.energy_modelled_j is not None for run in runs)
    if has_modelled and not {"energy_modelled", "emissions_modelled", "cost_modelled"}.isdisjoint(columns):
        yield "modelled: an estimate, of parts that no meter reads; not part of energy and CO2e"
    modelled = [ids[run.id] for run in runs if run.energy_modelled_j is not None]
    if modelled and "energy_modelled" not in columns:
        yield f"with modelled energy besides (tracker show RUN): {', '.join(modelled)}"
    parts = [f"{ids[run.id]} of {ids[run.parent_id]}" for run in runs if run.parent_id in ids and run.parent_id]
    if parts:
        yield f"parts, whose energy their run holds too: {', '.join(parts)}"


LIST_COLUMNS: Final[Mapping[str, ListColumn]] = {
    "id": ListColumn("id", lambda runs: [short_ids(runs)[run.id] for run in runs], ("run_id",), is_right=False),
    "name": _text("name", name_of, "name"),
    "project": _text("project", lambda run: printable(run.project or ""), "project"),
    "tags": _text("tags", lambda run: printable(", ".join(f"{k}={v}" for k, v in run.tags.items())), "tags"),
    "started": ListColumn("started", lambda runs: _started(runs)[1], ("started_at",), is_right=False),
    "ended": _word("ended UTC", lambda run: f"{run.ended_at:%Y-%m-%d %H:%M}" if run.ended_at else "", "ended_at"),
    "duration": _figure("lasted", lambda run: amounts.duration(run.duration_s), "duration_s"),
    "energy": _figure("energy", lambda run: amounts.energy(run.energy_j), "energy_j"),
    "range": _figure("range", lambda run: _range(run.energy_range_j), "energy_low_j", "energy_high_j"),
    "energy_modelled": _figure("modelled", lambda run: amounts.energy(run.energy_modelled_j), "energy_modelled_j"),
    "power": _figure("power", lambda run: amounts.power(mean_power_w(run)), "mean_power_w"),
    "emissions": _figure("CO2e", lambda run: amounts.mass(run.emissions_g), "emissions_g"),
    "emissions_modelled": _figure(
        "modelled CO2e", lambda run: amounts.mass(run.emissions_modelled_g), "emissions_modelled_g"
    ),
    "cost": _figure("cost", lambda run: amounts.money(run.cost, run.currency), "cost", "currency"),
    "cost_modelled": _figure(
        "modelled cost", lambda run: amounts.money(run.cost_modelled, run.currency), "cost_modelled", "currency"
    ),
    "intensity": _figure("intensity", lambda run: amounts.intensity(run.intensity_g_per_kwh), "intensity_g_per_kwh"),
    "pue": _figure("PUE", lambda run: f"{run.pue:g}", "pue"),
    "coverage": _figure("cover", lambda run: amounts.share(run.coverage), "coverage"),
    "zone": _word("zone", _zone, "zone", "zone_origin"),
    "devices": _text("devices", lambda run: printable(devices_text(run)), "devices"),
    "status": _word("status", lambda run: run.status, "status"),
    "warnings": _figure("warnings", lambda run: str(len(run.warnings)) if run.warnings else "", "warnings"),
    "parent": _word("part of", lambda run: run.parent_id or "", "parent_id"),
    "replayed": _word("", lambda run: "replayed" if run.is_replayed else "", "is_replayed"),
}
DEFAULT_COLUMNS: Final = (
    "id", "name", "project", "started", "duration", "energy", "emissions", "coverage", "status", "replayed",
)  # fmt: skip
WIDE_COLUMNS: Final = (
    "id", "name", "project", "tags", "started", "duration", "energy", "energy_modelled", "power", "emissions",
    "cost", "intensity", "zone", "coverage", "status", "replayed", "devices",
)  # fmt: skip
_WIDE: Final = 140  # columns of a terminal that have room for WIDE_COLUMNS
