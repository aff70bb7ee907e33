"""The thread that reads the sensors: when, and whom it tells.

One thread serves every run of the process. Each period of a fixed grid is read once, at an instant drawn uniformly
within it: readings at even distances lock to loads of the same period, and a small jitter around due times does not
break the lock (DESIGN.md, section 5).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeVar

from tracker.machine import boottime_us
from tracker.records import Device, Reading
from tracker.sensors.protocol import Inventory, LeavesDevicesOut, SeesProcesses, Sensor, TellsOfDevices
from tracker.signals import Bell, start_without_signals
from tracker.units import MICROSECONDS_PER_S

logger = logging.getLogger(__name__)

MIN_SPACING_US: Final = 50_000
BEAT_US: Final = 900_000  # so that a kill loses a second at most, the time of the commit included
FREQUENT_US: Final = 1_000_000  # who wants fewer readings than one a second has fewer, and loses more
NEVER_US: Final = 2**62
SLOW_US: Final = MICROSECONDS_PER_S // 2  # one call of a sensor for longer: nobody waits for it
_PATIENCE_S: Final = 0.25
STUCK_US: Final = 10 * MICROSECONDS_PER_S  # drivers that are not kept loaded take 1 to 3 s a GPU

_T = TypeVar("_T")
Edge = Literal["start", "end"]
# Who uses the devices is looked for after 1, 2, 4 ... s and then each minute: a process that is there for the last half
# of a short run is seen, and so is one that is there for a minute.
FIRST_LOOK_US: Final = 1 * MICROSECONDS_PER_S
LOOK_PERIOD_US: Final = 60 * MICROSECONDS_PER_S
# A counter that is refreshed each 100 ms is right at the instants at which it moves, and on average 50 ms old at any
# other. So at both ends of a run such counters are read again and again until they have moved: twice after its start,
# which also tells how often they do and keeps nobody waiting, and once at its end, for half such a period at most.
SEEK_LEAST_PERIOD_US: Final = 10_000
SEEK_STEP_US: Final = 4_000
SEEK_SHARE: Final = 3  # the driver is left alone for so many times as long as the reading before took
SEEK_MOVES: Final[dict[Edge, int]] = {"start": 2, "end": 1}
SEEK_LIMIT_US: Final[dict[Edge, int]] = {"start": 250_000, "end": 50_000}


def left_out(name: str) -> str:
    """What is said of a device or sensor that others must not wait for."""
    return f"{name}: a call has not returned; it is left out until it does"


class Listener(Protocol):
    """Who wants readings. All methods are called in the sampler's thread or a caller's, and must not block."""

    def found(self, sensor: Sensor, inventory: Inventory) -> None:
        """A sensor has been opened."""
        ...

    def received(self, sensor: Sensor, devices: Sequence[Device], readings: Sequence[Reading]) -> None:
        """A sensor has been read, one reading per device."""
        ...

    def gave_up(self, sensor: Sensor) -> None:
        """A sensor is in a call that does not return; found or received come when it does."""
        ...

    def told(self, news: str) -> None:
        """Something has happened to a device or a sensor that a reader of the figures must know."""
        ...

    def looked(self, devices: Sequence[Device], in_use: Sequence[bool | None]) -> None:
        """A sensor that can has told whether the run's processes use its devices."""
        ...


class Grid:
    """The instants of a periodic reading: one in each period of a fixed grid, drawn uniformly."""

    def __init__(self, origin_us: int, period_us: int, uniform: Callable[[], float]) -> None:
        self.origin_us = origin_us
        self.period_us = period_us
        self._uniform = uniform

    def index(self, t_us: int) -> int:
        """Which period an instant lies in."""
        return (t_us - self.origin_us) // self.period_us

    def after(self, last_us: int) -> int:
        """The next instant, in the period after that of the last reading and at least 50 ms later.

        Periods that a stalled thread has missed are not made up for: the next one after now is drawn.
        """
        start_us = self.origin_us + (self.index(last_us) + 1) * self.period_us
        drawn_us = start_us + int(self._uniform() * self.period_us)
        return max(drawn_us, last_us + MIN_SPACING_US)


@dataclass(frozen=True, slots=True)
class SamplerCost:
    """What sampling has cost so far."""

    cpu_s: float
    readings: int  # calls of a sensor's read
    latency_mean_s: float | None  # of one call of a sensor's read
    latency_max_s: float | None


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A call into a sensor that has not returned yet."""

    source: _Source
    since_us: int


@dataclass(slots=True)
class _Source:
    """A sensor in use, with those who listen to it and how often each wants it read."""

    sensor: Sensor
    periods_us: dict[int, int] = field(default_factory=dict)  # by id of the listener
    listeners: list[Listener] = field(default_factory=list)
    inventory: Inventory | None = None
    found: Inventory | None = None  # what open has given, if it was so late that another thread must take it on
    last_us: int | None = None  # the last one in its turn
    read_us: int = 0  # the last one
    has_failed: bool = False
    watcher: SeesProcesses | None = None  # the sensor, where it can tell who uses its devices
    opened_us: int = 0
    look_due_us: int = 0
    teller: TellsOfDevices | None = None
    is_closing: bool = False
    stuck_in: _Call | None = None  # a call that has not returned; another thread goes on without the sensor
    took_s: float = 0.0  # the last reading
    slow: Sequence[Device] = ()  # whose counters are refreshed now and then
    shown_uj: dict[str, int] = field(default_factory=dict)  # by key: what these last showed

    @property
    def period_us(self) -> int:
        return min(self.periods_us.values())


@dataclass(frozen=True, slots=True)
class _Request:
    """Somebody waits for all sensors to be read.

    Attributes:
        edge: the reading is a run's first or last: its counters are sought to move too. At the end, which waits for
            that, who uses the devices is looked for as well.
    """

    done: threading.Event
    edge: Edge | None


class _ReplacedError(Exception):
    """A call returned to a thread that has been given up."""


class Sampler:
    """Reads sensors in a thread of its own while anyone listens.

    A call into a driver may never return. Such a thread is given up (rescue): another one goes on with the other
    sensors, and with this one too where it can do without the device in question. When the call returns after all,
    the sensor or device is read again.

    Args:
        clock_us: the sample clock.
        uniform: draws from [0, 1); a generator of our own, so that the program's random state stays as it is.
        bell: for the thread, which waits by it.
        on_beat: called in the thread each BEAT_US, right after a reading of what is read each second or more often.
            Who keeps readings then has one that is new: by the random instants alone it could be two seconds old.

    Attributes:
        gate: the thread holds it while it is in a call into a sensor.
    """

    def __init__(
        self,
        *,
        clock_us: Callable[[], int] = boottime_us,
        uniform: Callable[[], float] | None = None,
        bell: Bell | None = None,
        on_beat: Callable[[], None] | None = None,
    ) -> None:
        self._clock_us = clock_us
        self._uniform = uniform or random.Random().random  # noqa: S311 (no secret: it spreads instants)
        self.gate = threading.Lock()
        self._lock = threading.RLock()
        self._bell = bell or Bell()
        self._sources: list[_Source] = []
        self._requests: list[_Request] = []
        self._serving: list[_Request] = []  # those that the thread is at
        self._thread: threading.Thread | None = None
        self._busy: _Call | None = None  # that the thread is in
        self._has_news = False  # sources have come or go
        self._is_stopping = False
        self._grid: Grid | None = None
        self._due_us = 0
        self._on_beat = on_beat
        self._beat_due_us = NEVER_US
        self._look_due_us = 0
        self._last_us = -MIN_SPACING_US  # of the last reading of all sensors
        self._cpu_s = 0.0
        self._reads = 0
        self._latency_sum_s = 0.0
        self._latency_max_s = 0.0

    def attach(self, listener: Listener, wanted: Sequence[tuple[Sensor, int]]) -> None:
        """Tell listener of these sensors, each read at least once in its period (µs); starts the thread."""
        with self._lock:
            for sensor, period_us in wanted:
                source = next((s for s in self._sources if s.sensor is sensor), None)
                if source is None:
                    source = _Source(sensor)
                    self._sources.append(source)
                elif source.inventory is not None:
                    listener.found(sensor, source.inventory)
                elif source.stuck_in is not None:
                    listener.gave_up(sensor)
                source.listeners.append(listener)
                source.periods_us[id(listener)] = period_us
            self._has_news = True
            self._regrid()
            self._is_stopping = False
            if self._thread is None:
                self._start_thread()
            self._bell.ring()
        self.rescue(SLOW_US)

    def set_period(self, listener: Listener, sensor: Sensor, period_us: int) -> None:
        """Change how often a listener wants a sensor read."""
        with self._lock:
            for source in self._sources:
                if source.sensor is sensor and id(listener) in source.periods_us:
                    source.periods_us[id(listener)] = period_us
            self._regrid()
            self._bell.ring()

    def detach(self, listener: Listener, sensors: Sequence[Sensor] | None = None, *, timeout_s: float = 0.5) -> None:
        """Stop telling listener of these sensors, by default of all.

        Sensors that nobody wants any more are closed; with the last, the thread ends.
        """
        with self._lock:
            for source in self._sources:
                is_meant = sensors is None or any(source.sensor is sensor for sensor in sensors)
                if is_meant and listener in source.listeners:
                    source.listeners.remove(listener)
                    del source.periods_us[id(listener)]
            self._is_stopping = not any(source.listeners for source in self._sources)
            self._has_news = True
            self._regrid()
            self._bell.ring()
            is_slow = self._busy is not None and self._clock_us() - self._busy.since_us > SLOW_US
            thread = self._thread if self._is_stopping and not is_slow else None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def read_now(self, timeout_s: float, *, unless_within_us: int = 0, edge: Edge | None = None) -> bool:
        """Have every sensor read at once; true when that is done, false when it takes longer than timeout_s.

        Sensors that were all read within unless_within_us are not read again. A sensor that is slow is not waited for:
        the others are read without it.

        Args:
            edge: of a run, whose first or last reading this is. Counters that are refreshed now and then are then read
                until they have moved, after the start when this has returned; at the end, who uses the devices is
                looked for too.
        """
        done = threading.Event()
        end_s = time.monotonic() + timeout_s
        self.rescue(SLOW_US)
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                return False
            if self._clock_us() - self._last_us < unless_within_us:
                return True
            self._requests.append(_Request(done, edge))
            self._bell.ring()
        while not done.wait(max(0.0, min(_PATIENCE_S, end_s - time.monotonic()))):
            if time.monotonic() >= end_s:
                return False
            self.rescue(SLOW_US)
        return True

    def rescue(self, limit_us: int = STUCK_US) -> None:
        """Go on without a sensor that has been in one call for longer than this; to be called now and then."""
        busy = self._busy
        if busy is None or self._clock_us() - busy.since_us < limit_us:
            return
        source = busy.source
        with self._lock:
            if self._busy is not busy:
                return
            device = source.sensor.leave_out() if isinstance(source.sensor, LeavesDevicesOut) else None
            if device is None:
                source.stuck_in = busy
            self._busy = None
            self._requests = self._serving + self._requests
            self._serving = []
            self._start_thread()
            listeners = list(source.listeners)
        for listener in listeners:
            if device is None:
                listener.gave_up(source.sensor)
            else:
                listener.told(left_out(device))

    def cost(self) -> SamplerCost:
        """What sampling has cost since the sampler was made."""
        reads = self._reads
        return SamplerCost(
            cpu_s=self._cpu_s,
            readings=reads,
            latency_mean_s=self._latency_sum_s / reads if reads else None,
            latency_max_s=self._latency_max_s if reads else None,
        )

    def _regrid(self) -> None:
        periods = [source.period_us for source in self._sources if source.listeners]
        if not periods:
            return
        now_us = self._clock_us()
        if self._grid is None or self._grid.period_us != min(periods):
            self._grid = Grid(now_us, min(periods), self._uniform)
            self._due_us = self._grid.after(now_us)

    def _start_thread(self) -> None:
        self.gate = threading.Lock()  # a thread that has been given up may hold the one before
        self._beat_due_us = NEVER_US if self._on_beat is None else self._clock_us() + BEAT_US
        thread = threading.Thread(target=self._run, name="tracker-sampler", daemon=True)
        start_without_signals(thread)
        self._thread = thread

    def _run(self) -> None:
        cpu_before_s = self._cpu_s
        try:
            while self._step():
                self._cpu_s = cpu_before_s + time.thread_time()
        except _ReplacedError:
            pass

    def _step(self) -> bool:
        """Wait until something is due, and do it; false when nobody listens any more."""
        had_news = self._has_news
        opened = had_news and self._open_new()
        if had_news and not opened:
            self._close_unwanted()
        with self._lock:
            requests = self._serving = self._requests
            if not requests and not opened:
                if self._has_news:
                    return True
                if self._is_stopping:
                    self._thread = None
                    return False
                left_us = min(self._due_us, self._beat_due_us) - self._clock_us()
            else:
                left_us = 0
            if left_us <= 0:
                self._requests = []
        if left_us > 0:
            self._bell.wait(left_us / MICROSECONDS_PER_S)
            return True
        edges = {request.edge for request in requests}
        is_beat = self._clock_us() >= self._beat_due_us
        self._tick(read_all=bool(requests), quickest_first="end" in edges, is_beat=is_beat)
        if is_beat and self._on_beat is not None:
            self._beat_due_us = self._clock_us() + BEAT_US
            self._on_beat()
        if requests:
            for request in requests:
                if request.edge != "end":
                    request.done.set()
            if "end" in edges:
                self._seek("end")
            self._look(at_once="end" in edges)
            for request in requests:
                request.done.set()
            self._serving = []
            if "start" in edges:
                self._seek("start")
        elif self._clock_us() >= self._look_due_us:
            self._look(at_once=False)
        return True

    def _open_new(self) -> bool:
        """Open what was attached, one at a time; true when there was anything, or may be more."""
        with self._lock:
            new = self._next_new()
            if new is None:
                self._has_news = False
                return False
        if new.found is None:
            self._call(new, self._open, new)
        inventory = new.found or Inventory()
        with self._lock:
            new.inventory = inventory
            new.slow = tuple(device for device in inventory.devices if _is_refreshed_now_and_then(device))
            new.watcher = new.sensor if isinstance(new.sensor, SeesProcesses) and inventory.devices else None
            new.teller = new.sensor if isinstance(new.sensor, TellsOfDevices) else None
            new.opened_us = self._clock_us()
            new.look_due_us = new.opened_us + FIRST_LOOK_US
            self._look_due_us = min(self._look_due_us, new.look_due_us)
            listeners = list(new.listeners)
        for listener in listeners:
            listener.found(new.sensor, inventory)
        return True

    def _next_new(self) -> _Source | None:
        return next((s for s in self._sources if s.inventory is None and s.stuck_in is None), None)

    @staticmethod
    def _open(source: _Source) -> None:
        try:
            source.found = source.sensor.open()
        except Exception:
            # As in _read: a sensor promises not to raise, and nobody may feel it if one does.
            logger.exception("%s: opening failed; nothing is measured through it", source.sensor.name)
            source.found = Inventory()

    def _call(self, source: _Source, function: Callable[..., _T], *arguments: Any) -> _T:
        """A call into a sensor.

        Raises:
            _ReplacedError: it has returned so late that this thread has been given up.
        """
        self._busy = busy = _Call(source, self._clock_us())
        try:
            with self.gate:
                return function(*arguments)
        finally:
            with self._lock:
                is_ours = self._busy is busy
                if is_ours:
                    self._busy = None
            if not is_ours:  # given up meanwhile
                self._has_returned(busy)
                raise _ReplacedError

    def _has_returned(self, call: _Call) -> None:
        """Take a sensor up again that a call has been stuck in, or close it if nobody wants it any more."""
        source = call.source
        with self._lock:
            if source.stuck_in is not call:
                return
            is_left = not source.listeners and not source.is_closing
        if is_left:
            source.sensor.close()  # which may take its time; nobody else calls a sensor that is stuck
        with self._lock:
            source.stuck_in = None
            self._has_news = True
            if is_left or source.is_closing:
                self._forget(source)
            self._bell.ring()

    def _close_unwanted(self) -> None:
        while True:
            with self._lock:
                source = next((s for s in self._sources if not s.listeners and s.stuck_in is None), None)
                if source is None:
                    return
                source.is_closing = True
            self._call(source, source.sensor.close)
            with self._lock:
                self._forget(source)

    def _forget(self, source: _Source) -> None:
        """A sensor has been closed: drop it, or open it again for who has come meanwhile."""
        source.inventory = source.found = None
        source.is_closing = False
        if source.listeners:
            self._has_news = True
        else:
            self._sources.remove(source)

    def _tick(self, *, read_all: bool, quickest_first: bool = False, is_beat: bool = False) -> None:
        """Read what is due.

        A run starts after the last of its first readings and ends before the first of its last ones: what reads
        quickly comes next to that instant.
        """
        now_us = self._clock_us()
        grid = self._grid
        if grid is None:
            return
        is_turn = now_us >= self._due_us
        sources = list(self._sources)
        if read_all:
            sources.sort(key=lambda source: source.took_s, reverse=not quickest_first)
        for source in sources:
            if source.inventory is None or not source.inventory.devices or source.stuck_in or not source.listeners:
                continue
            period_us = source.period_us
            is_due = source.last_us is None or (
                is_turn and (now_us - grid.origin_us) // period_us != (source.last_us - grid.origin_us) // period_us
            )
            if read_all or is_due:
                self._read(source, now_us)
            elif is_beat and period_us <= FREQUENT_US and now_us - source.read_us >= MIN_SPACING_US:
                in_turn_us = source.last_us
                self._read(source, now_us)
                source.last_us = in_turn_us  # the one at a random instant is still to come, or has been
        if read_all:
            self._last_us = now_us
        if is_turn or not (read_all or is_beat):
            self._due_us = grid.after(now_us)
        else:
            self._due_us = max(self._due_us, now_us + MIN_SPACING_US)

    def _seek(self, edge: Edge) -> None:
        """Read counters that are refreshed now and then until each has moved; no longer than others can wait."""
        moves_left = {
            device.key: SEEK_MOVES[edge]
            for source in self._sources
            if not source.stuck_in and source.listeners
            for device in source.slow
            if device.key in source.shown_uj
        }
        end_us = self._clock_us() + SEEK_LIMIT_US[edge]
        for _ in range(SEEK_LIMIT_US[edge] // SEEK_STEP_US):
            sources = [source for source in self._sources if any(moves_left.get(d.key) for d in source.slow)]
            step_us = max(SEEK_STEP_US, *(round(SEEK_SHARE * s.took_s * MICROSECONDS_PER_S) for s in sources), 0)
            with self._lock:
                if not sources or self._clock_us() + step_us > end_us:
                    return
                is_wanted_elsewhere = self._requests or self._is_stopping or self._next_new() is not None
                if edge == "start" and is_wanted_elsewhere:
                    return
            self._bell.wait(step_us / MICROSECONDS_PER_S)
            if self._clock_us() >= self._due_us:
                self._tick(read_all=False)
            for source in sources:
                before_uj = dict(source.shown_uj)
                self._read(source, self._clock_us(), tuple(d for d in source.slow if moves_left.get(d.key)))
                for key, shown_uj in source.shown_uj.items():
                    if moves_left.get(key) and shown_uj != before_uj[key]:
                        moves_left[key] -= 1

    def _read(self, source: _Source, now_us: int, some: Sequence[Device] | None = None) -> None:
        """Read a sensor in its turn, or some of its devices out of turn."""
        assert source.inventory is not None
        devices = source.inventory.devices if some is None else some
        started_s = time.perf_counter()
        try:
            readings = self._call(source, source.sensor.read, devices)
        except _ReplacedError:
            raise
        except Exception:
            # A sensor promises not to raise. If one does, the others and the training must not feel it.
            if not source.has_failed:
                logger.exception("%s: reading failed; its readings are missing from now on", source.sensor.name)
            source.has_failed = True
            readings = [Reading(now_us) for _ in devices]
        took_s = source.took_s = time.perf_counter() - started_s
        if some is None:
            source.last_us = source.read_us = now_us
        if source.slow:
            pairs = zip(devices, readings, strict=True)
            source.shown_uj |= {device.key: r.counter_uj for device, r in pairs if r.counter_uj is not None}
        self._reads += 1
        self._latency_sum_s += took_s
        self._latency_max_s = max(self._latency_max_s, took_s)
        for listener in list(source.listeners):
            listener.received(source.sensor, devices, readings)
        if source.teller is not None:
            for news in source.teller.news():
                for listener in list(source.listeners):
                    listener.told(news)

    def _look(self, *, at_once: bool) -> None:
        now_us = self._clock_us()
        self._look_due_us = now_us + LOOK_PERIOD_US
        for source in list(self._sources):
            is_due = at_once or now_us >= source.look_due_us
            if not is_due or source.stuck_in or source.watcher is None or source.inventory is None:
                continue
            source.look_due_us = now_us + min(max(FIRST_LOOK_US, now_us - source.opened_us), LOOK_PERIOD_US)
            devices = source.inventory.devices
            try:
                in_use = self._call(source, source.watcher.look, devices)
            except _ReplacedError:
                raise
            except Exception:
                # As in _read. Nothing is said of who uses the devices from now on.
                logger.exception("%s: looking for who uses the devices failed", source.sensor.name)
                source.watcher = None
                continue
            for listener in list(source.listeners):
                listener.looked(devices, in_use)
        self._look_due_us = min(
            (source.look_due_us for source in self._sources if source.watcher is not None), default=self._look_due_us
        )


def _is_refreshed_now_and_then(device: Device) -> bool:
    is_board = device.has_counter and device.has_power
    return is_board and (device.counter_period_us or 0) >= SEEK_LEAST_PERIOD_US
