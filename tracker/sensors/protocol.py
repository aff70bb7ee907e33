"""What a source of readings must offer; the contract test holds every sensor to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tracker.records import Device, NotMeasured, Reading


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a sensor found: devices it can read, and parts that it knows of but cannot."""

    devices: tuple[Device, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()
    warnings: tuple[str, ...] = ()


class Sensor(Protocol):
    """A source of readings.

    The constructor takes arguments and touches nothing. One thread calls open, read and close. Nothing here
    raises for what hardware does: a source that is absent opens with no devices and a reason, a reading that
    fails is None in its fields. read never sleeps and does no work that grows with time.
    """

    name: str

    def open(self) -> Inventory:
        """Find the devices. A second call, after close or not, looks again."""
        ...

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        """One reading of each of the devices given, in that order; each has its own t_us."""
        ...

    def close(self) -> None:
        """Give back what open took. May be called twice, or without open."""
        ...


@runtime_checkable
class SeesProcesses(Protocol):
    """A sensor that can also tell whether the run's processes use its devices. Called by the same thread as read."""

    def look(self, devices: Sequence[Device]) -> list[bool | None]:
        """For each device, whether a process of the run uses it now; None: it cannot be told.

        It may take some milliseconds a device, so it is called now and then only.
        """
        ...


@runtime_checkable
class TellsOfDevices(Protocol):
    """A sensor whose devices may come to harm while they are read. Called by the same thread as read, after it."""

    def news(self) -> Sequence[str]:
        """What has happened to devices since the last call, for people; a few lines in all the sensor's life."""
        ...


class GivenUpError(Exception):
    """A call into a sensor has been overtaken: the device that it was at is left out since."""


@runtime_checkable
class LeavesDevicesOut(Protocol):
    """A sensor that can go on without one device while its driver's call does not return."""

    def leave_out(self) -> str | None:
        """Go on without the device that read or look is at, until that call returns; called by another thread.

        The call overtaken then raises GivenUpError, and another thread may call the sensor.

        Returns:
            The device, for people. None: this cannot be done, as no call is at one device, or one is left out already.
        """
        ...
