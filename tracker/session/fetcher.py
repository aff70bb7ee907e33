"""Asks the sources of intensities, in a thread of its own that no run waits for."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tracker.errors import ForbiddenError, NotServedError, OfflineError, ProviderError, UnauthorisedError
from tracker.session.writer import Writer
from tracker.signals import start_without_signals

if TYPE_CHECKING:
    from tracker.session.feed import Feed

logger = logging.getLogger(__name__)

_WRITER_PATIENCE_S: Final = 10.0
_TURN_S: Final = 1.0  # until it is looked again whether it is our turn
_SPREAD: Final = 0.1  # of a period, so that processes do not all ask for their turn at once
_FINAL: Final = (UnauthorisedError, ForbiddenError, NotServedError, OfflineError)  # no later answer of this run's


class Fetcher:
    """Serves the feeds of the process's runs one after another, while there are any.

    It may die or hang: a run then has what came before. A request that is under way when the last run stops is left to
    its timeout; what it brings is dropped.

    Args:
        writer: reads and writes the database, in its own thread.
    """

    def __init__(self, writer: Writer, uniform: Callable[[], float] | None = None) -> None:
        self._writer = writer
        self._uniform = uniform or random.Random().random  # noqa: S311 (no secret: it spreads instants)
        self._condition = threading.Condition(threading.RLock())  # reentrant, as all locks that a handler may meet
        self._feeds: list[Feed] = []
        self._thread: threading.Thread | None = None

    def add(self, feed: Feed) -> None:
        """Serve this one too, at once."""
        with self._condition:
            self._feeds.append(feed)
            if self._thread is None:
                thread = threading.Thread(target=self._loop, name="tracker-grid", daemon=True)
                start_without_signals(thread)
                self._thread = thread
            self._condition.notify_all()

    def remove(self, feed: Feed) -> None:
        """Serve it no more; without waiting."""
        feed.close()
        with self._condition:
            if feed in self._feeds:
                self._feeds.remove(feed)
            self._condition.notify_all()

    def _loop(self) -> None:
        while True:
            with self._condition:
                if not self._feeds:
                    self._thread = None
                    return
                feed = min(self._feeds, key=lambda one: one.due_s)
                wait_s = feed.due_s - time.monotonic()
                if wait_s > 0:
                    self._condition.wait(wait_s)
                    continue
            try:
                pause_s = self._serve(feed)
            except Exception:
                logger.exception("tracker: the grid's intensity is not asked for any more")  # a fault of ours
                pause_s = None
            with self._condition:
                if pause_s is None:
                    if feed in self._feeds:
                        self._feeds.remove(feed)
                else:
                    feed.due_s = time.monotonic() + pause_s

    def _serve(self, feed: Feed) -> float | None:
        """See to it that the run has the values of now; in how many seconds again, or None: never."""
        gate = feed.source.gate
        if feed.source.is_offline:
            feed.look_beside()
            self._writer.call(feed.look, _WRITER_PATIENCE_S)
            return feed.period_s
        try:
            if feed.is_closed or not gate.take():
                return _TURN_S * (1 + self._uniform())
            feed.look_beside()
            now = datetime.now(UTC)
            age_s = feed.age_s(now)
            if age_s >= feed.period_s:
                self._writer.call(feed.look, _WRITER_PATIENCE_S)
                now = datetime.now(UTC)
                age_s = feed.age_s(now)
            if age_s < feed.period_s:
                return (feed.period_s - age_s) * (1 + _SPREAD * self._uniform())
            pause_s = gate.manners.pause_s(now.timestamp())
            if pause_s > 0:
                return pause_s + _TURN_S * self._uniform()
            return self._ask(feed, now)
        finally:
            gate.leave()

    def _ask(self, feed: Feed, now: datetime) -> float | None:
        gate = feed.source.gate
        try:
            answer = feed.ask(now)
        except ProviderError as exc:
            if feed.is_closed:
                return None
            ended = datetime.now(UTC).timestamp()
            gate.manners.failed(exc, ended, self._uniform())
            gate.keep()
            feed.failed(exc)
            return None if isinstance(exc, _FINAL) else gate.manners.pause_s(ended)
        if feed.is_closed:
            return None
        gate.manners.answered()
        gate.keep()
        self._writer.call(lambda: feed.take(answer), _WRITER_PATIENCE_S)
        return feed.period_s * (1 + _SPREAD * self._uniform())
