"""CPU packages and DRAM through Linux powercap (RAPL): one meter per socket and per DRAM, and nothing twice."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tracker.machine import OwnDescriptor, boottime_us, identity_of
from tracker.records import Device, NotMeasured, Reading
from tracker.sensors.protocol import Inventory
from tracker.units import MICROJOULES_PER_J, MICROSECONDS_PER_S, MILLIWATTS_PER_W

logger = logging.getLogger(__name__)

_ZONE: Final = re.compile(r"intel-rapl(?P<mmio>-mmio)?:(?P<top>\d+)(?::(?P<part>\d+))?")  # AMD has the same names
_PACKAGE_NAME: Final = re.compile(r"package-(?P<package>\d+)(?:-die-(?P<die>\d+))?")

# The register counts 2^32 units and the kernel gives the largest value, (2^32 - 1) units, as the range
# (intel_rapl_common.c), so the modulus is one unit more.
_LARGEST_COUNT: Final = 2**32 - 1

# No package on sale is rated above 500 W, and no socket's DIMMs come near that. The ratings that powercap itself shows
# (constraint_*_max_power_uw) are no bound: desktop chips draw more than twice of theirs for as long as cooling lasts.
_MAX_POWER_MW: Final = {"cpu_package": 1_000 * MILLIWATTS_PER_W, "dram": 500 * MILLIWATTS_PER_W}

_COUNTER_PERIOD_US: Final = 1_000  # Variorum issue 575

# Dies that mirror one counter differ by what the socket uses between two reads: 1 kW for 5 ms.
_MIRROR_DISTANCE_UJ: Final = 5 * MICROJOULES_PER_J

# A read takes some 20 µs. Where this thread was held up in it for ms, the middle of the call says little of when the
# counter was read: 5 ms are 0.05 % of 10 s. Such a read is made once more, and the quicker one counts.
_LONG_READ_US: Final = 1_000

_LOOK_PERIOD_US: Final = 60 * MICROSECONDS_PER_S
_MOST_NAMED: Final = 4

_PERMISSION_ERRORS: Final = frozenset({errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class _Zone:
    """A powercap zone that is a meter, with its counter as it stood when looked at."""

    kind: Literal["cpu_package", "dram"]
    id: str  # "intel-rapl:0:1"
    name: str  # as powercap has it: "package-0", "dram"
    energy: Path
    energy_uj: int | None
    error: int | None  # errno of reading it, where that failed
    modulus_uj: int | None

    @property
    def is_mmio(self) -> bool:
        return self.id.startswith("intel-rapl-mmio")


class RaplSensor:
    """Energy counters of CPU packages and of the DRAM beside them.

    core and uncore are parts of a package, psys contains it, and MMIO zones and the dies of some AMD chips show
    counters that another zone shows too: none of them is added.

    Args:
        sysfs: where sysfs is mounted; /host/sys in a container.
        clock_us: the sample clock.

    Source: Documentation/power/powercap/powercap.rst; what each trap did elsewhere: knowledge/measurement.md, 2.2.
    """

    name = "rapl"

    def __init__(self, sysfs: Path = Path("/sys"), *, clock_us: Callable[[], int] = boottime_us) -> None:
        self._class = sysfs / "class" / "powercap"
        self._clock_us = clock_us
        self._counters: dict[str, _Counter] = {}
        self._entries: frozenset[str] = frozenset()  # as they were at open
        self._next_look_us = 0
        self._news: list[str] = []

    def open(self) -> Inventory:
        self.close()
        self._entries = self._listed()
        self._next_look_us = self._clock_us() + _LOOK_PERIOD_US
        zones, hidden = self._zones()
        packages, notes = _without_mirrors([zone for zone in zones if zone.kind == "cpu_package"])
        if not packages:
            return self._absent(is_hidden=hidden)

        devices: list[Device] = []
        not_measured: list[NotMeasured] = []
        for package in packages:
            drams = [zone for zone in zones if zone.kind == "dram" and zone.id.startswith(f"{package.id}:")]
            for zone in (package, *drams):
                name = f"CPU {package.name}" if zone is package else f"DRAM of {package.name}"
                if zone.energy_uj is None:
                    not_measured.append(self._unreadable(zone, name))
                else:
                    devices.append(self._device(zone, name, notes.get(zone.id, ())))
                    self._counters[zone.id] = _Counter(zone.energy)
            if not drams:
                reason = "powercap shows no DRAM meter beside this package (desktop and AMD chips have none)"
                not_measured.append(NotMeasured("dram", f"DRAM of {package.name}", reason))
        return Inventory(tuple(devices), tuple(not_measured))

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        readings = []
        for device in devices:
            counter = self._counters.get(device.key)
            reading, took_us = self._reading(counter)
            if took_us > _LONG_READ_US and reading.counter_uj is not None:
                again, again_us = self._reading(counter)
                if again_us < took_us and again.counter_uj is not None:
                    reading = again
            readings.append(reading)
        return readings

    def _reading(self, counter: _Counter | None) -> tuple[Reading, int]:
        """A reading, stamped with the middle of the call, and how long that took."""
        before_us = self._clock_us()
        counter_uj = counter.read_uj() if counter else None
        after_us = self._clock_us()
        return Reading((before_us + after_us) // 2, counter_uj=counter_uj), after_us - before_us

    def news(self) -> Sequence[str]:
        """As TellsOfDevices.news: once, that zones have come which are not in the run."""
        if self._clock_us() >= self._next_look_us:
            self._next_look_us = self._clock_us() + _LOOK_PERIOD_US
            new = sorted(self._listed() - self._entries)
            if new:
                self._entries |= frozenset(new)
                self._news = [f"powercap: {', '.join(new[:_MOST_NAMED])} appeared: measured from the next run on"]
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        for counter in self._counters.values():
            counter.close()
        self._counters = {}

    def _listed(self) -> frozenset[str]:
        try:
            return frozenset(entry.name for entry in self._class.iterdir() if _ZONE.fullmatch(entry.name))
        except OSError:
            return frozenset()

    def _zones(self) -> tuple[list[_Zone], bool]:
        """Package and DRAM zones in order, and whether there are links that lead nowhere."""
        try:
            entries = [entry for entry in self._class.iterdir() if _ZONE.fullmatch(entry.name)]
        except OSError:
            return [], False
        names = {entry.name: _text(entry / "name") for entry in sorted(entries, key=_numbers)}
        zones = []
        for entry_name, name in names.items():
            match = _ZONE.fullmatch(entry_name)
            assert match is not None
            if match["part"] is None and name is not None and _PACKAGE_NAME.fullmatch(name):
                zones.append(_looked_at("cpu_package", self._class / entry_name, name))
            elif match["part"] is not None and name == "dram":
                zones.append(_looked_at("dram", self._class / entry_name, name))
        return zones, bool(names) and all(name is None for name in names.values())

    def _device(self, zone: _Zone, name: str, notes: tuple[str, ...]) -> Device:
        if zone.modulus_uj is None:
            notes = (*notes, "max_energy_range_uj cannot be read: where the counter starts over, energy is unknown")
        return Device(
            kind=zone.kind,
            key=zone.id,
            name=name,
            sensor=self.name,
            has_counter=True,
            has_power=False,
            counter_modulus_uj=zone.modulus_uj,
            counter_period_us=_COUNTER_PERIOD_US,
            max_power_mw=_MAX_POWER_MW[zone.kind],
            attributes={"zone": zone.name, "path": str(zone.energy)},
            notes=notes,
        )

    def _unreadable(self, zone: _Zone, name: str) -> NotMeasured:
        if zone.error not in _PERMISSION_ERRORS:
            reason = f"cannot read {zone.energy} ({os.strerror(zone.error) if zone.error else 'no number in it'})"
            return NotMeasured(zone.kind, name, reason, key=zone.id)
        reason = f'cannot read energy_uj below {self._class} (permission denied; see README, "Permissions")'
        files = f"{self._class}/intel-rapl*:*/energy_uj"
        remedy = f'sudo chgrp "$(id -gn)" {files} && sudo chmod g+r {files}'
        return NotMeasured(zone.kind, name, reason, remedy, zone.id)

    def _absent(self, *, is_hidden: bool) -> Inventory:
        if is_hidden:
            reason = f"{self._class} leads nowhere: the container hides /sys/devices/virtual/powercap"
            remedy = "start the container with -v /sys:/host/sys:ro and TRACKER_SYSFS=/host/sys"
        elif self._class.is_dir():
            reason = f"no RAPL meter in {self._class} (virtual machine, or the kernel module intel_rapl_msr is missing)"
            remedy = "on a real machine: sudo modprobe intel_rapl_msr"
        else:
            reason = f"no {self._class} (not Linux, or a kernel without powercap)"
            remedy = ""
        return Inventory(
            not_measured=(
                NotMeasured("cpu_package", "CPU", reason, remedy),
                NotMeasured("dram", "DRAM", reason, remedy),
            )
        )


class _Counter:
    """One energy_uj file, kept open: reading it anew by its path costs four times as much (measured)."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._file: OwnDescriptor | None = None
        self._last_uj: int | None = None

    def read_uj(self) -> int | None:
        """The counter, None where it cannot be read."""
        try:
            if self._file is None or not self._file.is_ours:
                self._file = OwnDescriptor(os.open(self._path, os.O_RDONLY))
            counter_uj = self._read(self._file)
            # A counter moves each ms. If it stands still, perhaps the file was replaced (a tree that is no sysfs but a
            # copy, or a mount renewed), and the descriptor shows the old one.
            if counter_uj == self._last_uj and identity_of(self._path) != self._file.identity:
                self.close()
                self._file = OwnDescriptor(os.open(self._path, os.O_RDONLY))
                counter_uj = self._read(self._file)
        except OSError as exc:
            logger.debug("%s: %s", self._path, exc)
            self.close()
            return None
        self._last_uj = counter_uj
        return counter_uj

    @staticmethod
    def _read(file: OwnDescriptor) -> int | None:
        return _number(os.pread(file.number, 32, 0))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _looked_at(kind: Literal["cpu_package", "dram"], folder: Path, name: str) -> _Zone:
    energy = folder / "energy_uj"
    energy_uj = error = None
    try:
        energy_uj = _number(energy.read_bytes())
    except OSError as exc:
        error = exc.errno
    range_uj = _number((_text(folder / "max_energy_range_uj") or "").encode())
    return _Zone(
        kind=kind,
        id=folder.name,
        name=name,
        energy=energy,
        energy_uj=energy_uj,
        error=error,
        modulus_uj=modulus_uj(range_uj) if range_uj else None,
    )


def modulus_uj(max_energy_range_uj: int) -> int:
    """Where the counter starts over: one unit beyond the largest value it shows."""
    return max_energy_range_uj + max(1, round(max_energy_range_uj / _LARGEST_COUNT))


def _without_mirrors(packages: Sequence[_Zone]) -> tuple[list[_Zone], dict[str, tuple[str, ...]]]:
    """One zone per counter, and by zone id what was left out for it.

    A package's MMIO zone goes where its MSR zone is there and readable (or neither is). Dies go where their counters
    stand so close together that they must be one: two meters of their own would have drifted apart since boot.
    """
    by_readability = sorted(packages, key=lambda zone: (zone.energy_uj is None, zone.is_mmio))
    kept: list[_Zone] = []
    left_out: dict[str, list[str]] = {}
    for zone in by_readability:
        twin = next((other for other in kept if _is_twin(zone, other)), None)
        if twin is None:
            kept.append(zone)
        else:
            left_out.setdefault(twin.id, []).append(zone.id)
    kept.sort(key=packages.index)
    return kept, {
        zone_id: (f"{', '.join(others)} shows the same meter: not added",) for zone_id, others in left_out.items()
    }


def _is_twin(zone: _Zone, other: _Zone) -> bool:
    if zone.is_mmio != other.is_mmio:
        return zone.name == other.name
    mine, others = _PACKAGE_NAME.fullmatch(zone.name), _PACKAGE_NAME.fullmatch(other.name)
    assert mine is not None
    assert others is not None
    if mine["package"] != others["package"] or mine["die"] == others["die"]:
        return False
    if zone.energy_uj is None or other.energy_uj is None:
        return False
    distance_uj = abs(zone.energy_uj - other.energy_uj)
    if zone.modulus_uj is not None:
        distance_uj = min(distance_uj, zone.modulus_uj - distance_uj)
    return distance_uj <= _MIRROR_DISTANCE_UJ


def _numbers(entry: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", entry.name))


def _number(content: bytes) -> int | None:
    try:
        number = int(content)
    except ValueError:
        return None
    return number if number >= 0 else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
