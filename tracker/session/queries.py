"""Past and present runs from the database: runs(), totals() and compare()."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tracker.comparison import Comparison, ZoneMean, dated_sources, stretch_of, zone_mean
from tracker.errors import SettingError
from tracker.records import Run, Runs, RunStatus, Total
from tracker.session.past import get, known_until, readers
from tracker.store.filters import EVERY_RUN, NEWEST_FIRST, Order, RunFilter, When, page_of
from tracker.store.reading import RunReader
from tracker.store.totals import Group, Sums, checked_groupings, group_of

DEFAULT_LIMIT: Final = 20
PAGE_RUNS: Final = 500


def runs(
    *,
    project: str | None = None,
    name: str | None = None,
    status: RunStatus | None = None,
    since: When | None = None,
    until: When | None = None,
    tags: Mapping[str, str] | None = None,
    device: str | None = None,
    zone: str | None = None,
    host: str | None = None,
    min_energy_j: float | None = None,
    max_energy_j: float | None = None,
    min_emissions_g: float | None = None,
    max_emissions_g: float | None = None,
    sort: str = "started",
    reverse: bool = False,
    limit: int | None = DEFAULT_LIMIT,
    offset: int = 0,
    db: str | Path | None = None,
) -> Runs:
    """The runs that fit all that is given, newest first or in another order.

    Args:
        project, name: exactly these.
        status: "running", "finished", "failed", "interrupted".
        since, until: started then or later, and before then: a date, a datetime, ISO 8601 text, or so long ago: "24h",
            "7d", "2w". What has no offset is local time.
        tags: all of these.
        device: had one of this kind ("gpu", "dram"), whose key begins so, or whose name holds this ("H100").
        zone: where the electricity came from: a code or the zone's name.
        host: sampled on this machine.
        min_energy_j, max_energy_j: bounds on the measured energy, likewise on its emissions; a run whose figure is
            unknown fits none.
        sort: "started", "duration", "energy", "energy_modelled", "emissions", "emissions_modelled", "intensity",
            "cost" and "cost_modelled" (amounts, whatever the currency), "coverage", "pue" (the largest first), "name",
            "project", "zone", "status". Unknown comes last.
        reverse: the other way round.
        limit: at most so many; None: all.
        offset: leave out so many of the first.
        db: database file or SQLAlchemy URL; by default that of the settings.

    Raises:
        SettingError: a wrong argument, by name.
        StoreError: the database cannot be read.
    """
    wanted = RunFilter(
        project=project,
        name=name,
        status=status,
        since=since,
        until=until,
        tags=tags or {},
        device=device,
        zone=zone,
        host=host,
        min_energy_j=min_energy_j,
        max_energy_j=max_energy_j,
        min_emissions_g=min_emissions_g,
        max_emissions_g=max_emissions_g,
    )
    return Runs(page(wanted, Order(sort, reverse), limit=limit, offset=offset, db=db))


def totals(*, by: str | Sequence[str] = (), db: str | Path | None = None, **wanted: Any) -> list[Total]:
    """Sums over the runs that fit: of all, or for each project, name, zone, status and month.

    A run and its parts count once. Measured and modelled energy have sums of their own, and so have emissions on
    another basis.

    Args:
        by: "project", "name", "zone", "status", "month" (of the start, UTC), or several of them; the totals come in
            the order of their groups. Without it there is one total.
        wanted: as for runs, from project to max_emissions_g.

    Raises:
        SettingError: a wrong argument, by name.
        StoreError: the database cannot be read.
    """
    try:
        chosen = RunFilter(**{key: value for key, value in wanted.items() if value is not None})
    except TypeError as exc:
        raise SettingError(f"totals: {exc}") from None
    return totals_of(chosen, [by] if isinstance(by, str) else by, db=db)


def compare(*runs_or_ids: Run | str, db: str | Path | None = None) -> Comparison:
    """Runs side by side, given as records or ids; prints as a table.

    Raises:
        SettingError: none is given.
        RunNotFoundError: there is none of an id, or more than one.
        StoreError: the database cannot be read.
    """
    if not runs_or_ids:
        raise SettingError("compare: give at least one run, as a record or an id")
    chosen = tuple(item if isinstance(item, Run) else get(item, db=db) for item in runs_or_ids)
    return Comparison(chosen, tuple(_zone_means(chosen)))


def _zone_means(chosen: Sequence[Run]) -> Iterator[ZoneMean]:
    """Of each zone with values over time: what the runs' databases hold of it, and what priced the runs."""
    stretch = stretch_of(chosen)
    if stretch is None:
        return
    sources = {id(run.source): run.source for run in chosen if isinstance(run.source, RunReader)}
    for source in dated_sources(chosen):
        known = [value for reader in sources.values() for value in reader.dated_values(*source, *stretch)]
        used = [use.value for run in chosen for use in run.own_intensity]
        known += [v for v in used if v.start is not None and (v.provider, v.zone, v.signal, v.basis) == source]
        mean = zone_mean(known, *stretch)
        if mean is not None:
            yield mean


def page(
    wanted: RunFilter,
    order: Order = NEWEST_FIRST,
    *,
    limit: int | None = DEFAULT_LIMIT,
    offset: int = 0,
    db: str | Path | None = None,
) -> list[Run]:
    """As runs."""
    main, *files = readers(db)
    besides = _besides(files, wanted)
    ids = _ids_in(files)
    if not ids:
        return main.runs(wanted, order, limit=limit, offset=offset)

    def fetch(limit: int | None, offset: int) -> list[Run]:
        return main.runs(wanted, order, limit=limit, offset=offset, without=ids)

    return page_of(fetch, besides, order, limit, offset)


def count(wanted: RunFilter, *, db: str | Path | None = None) -> int:
    """How many runs fit."""
    main, *files = readers(db)
    return main.count(wanted, without=_ids_in(files)) + len(_besides(files, wanted))


def each_run(wanted: RunFilter = EVERY_RUN, *, db: str | Path | None = None) -> Iterator[Run]:
    """The runs that fit, not all in memory: newest first within each file that holds some."""
    main, *files = readers(db)
    yield from _besides(files, wanted)
    ids = _ids_in(files)
    for reader in [main]:
        offset = 0
        while True:
            found = reader.runs(wanted, limit=PAGE_RUNS, offset=offset, without=ids)
            yield from found
            if len(found) < PAGE_RUNS:
                break
            offset += PAGE_RUNS


def totals_of(wanted: RunFilter, by: Sequence[str] = (), *, db: str | Path | None = None) -> list[Total]:
    """As totals."""
    groupings = checked_groupings(by)
    sums: dict[Group, Sums] = defaultdict(Sums)
    main, *files = readers(db)
    besides = _besides(files, wanted)
    ids = _ids_in(files)
    parents = {run.parent_id for run in besides if run.parent_id is not None}
    whole = {run.id for run in besides} | main.which(wanted, parents - ids)
    for run in besides:
        of_group = sums[group_of(run, groupings)]
        if run.parent_id in whole:
            of_group.parts += 1
        else:
            of_group.add_run(run)
    main.add_sums(sums, wanted, groupings, without=ids)
    if not groupings:
        return [sums[()].total({})]
    in_order = sorted(sums, key=lambda group: [(value is None, value or "") for value in group])
    return [sums[group].total(dict(zip(groupings, group, strict=True))) for group in in_order]


def _ids_in(files: Sequence[RunReader]) -> set[str]:
    """The runs in run files, whether they fit or not: what the database has of them is their beginning."""
    return {run.id for reader in files for run in reader.runs()}


def _besides(files: Sequence[RunReader], wanted: RunFilter) -> list[Run]:
    """The runs in run files that fit, each once: where two files have a part of it, that which goes on longer."""
    by_id: dict[str, Run] = {}
    for reader in files:
        for run in reader.runs(wanted):
            if run.id not in by_id or known_until(by_id[run.id]) < known_until(run):
                by_id[run.id] = run
    return list(by_id.values())
