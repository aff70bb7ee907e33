"""Judges a run while it goes on: how far it has come, what it will use, and whether that is within its budget."""

from __future__ import annotations

import logging
import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tracker.comparison import EPOCH
from tracker.errors import SettingError
from tracker.progress import MOST_POINTS, Expected, Point, Progress, progress_of, thinned
from tracker.records import Mark, Run, Span
from tracker.signals import start_without_signals
from tracker.units import GRAMS_PER_KG, JOULES_PER_KWH
from tracker.views import amounts

logger = logging.getLogger(__name__)

Action = Literal["warn", "stop"]
ACTIONS: Final = ("warn", "stop")
Warn = Callable[[str, str], None]

SHORTEST_S: Final = 1.0  # between two judgements
SHARE: Final = 0.005  # of a core that they may cost
UNKNOWN_AFTER_S: Final = 10.0  # at its start a run knows nothing yet
UNITS: Final = ("step", "epoch")  # that marks of the user's own number, the best first
_NAMES: Final = {"energy_j": "energy", "emissions_g": "emissions", "cost": "cost"}
_COST: Final = re.compile(r"cost_(?P<currency>[a-z]{3})")
_KEYS: Final[Mapping[str, tuple[str, float]]] = {
    "energy_j": ("energy_j", 1.0),
    "energy_kwh": ("energy_j", float(JOULES_PER_KWH)),
    "emissions_g": ("emissions_g", 1.0),
    "emissions_kg": ("emissions_g", float(GRAMS_PER_KG)),
}

_ALL_KEYS: Final = f"{', '.join(_KEYS)}, cost_eur (or another currency)"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may use; None: as much as it likes."""

    energy_j: float | None = None
    emissions_g: float | None = None
    cost: float | None = None  # in currency
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class Overrun:
    """What on_budget is called with.

    Attributes:
        figure: "energy_j", "emissions_g" or "cost_eur", "cost_usd" …, whose unit the next three have.
        is_passed: the budget has been; else it is expected to be.
        used, limit: so far, and the budget.
        expected: at the end; None: not told.
    """

    figure: str
    is_passed: bool
    used: float
    limit: float
    expected: Expected | None


def checked_budget(given: object) -> Budget:
    """The budget as track() takes it.

    Raises:
        SettingError: it names what there is no budget of, or a limit is no number above 0.
    """
    if not isinstance(given, Mapping) or not given:
        raise SettingError(f"budget must be a dict with some of {_ALL_KEYS}, not {given!r}")
    limits: dict[str, float] = {}
    currency: str | None = None
    for key, value in given.items():
        money = _COST.fullmatch(key) if isinstance(key, str) else None
        if key not in _KEYS and money is None:
            raise SettingError(f"budget: there is none of {key!r}; give some of {_ALL_KEYS}")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value <= 0:
            raise SettingError(f"budget: {key} must be a number above 0, not {value!r}")
        figure, factor = _KEYS[key] if money is None else ("cost", 1.0)
        currency = currency if money is None else money["currency"].upper()
        if figure in limits:
            raise SettingError(f"budget: the limit on {_NAMES[figure]} is given twice, in two units")
        limits[figure] = value * factor
    return Budget(**limits, currency=currency)


class Judge:
    """Judges one run.

    The writer's thread calls see, is_due and judge; the program's threads the rest.

    Args:
        budget: None: there is none, and only progress is told.
        on_budget: called in a thread of its own, once when a budget is expected to be passed and once when it is.
        action: "stop": what iterates ends at its next item once a budget is passed.
        total_steps: of the whole training, for marks that number their steps.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        on_budget: Callable[[Overrun], object] | None = None,
        action: Action = "warn",
        *,
        total_steps: float | None = None,
    ) -> None:
        self.must_stop = False  # read by what iterates
        self.progress: Progress | None = None
        self._budget = budget or Budget()
        self._on_budget = on_budget
        self._action = action
        self._is_alone = True
        self._lock = threading.RLock()  # reentrant, as all locks that a handler may meet
        self._totals: dict[str, float] = {} if total_steps is None else {"step": total_steps}
        self._units: list[str] = list(UNITS)
        self._done: dict[str, float] = {}
        self._points: defaultdict[str, list[Point]] = defaultdict(list)
        self._epochs = 0  # that spans have been
        self._has_numbered_epochs = False
        self._said: set[tuple[str, str]] = set()
        self._failed: set[type[Exception]] = set()  # what on_budget has raised
        self._due_s = 0.0

    @property
    def has_budget(self) -> bool:
        return self._budget != Budget()

    def is_one_of(self, processes: int | None) -> None:
        """Tell how many processes the job has: one that ended its loop alone would leave the others waiting."""
        self._is_alone = processes is None or processes <= 1

    def count(self, unit: str) -> None:
        """Tell that marks number this unit."""
        with self._lock:
            if unit not in self._units:
                self._units.append(unit)

    def expect(self, unit: str, total: float | None) -> None:
        """Tell how many of a unit there are in all; None: that is not known, or not any more."""
        self.count(unit)
        with self._lock:
            if total is None:
                self._totals.pop(unit, None)
            else:
                self._totals[unit] = total

    def see(self, marks: Sequence[Mark], spans: Sequence[Span] = ()) -> None:
        """Take in what the run has done since.

        Args:
            spans: those that have changed. The ended ones named epoch are epochs where no mark numbers them.
        """
        with self._lock:
            self._epochs += sum(EPOCH.fullmatch(span.name) is not None for span in spans if span.ended_at is not None)
            if self._epochs and not self._has_numbered_epochs:
                self._done["epoch"] = float(self._epochs)
            for mark in marks:
                for key, value in mark.values.items():
                    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                        continue
                    if key.startswith("total_"):
                        self._totals[key.removeprefix("total_").removesuffix("s")] = float(value)
                    elif key in self._units:
                        if key == "epoch" and not self._has_numbered_epochs:
                            self._has_numbered_epochs = True
                            self._done.pop(key, None)
                        self._done[key] = max(self._done.get(key, -math.inf), float(value))

    def is_due(self, now_s: float) -> bool:
        """Whether the run should be looked at again; only where there is something to judge."""
        return now_s >= self._due_s and (self.has_budget or bool(self._done))

    def judge(self, run: Run, now_s: float, cost_s: float, warn: Warn) -> None:
        """Look at the run as it is.

        Args:
            now_s: of the monotonic clock.
            cost_s: CPU time that its record took.
        """
        self._due_s = now_s + max(SHORTEST_S, cost_s / SHARE)
        is_modelled = run.energy_j is None
        energy_j = run.energy_modelled_j if is_modelled else run.energy_j
        emissions_g = run.emissions_modelled_g if is_modelled else run.emissions_g
        with self._lock:
            done, totals, units = dict(self._done), dict(self._totals), list(self._units)
        for unit, count in done.items():
            points = self._points[unit]
            if points and points[-1].is_modelled != is_modelled:
                points.clear()  # a meter has answered since: its energy is another series
            if points and count <= points[-1].done:
                continue  # the time in which nothing more was done belongs to what comes next
            points.append(Point(count, run.duration_s, energy_j, emissions_g, is_modelled))
            if len(points) > MOST_POINTS:
                self._points[unit] = thinned(points)
        counted = [unit for unit in units if self._points.get(unit)]
        chosen = next((unit for unit in counted if unit in totals), next(iter(counted), None))
        if chosen is not None:
            progress = progress_of(chosen, self._points[chosen], totals.get(chosen))
            if run.price_per_kwh is not None and run.currency is not None:
                progress = progress.priced(run.price_per_kwh, run.pue, run.currency)
            self.progress = progress
        budget = self._budget
        self._measure("energy_j", budget.energy_j, energy_j, run.duration_s, warn)
        self._measure("emissions_g", budget.emissions_g, emissions_g, run.duration_s, warn)
        if budget.cost is not None and run.currency != budget.currency:
            why = "no price of electricity is given" if run.currency is None else f"the price is in {run.currency}"
            text = f"budget: that of cost in {budget.currency} cannot be judged, as {why} (price_per_kwh)"
            self._say("cost", "unknown", text, warn)
        else:
            cost = run.cost_modelled if is_modelled else run.cost
            self._measure("cost", budget.cost, cost, run.duration_s, warn)

    def _measure(self, figure: str, limit: float | None, used: float | None, elapsed_s: float, warn: Warn) -> None:
        if limit is None:
            return
        if used is None:
            if elapsed_s >= UNKNOWN_AFTER_S:
                text = f"budget: that of {_NAMES[figure]} cannot be judged, as what is used is unknown"
                self._say(figure, "unknown", text, warn)
            return
        expected: Expected | None = None if self.progress is None else getattr(self.progress, figure)
        named = figure if figure != "cost" else f"cost_{str(self._budget.currency).lower()}"
        shown, of = self._shown(figure, used), self._shown(figure, limit)
        if used >= limit:
            if self._say(figure, "passed", f"budget: {shown} of {of} used: it is passed", warn):
                self._stop(warn)
                self._call(Overrun(named, True, used, limit, expected))
        elif expected is not None and expected.mean > limit:
            low, mean, high = (self._shown(figure, each) for each in (expected.low, expected.mean, expected.high))
            text = f"budget: {shown} of {of} used, {mean} expected at the end ({low} to {high}): it will be passed"
            if self._say(figure, "expected", text, warn):
                self._call(Overrun(named, False, used, limit, expected))

    def _shown(self, figure: str, amount: float) -> str:
        if figure == "cost":
            return amounts.money(amount, self._budget.currency)
        return amounts.energy(amount) if figure == "energy_j" else amounts.mass(amount)

    def _say(self, figure: str, what: str, text: str, warn: Warn) -> bool:
        if (figure, what) in self._said:
            return False
        self._said.add((figure, what))
        warn(f"budget {figure} {what}", text)
        return True

    def _stop(self, warn: Warn) -> None:
        if self._action != "stop":
            return
        if self._is_alone:
            self.must_stop = True
            warn("budget stop", "budget: the loop is ended at its next item")
        else:
            warn("budget ranks", "budget: the loop is not ended, as the other ranks of the job would wait for this one")

    def _call(self, overrun: Overrun) -> None:
        if self._on_budget is None:
            return
        on_budget = self._on_budget

        def call() -> None:
            try:
                on_budget(overrun)
            except Exception as exc:
                if type(exc) not in self._failed:  # once per cause
                    self._failed.add(type(exc))
                    logger.exception("tracker: on_budget failed; the run goes on")

        start_without_signals(threading.Thread(target=call, name="tracker-budget", daemon=True))
