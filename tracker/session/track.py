"""track(): settings for runs, and the ways to start one: with, start() and decoration."""

from __future__ import annotations

import functools
import inspect
import math
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from tracker import settings as settings_module
from tracker.errors import SettingError
from tracker.records import RunStatus
from tracker.session.checks import checked_arguments
from tracker.session.live import LiveRun, status_of

if TYPE_CHECKING:
    from tracker.session.judge import Action, Budget, Judge, Overrun

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

# Runs entered by `with` on a Track in this thread or task, innermost last: (identity of the Track, run).
_entered: ContextVar[tuple[tuple[int, LiveRun], ...]] = ContextVar("tracker_runs", default=())
# Decorated functions at work in this thread or task: (function, owner), so that recursion is one run.
_at_work: ContextVar[frozenset[tuple[int, int]]] = ContextVar("tracker_calls", default=frozenset())


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

    def start(self) -> LiveRun:
        """Start a run that goes on until its stop()."""
        return self._start(self._name)

    def _start(self, name: str | None) -> LiveRun:
        from tracker.session.starting import start_run

        judge = None if self._wish is None else self._wish.judge()
        return start_run(name, self._tags, self._arguments, judge)

    def __enter__(self) -> LiveRun:
        live = self.start()
        _entered.set((*_entered.get(), (id(self), live)))
        return live

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered = list(_entered.get())
        for position in range(len(entered) - 1, -1, -1):
            if entered[position][0] == id(self):
                _, live = entered.pop(position)
                _entered.set(tuple(entered))
                live._finish(status_of(exc))
                return

    def __call__(self, function: F) -> F:
        """Track each call of a function, method, coroutine function or generator function.

        Result, metadata, traceback and exceptions stay as they are. A recursive call belongs to the outermost
        one of its thread or task.
        """
        if isinstance(function, (staticmethod, classmethod)):
            return type(function)(self(function.__func__))
        if not callable(function):
            raise TypeError(f"track decorates functions, not {type(function).__name__}")
        name = self._name or getattr(function, "__qualname__", None) or type(function).__name__
        if inspect.isasyncgenfunction(function):
            wrapper = self._around_async_generator(function, name)
        elif inspect.iscoroutinefunction(function):
            wrapper = self._around_coroutine(function, name)
        elif inspect.isgeneratorfunction(function):
            wrapper = self._around_generator(function, name)
        else:
            wrapper = self._around_function(function, name)
        return functools.wraps(function)(wrapper)  # type: ignore[return-value]

    def _around_function(self, function: Callable[P, R], name: str) -> Callable[P, R]:
        def tracked(*args: P.args, **kwargs: P.kwargs) -> R:
            with _Call(self, name, function):
                return function(*args, **kwargs)

        return tracked

    def _around_coroutine(self, function: Callable[P, Any], name: str) -> Callable[P, Any]:
        async def tracked(*args: P.args, **kwargs: P.kwargs) -> Any:
            with _Call(self, name, function):
                return await function(*args, **kwargs)

        return tracked

    def _around_generator(self, function: Callable[P, Any], name: str) -> Callable[P, Any]:
        def tracked(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, Any]:
            live = self._start(name)
            status: RunStatus = "finished"
            try:
                return (yield from function(*args, **kwargs))
            except BaseException as exc:
                status = status_of(exc)
                raise
            finally:
                live._finish(status)

        return tracked

    def _around_async_generator(self, function: Callable[P, Any], name: str) -> Callable[P, Any]:
        async def tracked(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
            live = self._start(name)
            inner = function(*args, **kwargs)
            status: RunStatus = "finished"
            try:
                item = await anext(inner)
                while True:
                    try:
                        sent = yield item
                    except GeneratorExit:
                        await inner.aclose()
                        raise
                    except BaseException as exc:  # noqa: BLE001 (handed to the user's generator)
                        item = await inner.athrow(exc)
                    else:
                        item = await inner.asend(sent)
            except StopAsyncIteration:
                pass
            except BaseException as exc:
                status = status_of(exc)
                raise
            finally:
                live._finish(status)

        return tracked


class _Call:
    """One call of a decorated function: a run, or a part of the run of the call it recurses into."""

    def __init__(self, track: Track, name: str, function: Callable[..., Any]) -> None:
        self._track = track
        self._name = name
        self._key = (id(function), _owner())
        self._live: LiveRun | None = None
        self._token: Token[frozenset[tuple[int, int]]] | None = None

    def __enter__(self) -> None:
        at_work = _at_work.get()
        if self._key not in at_work:
            self._token = _at_work.set(at_work | {self._key})
            self._live = self._track._start(self._name)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live._finish(status_of(exc))
        if self._token is not None:
            _at_work.reset(self._token)


def _owner() -> int:
    """Identity of the task that runs now, else of the thread. asyncio is only asked where it is loaded."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs in this thread
            task = None
        if task is not None:
            return id(task)
    return threading.get_ident()


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
