"""Iterating over a training's items: progress marked as it is made, shown in a bar, ended by a budget."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from tracker.errors import SettingError
from tracker.progress import Progress
from tracker.views import amounts

if TYPE_CHECKING:
    from tracker.session.judge import Judge
    from tracker.session.live import LiveRun

Item = TypeVar("Item")

MARK_EACH_S: Final = 1.0
BARS: Final = ("tqdm", "rich")


class Iteration(Generic[Item]):
    """Items of a training, one after another; made by LiveRun.iterate."""

    def __init__(
        self, live: LiveRun, judge: Judge, items: Iterable[Item], unit: str, total: int | None, bar: Any
    ) -> None:
        if not isinstance(unit, str) or not unit.isidentifier():
            raise SettingError(f'unit must be a word such as "step" or "epoch", not {unit!r}')
        self._live = live
        self._judge = judge
        self._items = items
        self._unit = unit
        self._total = len(items) if total is None and isinstance(items, Sized) else total
        self._in_all: int | None = None  # units, in all iterations around this one together
        self._bar = _bar_of(bar, unit, self._total)

    def __len__(self) -> int:
        if self._total is None:
            raise TypeError("what is iterated over has no length")
        return self._total

    def __iter__(self) -> Iterator[Item]:
        live, judge, bar = self._live, self._judge, self._bar
        before, in_all = live._begin_iteration(self._unit, self._total)
        judge.expect(self._unit, in_all)
        self._in_all = in_all
        done = told = 0
        due_s = time.perf_counter() + MARK_EACH_S
        try:
            for item in self._items:
                if judge.must_stop:
                    break
                yield item
                done += 1
                now_s = time.perf_counter()
                if now_s >= due_s:
                    due_s = now_s + MARK_EACH_S
                    self._tell(before + done, done - told)
                    told = done
        finally:
            if done > told:
                self._tell(before + done, done - told)
            live._end_iteration(self._unit, before + done)
            if bar is not None:
                bar.close()

    def _tell(self, number: int, made: int) -> None:
        # The total is for those who watch the run from elsewhere.
        total = {} if self._in_all is None else {f"total_{self._unit}s": self._in_all}
        self._live.mark(**{self._unit: number, f"{self._unit}s": made}, **total)
        if self._bar is not None:
            self._bar.show(made, figures_of(self._live.progress()))


def figures_of(progress: Progress | None) -> str:
    """Energy and emissions for a bar: for each unit, and at the end."""
    if progress is None or progress.energy_j_per_unit is None:
        return ""
    parts = [f"{amounts.energy(progress.energy_j_per_unit)}/{progress.unit}"]
    if progress.emissions_g_per_unit is not None:
        parts.append(f"{amounts.mass(progress.emissions_g_per_unit)} CO2e/{progress.unit}")
    if progress.energy_j is not None:
        parts.append(f"{amounts.energy(progress.energy_j.mean)} expected")
    if progress.emissions_g is not None:
        parts.append(f"{amounts.mass(progress.emissions_g.mean)} CO2e")
    if progress.is_modelled:
        parts.append("modelled")
    return ", ".join(parts)


def _bar_of(bar: Any, unit: str, total: int | None) -> Any:
    if bar is None:
        return None
    if isinstance(bar, str) and bar == "tqdm":
        try:
            from tqdm.auto import tqdm
        except ImportError as exc:
            raise SettingError('bar="tqdm" needs tqdm: pip install tqdm') from exc
        return _Tqdm(tqdm(total=total, unit=unit))
    if isinstance(bar, str) and bar == "rich":
        try:
            from rich.progress import Progress as RichProgress
        except ImportError as exc:
            raise SettingError('bar="rich" needs rich: pip install rich') from exc
        return _Rich(RichProgress(), unit, total)
    if hasattr(bar, "update") and hasattr(bar, "set_postfix_str"):
        return _Tqdm(bar)
    raise SettingError(f"bar must be {' or '.join(map(repr, BARS))} or a tqdm bar, not {bar!r}")


class _Tqdm:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def show(self, made: int, figures: str) -> None:
        self._bar.set_postfix_str(figures, refresh=False)
        self._bar.update(made)

    def close(self) -> None:
        self._bar.close()


class _Rich:
    def __init__(self, progress: Any, unit: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(unit, total=total)
        self._unit = unit
        progress.start()

    def show(self, made: int, figures: str) -> None:
        self._progress.update(self._task, advance=made, description=f"{self._unit} {figures}".rstrip())

    def close(self) -> None:
        self._progress.stop()
