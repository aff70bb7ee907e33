"""One past or present run from the database: get(), and what brings it up to its last commit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tracker import settings as settings_module
from tracker.errors import RunNotFoundError, StoreError
from tracker.intensity.choice import IntensityChoice, choose
from tracker.intensity.tables import WORLD
from tracker.records import Run, datetime_of, unix_us_of
from tracker.session.account import DeviceAccount, RunFacts, build_run, gap_us_of
from tracker.session.beside import files_beside
from tracker.session.checks import checked_arguments
from tracker.session.ledger import DeviceLedger
from tracker.store.reading import RunReader, Spell, Tail, Unsettled
from tracker.units import MICROSECONDS_PER_S

if TYPE_CHECKING:
    import sqlalchemy as sa

    from tracker.records import IntColumn

SHORTEST_GAP_US: Final = 2 * MICROSECONDS_PER_S  # between two processes of a run; shorter ones are a change of leader


def reader_with(run: Run) -> RunReader:
    """The reader that a stored run came from."""
    assert isinstance(run.source, RunReader)
    return run.source


def get(run_id: str, *, db: str | Path | None = None) -> Run:
    """The run with this id, with the only id that begins so, or the newest for "last".

    Raises:
        RunNotFoundError: there is none, or more than one; the message names those that come near.
        StoreError: the database cannot be read.
    """
    main, *others = readers(db)
    if run_id == "last" and others:
        newest = [run for reader in (main, *others) for run in reader.runs(limit=1)]
        if newest:
            run_id = max(newest, key=lambda run: (run.started_at, run.id)).id
    try:
        run = main.get(run_id)
    except (RunNotFoundError, StoreError):  # a run file may hold it because the database cannot be used
        for reader in others:
            with contextlib.suppress(RunNotFoundError):
                return reader.get(run_id)
        if others:
            return main.get(run_id)  # it may have been folded in meanwhile
        raise
    # It may have moved away from the database, which then has its beginning alone.
    parts = []
    for reader in others:
        with contextlib.suppress(RunNotFoundError):
            parts.append(reader.get(run.id))
    return max((*parts, run), key=known_until)


def known_until(run: Run) -> datetime:
    """The end, or the last sign of life."""
    assert run.started_at is not None
    return run.ended_at or run.started_at + timedelta(seconds=run.duration_s)


def reader_of(db: str | Path) -> RunReader:
    """A reader that brings unfinished runs up to their last commit."""
    return RunReader(db, complete=complete)


def whole(connection: sa.Connection, run_id: str) -> Run:
    """A run as its segments together give it, seen from within a transaction that writes one of them."""
    return replace(RunReader("", complete=complete).seen_through(connection, run_id), source=None)


def complete(run: Run, unsettled: Unsettled) -> Run:
    """A run that has not ended by its own hand, with the energy of all that it has committed."""
    started_at = run.started_at
    if not run.intensity or started_at is None:
        return run
    facts = RunFacts(
        id=run.id,
        name=run.name,
        project=run.project,
        tags=run.tags,
        parent_id=run.parent_id,
        is_replayed=run.is_replayed,
        pue=run.pue,
        started_at=started_at,
        price_per_kwh=run.price_per_kwh,
        currency=run.currency,
        provenance=run.provenance,
    )
    return build_run(
        facts,
        accounts_of(run, started_at, unsettled),
        choice_of_past(run),
        status=run.status,
        duration_us=round(run.duration_s * MICROSECONDS_PER_S),
        is_ended=run.ended_at is not None,
        not_measured=run.not_measured,
        warnings=(*run.warnings, *_untracked(unsettled.spells)),
        source=run.source,
    )


def accounts_of(run: Run, started_at: datetime, unsettled: Unsettled) -> list[DeviceAccount]:
    """What is known of the energy of each device of a run, whether settled in slots or not."""
    gap_us = gap_us_of(interval_s_of(run))
    parts: dict[int, list[DeviceAccount]] = {index: [] for index in range(len(unsettled.devices))}
    for tail in unsettled.tails:
        segment = unsettled.segments[tail.segment]
        is_first = tail.segment == 0
        start_us = unix_us_of(started_at) - segment.started.unix_offset_us if is_first else segment.started.boottime_us
        parts[tail.device_index].append(_account_of(tail, start_us, gap_us))
    accounts = []
    for index, device in enumerate(unsettled.devices):
        settled = [slot for slot in unsettled.slots if slot.device_index == index]
        tails = parts[index]
        stored = run.devices[index]
        methods = [stored.method] if settled and stored.method != "none" else [part.method for part in tails]
        largest_mw = [slot.max_power_mw for slot in settled] + [part.max_power_mw for part in tails]
        accounts.append(
            DeviceAccount(
                device=device,
                start_s=_joined([slot.start_s for slot in settled], [part.start_s for part in tails]),
                twice_energy_nj=_joined(
                    [slot.twice_energy_nj for slot in settled], [part.twice_energy_nj for part in tails]
                ),
                covered_us=_joined([slot.covered_us for slot in settled], [part.covered_us for part in tails]),
                max_power_mw=max((mw for mw in largest_mw if mw is not None), default=None),
                method=next(iter(methods), "none"),
                edge_j=max((part.edge_j for part in tails), default=0.0),
                readings=sum(part.readings for part in tails),
                notes=tuple(dict.fromkeys((*stored.notes, *(note for part in tails for note in part.notes)))),
            )
        )
    return accounts


def choice_of_past(run: Run) -> IntensityChoice:
    """What a stored run was priced with, so that more of its energy can be priced in the same way."""
    series = tuple(use.value for use in run.intensity if use.value.start is not None)
    always = [use.value for use in run.intensity if use.value.start is None]
    if not always:  # nothing of the run has needed it so far
        zone = None if run.zone is None else run.zone.zone
        known = WORLD if zone is None or zone == WORLD else zone
        always = [choose(None, known, environ={}).value]
    return IntensityChoice(run.zone, always[-1], series=series, has_source=bool(series) or "grid" in run.provenance)


def _untracked(spells: Sequence[Spell]) -> Iterator[str]:
    """The times between a run's processes at which none of them was there."""
    in_order = sorted(spells)
    seen_until_us = in_order[0][1]
    for started_us, until_us in in_order:
        gap_us = started_us - seen_until_us
        if gap_us >= SHORTEST_GAP_US:
            left_at, back_at = (datetime_of(us).isoformat(" ", "seconds") for us in (seen_until_us, started_us))
            gap_s = gap_us / MICROSECONDS_PER_S
            yield f"not tracked for {gap_s:.0f} s, from {left_at} to {back_at}: none of the run's processes was there"
        seen_until_us = max(seen_until_us, until_us)


def _account_of(tail: Tail, start_us: int, gap_us: int) -> DeviceAccount:
    samples = tail.samples
    newest_us = int(samples.t_us[-1])
    if tail.is_continued:
        start_us = int(samples.t_us[0])
    ledger = DeviceLedger(samples.device, tail.device_index, gap_us)
    ledger.push(samples, [start_us], samples.unix_offset_us)
    ledger.finish([start_us], samples.unix_offset_us, newest_us, newest_us, has_whole_run=not tail.is_continued)
    return ledger.account()


def interval_s_of(run: Run) -> float | None:
    """The interval that was asked for; None: that of each sensor."""
    given = run.provenance.get("settings", {}).get("interval_s", {}).get("value")
    return given if isinstance(given, (int, float)) else None


def _joined(settled: list[int], parts: list[IntColumn]) -> IntColumn:
    return np.concatenate([np.array(settled, dtype=np.int64), *parts])


def readers(db: str | Path | None) -> Iterator[RunReader]:
    """The database, and beside it the files of runs that it could not take."""
    target = settings_module.resolve(checked_arguments({"db": db})).db
    yield reader_of(target)
    for path in files_beside(target):
        reader = reader_of(path)
        with contextlib.suppress(StoreError):  # half written, or not ours: it hides no other run
            reader.runs(limit=1)
            yield reader
