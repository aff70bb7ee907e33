"""GPUs that do not answer: when each is asked again, and what is said of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from tracker.records import Device
from tracker.sensors.nvml_errors import reason_of, rule_of
from tracker.units import MICROSECONDS_PER_S

_FAILURES_TOLD: Final = 3  # readings in a row
_FIRST_WAIT_US: Final = 1 * MICROSECONDS_PER_S
_LONGEST_WAIT_US: Final = 60 * MICROSECONDS_PER_S
_PASSING_US: Final = 5 * MICROSECONDS_PER_S  # the same where the error may pass, and calls are as quick as ever
# Of one GPU, and of all: some times in its life. One that comes and goes all day would fill the record.
_MOST_TOLD: Final = 4
_MOST_LINES: Final = 12


@dataclass(slots=True)
class BackOff:
    """When something that fails is tried again: after 1, 2, 4 … s."""

    due_us: int = 0
    _wait_us: int = 0

    def failed(self, now_us: int, longest_us: int = _LONGEST_WAIT_US) -> None:
        self._wait_us = min(2 * self._wait_us or _FIRST_WAIT_US, longest_us)
        self.due_us = now_us + self._wait_us


@dataclass(slots=True)
class _Trouble:
    back_off: BackOff
    failures: int = 0  # in a row
    is_told: bool = False


class Troubles:
    """The GPUs in trouble, by key, and the news of them."""

    def __init__(self) -> None:
        self._troubles: dict[str, _Trouble] = {}
        self._lacking: Counter[str] = Counter()  # readings in a row without a counter, where there was one
        self._powerless: set[str] = set()
        self._told: Counter[str] = Counter()
        self._lines = 0
        self._news: dict[str, list[Device]] = {}  # of whom, by what

    @property
    def is_quiet(self) -> bool:
        """Whether every GPU has answered, with all that it has."""
        return not self._troubles and not self._lacking

    def has(self, key: str) -> bool:
        """Whether the GPU did not answer when it was last asked."""
        return key in self._troubles

    def is_waiting(self, key: str, now_us: int) -> bool:
        """Whether the GPU is not asked now. One that is off the bus can take seconds for each call."""
        return key in self._troubles and now_us < self._troubles[key].back_off.due_us

    def have_all(self, devices: list[str]) -> bool:
        """Whether none of these has answered for some readings."""
        return all(key in self._troubles and self._troubles[key].failures >= _FAILURES_TOLD for key in devices)

    def failed(self, device: Device, code: int, now_us: int) -> bool:
        """Note a reading that gave nothing; true when waiting a tick will not mend it."""
        trouble = self._troubles.setdefault(device.key, _Trouble(BackOff()))
        trouble.failures += 1
        action = rule_of(code).action
        if trouble.failures < _FAILURES_TOLD and action not in ("find", "init"):
            return False
        if action != "init" or trouble.failures > 1:
            trouble.back_off.failed(now_us, _PASSING_US if action == "wait" else _LONGEST_WAIT_US)
        if not trouble.is_told and (trouble.failures >= _FAILURES_TOLD or action == "find"):
            trouble.is_told = True
            self.tell(device, f"no answer, {reason_of(code)}; it is asked again from time to time")
        return True

    def answered(self, device: Device, code: int, *, has_counter: bool) -> None:
        """Note a reading that gave something, and the code of what it lacked."""
        trouble = self._troubles.pop(device.key, None)
        if trouble is not None and trouble.is_told:
            self.tell(device, "answers again")
        if has_counter or not device.has_counter:
            if self._lacking.pop(device.key, 0) >= _FAILURES_TOLD:
                self.tell(device, "its energy counter answers again")
            return
        self._lacking[device.key] += 1
        if self._lacking[device.key] == _FAILURES_TOLD:
            self.tell(device, f"its energy counter gives no value, {reason_of(code)}: power is used there")

    def shows_no_power(self, device: Device) -> None:
        """Note a power of 0."""
        if device.key not in self._powerless:
            self._powerless.add(device.key)
            self.tell(device, "shows 0 W, which no GPU draws that answers: taken as unknown")

    def tell(self, device: Device, what: str) -> None:
        """Have people know of it, some times in a GPU's life."""
        self._told[device.key] += 1
        if self._told[device.key] <= _MOST_TOLD:
            self._news.setdefault(what, []).append(device)

    def news(self) -> list[str]:
        """What has happened since the last call, a line for each cause."""
        lines = []
        for what, devices in self._news.items():
            self._lines += 1
            if self._lines < _MOST_LINES:
                lines.append(f"{_named(devices)}: {what}")
            elif self._lines == _MOST_LINES:
                lines.append("more happens to the GPUs than is told here")
        self._news = {}
        return lines


def _named(devices: list[Device]) -> str:
    indexes = ", ".join(device.attributes.get("index", device.key) for device in devices)
    return f"GPUs {indexes}" if len(devices) > 1 else f"GPU {indexes} ({devices[0].name})"
