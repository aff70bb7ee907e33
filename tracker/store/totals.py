"""Sums over runs, by what they have in common: a run or its parts, never both, and no sum across bases."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, cast

import sqlalchemy as sa

from tracker.errors import SettingError
from tracker.records import Basis, CostTotal, Run, Subtotal, Total, datetime_of, unix_us_of
from tracker.store import tables
from tracker.units import JOULES_PER_KWH, MICROSECONDS_PER_S

Grouping = Literal["project", "name", "zone", "status", "month"]
GROUPINGS: Final[tuple[Grouping, ...]] = ("project", "name", "zone", "status", "month")

_MORE_THAN_A_MONTH: Final = timedelta(days=32)
_FIGURES: Final = ("energy_j", "energy_modelled_j", "emissions_g", "emissions_modelled_g")

Group = tuple[str | None, ...]
Conditions = Callable[[Any], Sequence[sa.ColumnElement[bool]]]


def checked_groupings(by: Sequence[str]) -> tuple[Grouping, ...]:
    """What to group by, each once, in the order given.

    Raises:
        SettingError: runs cannot be grouped by one of them.
    """
    for name in by:
        if name not in GROUPINGS:
            raise SettingError(f"by: {name!r} is none of {', '.join(GROUPINGS)}")
    return tuple(sorted(cast(set[Grouping], set(by)), key=list(by).index))


@dataclass(slots=True)
class _Part:
    """The runs of a group that are priced on one basis."""

    runs: int = 0
    known: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FIGURES, 0))
    sums: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _FIGURES})
    priced_j: list[float] = field(default_factory=list)  # measured energy of the runs with emissions_g

    def sum(self, figure: str) -> float | None:
        return math.fsum(self.sums[figure]) if self.known[figure] else None


@dataclass(slots=True)
class _Costs:
    """What the runs of a group cost that have a price in one currency; None: of none of some of them it is known.

    known: how many are in the measured ones.
    """

    measured: list[float | None] = field(default_factory=list)
    modelled: list[float | None] = field(default_factory=list)
    known: int = 0

    def add(self, cost: float | None, cost_modelled: float | None, known: int) -> None:
        self.measured.append(cost)
        self.modelled.append(cost_modelled)
        self.known += known


@dataclass(slots=True)
class Sums:
    """Sums of one group, to which rows of the database and records are added.

    Attributes:
        by_basis: of the intensities that priced the runs; None: not priced.
        costs: of measured and of modelled energy, by currency.
        covered_us, timed_us: the time of the runs whose coverage is known, weighted by it and whole.
    """

    by_basis: dict[Basis | None, _Part] = field(default_factory=lambda: defaultdict(_Part))
    costs: dict[str, _Costs] = field(default_factory=lambda: defaultdict(_Costs))
    duration_us: int = 0
    parts: int = 0
    covered_us: float = 0.0
    timed_us: int = 0

    def add_row(self, row: Any) -> None:
        """A row of the query of summed."""
        part = self.by_basis[row.basis]
        part.runs += row.runs
        for figure in _FIGURES:
            values = row._mapping
            part.known[figure] += values[f"{figure}_known"]
            part.sums[figure].append(float(values[figure] or 0))
        part.priced_j.append(float(row.priced_j or 0))
        if row.currency is not None:
            self.costs[row.currency].add(row.cost, row.cost_modelled, values["energy_j_known"])
        self.duration_us += int(row.duration_us or 0)
        self.covered_us += float(row.covered_us or 0)
        self.timed_us += int(row.timed_us or 0)

    def add_run(self, run: Run) -> None:
        """A run that has not ended by its own hand, up to its last commit."""
        basis = next((use.value.basis for use in run.intensity if use.value.signal == "average"), None)
        part = self.by_basis[basis]
        part.runs += 1
        for figure in _FIGURES:
            value = getattr(run, figure)
            if value is not None:
                part.known[figure] += 1
                part.sums[figure].append(value)
        if run.emissions_g is not None:
            part.priced_j.append(run.energy_j or 0.0)
        if run.currency is not None:
            self.costs[run.currency].add(run.cost, run.cost_modelled, int(run.cost is not None))
        duration_us = round(run.duration_s * MICROSECONDS_PER_S)
        self.duration_us += duration_us
        if run.coverage is not None:
            self.covered_us += run.coverage * duration_us
            self.timed_us += duration_us

    def total(self, group: Mapping[str, str | None]) -> Total:
        """The sums as a record."""
        parts = self.by_basis.values()
        priced = {basis: part for basis, part in self.by_basis.items() if basis is not None}
        # The basis of most of the energy; the first of the alphabet among equals.
        basis = min(priced, key=lambda b: (-math.fsum(priced[b].priced_j), b), default=None)
        main = self.by_basis[basis]
        runs = sum(part.runs for part in parts)
        return Total(
            group=group,
            runs=runs,
            parts=self.parts,
            duration_s=self.duration_us / MICROSECONDS_PER_S,
            energy_j=_known_sum(part.sum("energy_j") for part in parts),
            energy_modelled_j=_known_sum(part.sum("energy_modelled_j") for part in parts),
            emissions_g=main.sum("emissions_g"),
            emissions_modelled_g=main.sum("emissions_modelled_g"),
            basis=basis,
            emissions_apart=tuple(
                Subtotal(
                    signal="average",
                    basis=other,
                    energy_j=math.fsum(part.priced_j),
                    energy_modelled_j=part.sum("energy_modelled_j") or 0.0,
                    emissions_g=part.sum("emissions_g") or 0.0,
                    emissions_modelled_g=part.sum("emissions_modelled_g") or 0.0,
                )
                for other, part in sorted(priced.items())
                if other != basis
            ),
            runs_energy_unknown=runs - sum(part.known["energy_j"] for part in parts),
            runs_emissions_unknown=runs - sum(part.known["emissions_g"] for part in parts),
            coverage=self.covered_us / self.timed_us if self.timed_us else None,
            costs=tuple(
                CostTotal(currency, _known_sum(costs.measured), _known_sum(costs.modelled))
                for currency, costs in sorted(self.costs.items())
            ),
            runs_cost_unknown=runs - sum(costs.known for costs in self.costs.values()),
        )


def _known_sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def summed(
    connection: sa.Connection,
    fits: Conditions,
    by: Sequence[Grouping],
    into: dict[Group, Sums],
    besides: Collection[str] = (),
) -> None:
    """Add the sums of the runs that have ended by their own hand.

    Args:
        fits: which runs, as conditions on the columns of runs or of an alias of it.
        into: sums by group; grows.
        besides: runs that are summed elsewhere; their parts are not summed.
    """
    c = tables.runs.c
    ended = (*fits(c), c.status != "running")
    # As an expression: the order of an index would save a sort and cost a look-up of each row.
    keys = [c[name].concat("").label(f"key_{at}") for at, name in enumerate(by) if name != "month"]
    has_parts = connection.execute(sa.select(c.id).where(c.parent_id.is_not(None)).limit(1)).first() is not None
    inside = _parts_of(fits, besides) if has_parts else None
    sums = _sums(_basis(connection)).add_columns(*keys).where(*ended)
    parts = sa.select(*keys, sa.func.count().label("parts")).select_from(tables.runs).where(*ended)
    if inside is not None:
        sums = sums.where(c.id.not_in(inside))
    sums = sums.group_by(*(sa.text(key.name) for key in keys), sa.text("basis"), c.currency)
    for month, stretch in _months(connection, ended) if "month" in by else [("", ())]:

        def group(row: Any, month: str = month) -> Group:
            return tuple(month if name == "month" else row._mapping[f"key_{at}"] for at, name in enumerate(by))

        for row in connection.execute(sums.where(*stretch)):
            if row.runs:
                into[group(row)].add_row(row)
        if inside is not None:
            left_out = parts.where(*stretch, c.parent_id.is_not(None), c.id.in_(inside))
            for row in connection.execute(left_out.group_by(*(sa.text(key.name) for key in keys))):
                if row.parts:
                    into[group(row)].parts += row.parts


def _sums(basis: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """What Sums.add_row takes."""
    c = tables.runs.c
    figures = [
        expression
        for name in _FIGURES
        for expression in (sa.func.sum(c[name]).label(name), sa.func.count(c[name]).label(f"{name}_known"))
    ]
    return sa.select(
        basis.label("basis"),
        sa.func.count().label("runs"),
        sa.func.sum(c.duration_us).label("duration_us"),
        sa.func.sum(c.coverage * c.duration_us).label("covered_us"),
        sa.func.sum(sa.case((c.coverage.is_not(None), c.duration_us), else_=0)).label("timed_us"),
        sa.func.sum(sa.case((c.emissions_g.is_not(None), c.energy_j))).label("priced_j"),
        c.currency,
        sa.func.sum(c.energy_j / JOULES_PER_KWH * c.pue * c.price_per_kwh).label("cost"),
        sa.func.sum(c.energy_modelled_j / JOULES_PER_KWH * c.pue * c.price_per_kwh).label("cost_modelled"),
        *figures,
    )


def _months(
    connection: sa.Connection, fits: Sequence[sa.ColumnElement[bool]]
) -> Iterator[tuple[str, tuple[sa.ColumnElement[bool], ...]]]:
    """The UTC months from the first start to the last, each with its condition: quicker than to group by months."""
    c = tables.runs.c.started_unix_us
    first_us, last_us = connection.execute(sa.select(sa.func.min(c), sa.func.max(c)).where(*fits)).one()
    if first_us is None:
        return
    month = datetime_of(first_us).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while unix_us_of(month) <= last_us:
        following = (month + _MORE_THAN_A_MONTH).replace(day=1)
        yield f"{month:%Y-%m}", (c >= unix_us_of(month), c < unix_us_of(following))
        month = following


def group_of(run: Run, by: Sequence[Grouping]) -> Group:
    """The group that a run is in."""
    values = {
        "project": run.project,
        "name": run.name,
        "zone": None if run.zone is None else run.zone.zone,
        "status": run.status,
        "month": None if run.started_at is None else f"{run.started_at:%Y-%m}",
    }
    return tuple(values[name] for name in by)


def left_out_of(
    connection: sa.Connection, fits: Conditions, ids: Collection[str], besides: Collection[str] = ()
) -> set[str]:
    """Those of some runs that are parts of runs which are summed."""
    return set(connection.scalars(_parts_of(fits, besides))).intersection(ids) if ids else set()


def _parts_of(fits: Conditions, besides: Collection[str]) -> Any:
    """The ids of parts, at whatever depth, of runs that fit and whose energy is known or still being written."""
    runs = tables.runs
    up = sa.select(runs.c.id, runs.c.parent_id.label("ancestor")).where(runs.c.parent_id.is_not(None))
    above = up.cte("above", recursive=True)
    higher = runs.alias("higher")
    above = above.union(
        sa.select(above.c.id, higher.c.parent_id)
        .join(higher, higher.c.id == above.c.ancestor)
        .where(higher.c.parent_id.is_not(None))
    )
    whole = runs.alias("whole")
    has_energy = sa.or_(
        whole.c.energy_j.is_not(None), whole.c.energy_modelled_j.is_not(None), whole.c.status == "running"
    )
    parts = sa.select(above.c.id).join(whole, whole.c.id == above.c.ancestor).where(has_energy, *fits(whole.c))
    return parts.union(sa.select(above.c.id).where(above.c.ancestor.in_(list(besides)))) if besides else parts


def _basis(connection: sa.Connection) -> sa.ColumnElement[Any]:
    """The basis that a run's emissions are told on: that of the first value of its newest pricing.

    Most runs are on the same one: only those on another are looked up.
    """
    c, of_value = tables.runs.c, tables.intensities.c
    uses, pricings = tables.pricing_uses.c, tables.pricings.c
    most_first = (
        sa.select(of_value.basis)
        .where(of_value.signal == "average")
        .group_by(of_value.basis)
        .order_by(sa.func.count().desc())
    )
    main, *others = connection.scalars(most_first).all() or ["unknown"]
    newest = sa.select(sa.func.max(pricings.seq)).where(pricings.run_id == uses.run_id).correlate(tables.pricing_uses)

    def are_on(basis: str) -> sa.ColumnElement[bool]:
        values = sa.select(of_value.id).where(of_value.basis == basis)
        is_first = (uses.position == 0, uses.pricing_seq == newest.scalar_subquery())
        return c.id.in_(sa.select(uses.run_id).where(uses.intensity_id.in_(values), *is_first))

    is_priced = sa.or_(c.emissions_g.is_not(None), c.emissions_modelled_g.is_not(None))
    return sa.case(
        *((are_on(other), sa.literal(other)) for other in others),
        (is_priced, sa.literal(main)),
    )
