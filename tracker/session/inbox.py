"""What comes in for a run between two commits: readings from the sampler, spans and marks from the program."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tracker.records import Device, Mark, NotMeasured, Reading, Span, datetime_of
from tracker.sensors.protocol import Inventory, Sensor
from tracker.store.codec import append_reading
from tracker.units import MICROSECONDS_PER_S


@dataclass(frozen=True, slots=True)
class Mail:
    """What came in since the last time.

    rows holds readings as codec.append_reading makes them.
    """

    rows: array[int]
    devices: Sequence[tuple[int, Device]]
    not_measured: Sequence[NotMeasured]
    spans: Sequence[OpenSpan]
    marks: Sequence[Mark]


@dataclass(frozen=True, slots=True)
class OpenSpan:
    """A span with its instants on the sample clock; stop_us is None while it is open."""

    span: Span
    start_us: int
    stop_us: int | None = None


@dataclass(slots=True)
class Inbox:
    """Takes what comes from several threads; one thread takes it all out.

    Attributes:
        unix_offset_us: from the sample clock to microseconds since 1970, at the run's start.
        start_us: the run's start on the sample clock; set when the first readings are in.
        all_opened: set when every sensor expected has been opened, or given up.
    """

    unix_offset_us: int
    start_us: int
    all_opened: threading.Event = field(default_factory=threading.Event)
    _expected: set[str] = field(default_factory=set)
    # Reentrant: a signal handler of the program's may come between any two steps of its main thread, and mark too.
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _rows: array[int] = field(default_factory=lambda: array("q"))
    _index: dict[tuple[str, str], int] = field(default_factory=dict)
    _devices: list[tuple[int, Device]] = field(default_factory=list)
    _not_measured: list[NotMeasured] = field(default_factory=list)
    _open: dict[int, OpenSpan] = field(default_factory=dict)
    _spans: dict[int, OpenSpan] = field(default_factory=dict)
    _next_span_id: int = 0
    _marks: list[Mark] = field(default_factory=list)

    def expect(self, sensors: Iterable[str]) -> None:
        """Name the sensors that are about to be opened."""
        self._expected = set(sensors)
        if not self._expected:
            self.all_opened.set()

    def expect_no_more(self, sensor_name: str) -> None:
        """Do not wait for this sensor."""
        with self._lock:
            self._expected.discard(sensor_name)
            if not self._expected:
                self.all_opened.set()

    def found(self, sensor: Sensor, inventory: Inventory) -> None:
        """As Listener.found."""
        with self._lock:
            for device in inventory.devices:
                key = (sensor.name, device.key)
                if key not in self._index:
                    self._index[key] = len(self._index)
                    self._devices.append((self._index[key], device))
            self._not_measured += inventory.not_measured
        self.expect_no_more(sensor.name)

    def received(self, sensor: Sensor, devices: Sequence[Device], readings: Sequence[Reading]) -> None:
        """As Listener.received; devices that found did not name are not this run's."""
        values: list[int] = []
        name, indexes = sensor.name, self._index
        for device, reading in zip(devices, readings, strict=True):
            index = indexes.get((name, device.key))
            if index is not None and (reading.power_mw is not None or reading.counter_uj is not None):
                append_reading(values, index, reading)
        with self._lock:
            self._rows.extend(values)

    def open_span(self, name: str, parent_id: int | None, attributes: Mapping[str, Any], now_us: int) -> int:
        """A new span that starts now; its id."""
        with self._lock:
            span_id = self._next_span_id
            self._next_span_id += 1
            started_at = datetime_of(now_us + self.unix_offset_us)
            span = Span(span_id, parent_id, name, dict(attributes), started_at, None, None)
            self._open[span_id] = self._spans[span_id] = OpenSpan(span, now_us)
            return span_id

    def close_span(self, span_id: int, now_us: int) -> None:
        """End a span; one that is not open is left alone."""
        with self._lock:
            opened = self._open.pop(span_id, None)
            if opened is not None:
                ended = replace(
                    opened.span,
                    ended_at=datetime_of(now_us + self.unix_offset_us),
                    duration_s=(now_us - opened.start_us) / MICROSECONDS_PER_S,
                )
                self._spans[span_id] = OpenSpan(ended, opened.start_us, now_us)

    def close_all_spans(self, now_us: int) -> None:
        """End what is open when the run ends."""
        for span_id in list(self._open):
            self.close_span(span_id, now_us)

    def mark(self, values: Mapping[str, Any], now_us: int) -> None:
        """Keep a mark."""
        elapsed_s = (now_us - self.start_us) / MICROSECONDS_PER_S
        with self._lock:
            self._marks.append(Mark(datetime_of(now_us + self.unix_offset_us), elapsed_s, dict(values)))

    def empty(self) -> Mail:
        """All that has come in since the last time."""
        with self._lock:
            mail = Mail(self._rows, self._devices, self._not_measured, list(self._spans.values()), self._marks)
            self._rows, self._devices, self._not_measured = array("q"), [], []
            self._spans, self._marks = {}, []
            return mail
