"""Pricing stored runs anew, many at a time: their energies read, the new pricings written beside the old ones."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from tracker.emissions import SlotEnergies, is_of_pricing
from tracker.records import Run, datetime_of
from tracker.store import rows, tables
from tracker.store.opening import open_for_reading, open_for_writing, store_errors
from tracker.store.statements import id_parts
from tracker.store.writing import write_new_pricings

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class NewPricing:
    """What a run shall show from now on.

    Attributes:
        run: with the new figures, intensities, zone and PUE.
        warnings: of the new pricing; those of the old one go.
        provider, provider_zone: who was asked, and for what; None: nobody.
        is_moved: the zone is another: what was said of the old one goes.
        seq: its number, as next_seqs gave it before the run was read.
    """

    run: Run
    warnings: tuple[str, ...]
    provider: str | None
    provider_zone: str | None
    is_moved: bool
    seq: int


class Repricer:
    """Reads and writes what repricing needs, in one database.

    Args:
        db: a path or an SQLAlchemy URL.

    Raises:
        StoreError: in all methods, when the database cannot be read or changed.
    """

    def __init__(self, db: str | Path) -> None:
        self._db = db
        self._reading = open_for_reading(db)

    def unsettled_ids(self) -> list[str]:
        """The runs of which some energy is priced with values that are not final, in order of their start."""
        if self._reading.version is None:
            return []
        runs, uses, values = tables.runs.c, tables.pricing_uses.c, tables.intensities.c
        newest = (
            sa.select(sa.func.max(tables.pricings.c.seq))
            .where(tables.pricings.c.run_id == uses.run_id)
            .correlate(tables.pricing_uses)
        )
        not_final = (
            sa.select(uses.run_id)
            .join(tables.intensities, values.id == uses.intensity_id)
            .where(uses.pricing_seq == newest.scalar_subquery(), values.status != "final", values.provider != "user")
        )
        query = sa.select(runs.id).where(runs.id.in_(not_final)).order_by(runs.started_unix_us, runs.id)
        with store_errors(self._reading.label), self._reading.engine.connect() as connection:
            return list(connection.scalars(query))

    def left_open(self, ids: Sequence[str]) -> set[str]:
        """Those of the runs that have not ended by their own hand: not all of their energy is in slots."""
        c = tables.runs.c
        found: set[str] = set()
        with store_errors(self._reading.label), self._reading.engine.connect() as connection:
            for part in id_parts(ids):
                found.update(connection.scalars(sa.select(c.id).where(c.id.in_(part), c.status == "running")))
        return found

    def slot_energies(self, ids: Sequence[str]) -> dict[str, SlotEnergies]:
        """The known energy of each run by device and slot, as far as it is settled."""
        found: dict[str, SlotEnergies] = {}
        slots, devices = tables.slots.c, tables.devices.c
        with store_errors(self._reading.label), self._reading.engine.connect() as connection:
            for part in id_parts(ids):
                query = sa.select(devices.run_id, devices.device_index).where(
                    devices.run_id.in_(part), devices.method == "model"
                )
                modelled = defaultdict(set)
                for run_id, index in connection.execute(query):
                    modelled[run_id].add(index)
                columns = (
                    sa.select(slots.run_id, slots.device_index, slots.start_s, slots.twice_energy_nj)
                    .where(slots.run_id.in_(part), slots.covered_us > 0)
                    .order_by(slots.run_id)
                )
                found.update(_by_run(connection.execute(columns).all(), modelled))
        return found

    def next_seqs(self, ids: Sequence[str]) -> dict[str, int]:
        """The number that the next pricing of each run gets; of one without a pricing it is 0."""
        with store_errors(self._reading.label), self._reading.engine.connect() as connection:
            return _next_seqs(connection, ids)

    def write(self, pricings: Sequence[NewPricing], now_unix_us: int) -> None:
        """Make these the pricings that their runs show, all of them or none.

        A run that was deleted since it was read, or that another process has priced meanwhile, is left as it is.
        """
        if not pricings:
            return
        given = {pricing.run.id: pricing for pricing in pricings}
        with self._transaction() as connection:
            next_seq = _next_seqs(connection, list(given))
            details = _details(connection, list(given))
            by_id = {
                run_id: pricing
                for run_id, pricing in given.items()
                if run_id in details and next_seq.get(run_id, 0) == pricing.seq
            }
            if not by_id:
                return
            write_new_pricings(
                connection,
                [(pricing.run, pricing.seq, pricing.provider) for pricing in by_id.values()],
                now_unix_us,
                "reprice",
            )
            runs, kept = tables.runs, tables.run_details
            connection.execute(
                runs.update().where(runs.c.id == sa.bindparam("of_run")),
                [_run_row(pricing) | {"of_run": run_id} for run_id, pricing in by_id.items()],
            )
            connection.execute(
                kept.update().where(kept.c.run_id == sa.bindparam("of_run")),
                [
                    _details_row(pricing, details[run_id], now_unix_us) | {"of_run": run_id}
                    for run_id, pricing in by_id.items()
                ],
            )

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        database = open_for_writing(self._db)
        with store_errors(database.label), database.engine.connect() as connection, connection.begin():
            yield connection


def _by_run(found: Sequence[Any], modelled: Mapping[str, set[int]]) -> Iterator[tuple[str, SlotEnergies]]:
    """The energies of each run, from rows in order of runs."""
    if not found:
        return
    run_ids = [row[0] for row in found]
    numbers = np.array([tuple(row)[1:] for row in found], dtype=np.int64)
    starts = [0, *(at for at in range(1, len(run_ids)) if run_ids[at] != run_ids[at - 1]), len(run_ids)]
    for start, end in pairwise(starts):
        index, start_s, twice_energy_nj = numbers[start:end].T
        of_model = modelled.get(run_ids[start], set())
        is_modelled = np.isin(index, list(of_model)) if of_model else np.zeros(end - start, dtype=np.bool_)
        yield run_ids[start], SlotEnergies(start_s, twice_energy_nj, is_modelled)


def _next_seqs(connection: sa.Connection, ids: Sequence[str]) -> dict[str, int]:
    c = tables.pricings.c
    found: dict[str, int] = {}
    for part in id_parts(ids):
        query = sa.select(c.run_id, sa.func.max(c.seq) + 1).where(c.run_id.in_(part)).group_by(c.run_id)
        found.update((run_id, seq) for run_id, seq in connection.execute(query))
    return found


def _details(connection: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[Any, Any, Any]]:
    """Warnings, provenance and the earlier result of each run, as the database has them now."""
    runs, kept = tables.runs.c, tables.run_details.c
    found = {}
    for part in id_parts(ids):
        query = (
            sa.select(
                runs.id,
                kept.warnings,
                kept.provenance,
                runs.emissions_g,
                runs.emissions_modelled_g,
                runs.pue,
                runs.zone,
                runs.price_per_kwh,
                runs.currency,
            )
            .join(tables.run_details)
            .where(runs.id.in_(part))
        )
        for row in connection.execute(query):
            earlier = {
                "emissions_g": row.emissions_g,
                "emissions_modelled_g": row.emissions_modelled_g,
                "pue": row.pue,
                "zone": row.zone,
                "price_per_kwh": row.price_per_kwh,
                "currency": row.currency,
            }
            found[row.id] = (json.loads(row.warnings), json.loads(row.provenance), earlier)
    return found


def _run_row(pricing: NewPricing) -> rows.Row:
    run = pricing.run
    return {
        "emissions_g": run.emissions_g,
        "emissions_modelled_g": run.emissions_modelled_g,
        "pue": run.pue,
        **rows.price_columns(run),
        **rows.zone_columns(run.zone),
    }


def _details_row(pricing: NewPricing, held: tuple[list[str], dict[str, Any], rows.Row], now_unix_us: int) -> rows.Row:
    warnings, provenance, earlier = held
    kept = [
        warning
        for warning in warnings
        if not is_of_pricing(warning) and not (pricing.is_moved and warning.startswith(("zone ", "no zone:")))
    ]
    provenance.setdefault("repriced", []).append({"at": datetime_of(now_unix_us).isoformat(), "before": earlier})
    if pricing.provider is not None:
        provenance["grid"] = {"provider": pricing.provider, "zone": pricing.provider_zone}
    elif pricing.is_moved:
        provenance.pop("grid", None)
    return {
        "warnings": rows.json_of(list(dict.fromkeys((*kept, *pricing.warnings)))),
        "provenance": rows.json_of(provenance),
    }
