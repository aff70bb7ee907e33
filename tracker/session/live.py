"""A run while it goes on: what `with` and start() hand to the user."""

from __future__ import annotations

import contextvars
import logging
import math
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from tracker.records import Run, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tracker.progress import Progress
    from tracker.session.displaying import Display
    from tracker.session.iterating import Iteration
    from tracker.session.judge import Judge

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

# The innermost open span of this thread or task: (identity of its run, span id).
_innermost: contextvars.ContextVar[tuple[int, int] | None] = contextvars.ContextVar("tracker_span", default=None)


class Recording(Protocol):
    """What a live run writes to and reads from. Nothing in it raises."""

    def open_span(self, name: str, parent_id: int | None, attributes: Mapping[str, Any]) -> int: ...
    def close_span(self, span_id: int) -> None: ...
    def mark(self, values: Mapping[str, Any]) -> None: ...
    def snapshot(self) -> Run: ...
    def finish(self, status: RunStatus) -> Run: ...  # the same Run each time
    def judge_by(self, judge: Judge) -> None: ...


def status_of(exc: BaseException | None) -> RunStatus:
    """How a run ended whose code was left by this exception, or by none."""
    if exc is None or isinstance(exc, GeneratorExit):
        return "finished"
    if isinstance(exc, SystemExit):
        return "failed" if exc.code else "finished"
    if isinstance(exc, KeyboardInterrupt):
        return "interrupted"
    return "failed"


class LiveRun:
    """A run that is being measured. The names of Run are read through to its present state.

    Example:
        with tracker.track("finetune") as run:
            with run.span("epoch", index=0):
                run.mark(step=1, loss=0.5, tokens=4096)
            print(run.energy_j)
    """

    def __init__(self, recording: Recording, judge: Judge | None = None) -> None:
        self._recording = recording
        self._final: Run | None = None
        self._judge = judge
        self._iterations: list[tuple[str, int | None]] = []  # that are under way, the outermost first
        self._counts: dict[str, int] = {}  # of units that iterations have made
        if judge is not None:
            recording.judge_by(judge)

    def span(self, name: str, /, **attributes: Any) -> SpanContext:
        """A named part of the run, for `with`; spans nest. Its energy is known within a minute, or at the end."""
        return SpanContext(self, name, attributes)

    def mark(
        self, *, step: int | None = None, loss: float | None = None, tokens: float | None = None, **values: Any
    ) -> None:
        """Note progress: step, loss, tokens since the last mark, and any other numbers or short texts.

        A value that is an array or tensor of one element is read by its item() here and now.
        """
        given = {"step": step, "loss": loss, "tokens": tokens, **values}
        if self._final is None:
            self._recording.mark({key: _scalar(value) for key, value in given.items() if value is not None})

    def iterate(
        self, items: Iterable[Item], *, unit: str = "step", total: int | None = None, bar: Any = None
    ) -> Iteration[Item]:
        """The items, one after another, with progress marked about once a second.

        Iterations nest: epochs around steps. One ends early, with a warning in the run, when a budget with
        budget_action="stop" is passed.

        Args:
            items: a loader, a range, any iterable.
            unit: what one item is called.
            total: how many there are; by default len(items) where it has one. Needed to tell what is expected.
            bar: "tqdm", "rich", or a tqdm bar of your own: shows the figures of progress().

        Raises:
            SettingError: a wrong unit, or a bar that is not installed.
        """
        from tracker.session.iterating import Iteration
        from tracker.session.judge import Judge

        if self._judge is None:
            self._judge = Judge()
            self._recording.judge_by(self._judge)
        return Iteration(self, self._judge, items, unit, total, bar)

    def progress(self) -> Progress | None:
        """How far the run has come and what it will have used, as of the last second or few; None: nothing is marked.

        Of runs that iterate(), or that have a budget or total_steps.
        """
        return None if self._judge is None else self._judge.progress

    def _begin_iteration(self, unit: str, total: int | None) -> tuple[int, int | None]:
        """How many of the unit were made before, and how many there will be in all."""
        self._iterations.append((unit, total))
        totals = [each for _, each in self._iterations]
        known = [each for each in totals if each is not None]
        before = self._counts.get(unit, 0)
        # As many in each of those around it. Where a loop of the program's own is around it, nobody knows how many.
        is_told = len(known) == len(totals) and not (before and len(totals) == 1)
        return before, math.prod(known) if is_told else None

    def _end_iteration(self, unit: str, count: int) -> None:
        self._counts[unit] = count
        if self._iterations:
            self._iterations.pop()

    def snapshot(self) -> Run:
        """The run so far; after its end the final Run."""
        return self._final or self._recording.snapshot()

    @property
    def run(self) -> Run:
        """The run so far; after its end the final Run."""
        return self.snapshot()

    def stop(self) -> Run:
        """End the run and give its record. A second call gives the same record."""
        return self._finish("finished")

    def _finish(self, status: RunStatus) -> Run:
        if self._final is None:
            self._final = self._recording.finish(status)
        return self._final

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish(status_of(exc))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Run, name):
            raise AttributeError(f"a run has no {name!r}")
        return getattr(self.snapshot(), name)

    def display(self, interval_s: float = 2.0) -> Display:
        """Show the run below this cell of a notebook, brought up to date in place until it ends.

        Raises:
            SettingError: there is no IPython.
        """
        from tracker.session.displaying import Display

        return Display(self, interval_s).open()

    def _repr_html_(self) -> str:
        return self.snapshot()._repr_html_()

    def __repr__(self) -> str:
        run = self.snapshot()
        return f"<LiveRun {run.id} {run.status}>"


class SpanContext:
    """A span as a context manager; made by LiveRun.span."""

    def __init__(self, live: LiveRun, name: str, attributes: Mapping[str, Any]) -> None:
        self._live = live
        self._name = str(name)
        self._attributes = {key: _scalar(value) for key, value in attributes.items()}
        self._id: int | None = None
        self._token: contextvars.Token[tuple[int, int] | None] | None = None

    def __enter__(self) -> Self:
        if self._live._final is None:
            outer = _innermost.get()
            parent_id = outer[1] if outer and outer[0] == id(self._live) else None
            self._id = self._live._recording.open_span(self._name, parent_id, self._attributes)
            self._token = _innermost.set((id(self._live), self._id))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._id is None:
            return
        if self._live._final is None:
            self._live._recording.close_span(self._id)
        self._id = None
        try:
            if self._token is not None:
                _innermost.reset(self._token)
        except ValueError:  # left in another context than entered (an async generator closed by the loop)
            _innermost.set(None)


def _scalar(value: Any) -> Any:
    """A value as a database keeps it: None, bool, int, float or text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    item: Callable[[], Any] | None = getattr(value, "item", None)
    if item is not None:
        try:
            value = item()
        except (ValueError, RuntimeError, TypeError):  # more than one element
            return str(value)[:200]
    return value if isinstance(value, (bool, int, float, str)) else str(value)[:200]
