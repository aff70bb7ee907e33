"""This machine and this process: clocks, and the identity that tells whether a writer still lives."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from tracker.records import ClockPair, Segment

NANOSECONDS_PER_MICROSECOND: Final = 1_000
BYTES_PER_KIB: Final = 1024

# CLOCK_BOOTTIME runs on through suspend; where it is missing the monotonic clock stands in (DESIGN.md, section 4).
_SAMPLE_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 0))
_HAS_CLOCKS: Final = hasattr(time, "clock_gettime_ns")


def has_boottime() -> bool:
    """Whether the sample clock runs on through suspend."""
    return hasattr(time, "CLOCK_BOOTTIME")


def boottime_us() -> int:
    """The sample clock now, in µs."""
    if _HAS_CLOCKS:
        return time.clock_gettime_ns(_SAMPLE_CLOCK) // NANOSECONDS_PER_MICROSECOND
    return time.monotonic_ns() // NANOSECONDS_PER_MICROSECOND


def unix_us() -> int:
    """The calendar clock of this machine."""
    return time.time_ns() // NANOSECONDS_PER_MICROSECOND


def clock_pair() -> ClockPair:
    """All clocks at one moment; the sample clock is the mean of two readings around the others."""
    before_us = boottime_us()
    monotonic_us = time.monotonic_ns() // NANOSECONDS_PER_MICROSECOND
    wall_us = unix_us()
    return ClockPair((before_us + boottime_us()) // 2, monotonic_us, wall_us)


def process_start(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Start time of a process in clock ticks since boot; None where no such process runs, or there is no /proc.

    A zombie runs no more, though its parent has not asked for its end yet.

    Source: proc(5), /proc/<pid>/stat fields 3 and 22. The name in field 2 may hold spaces and brackets.
    """
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def identity_of(file: int | str | Path) -> tuple[int, int] | None:
    """Which file an open descriptor is of, or lies at a path; None: none."""
    try:
        found = os.stat(file)  # noqa: PTH116 (of a descriptor too)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class OwnDescriptor:
    """An open file of ours.

    A program may close every descriptor that there is, as daemons do, and open files of its own, which get the numbers:
    we must neither read nor close those.
    """

    def __init__(self, descriptor: int) -> None:
        self.number = descriptor
        self.identity = identity_of(descriptor)

    @property
    def is_ours(self) -> bool:
        """Whether the number still stands for the file that was opened."""
        return self.identity is not None and identity_of(self.number) == self.identity

    def close(self) -> None:
        if self.is_ours:
            os.close(self.number)


def descriptors_of(paths: Sequence[Path], proc: Path = Path("/proc")) -> list[OwnDescriptor]:
    """What this process has open of these files; nothing where there is no /proc."""
    wanted = {identity for path in paths if (identity := identity_of(path)) is not None}
    try:
        numbers = [int(name) for name in os.listdir(proc / "self/fd")]  # noqa: PTH208 (names alone: it may have hundreds)
    except OSError:
        return []
    return [OwnDescriptor(number) for number in numbers if identity_of(number) in wanted]


def hardware(proc: Path = Path("/proc")) -> dict[str, str]:
    """What kind of machine this is, as far as it is told without delay: nothing in it names the machine."""
    # Not the whole file: the kernel works out each CPU's part when it is read, milliseconds on a large machine.
    cpu = _field(_beginning_of(proc / "cpuinfo"), "model name")
    memory = _field(_beginning_of(proc / "meminfo"), "MemTotal").split()
    known = {
        "system": " ".join(filter(None, (platform.system(), platform.release(), platform.machine()))),
        "cpu": cpu,
        "logical_cpus": str(os.cpu_count() or ""),
        "memory_bytes": str(int(memory[0]) * BYTES_PER_KIB) if memory and memory[0].isdecimal() else "",
    }
    return {name: value for name, value in known.items() if value}


@cache
def _hardware_here() -> dict[str, str]:
    return hardware()


def this_boot(proc: Path = Path("/proc")) -> tuple[str, int]:
    """Where process numbers mean what they mean here: boot id and inode of the pid namespace; "" and 0: unknown."""
    return _text_of(proc / "sys/kernel/random/boot_id"), _inode_of(proc / "self/ns/pid")


def this_segment() -> Segment:
    """The identity of the calling process, with the clocks as they stand."""
    pid = os.getpid()
    boot_id, pid_namespace = this_boot()
    return Segment(
        host=socket.gethostname(),
        boot_id=boot_id,
        pid_namespace=pid_namespace,
        pid=pid,
        pid_start=process_start(pid) or 0,
        started=clock_pair(),
        hardware=_hardware_here(),
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _beginning_of(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            return (file.read(4096) or b"").decode("utf-8", "replace")
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    """The value of a line "name : value"; "" where there is none."""
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return ""


def _inode_of(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
