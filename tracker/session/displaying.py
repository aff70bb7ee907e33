"""A run's figures in a notebook, brought up to date in place while it goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from tracker.errors import SettingError
from tracker.signals import start_without_signals

if TYPE_CHECKING:
    from tracker.session.live import LiveRun

SHORTEST_S: Final = 0.5


class Display:
    """What is shown of a run below a cell, until the run ends or close() is called."""

    def __init__(self, live: LiveRun, interval_s: float) -> None:
        self._live = live
        self._interval_s = max(SHORTEST_S, interval_s)
        self._is_over = threading.Event()
        self._handle: Any = None

    def open(self) -> Display:
        """Show the run, and begin to bring it up to date.

        Raises:
            SettingError: there is no IPython.
        """
        try:
            from IPython.display import display
        except ImportError as exc:
            raise SettingError("display() is for notebooks and needs IPython; elsewhere: tracker watch") from exc
        # The run has _repr_html_ for a notebook and a text for a terminal; both are what it is at that moment.
        show: Any = display
        self._handle = show(self._live.snapshot(), display_id=True)
        if self._handle is not None:
            start_without_signals(threading.Thread(target=self._loop, name="tracker-display", daemon=True))
        return self

    def close(self) -> None:
        """Leave what is shown as it is."""
        self._is_over.set()

    def _loop(self) -> None:
        while not self._is_over.wait(self._interval_s):
            run = self._live.snapshot()
            try:
                self._handle.update(run)
            except Exception:  # noqa: BLE001 (the notebook's front end may be gone; the training must not notice)
                return
            if run.status != "running":
                return
