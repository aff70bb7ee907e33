"""track(): settings for runs, and the ways to start one: with, start() and decoration."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from tracker import settings as settings_module
from tracker.errors import SettingError
from tracker.session.calls import decorated
from tracker.session.checks import checked_arguments
from tracker.session.live import LiveRun, status_of

if TYPE_CHECKING:
    from tracker.records import Run
    from tracker.session.judge import Action, Budget, Judge, Overrun

F = TypeVar("F", bound=Callable[..., Any])

# Runs entered by `with` on a Track in this thread or task, innermost last: (identity of the Track, run).
_entered: ContextVar[tuple[tuple[int, LiveRun], ...]] = ContextVar("tracker_runs", default=())


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wished of each run's progress."""

    budget: Budget | None
    on_budget: Callable[[Overrun], object] | None
    action: Action
    total_steps: float | None

    def judge(self) -> Judge:
        from tracker.session.judge import Judge

        return Judge(self.budget, self.on_budget, self.action, total_steps=self.total_steps)


class Track:
    """Settings for runs; each `with`, start() or decorated call makes a new run. Picklable.

    Made by track(), which says what the arguments mean.
    """

    def __init__(
        self, name: str | None, tags: Mapping[str, str], arguments: Mapping[str, Any], wish: Wish | None = None
    ) -> None:
        self._wish = wish
        self._name = name
        self._tags = dict(tags)
        self._arguments = dict(arguments)
        self._within: list[LiveRun] = []  # entered by `with`, and not left yet
        self._latest: LiveRun | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_within": [], "_latest": None}  # runs are this process's

    def start(self) -> LiveRun:
        """Start a run that goes on until its stop()."""
        self._latest = live = self._start(self._name)
        return live

    def stop(self) -> Run:
        """End the run that was started last and give its record, as the stop() of what start() gave does."""
        if self._latest is not None:
            return self._latest.stop()
        from tracker.session.starting import never_started

        return never_started(self._name, self._tags)

    def _start(self, name: str | None) -> LiveRun:
        if os.environ.get("TRACKER_DISABLED") == "1":  # the usual spelling: without a file read or a sampler loaded
            from tracker.session.unrecorded import Unrecorded, empty_run

            return LiveRun(Unrecorded(empty_run(name, self._tags, "disabled", ())))
        from tracker.session.starting import start_run

        judge = None if self._wish is None else self._wish.judge()
        return start_run(name, self._tags, self._arguments, judge)

    def __enter__(self) -> LiveRun:
        live = self.start()
        self._within.append(live)
        _entered.set((*_entered.get(), (id(self), live)))
        return live

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered = list(_entered.get())
        position = next((at for at in reversed(range(len(entered))) if entered[at][0] == id(self)), None)
        if position is not None:
            _, live = entered.pop(position)
            _entered.set(tuple(entered))
        elif self._within:  # left in another context than entered, as an async generator that the loop closes
            live = self._within[-1]
        else:
            return
        with suppress(ValueError):
            self._within.remove(live)
        live._finish(status_of(exc))

    def __call__(self, function: F) -> F:
        """Track each call of a function, method, coroutine function or generator function.

        Result, metadata, traceback and exceptions stay as they are. A recursive call belongs to the outermost
        one of its thread or task.
        """
        return cast(F, decorated(function, self._name, self._start))


@overload
def track(name: F, /) -> F: ...
@overload
def track(
    name: str | None = None,
    *,
    project: str | None = None,
    tags: Mapping[str, str] | None = None,
    zone: str | None = None,
    intensity_g_per_kwh: float | None = None,
    intensity_file: str | Path | None = None,
    provider: str | None = None,
    pue: float | None = None,
    price_per_kwh: str | None = None,
    interval_s: float | None = None,
    gpus: str | int | list[int | str] | tuple[int | str, ...] | None = None,
    db: str | Path | None = None,
    replay: str | Path | None = None,
    budget: Mapping[str, float] | None = None,
    on_budget: Callable[[Overrun], object] | None = None,
    budget_action: Action = "warn",
    total_steps: float | None = None,
) -> Track: ...
def track(
    name: Any = None,
    *,
    project: str | None = None,
    tags: Mapping[str, str] | None = None,
    zone: str | None = None,
    intensity_g_per_kwh: float | None = None,
    intensity_file: str | Path | None = None,
    provider: str | None = None,
    pue: float | None = None,
    price_per_kwh: str | None = None,
    interval_s: float | None = None,
    gpus: str | int | list[int | str] | tuple[int | str, ...] | None = None,
    db: str | Path | None = None,
    replay: str | Path | None = None,
    budget: Mapping[str, float] | None = None,
    on_budget: Callable[[Overrun], object] | None = None,
    budget_action: Action = "warn",
    total_steps: float | None = None,
) -> Any:
    """Settings for tracking runs: a context manager, a decorator, and start() for a handle.

    Each argument left out is taken from the environment, a settings file or its default.

    Args:
        name: what the run is called; a decorated function's own name by default.
        project: groups runs.
        tags: short texts by name.
        zone: where the electricity comes from: "FR", "US-CA", "CA-QC", …; "cloud": by the metadata service of this
            machine's cloud, which is asked for its region once (0.2 s at most).
        intensity_g_per_kwh: a constant carbon intensity of your own, instead of the bundled tables.
        intensity_file: a CSV or JSON file with a series of your own.
        provider: who is asked for the intensity of the grid while the run goes on: "neso", "electricitymaps", …, or
            "auto" for the zone's own operator where it needs no token. Nothing goes on the network without one.
        pue: power usage effectiveness of the building; 1.0 is IT energy only.
        price_per_kwh: of electricity, with its currency: "0.30 EUR". Without one no cost is told.
        interval_s: sampling period in seconds; by default 1, and 0.1 for a GPU without an energy counter.
        gpus: "visible" (what CUDA shows this process), "all", "none", or indices and UUIDs.
        db: database file or SQLAlchemy URL.
        replay: a recorded trace in place of hardware; "example": that of eight GPUs which comes with the package.
        budget: what the run may use: some of energy_j, energy_kwh, emissions_g, emissions_kg, and cost_eur or the like,
            in the currency of price_per_kwh. A warning says when it is expected to be passed, and another when it is.
            Measured energy counts; where none is, the modelled.
        on_budget: called with an Overrun at both times, in a thread of its own.
        budget_action: "stop": the run's iterate() ends at its next item once the budget is passed.
        total_steps: of the whole training, where marks number their steps.

    Raises:
        ValueError, TypeError: a wrong argument, before anything is started. (Ours are SettingError.)
    """
    if callable(name):
        return Track(None, {}, {})(name)
    given = {
        "project": project,
        "zone": zone,
        "intensity_g_per_kwh": intensity_g_per_kwh,
        "intensity_file": intensity_file,
        "provider": provider,
        "pue": pue,
        "price_per_kwh": price_per_kwh,
        "interval_s": interval_s,
        "gpus": [gpus] if isinstance(gpus, int) and not isinstance(gpus, bool) else gpus,
        "db": db,
        "replay": replay,
    }
    arguments = checked_arguments(given)
    checked_name = None if name is None else settings_module.checked_text("name", name)
    checked_tags = settings_module.checked_tags(tags)
    wish = _wish(budget, on_budget, budget_action, total_steps)
    paid_in = None if wish is None or wish.budget is None else wish.budget.currency
    price = arguments.get("price_per_kwh")
    if paid_in is not None and price is not None and price.currency != paid_in:
        raise SettingError(f"budget is in {paid_in}, and price_per_kwh in {price.currency}")
    return Track(checked_name, checked_tags, arguments, wish)


def _wish(budget: object, on_budget: Any, action: Any, total_steps: Any) -> Wish | None:
    if budget is None and total_steps is None:
        if on_budget is not None or action != "warn":
            raise SettingError("on_budget and budget_action belong to a budget")
        return None
    from tracker.session.judge import ACTIONS, checked_budget

    if action not in ACTIONS:
        raise SettingError(f"budget_action must be {' or '.join(map(repr, ACTIONS))}, not {action!r}")
    if on_budget is not None and not callable(on_budget):
        raise TypeError(f"on_budget must be callable, not {type(on_budget).__name__}")
    is_number = isinstance(total_steps, (int, float)) and not isinstance(total_steps, bool)
    if total_steps is not None and not (is_number and 0 < total_steps < math.inf):
        raise SettingError(f"total_steps must be a number above 0, not {total_steps!r}")
    return Wish(None if budget is None else checked_budget(budget), on_budget, action, total_steps)
