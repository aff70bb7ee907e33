"""Several runs: as the list that `tracker runs` shows, and side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tracker.records import Comparison, Run
from tracker.views import amounts
from tracker.views.summary import KIND_LABELS, pue_text
from tracker.views.tables import printable, table, wrap

_ID_LENGTH: Final = 6
_FIGURES: Final = "energy and CO2e: of what was measured; cover: the share of it that is known"


def runs_table(runs: Sequence[Run], width: int = 80) -> str:
    """Runs in the order given, a line each, and below them what the figures leave out.

    Args:
        runs: any number.
        width: in columns of the terminal; names and projects are cut to fit.
    """
    if not runs:
        return "no runs"
    ids = _short_ids(runs)
    when, started = _started(runs)
    columns: list[tuple[str, list[str]]] = [
        ("id", [ids[run.id] for run in runs]),
        ("name", [_name(run) for run in runs]),
        ("project", [printable(run.project or "") for run in runs]),
        (when, started),
        ("lasted", [amounts.duration(run.duration_s) for run in runs]),
        ("energy", [amounts.energy(run.energy_j) for run in runs]),
        ("CO2e", [amounts.mass(run.emissions_g) for run in runs]),
        ("cover", [amounts.share(run.coverage) for run in runs]),
        ("status", [run.status for run in runs]),
        ("", ["replayed" if run.is_replayed else "" for run in runs]),
    ]
    columns = [(title, cells) for title, cells in columns if any(cells)]
    titles = [title for title, _ in columns]
    lines = table(
        [titles, *_dashed(zip(*(cells for _, cells in columns), strict=True))],
        width=width,
        flexible=[titles.index(title) for title in ("name", "project") if title in titles],
        right=[titles.index(title) for title in ("lasted", "energy", "CO2e", "cover")],
    )
    for note in _list_notes(runs, ids):
        lines.extend(wrap(note, width))
    return "\n".join(lines)


def comparison_text(comparison: Comparison, width: int = 80) -> str:
    """Runs side by side, each as a multiple of the first, and what stands against comparing them."""
    runs = comparison.runs
    if not runs:
        return "no runs"
    ids = _short_ids(runs)
    first = runs[0]
    titles = ("id", "name", "lasted", "", "energy", "", "CO2e", "", "cover")
    rows = [
        (
            ids[run.id],
            _name(run),
            amounts.duration(run.duration_s),
            amounts.ratio(run.duration_s, first.duration_s),
            amounts.energy(run.energy_j),
            amounts.ratio(run.energy_j, first.energy_j),
            amounts.mass(run.emissions_g),
            amounts.ratio(run.emissions_g, first.emissions_g),
            amounts.share(run.coverage),
        )
        for run in runs
    ]
    lines = table([titles, *_dashed(rows)], width=width, flexible=(1,), right=range(2, len(titles)))
    lines.extend(wrap(f"x: times the first; {_FIGURES}", width))
    for caveat in _caveats(runs, ids):
        lines.extend(wrap(f"not alike: {caveat}", width))
    return "\n".join(lines)


def _name(run: Run) -> str:
    return printable(run.name) if run.name else "(no name)"


def _dashed(rows: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """Rows with a dash for what is unknown: tables are narrow."""
    return (["-" if cell == amounts.UNKNOWN else cell for cell in row] for row in rows)


def _short_ids(runs: Sequence[Run]) -> dict[str, str]:
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


def _list_notes(runs: Sequence[Run], ids: dict[str, str]) -> Iterator[str]:
    yield _FIGURES
    modelled = [ids[run.id] for run in runs if run.energy_modelled_j is not None]
    if modelled:
        yield f"with modelled energy besides (tracker show RUN): {', '.join(modelled)}"
    parts = [f"{ids[run.id]} of {ids[run.parent_id]}" for run in runs if run.parent_id in ids and run.parent_id]
    if parts:
        yield f"parts, whose energy their run holds too: {', '.join(parts)}"


def _caveats(runs: Sequence[Run], ids: dict[str, str]) -> Iterator[str]:
    """What differs between the runs, beside their work, that moves their figures."""
    differing = (
        ("measured parts", [_parts(run) for run in runs]),
        ("PUE", [pue_text(run.pue) for run in runs]),
        ("basis of the intensity", [_joined(use.value.basis for use in run.intensity) for run in runs]),
        ("replayed", ["yes" if run.is_replayed else "no" for run in runs]),
        ("status", [run.status for run in runs]),
        ("share known", [amounts.share(run.coverage) for run in runs]),
    )
    for what, values in differing:
        if len(set(values)) > 1:
            yield f"{what} ({', '.join(f'{ids[run.id]}: {value}' for run, value in zip(runs, values, strict=True))})"


def _parts(run: Run) -> str:
    return _joined(KIND_LABELS[d.kind] for d in run.devices if d.method in ("counter", "power"))


def _joined(words: Iterator[str]) -> str:
    return " + ".join(sorted(set(words))) or "none"
