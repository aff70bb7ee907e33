"""What control groups, version 1 and 2, leave this process of the machine's CPUs and memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

_NANOSECONDS_PER_MICROSECOND: Final = 1_000
_SPAN: Final = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """How many CPUs a control group may use, and the file that says how much it has used."""

    cpus: float
    usage: Path  # cpu.stat of version 2, cpuacct.usage of version 1

    def used_us(self) -> float | None:
        """CPU time that all in the group have used so far; None where it cannot be read."""
        text = _text(self.usage)
        if text is None:
            return None
        if text.isdecimal():
            return int(text) / _NANOSECONDS_PER_MICROSECOND
        used = re.search(r"^usage_usec (\d+)$", text, re.MULTILINE)
        return float(used[1]) if used else None


@dataclass(frozen=True, slots=True)
class Level:
    """A control group that this process is in, or one around it. None: it sets no such limit."""

    quota_cpus: float | None
    set_cpus: int | None
    memory_bytes: int | None
    usage: Path


def tightest(levels: Sequence[Level], machine_cpus: int) -> CpuLimit | None:
    """The level with the fewest CPUs, the outermost of equals: all that shares these CPUs is in it. None: no limit."""
    limits = [
        CpuLimit(cpus, level.usage)
        for level in reversed(levels)
        for cpus in (level.quota_cpus, level.set_cpus)
        if cpus is not None and 0 < cpus < machine_cpus
    ]
    return min(limits, key=lambda limit: limit.cpus, default=None)


def levels_of(proc: Path, root: Path) -> list[Level]:
    """The control groups of this process, innermost first.

    A container without a namespace of its own for them is told the host's path and shown only its own group, as the
    root: levels that are not there set no limit.

    Source: cgroups(7); Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/cpusets.rst and memory.rst.
    """
    paths = _cgroup_paths(proc)
    if (root / "cgroup.controllers").exists():
        return [_level_2(root / part) for part in _upwards({paths.get("", "/")})]
    controllers = ("cpu", "cpuset", "memory")
    return [_level_1(root, part) for part in _upwards({paths[name] for name in controllers if name in paths})]


def _level_2(group: Path) -> Level:
    quota, _, period = (_text(group / "cpu.max") or "").partition(" ")
    return Level(
        quota_cpus=_ratio(quota, period),
        set_cpus=_set_size(_text(group / "cpuset.cpus.effective")),
        memory_bytes=_number(_text(group / "memory.max")),
        usage=group / "cpu.stat",
    )


def _level_1(root: Path, part: str) -> Level:
    cpu = root / "cpu" / part
    return Level(
        quota_cpus=_ratio(_text(cpu / "cpu.cfs_quota_us"), _text(cpu / "cpu.cfs_period_us")),
        set_cpus=_set_size(_text(root / "cpuset" / part / "cpuset.cpus")),
        memory_bytes=_number(_text(root / "memory" / part / "memory.limit_in_bytes")),
        usage=root / "cpuacct" / part / "cpuacct.usage",
    )


def _cgroup_paths(proc: Path) -> dict[str, str]:
    """This process's path by controller; that of version 2 under ""."""
    paths = {}
    for line in (_text(proc / "self" / "cgroup") or "").splitlines():
        _, _, controllers_and_path = line.partition(":")
        controllers, _, path = controllers_and_path.partition(":")
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _upwards(paths: Iterable[str]) -> list[str]:
    """The paths and all above them, relative to the root, deepest first. What leads out of a namespace is left out."""
    found = {PurePosixPath()}
    for path in paths:
        relative = PurePosixPath(path.lstrip("/"))
        if ".." not in relative.parts:
            found |= {relative, *relative.parents}
    return [str(part) for part in sorted(found, key=lambda part: len(part.parts), reverse=True)]


def _ratio(quota: str | None, period: str | None) -> float | None:
    """CPUs of a quota; version 2 says "max" and version 1 "-1" where there is none."""
    quota_us, period_us = _number(quota), _number(period)
    return quota_us / period_us if quota_us and period_us else None


def _set_size(text: str | None) -> int | None:
    """How many CPUs "0-3,8" holds."""
    spans = [_SPAN.fullmatch(span) for span in (text or "").split(",")]
    sizes = [int(span[2] or span[1]) - int(span[1]) + 1 for span in spans if span]
    return sum(sizes) if len(sizes) == len(spans) else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
