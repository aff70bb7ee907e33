"""Reads running runs again and again for `tracker watch`; writes nothing."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tracker import settings as settings_module
from tracker.curves import power_of
from tracker.errors import RunNotFoundError, StoreError
from tracker.records import Device, Mark, Run, Samples, datetime_of
from tracker.session.account import gap_us_of
from tracker.session.checks import checked_arguments
from tracker.session.judge import Judge
from tracker.session.past import get, interval_s_of, reader_with, readers
from tracker.store.recent import recent
from tracker.units import MICROSECONDS_PER_S
from tracker.views.watching import Watched

if TYPE_CHECKING:
    from tracker.records import FloatColumn, IntColumn

KEPT_S: Final = 240  # of power: as wide as a terminal is
SHARE: Final = 0.007  # of a core that whole records may cost: those of long runs are read less often
LIST_EACH_S: Final = 5.0  # until it is looked whether other runs have begun
_SET_BACK_S: Final = 5  # readings that lie so far back are not late, but of a calendar clock that was set


class Watcher:
    """The runs that are watched, each with the power of its last minutes.

    Args:
        run_id: an id, the beginning of one, or "last"; None: all that go on.
        db: database file or SQLAlchemy URL; by default that of the settings.
        clock_s: a monotonic clock.
        now: the calendar clock.

    Attributes:
        trouble: why the last look saw less than there is; "" where it saw all.

    Raises:
        RunNotFoundError: there is no such run.
        StoreError: the database cannot be read.
    """

    def __init__(
        self,
        run_id: str | None = None,
        *,
        db: str | Path | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.trouble = ""
        self._db = db
        self._clock_s = clock_s
        self._now = now
        self._followed: dict[str, _Followed] = {}
        self._listed_s = -math.inf
        self._only_run = run_id is not None
        if run_id is not None:
            run = get(run_id, db=db)
            self._followed[run.id] = _Followed(run, now())
        else:
            self._follow()

    def look(self) -> list[Watched]:
        """The runs as they are now; those that have ended since they were first seen stay, with their end.

        What cannot be read at present stays as it was, and trouble says why.
        """
        self.trouble = ""
        try:
            self._follow()
        except StoreError as exc:
            self.trouble = str(exc)
        for run_id, followed in self._followed.items():
            try:
                try:
                    followed.look(self._clock_s, self._now)
                except (RunNotFoundError, StoreError):  # a run file, say, that was folded into its database
                    followed.take(get(run_id, db=self._db), self._now())
            except (RunNotFoundError, StoreError) as exc:
                self.trouble = str(exc)
        return [followed.watched() for followed in self._followed.values()]

    def _follow(self) -> None:
        """Take up the runs that have begun since."""
        clock_s = self._clock_s()
        if self._only_run or (self._followed and clock_s - self._listed_s < LIST_EACH_S):
            return
        self._listed_s = clock_s
        for reader in readers(self._db):
            for run_id in reader.running_ids():
                if run_id not in self._followed:
                    self._followed[run_id] = _Followed(reader.get(run_id), self._now())


class _Followed:
    """One run: its record, read as often as its cost allows, and its power, read each time."""

    def __init__(self, run: Run, read_at: datetime) -> None:
        self._due_s = -math.inf
        self._devices: tuple[Device, ...] = ()
        self._hosts: tuple[str, ...] = ()
        self._power_w: dict[int, deque[float]] = {}
        self._through_s: dict[int, int] = {}  # the second of the newest power, since 1970
        self._mark: Mark | None = None
        self._judge = Judge()  # of what was read since it is watched
        self.take(run, read_at)

    def take(self, run: Run, read_at: datetime) -> None:
        """What was read of the run elsewhere."""
        self._run, self._read_at, self._reader = run, read_at, reader_with(run)
        self._gap_us = gap_us_of(interval_s_of(run))

    def watched(self) -> Watched:
        newest_s = max(self._through_s.values(), default=None)
        power_w = {}
        for index, powers in self._power_w.items():
            behind_s = (newest_s or 0) - self._through_s[index]
            is_silent = behind_s * MICROSECONDS_PER_S > self._gap_us
            power_w[index] = (*powers, *[math.nan] * (min(behind_s, KEPT_S) if is_silent else 0))
        power_at = None if newest_s is None else datetime_of(newest_s * MICROSECONDS_PER_S)
        return Watched(
            self._run,
            self._read_at,
            self._devices,
            power_w,
            power_at,
            self._mark,
            self._judge.progress,
            self._hosts,
        )

    def look(self, clock_s: Callable[[], float], now: Callable[[], datetime]) -> None:
        """Read what is new.

        Raises:
            RunNotFoundError, StoreError: it cannot be read where it was.
        """
        if self._run.status != "running":
            self._mark = self._mark or self._reader.last_mark(self._run.id)
            self._hosts = self._hosts or self._reader.device_hosts(self._run.id)
            return
        before_s = clock_s()
        if before_s >= self._due_s:
            self.take(self._reader.get(self._run.id), now())
            self._devices = self._reader.devices(self._run.id)
            self._hosts = self._reader.device_hosts(self._run.id)
            self._due_s = before_s + (clock_s() - before_s) / SHARE
            self._look_at_progress()
        self._look_at_power()
        self._mark = self._reader.last_mark(self._run.id)

    def _look_at_progress(self) -> None:
        mark = self._reader.last_mark(self._run.id)
        if mark is not None and self._run.status == "running":
            for key in mark.values:
                if key.startswith("total_"):
                    self._judge.count(key.removeprefix("total_").removesuffix("s"))
            self._judge.see([mark])
            self._judge.judge(self._run, 0.0, 0.0, lambda *_: None)

    def _look_at_power(self) -> None:
        pieces: dict[int, list[Samples]] = {}
        for index, samples in recent(
            self._reader, self._run.id, self._devices, self._since_unix_us(), KEPT_S * MICROSECONDS_PER_S
        ):
            pieces.setdefault(index, []).append(samples)
        for index, of_device in pieces.items():
            unix_us, power_w = power_of(of_device)
            if len(unix_us):
                self._append(index, unix_us, power_w)

    def _since_unix_us(self) -> int | None:
        """From when on readings are wanted: some are read again, so that nothing is missing between two looks."""
        through_s = min(self._through_s.values(), default=None)
        return None if through_s is None else through_s * MICROSECONDS_PER_S - 2 * self._gap_us

    def _append(self, index: int, unix_us: IntColumn, power_w: FloatColumn) -> None:
        last_s = int(unix_us[-1]) // MICROSECONDS_PER_S
        through_s = self._through_s.get(index)
        if through_s is not None and last_s < through_s - _SET_BACK_S:
            through_s = None
        if through_s is None or last_s - through_s >= KEPT_S:
            self._power_w[index] = deque(maxlen=KEPT_S)
            first_s = max(int(unix_us[0]) // MICROSECONDS_PER_S, last_s - KEPT_S + 1)
        elif last_s < through_s:
            return
        else:
            self._power_w[index].pop()  # that second had not ended
            first_s = through_s
        self._power_w[index].extend(by_second(unix_us, power_w, first_s, last_s, self._gap_us).tolist())
        self._through_s[index] = last_s


def by_second(unix_us: IntColumn, power_w: FloatColumn, first_s: int, last_s: int, gap_us: int) -> FloatColumn:
    """The newest power at the end of each second from the first to the last; NaN where it is older than the gap.

    Readings are drawn at random within their periods, so that a second with none of its own is no gap.

    Args:
        unix_us: (n,) int64, not falling.
        power_w: (n,) float64.

    Returns:
        (last_s - first_s + 1,) float64.
    """
    end_us = np.arange(first_s + 1, last_s + 2, dtype=np.int64) * MICROSECONDS_PER_S
    which = np.searchsorted(unix_us, end_us) - 1
    is_known = (which >= 0) & (end_us - unix_us[which] <= gap_us)
    return np.where(is_known, power_w[which], np.nan)


def label_of(db: str | Path | None) -> str:
    """The database, for people."""
    target = settings_module.resolve(checked_arguments({"db": db})).db
    return "the database" if "://" in target else target
