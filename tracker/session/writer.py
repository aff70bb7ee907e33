"""The thread that commits: once a second, the readings of every run of the process that have come in since."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from tracker.signals import Bell, start_without_signals

logger = logging.getLogger(__name__)

COMMIT_PERIOD_S: Final = 1.0  # where no sampler says that there is something new


class Committing(Protocol):
    """A run that wants to be committed each second. Called in the writer's thread; must not raise."""

    def commit(self) -> None: ...


class _Job:
    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.done = threading.Event()


class Writer:
    """Runs commits and jobs in one thread, which lives while there is a run to commit.

    Attributes:
        gate: the thread holds it while it is at work.
        cpu_s: used so far.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._bell = Bell()  # for the thread, which waits
        self._runs: list[Committing] = []
        self._jobs: list[_Job] = []
        self._thread: threading.Thread | None = None
        self.gate = threading.Lock()
        self.cpu_s = 0.0
        self._is_beaten = False

    def beat(self) -> None:
        """Commit now: readings have just come in."""
        self._is_beaten = True
        self._bell.ring()

    def add(self, run: Committing) -> None:
        """Commit this run each second from now on."""
        with self._lock:
            self._runs.append(run)
            if self._thread is None:
                thread = threading.Thread(target=self._loop, name="tracker-writer", daemon=True)
                start_without_signals(thread)
                self._thread = thread

    def post(self, work: Callable[[], None]) -> bool:
        """Have work done in the writer's thread, without waiting for it; false where there is no thread."""
        with self._lock:
            if self._thread is None:
                return False
            self._jobs.append(_Job(work))
            self._bell.ring()
        return True

    def call(self, work: Callable[[], None], timeout_s: float) -> bool:
        """Do work in the writer's thread; false when it is not done within timeout_s (it will still be done)."""
        job = _Job(work)
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                return False
            self._jobs.append(job)
            self._bell.ring()
        return job.done.wait(timeout_s)

    def remove(self, run: Committing, timeout_s: float) -> None:
        """Commit this run no more; with the last one the thread ends."""
        with self._lock:
            if run in self._runs:
                self._runs.remove(run)
            self._bell.ring()
            thread = None if self._runs else self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def wait(self, timeout_s: float) -> None:
        """Wait for what is still to be done once the last run is removed."""
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _loop(self) -> None:
        cpu_before_s = self.cpu_s
        due_s = time.monotonic() + COMMIT_PERIOD_S
        while True:
            with self._lock:
                jobs, self._jobs = self._jobs, []
                if not jobs and not self._runs:
                    self._thread = None
                    return
                runs = list(self._runs)
            left_s = 0.0 if jobs or self._is_beaten else due_s - time.monotonic()
            if left_s > 0:
                self._bell.wait(left_s)
                continue
            for job in jobs:
                self._guard(job.work)
                job.done.set()
            if self._is_beaten or time.monotonic() >= due_s:
                self._is_beaten = False
                # What a stall has missed is not made up for: the buffers hold it all.
                due_s = time.monotonic() + COMMIT_PERIOD_S
                for run in runs:
                    self._guard(run.commit)
            self.cpu_s = cpu_before_s + time.thread_time()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            with self.gate:
                work()
        except Exception:
            # Work handles its own errors; a fault of ours here must not end the commits of other runs.
            logger.exception("tracker: a commit failed")
