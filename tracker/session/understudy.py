"""When the host model stands in: not before it is known that no meter measures the part that it models."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tracker.records import Device, DeviceKind, NotMeasured, Reading
from tracker.sensors.host import METERS, HostModel, covers_host
from tracker.sensors.protocol import Inventory
from tracker.units import MICROSECONDS_PER_S

STILL_US: Final = MICROSECONDS_PER_S // 2  # a meter's counter moves each ms


@dataclass(slots=True)
class _Meter:
    """What has been seen of one counter."""

    kind: DeviceKind
    first: Reading | None = None
    is_still: bool = False
    has_moved: bool = False

    def see(self, reading: Reading) -> None:
        if self.first is None or self.first.counter_uj is None:
            self.first = reading
        elif reading.counter_uj not in (None, self.first.counter_uj):
            self.has_moved = True
        self.is_still = reading.t_us - self.first.t_us >= STILL_US


@dataclass(slots=True)
class Understudy:
    """Holds the model's devices until each is needed, or is not. Used by several threads.

    The model counts on from its opening, so that its first and its latest reading, given later, lose no energy.
    """

    _expected: set[str] = field(default_factory=set)  # sensors that have not told yet what there is
    _parts: dict[DeviceKind, Device | NotMeasured] = field(default_factory=dict)  # waiting
    _held: dict[DeviceKind, list[Reading]] = field(default_factory=dict)  # the first and the latest
    _playing: set[DeviceKind] = field(default_factory=set)
    _meters: dict[tuple[str, str], _Meter] = field(default_factory=dict)  # that may measure a part
    _is_whole_module_measured: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def expect(self, sensors: Iterable[str]) -> None:
        """Name the sensors that are about to be opened."""
        with self._lock:
            self._expected |= {*sensors} - {HostModel.name}

    def gave_up(self, sensor: str) -> None:
        """A sensor will not tell for now."""
        with self._lock:
            self._expected.discard(sensor)

    def found(self, sensor: str, inventory: Inventory) -> None:
        """Take note of what a sensor has found; the model's own devices are kept back."""
        with self._lock:
            self._expected.discard(sensor)
            if sensor == HostModel.name:
                self._parts |= {device.kind: device for device in inventory.devices}
                self._parts |= {part.kind: part for part in inventory.not_measured}
                return
            self._is_whole_module_measured |= any(map(covers_host, inventory.devices))
            meters = frozenset[DeviceKind]().union(*METERS.values())
            for device in inventory.devices:
                if device.kind in meters:
                    self._meters.setdefault((sensor, device.key), _Meter(device.kind))

    def received(self, sensor: str, devices: Sequence[Device], readings: Sequence[Reading]) -> None:
        """Take note of readings."""
        if not self.is_wanted():
            return
        with self._lock:
            for device, reading in zip(devices, readings, strict=True):
                if sensor == HostModel.name:
                    if device.kind in self._parts:
                        self._held.setdefault(device.kind, [])[1:] = [reading]
                elif (meter := self._meters.get((sensor, device.key))) is not None and not meter.has_moved:
                    meter.see(reading)

    def cast(self, *, is_last: bool = False) -> list[tuple[Inventory, Sequence[Reading]]]:
        """What stands in from now on, with the readings of its devices up to now.

        Args:
            is_last: no more readings come.
        """
        come: list[tuple[Inventory, Sequence[Reading]]] = []
        with self._lock:
            for kind in [*self._parts, *self._playing]:
                meters = [meter for meter in self._meters.values() if meter.kind in METERS[kind]]
                if self._is_whole_module_measured or any(meter.has_moved for meter in meters):
                    self._parts.pop(kind, None)
                    self._playing.discard(kind)
                elif kind in self._parts and (is_last or self._is_free(meters)):
                    part = self._parts.pop(kind)
                    if isinstance(part, NotMeasured):
                        come.append((Inventory(not_measured=(part,)), ()))
                    else:
                        self._playing.add(kind)
                        come.append((Inventory(devices=(part,)), tuple(self._held.pop(kind, ()))))
        return come

    def _is_free(self, meters: Sequence[_Meter]) -> bool:
        return not self._expected and all(meter.is_still for meter in meters)

    def without_covered(self, parts: Sequence[NotMeasured]) -> list[NotMeasured]:
        """What is not measured, but for what a whole module's meter holds."""
        covered = frozenset[DeviceKind]().union(*METERS.values()) if self._is_whole_module_measured else ()
        return [part for part in parts if part.kind not in covered]

    def plays(self, device: Device) -> bool:
        """Whether a device of the model stands in."""
        return device.kind in self._playing

    def is_wanted(self) -> bool:
        """Whether readings of the model are needed, or may yet be."""
        return bool(self._parts or self._playing)
