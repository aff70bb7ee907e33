"""reprice(): past runs priced anew, with better values or in another place, at another time, in another building."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracker import settings as settings_module
from tracker.emissions import SlotEnergies
from tracker.errors import ProviderError, RunNotFoundError, SettingError
from tracker.intensity.choice import CLOUD, IntensityChoice, choose
from tracker.intensity.filling import LONGEST_HOLE, filled
from tracker.machine import unix_us
from tracker.records import IntensityValue, Price, PricedFigures, Repriced, Repricing, Run
from tracker.session.account import Priced, Pricer, covered_of, energies_of
from tracker.session.asking import Asker
from tracker.session.checks import CHECKS, checked_arguments
from tracker.session.feed import LOCAL, Source, make_source
from tracker.session.past import accounts_of, choice_of_past, reader_of
from tracker.store.intensities import SharedValues
from tracker.store.reading import RunReader
from tracker.store.repricing import NewPricing, Repricer
from tracker.units import MICROSECONDS_PER_S

if TYPE_CHECKING:
    from tracker.settings import Settings

BATCH_RUNS: Final = 500
_LONGEST_PIECE: Final = timedelta(days=30)  # of time, asked for at once: what came is kept before the next is asked for
_NEAR: Final = timedelta(days=1)  # stretches this near are asked for as one

Progress = Callable[[int, int], None]


def reprice(
    *runs_or_ids: Run | str,
    every: bool = False,
    zone: str | None = None,
    intensity_g_per_kwh: float | None = None,
    intensity_file: str | Path | None = None,
    provider: str | None = None,
    pue: float | None = None,
    price_per_kwh: str | None = None,
    at: datetime | str | None = None,
    store: bool | None = None,
    db: str | Path | None = None,
    on_progress: Progress | None = None,
    batch_runs: int = BATCH_RUNS,
) -> Repricing:
    """Price past runs anew.

    With runs alone: with the best values that are known by now, which are asked for where a source is configured. The
    run then shows the new result; the earlier pricings are kept. With any of zone to at: what it would have emitted
    there, or then; nothing is changed unless store is true.

    Args:
        runs_or_ids: records, ids, beginnings of ids, or "last".
        every: all runs of which some energy is priced with values that are not final, instead.
        zone, intensity_g_per_kwh, intensity_file, provider, pue, price_per_kwh: in place of the run's own.
        at: as if the run had begun then: aware, or as the local time.
        store: whether the run shows the result from now on; by default where nothing of the above is given.
        on_progress: called with the number of runs done, and of all.
        batch_runs: so many are written together; what is interrupted has kept all before.

    Returns:
        Before and after, of each run.

    Raises:
        SettingError: (a ValueError) a wrong argument.
        RunNotFoundError: there is none of an id, or more than one.
        StoreError: the database cannot be read or written. What was priced before that is kept.
    """
    given = {
        "zone": zone,
        "intensity_g_per_kwh": intensity_g_per_kwh,
        "intensity_file": intensity_file,
        "provider": provider,
        "pue": pue,
        "price_per_kwh": price_per_kwh,
    }
    wanted = checked_arguments(given)
    if zone is not None and zone.strip().casefold() == CLOUD:
        raise SettingError(f'zone: "{CLOUD}" is where this machine stands now; name the zone')
    # What the environment says of the same things belongs to new runs.
    settings = settings_module.resolve(checked_arguments({"db": db}), checks=CHECKS)
    instead = WhatIf(**wanted, at=None if at is None else _instant(at))
    is_what_if = instead != WhatIf()
    if store and instead.at is not None:
        raise SettingError("store: a run began when it began; what another time would have given is not stored")
    if every == bool(runs_or_ids):
        raise SettingError("give the runs to price anew, or every=True (--all) for those whose values are not final")
    repricer, reader = Repricer(settings.db), reader_of(settings.db)
    ids = repricer.unsettled_ids() if every else list(dict.fromkeys(_id_of(item, reader) for item in runs_or_ids))
    work = _Work(settings, instead, repricer, reader, is_stored=not is_what_if if store is None else store)
    done: list[Repriced] = []
    for start in range(0, len(ids), batch_runs):
        done.extend(work.batch(ids[start : start + batch_runs]))
        if on_progress is not None:
            on_progress(min(start + batch_runs, len(ids)), len(ids))
    return Repricing(tuple(sorted(done, key=lambda one: (one.started_at, one.run_id))), work.skipped, tuple(work.notes))


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What holds in place of a run's own."""

    zone: str | None = None
    intensity_g_per_kwh: float | None = None
    intensity_file: str | None = None
    provider: str | None = None
    pue: float | None = None
    price_per_kwh: Price | None = None
    at: datetime | None = None


def _instant(at: datetime | str) -> datetime:
    try:
        found = datetime.fromisoformat(at) if isinstance(at, str) else at
        return found.astimezone(UTC)
    except (AttributeError, ValueError, OverflowError) as exc:
        raise SettingError(f"at must be a date and time such as 2026-11-25T14:00+01:00, not {at!r}") from exc


def _id_of(item: Run | str, reader: RunReader) -> str:
    if isinstance(item, str):
        return reader.get(item).id
    if not reader.batch([item.id]):
        raise RunNotFoundError(f"no run {item.id!r} in this database; is it in another one, or in a run file?")
    return item.id


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who is asked for the values of some runs; source None: nobody any more, but what they said is in the database."""

    name: str
    zone: str
    source: Source | None


@dataclass(frozen=True, slots=True)
class _Task:
    """A run with its energy, and the time in which it is priced."""

    run: Run
    energies: SlotEnergies
    start: datetime
    end: datetime
    choice: IntensityChoice
    pue: float


class _Work:
    """Prices batches of runs; remembers what it has asked."""

    def __init__(
        self, settings: Settings, instead: WhatIf, repricer: Repricer, reader: RunReader, *, is_stored: bool
    ) -> None:
        self.notes: dict[str, None] = {}
        self.skipped: dict[str, str] = {}
        self._settings = settings
        self._instead = instead
        self._repricer = repricer
        self._reader = reader
        self._is_stored = is_stored
        self._sources: dict[tuple[str, str | None, str | None], _Asked | None] = {}
        self._asker = Asker(self._say)
        self._shared = SharedValues(settings.db)

    def batch(self, ids: Sequence[str]) -> list[Repriced]:
        """Price these runs, and write what is new of them in one transaction."""
        next_seqs = self._repricer.next_seqs(ids)  # before the runs are read, so that what comes between is seen
        groups: dict[tuple[_Asked | None, IntensityValue, Any], list[_Task]] = defaultdict(list)
        for task in self._tasks(ids):
            asked = self._asked(task.run, task.choice)
            groups[asked, task.choice.value, task.choice.zone].append(task)
        done, new = [], []
        for (asked, _, _), tasks in groups.items():
            for task, priced in self._priced(asked, tasks):
                repriced, run = self._result(task, priced)
                done.append(repriced)
                if repriced.is_stored:
                    new.append(
                        NewPricing(
                            run,
                            priced.warnings,
                            provider=asked.name if asked else None,
                            provider_zone=asked.zone if asked else None,
                            is_moved=run.zone != task.run.zone,
                            seq=next_seqs.get(run.id, 0),
                        )
                    )
        self._repricer.write(new, unix_us())
        return done

    def _tasks(self, ids: Sequence[str]) -> Iterator[_Task]:
        settled = self._repricer.slot_energies(ids)
        left_open = self._repricer.left_open(ids)
        for run in self._reader.batch(ids):
            energies = settled.get(run.id)
            if run.status == "running":
                self.skipped[run.id] = "it goes on, and is priced at its end"
                continue
            if run.id in left_open and run.started_at is not None:
                energies = energies_of(accounts_of(run, run.started_at, self._reader.unsettled(run.id)))
            if energies is None or run.started_at is None or not len(energies.start_s):
                self.skipped[run.id] = "nothing is known of its energy"
                continue
            yield self._task(run, run.started_at, energies)

    def _task(self, run: Run, started_at: datetime, energies: SlotEnergies) -> _Task:
        shift_s = 0
        if self._instead.at is not None:
            shift_s = round((self._instead.at - started_at).total_seconds())
            energies = replace(energies, start_s=energies.start_s + shift_s)
        start, end = covered_of(started_at + timedelta(seconds=shift_s), round(run.duration_s * MICROSECONDS_PER_S))
        pue = run.pue if self._instead.pue is None else self._instead.pue
        return _Task(run, energies, start, end, self._choice(run), pue)

    def _choice(self, run: Run) -> IntensityChoice:
        """What holds where no source knows better."""
        instead, zone = self._instead, run.zone.zone if run.zone is not None else None
        if instead.intensity_g_per_kwh is not None:
            chosen = choose(instead.intensity_g_per_kwh, instead.zone, environ={})
            return chosen if instead.zone is not None else replace(chosen, zone=run.zone)
        if instead.zone is not None:
            return choose(None, instead.zone, environ={})
        if _is_users_own(run) and (instead.provider is not None or instead.intensity_file is not None):
            return replace(choose(None, zone, environ={}), zone=run.zone) if zone else choose(None, None, environ={})
        return choice_of_past(run)

    def _asked(self, run: Run, choice: IntensityChoice) -> _Asked | None:
        instead, settings = self._instead, self._settings
        keeps_intensity = instead != WhatIf() and replace(instead, pue=None, price_per_kwh=None) == WhatIf()
        if instead.intensity_g_per_kwh is not None or keeps_intensity:
            return None
        is_said = instead.provider is not None or instead.intensity_file is not None
        if not is_said and instead.zone is None and _is_users_own(run):
            return None
        zone = "" if choice.zone is None else choice.zone.zone
        if is_said:
            return self._source(zone, instead.provider, instead.intensity_file)
        held = run.provenance.get("grid") or {}
        if instead.zone is not None or not held:
            # A file, or a provider's own code, that the settings hold is of the place of new runs, not of this one.
            named = settings.provider and settings.provider.partition(":")[0]
            return self._source(zone, named, None)
        name, code = str(held.get("provider", "")), str(held.get("zone", ""))
        if name != LOCAL:
            return self._source(zone, f"{name}:{code}", None) or _Asked(name, code, None)
        file = run.provenance.get("settings", {}).get("intensity_file", {}).get("value")
        return None if file is None else self._source(zone, None, file)

    def _source(self, zone: str, named: str | None, file: str | None) -> _Asked | None:
        key = zone, named, file
        if key not in self._sources:
            asked = None
            try:
                source = make_source(
                    zone, named=named, intensity_file=file, offline=self._settings.offline, environ=os.environ
                )
                if source is not None:
                    asked = _Asked(source.name, source.choice.zone, source)
            except (ProviderError, SettingError) as exc:
                self._say(str(exc))
            self._sources[key] = asked
        return self._sources[key]

    def _priced(self, asked: _Asked | None, tasks: Sequence[_Task]) -> Iterator[tuple[_Task, Priced]]:
        choice = tasks[0].choice
        values = [] if asked is None else self._values(asked, tasks)
        if not values:
            # Without anything said of the time, what is stored of it is all there is.
            for task in tasks:
                yield task, Pricer.of(task.choice).price(task.energies, task.pue, (task.start, task.end))
            return
        pricer = Pricer.of(replace(choice, series=tuple(values), has_source=True))
        starts = [value.start for value in values if value.start is not None]
        for task in tasks:
            priced = pricer.price(task.energies, task.pue, (task.start, task.end))
            is_whole = not priced.emissions.unpriced_energy_j and all(
                use.value is not choice.value for use in priced.uses
            )
            if not is_whole:
                # Holes are filled from what lies beside the run alone, as they were while it went on.
                first = bisect_left(starts, task.start - LONGEST_HOLE - _NEAR)
                last = bisect_right(starts, task.end + LONGEST_HOLE)
                near = [
                    value
                    for value in values[first:last]
                    if value.end is not None and value.end > task.start - LONGEST_HOLE
                ]
                series = (*near, *filled(near, task.start, task.end))
                own = Pricer.of(replace(choice, series=series, has_source=True))
                priced = own.price(task.energies, task.pue, (task.start, task.end))
            yield task, priced

    def _values(self, asked: _Asked, tasks: Sequence[_Task]) -> list[IntensityValue]:
        """All that the source says of the time of these runs, in order of time."""
        first = min(task.start for task in tasks) - LONGEST_HOLE
        last = max(task.end for task in tasks) + LONGEST_HOLE
        source = asked.source
        if source is not None and source.is_local:
            try:
                answer = source.choice.provider.fetch(asked.zone, first, last)
            except ProviderError as exc:
                self._say(str(exc))
                return []
            return list(answer.values)
        known = self._shared.known(asked.name, asked.zone, first, last)
        if source is None:
            return known
        final = _stretches(value for value in known if value.status == "final")
        missing = [(task.start, task.end) for task in tasks if not _is_within(task.start, task.end, final)]
        has_come = False
        if missing:
            for answer in self._asker.answers(source, lambda now: _pieces(missing, now)):
                self._shared.add(answer.values)
                has_come = has_come or bool(answer.values)
        return self._shared.known(asked.name, asked.zone, first, last) if has_come else known

    def _result(self, task: _Task, priced: Priced) -> tuple[Repriced, Run]:
        run, choice = task.run, task.choice
        price = self._instead.price_per_kwh
        new = replace(
            run,
            price_per_kwh=run.price_per_kwh if price is None else price.price_per_kwh,
            currency=run.currency if price is None else price.currency,
            emissions_g=priced.emissions.emissions_g,
            emissions_modelled_g=priced.emissions.emissions_modelled_g,
            pue=task.pue,
            intensity=priced.uses,
            zone=choice.zone,
        )
        is_changed = _made_of(new) != _made_of(run)
        warnings = list(priced.warnings if self._is_stored else (*choice.warnings, *priced.warnings))
        before, after = PricedFigures.of(run), PricedFigures.of(new)
        both = (*before.bases, *after.bases)
        if len(set(both)) > 1 and "unknown" not in both:
            warnings.append(
                f"the intensities are on another basis than before ({', '.join(after.bases)}, not "
                f"{', '.join(before.bases)}): the difference says nothing"
            )
        if self._instead.at is not None and all(use.value.start is None for use in new.intensity):
            warnings.append("priced by a value that holds at any hour: another time changes nothing")
        assert run.started_at is not None
        return (
            Repriced(
                run_id=run.id,
                name=run.name,
                started_at=run.started_at,
                before=before,
                after=after,
                is_changed=is_changed,
                is_stored=is_changed and self._is_stored,
                warnings=tuple(warnings),
            ),
            new,
        )

    def _say(self, text: str) -> None:
        self.notes[text] = None


def _made_of(run: Run) -> Hashable:
    """What emissions and cost of a run's energy follow from."""
    return frozenset(run.intensity), run.pue, run.zone, run.price_per_kwh, run.currency


def _is_users_own(run: Run) -> bool:
    return any(use.value.provider == "user" for use in run.intensity)


Stretch = tuple[datetime, datetime]


def _stretches(values: Iterator[IntensityValue]) -> list[Stretch]:
    """The time that values cover, joined up."""
    return _joined((value.start, value.end) for value in values if value.start is not None and value.end is not None)


def _joined(stretches: Iterator[Stretch], near: timedelta = timedelta(0)) -> list[Stretch]:
    joined: list[Stretch] = []
    for start, end in sorted(stretches):
        if joined and start <= joined[-1][1] + near:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def _is_within(start: datetime, end: datetime, stretches: Sequence[Stretch]) -> bool:
    at = bisect_right(stretches, start, key=lambda stretch: stretch[0]) - 1
    return at >= 0 and stretches[at][1] >= end


def _pieces(missing: Sequence[Stretch], now: datetime) -> Iterator[Stretch]:
    """What to ask for: the time of runs and a little before and after it, near ones as one, in pieces."""
    wide = ((start - LONGEST_HOLE, min(end + LONGEST_HOLE, max(now, end))) for start, end in missing)
    for start, end in _joined(wide, _NEAR):
        while start < end:
            yield start, min(end, start + _LONGEST_PIECE)
            start += _LONGEST_PIECE
