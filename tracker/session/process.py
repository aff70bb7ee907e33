"""What the runs of one process share: the sampler, the writer, the sensors. The one registry of the package."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from tracker.sampler import Sampler
from tracker.session.fetcher import Fetcher
from tracker.session.writer import Writer

if TYPE_CHECKING:
    from tracker.records import Run, RunStatus
    from tracker.sensors.protocol import Sensor

logger = logging.getLogger(__name__)


MOST_LINES: Final = 10  # in the training's output, whatever goes wrong
NEVER_STOPPED: Final = "never stopped: it ended with the program, whose exit code is not known to it"
EXIT_PATIENCE_S: Final = 1.0  # for what no stop() waits for: the next tracker would do it too
FORK_PATIENCE_S: Final = 0.05  # the longest that a fork of the program's is held up


class Finishing(Protocol):
    """A run that is still going on."""

    def finish(self, status: RunStatus, warning: str | None = None) -> Run: ...
    def forget_after_fork(self) -> None: ...


class ProcessState:
    """The registry. A forked child starts with an empty one: threads do not survive a fork, and nothing of the
    parent's is touched there."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()  # reentrant: a signal handler of the program's may start and stop runs
        self.writer = Writer()
        self.sampler = Sampler(on_beat=self.writer.beat)
        self.fetcher = Fetcher(self.writer)
        self.sensors: dict[tuple[str, ...], Sensor] = {}
        self.live: list[Finishing] = []
        self.is_run_id_taken = False
        self.begun: Counter[str | None] = Counter()  # runs of a job, by name
        self._said: set[str] = set()
        self._lines = 0
        self._held: dict[int, list[threading.Lock]] = {}  # by the thread that forks

    def begin(self, run: Finishing) -> None:
        """Count a run among those that go on."""
        with self.lock:
            self.live.append(run)

    def end(self, run: Finishing) -> None:
        """Count it among them no more. What is said after the last one belongs to the next, which may begin by it."""
        with self.lock:
            if run in self.live:
                self.live.remove(run)
            if not self.live:
                self._lines = 0

    def hold_threads(self) -> None:
        """Wait until no thread of ours is inside a driver, the database or the log, and keep them out; not for long.

        What such a library has locked when the process is forked stays locked in the child for ever: its own use of
        NVML or SQLite would hang (1 of 1000 forks under sampling at 20 Hz: measured).
        """
        until_s = time.monotonic() + FORK_PATIENCE_S
        self._held[threading.get_ident()] = [
            gate
            for gate in (self.sampler.gate, self.writer.gate)
            if gate.acquire(timeout=max(0.0, until_s - time.monotonic()))
        ]

    def let_threads_go(self) -> None:
        """After hold_threads, by the same thread."""
        for gate in self._held.pop(threading.get_ident(), ()):
            gate.release()

    def warn_once(self, cause: str, message: str) -> None:
        """Log a warning, once per cause and process, and a few of them while runs go on: their records keep all."""
        with self.lock:
            if cause in self._said:
                return
            self._said.add(cause)
            self._lines += 1
            lines = self._lines
        if lines < MOST_LINES:
            logger.warning("tracker: %s", message)
        elif lines == MOST_LINES:
            logger.warning("tracker: more went wrong: `tracker show last` has it all")


_state: ProcessState | None = None
_making = threading.RLock()


def process_state() -> ProcessState:
    """The registry of the calling process, made at the first call."""
    global _state
    with _making:
        if _state is None:
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(
                    before=_hold_threads, after_in_parent=_let_threads_go, after_in_child=_forget_in_child
                )
            atexit.register(_finish_at_exit)
            _state = ProcessState()
        return _state


def _hold_threads() -> None:
    if _state is not None:
        _state.hold_threads()


def _let_threads_go() -> None:
    if _state is not None:
        _state.let_threads_go()


def _forget_in_child() -> None:
    global _state, _making
    _making = threading.RLock()  # another thread of the parent may have held it
    if _state is not None:
        for run in _state.live:
            run.forget_after_fork()
        _state = ProcessState()


def _finish_at_exit() -> None:
    """End what the program left running, when the interpreter ends in an orderly way.

    The exit code of sys.exit is known to nobody in the process by now. What was shown at a prompt ended nothing.
    """
    state = _state
    if state is None or state.pid != os.getpid():
        return
    error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
    status: RunStatus = "finished"
    if isinstance(error, KeyboardInterrupt):
        status = "interrupted"
    elif error is not None:
        status = "failed"
    for run in list(state.live):
        run.finish(status, NEVER_STOPPED if status == "finished" else None)
    state.writer.wait(EXIT_PATIENCE_S)
