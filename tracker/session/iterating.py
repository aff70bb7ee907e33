"""Iterating over a training's items: progress marked as it is made, shown in a bar, ended by a budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from tracker.errors import SettingError
from tracker.progress import Progress
from tracker.views import amounts

if TYPE_CHECKING:
    from tracker.session.judge import Judge
    from tracker.session.live import LiveRun

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

MARK_EACH_S: Final = 1.0
BARS: Final = ("tqdm", "rich")


class Iteration(Generic[Item]):
    """Items of a training, one after another; made by LiveRun.iterate."""

    def __init__(
        self,
        live: LiveRun,
        judge: Judge,
        items: Iterable[Item],
        unit: str = "step",
        total: int | None = None,
        bar: Any = None,
        *,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not isinstance(unit, str) or not unit.isidentifier():
            raise SettingError(f'unit must be a word such as "step" or "epoch", not {unit!r}')
        is_count = isinstance(total, int) and not isinstance(total, bool) and total >= 0
        if total is not None and not is_count:
            raise SettingError(f"total must be a whole number from 0 on, not {total!r}")
        self._live = live
        self._judge = judge
        self._clock_s = clock_s
        self._items = items
        self._unit = unit
        self._total = _length_of(items) if total is None else total
        self._in_all: int | None = None  # units, in all iterations around this one together
        self._open_bar = _opener_of(bar, unit, self._total)
        self._bar: Any = None

    def __len__(self) -> int:
        if self._total is None:
            raise TypeError("what is iterated over has no length")
        return self._total

    def __iter__(self) -> Iterator[Item]:
        live, judge, clock_s = self._live, self._judge, self._clock_s
        before, self._in_all = live._begin_iteration(self._unit, self._total)
        judge.expect(self._unit, self._in_all)
        self._on_bar(self._begin_bar)
        done = told = 0
        due_s = clock_s() + MARK_EACH_S
        items = iter(self._items)
        try:
            while not judge.must_stop:
                try:
                    item = next(items)
                except StopIteration:
                    break
                yield item
                done += 1
                now_s = clock_s()
                if now_s >= due_s:
                    due_s = now_s + MARK_EACH_S
                    self._tell(before + done, done - told)
                    told = done
        finally:
            if done > told:
                self._tell(before + done, done - told)
            live._end_iteration(self._unit, before + done)
            self._on_bar(self._end_bar)

    def _tell(self, number: int, made: int) -> None:
        # The total is for those who watch the run from elsewhere.
        total = {} if self._in_all is None else {f"total_{self._unit}s": self._in_all}
        self._live.mark(**{self._unit: number, f"{self._unit}s": made}, **total)
        self._on_bar(lambda: self._bar.show(made, figures_of(self._live.progress())))

    def _begin_bar(self) -> None:
        if self._open_bar is not None:
            self._bar = self._open_bar()

    def _end_bar(self) -> None:
        self._bar.close()

    def _on_bar(self, work: Callable[[], object]) -> None:
        """Do something with the bar, if there is one; one that fails is left alone, and the training goes on."""
        if self._open_bar is None:
            return
        try:
            work()
        except Exception:
            self._open_bar = None
            logger.exception("tracker: the bar failed and is not shown any more")


def _length_of(items: object) -> int | None:
    """Of items that tell it: a loader over a stream may have a __len__ that raises."""
    try:
        return len(items) if isinstance(items, Sized) else None
    except Exception:  # noqa: BLE001 (whatever the program's own class raises)
        return None


def figures_of(progress: Progress | None) -> str:
    """Energy and emissions for a bar: for each unit, and at the end."""
    if progress is None or progress.energy_j_per_unit is None:
        return ""
    parts = [f"{amounts.energy(progress.energy_j_per_unit)}/{progress.unit}"]
    if progress.emissions_g_per_unit is not None:
        parts.append(f"{amounts.mass(progress.emissions_g_per_unit)} CO2e/{progress.unit}")
    if progress.cost_per_unit is not None:
        parts.append(f"{amounts.money(progress.cost_per_unit, progress.currency)}/{progress.unit}")
    if progress.energy_j is not None:
        parts.append(f"{amounts.energy(progress.energy_j.mean)} expected")
    if progress.emissions_g is not None:
        parts.append(f"{amounts.mass(progress.emissions_g.mean)} CO2e")
    if progress.cost is not None:
        parts.append(amounts.money(progress.cost.mean, progress.currency))
    if progress.is_modelled:
        parts.append("modelled")
    return ", ".join(parts)


def _opener_of(bar: Any, unit: str, total: int | None) -> Callable[[], Any] | None:
    """What opens the bar; None: there is none.

    Raises:
        SettingError: it is none of ours and no tqdm, or is not installed.
    """
    if bar is None:
        return None
    if isinstance(bar, str) and bar == "tqdm":
        try:
            from tqdm.auto import tqdm
        except ImportError as exc:
            raise SettingError('bar="tqdm" needs tqdm: pip install "gpu-energy-tracker[bar]"') from exc
        return lambda: _Tqdm(tqdm(total=total, unit=unit), is_ours=True)
    if isinstance(bar, str) and bar == "rich":
        try:
            from rich.progress import Progress as RichProgress
        except ImportError as exc:
            raise SettingError('bar="rich" needs rich: pip install "gpu-energy-tracker[bar]"') from exc
        return lambda: _Rich(RichProgress(), unit, total)
    if hasattr(bar, "update") and hasattr(bar, "set_postfix_str"):
        return lambda: _Tqdm(bar, is_ours=False)
    raise SettingError(f"bar must be {' or '.join(map(repr, BARS))} or a tqdm bar, not {bar!r}")


class _Tqdm:
    def __init__(self, bar: Any, *, is_ours: bool) -> None:
        self._bar = bar
        self._is_ours = is_ours

    def show(self, made: int, figures: str) -> None:
        self._bar.set_postfix_str(figures, refresh=False)
        self._bar.update(made)

    def close(self) -> None:
        if self._is_ours:
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
