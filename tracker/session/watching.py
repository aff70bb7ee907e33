"""Reads running runs again and again for `tracker watch`; writes nothing."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tracker import settings as settings_module
from tracker.curves import power_of
from tracker.errors import RunNotFoundError
from tracker.records import Device, Mark, Run
from tracker.session.past import get, readers
from tracker.store.reading import RunReader
from tracker.units import MICROSECONDS_PER_S
from tracker.views.watching import DeviceKey, Watched

KEPT_S: Final = 240  # of power: as wide as a terminal is
SHARE: Final = 0.007  # of a core that whole records may cost: those of long runs are read less often
LIST_EACH_S: Final = 5.0  # until it is looked whether other runs have begun


class Watcher:
    """The runs that are watched, each with the power of its last minutes.

    Args:
        run_id: an id, the beginning of one, or "last"; None: all that go on.
        db: database file or SQLAlchemy URL; by default that of the settings.
        clock_s: a monotonic clock.
        now: the calendar clock.
    """

    def __init__(
        self,
        run_id: str | None = None,
        *,
        db: str | Path | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._run_id = None if run_id is None else get(run_id, db=db).id
        self._db = db
        self._clock_s = clock_s
        self._now = now
        self._followed: dict[str, _Followed] = {}
        self._listed_s = -math.inf

    def look(self) -> list[Watched]:
        """The runs as they are now; those that have ended since they were first seen stay, with their end.

        Raises:
            StoreError: the database cannot be read.
        """
        clock_s = self._clock_s()
        if clock_s - self._listed_s >= LIST_EACH_S:
            self._listed_s = clock_s
            self._follow()
        for followed in self._followed.values():
            followed.look(self._clock_s, self._now)
        return [followed.watched() for followed in self._followed.values()]

    def _follow(self) -> None:
        """Take up the runs that have begun since."""
        if self._run_id is not None:
            found = {self._run_id: get(self._run_id, db=self._db)} if not self._followed else {}
        else:
            found = {
                run_id: reader.get(run_id)
                for reader in readers(self._db)
                for run_id in reader.running_ids()
                if run_id not in self._followed
            }
        for run_id, run in found.items():
            if isinstance(run.source, RunReader):
                self._followed[run_id] = _Followed(run, run.source)


class _Followed:
    """One run: its record, read as often as its cost allows, and its power, read each time."""

    def __init__(self, run: Run, reader: RunReader) -> None:
        self._run = run
        self._reader = reader
        self._read_at = datetime.now(UTC)
        self._due_s = -math.inf
        self._devices: dict[DeviceKey, Device] = {}
        self._power_w: dict[DeviceKey, deque[float]] = {}
        self._through_s: dict[DeviceKey, int] = {}
        self._mark: Mark | None = None

    def watched(self) -> Watched:
        power_w = {key: tuple(powers) for key, powers in self._power_w.items()}
        return Watched(self._run, self._read_at, dict(self._devices), power_w, self._mark)

    def look(self, clock_s: Callable[[], float], now: Callable[[], datetime]) -> None:
        if self._run.status != "running":
            return
        with suppress(RunNotFoundError):  # a run file that was folded into its database since
            self._look_at_power()
            before_s = clock_s()
            if before_s >= self._due_s:
                self._run, self._read_at = self._reader.get(self._run.id), now()
                self._mark = self._reader.last_mark(self._run.id)
                self._due_s = before_s + (clock_s() - before_s) / SHARE

    def _look_at_power(self) -> None:
        for samples in self._reader.recent(self._run.id):
            key = samples.device.kind, samples.device.key
            self._devices[key] = samples.device
            unix_us, power_w = power_of([samples])
            seconds = unix_us // MICROSECONDS_PER_S
            powers = self._power_w.setdefault(key, deque(maxlen=KEPT_S))
            for second, power in zip(seconds.tolist(), power_w.tolist(), strict=True):
                through_s = self._through_s.get(key, second - 1)
                if second <= through_s:
                    continue
                # A second without a reading stays empty; the clock that was set is not a gap of hours.
                powers.extend([math.nan] * min(second - through_s - 1, KEPT_S))
                powers.append(power)
                self._through_s[key] = second


def label_of(db: str | Path | None) -> str:
    """The database, for people."""
    given = {} if db is None else {"db": settings_module.checked_argument("db", db)}
    target = settings_module.resolve(given).db
    return "the database" if "://" in target else target
