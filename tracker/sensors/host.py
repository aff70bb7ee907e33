"""CPU and RAM where no meter is readable, modelled from load, size and a stated rating. The one user of psutil.

Nothing here is measured. Each device carries the rating and the formula with their sources, and the range in which
its energy is to be expected, as factors (`range_factors`).
"""

from __future__ import annotations

import csv
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Protocol

from tracker.machine import boottime_us
from tracker.records import Device, DeviceKind, NotMeasured, Reading
from tracker.sensors.cgroup import CpuLimit, Level, levels_of, tightest
from tracker.sensors.protocol import Inventory
from tracker.units import MILLIWATTS_PER_W

# Not importlib.resources: as in intensity.tables.
_RATINGS: Final = Path(__file__).with_name("data") / "cpu_ratings.csv"

# boaviztapi 2.5.0, profile "Xeon Platinum", a·ln(b·(w + c)) + d with the load w in % (knowledge, measurement 2.7). It
# was fitted to RAPL readings of EC2 hosts (81xx and 82xx, from memory), so no other CPU gets it.
_PLATINUM_A, _PLATINUM_B, _PLATINUM_C, _PLATINUM_D = 171.18, 0.0354, 36.9, -10.13
_PLATINUM: Final = re.compile(r"intel xeon platinum 8[12]\d\d\w*")
# The same profile's share at no load; CodeCarbon takes 0.1 (knowledge, peers 1).
_IDLE_SHARE: Final = 0.14
# CodeCarbon's for a CPU it does not know (knowledge, measurement 2.7).
_UNKNOWN_RATING_W: Final = 4.0

# CodeCarbon 3: 5 W a DIMM. Capacity is known and the number of DIMMs is not: it is taken to double where capacity
# grows fourfold (4 × 16 GB, 8 × 32 GB, 16 × 64 GB), our assumption. Small machines, and slices of large ones, have
# less than a DIMM's worth by that: CodeCarbon 2's 3 W for 8 GB bounds them (knowledge, measurement 2.7).
_RAM_W_PER_GB: Final = 0.375
_RAM_W_PER_ROOT_GB: Final = 5.0 / 2
_BYTES_PER_GB: Final = 2**30

# Counts of CPU time move in ticks of 10 ms: closer readings do not tell the load.
_SHORTEST_US: Final = 50_000
_NANOSECONDS_PER_MICROSECOND: Final = 1_000

# What psutil lets through where /proc is missing, hidden or not what it expects.
_PSUTIL_ERRORS: Final = (OSError, ValueError, LookupError, RuntimeError)


class CpuTimes(Protocol):
    """Seconds since boot, summed over the CPUs; systems add fields to these."""

    @property
    def user(self) -> float: ...
    @property
    def system(self) -> float: ...
    @property
    def idle(self) -> float: ...


class MemorySize(Protocol):
    @property
    def total(self) -> int: ...


class Psutil(Protocol):
    """What is used of psutil. Not its cpu_freq: it differs by system and says nothing in a virtual machine."""

    def cpu_count(self) -> int | None: ...
    def cpu_times(self) -> CpuTimes: ...
    def virtual_memory(self) -> MemorySize: ...


@dataclass(frozen=True, slots=True)
class CpuModel:
    """Power of a CPU as a function of its load, and where that comes from.

    Attributes:
        rating_w: of one logical CPU: its part of the package's rating (TDP).
        range_factors: the true energy is expected between these times the model's.
    """

    rating_w: float
    rating_source: str
    formula: str
    formula_source: str
    range_factors: tuple[float, float]
    range_source: str
    share: Callable[[float], float]

    def power_w(self, cpus: float, load: float) -> float:
        """Power of so many logical CPUs at a load between 0 and 1, their idle power included."""
        return cpus * self.rating_w * self.share(min(1.0, max(0.0, load)))


def _linear_share(load: float) -> float:
    """Share of its rating that a CPU draws."""
    return _IDLE_SHARE + (1 - _IDLE_SHARE) * load


def _xeon_platinum_share(load: float) -> float:
    """Share of its rating that a Xeon Platinum draws: the published profile, 1 at full load."""
    return _xeon_platinum_w(load) / _xeon_platinum_w(1.0)


def _xeon_platinum_w(load: float) -> float:
    return _PLATINUM_A * math.log(_PLATINUM_B * (100 * load + _PLATINUM_C)) + _PLATINUM_D


def ram_power_w(total_bytes: int) -> float:
    """Power of a machine's RAM, whatever it does: its refresh and its modules outweigh its use."""
    total_gb = total_bytes / _BYTES_PER_GB
    return min(_RAM_W_PER_GB * total_gb, _RAM_W_PER_ROOT_GB * math.sqrt(total_gb))


# What may be measured in place of each modelled part.
METERS: Final[Mapping[DeviceKind, frozenset[DeviceKind]]] = {
    "cpu": frozenset({"cpu", "cpu_package"}),
    "ram": frozenset({"ram", "dram"}),
}


def without_measured(model: Inventory, others: Iterable[Inventory]) -> Inventory:
    """What is left of the model beside what other sensors measure.

    One readable package, or DRAM, is enough to leave that part's model out: the load is known of the whole machine
    only, and a model of "the other socket" would have to guess how it is shared. What the meters lack stays in their
    own not_measured.
    """
    found = [device for other in others for device in other.devices]
    measured = {device.kind for device in found}
    if any(map(covers_host, found)):
        measured |= METERS.keys()
    return Inventory(
        devices=tuple(device for device in model.devices if not measured & METERS[device.kind]),
        not_measured=tuple(part for part in model.not_measured if not measured & METERS[part.kind]),
        warnings=model.warnings,
    )


def covers_host(device: Device) -> bool:
    """Whether what a device measures holds CPU and RAM too, which then must not be added to it."""
    return "host" in device.attributes.get("covers", "")


def range_factors(attributes: Mapping[str, str]) -> tuple[float, float] | None:
    """Between which multiples of its modelled energy a device's true one is expected; None: not a modelled device."""
    try:
        return float(attributes["range_low_factor"]), float(attributes["range_high_factor"])
    except KeyError:
        return None


class HostModel:
    """Energy of CPU and RAM by a model, as counters that start at open.

    Counters rather than power: the operating system counts the CPU time used, so the mean load between two readings is
    known however far they lie apart, and from the first one on. Where processes of others share the machine and no
    cgroup limits ours, their load counts too, as it does in a package's meter. Limits are those found at open.

    Args:
        proc: where procfs is mounted.
        cgroup: where this process sees its control groups.
        clock_us: the sample clock.
        awake_clock_us: a clock that stands still while the machine is suspended, as power nearly does.
        import_psutil: gives psutil, or raises ImportError; called here, in the caller's thread.
    """

    name = "model"

    def __init__(
        self,
        proc: Path = Path("/proc"),
        cgroup: Path = Path("/sys/fs/cgroup"),
        *,
        clock_us: Callable[[], int] = boottime_us,
        awake_clock_us: Callable[[], int] = lambda: time.monotonic_ns() // _NANOSECONDS_PER_MICROSECOND,
        import_psutil: Callable[[], Psutil] | None = None,
    ) -> None:
        self._proc = proc
        self._cgroup = cgroup
        self._clock_us = clock_us
        self._awake_clock_us = awake_clock_us
        self._psutil: Psutil | None
        try:
            self._psutil = (import_psutil or _import_psutil)()
        except ImportError:
            self._psutil = None
        self._counters: dict[str, Callable[[int], int | None]] = {}  # energy since open, by awake time

    def open(self) -> Inventory:
        self.close()
        if self._psutil is None:
            reason, remedy = "no meter, and no model without psutil", "pip install psutil"
            parts = NotMeasured("cpu", "CPU", reason, remedy), NotMeasured("ram", "RAM", reason, remedy)
            return Inventory(not_measured=parts)
        levels = levels_of(self._proc, self._cgroup)
        found = (self._open_cpu(self._psutil, levels), self._open_ram(self._psutil, levels))
        return Inventory(
            devices=tuple(part for part in found if isinstance(part, Device)),
            not_measured=tuple(part for part in found if isinstance(part, NotMeasured)),
        )

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        before_us = self._clock_us()
        awake_us = self._awake_clock_us()
        wanted = {device.key for device in devices}
        energy_uj = {key: count(awake_us) for key, count in self._counters.items() if key in wanted}
        t_us = (before_us + self._clock_us()) // 2
        return [Reading(t_us, counter_uj=energy_uj.get(device.key)) for device in devices]

    def close(self) -> None:
        self._counters = {}

    def _open_cpu(self, psutil: Psutil, levels: Sequence[Level]) -> Device | NotMeasured:
        try:
            machine_cpus = psutil.cpu_count()
            is_counting = sum(_busy_and_total_s(psutil.cpu_times())) > 0
        except _PSUTIL_ERRORS as exc:
            return NotMeasured("cpu", "CPU", f"no meter, and no model: the load cannot be read ({exc})")
        if not machine_cpus or not is_counting:  # sandboxes such as gVisor show zeros in /proc/stat
            return NotMeasured("cpu", "CPU", "no meter, and no model: this system does not count CPU time")

        cpu = _first_cpu(self._proc)
        model = cpu_model(cpu)
        limit = tightest(levels, machine_cpus)
        if limit is None:
            cpus: float = machine_cpus
            used = _machine_use(psutil)
        else:
            cpus = limit.cpus
            used = _cgroup_use(limit, self._awake_clock_us)
        counter = _CpuCounter(lambda load: model.power_w(cpus, load), used, self._awake_clock_us())
        if not counter.is_counting:
            reason = f"no meter, and no model: {cpus:g} of {machine_cpus} CPUs are ours and their use cannot be read"
            return NotMeasured("cpu", "CPU", reason)

        self._counters["cpu"] = counter.read_uj
        of_machine = "" if limit is None else f" of {machine_cpus}"
        return _device(
            "cpu",
            f"{cpu.name or 'unknown model'}, {cpus:g}{of_machine} CPUs",
            rating_w=model.power_w(cpus, 1.0),
            rating_source=model.rating_source,
            formula=model.formula,
            formula_source=model.formula_source,
            factors=model.range_factors,
            range_source=model.range_source,
            attributes={
                "cpus": f"{cpus:g}",
                "machine_cpus": str(machine_cpus),
                "load_of": "whole machine" if limit is None else "cgroup",
            },
        )

    def _open_ram(self, psutil: Psutil, levels: Sequence[Level]) -> Device | NotMeasured:
        try:
            total_bytes = psutil.virtual_memory().total
        except _PSUTIL_ERRORS as exc:
            return NotMeasured("ram", "RAM", f"no meter, and no model: its size cannot be read ({exc})")
        if total_bytes <= 0:
            return NotMeasured("ram", "RAM", "no meter, and no model: this system does not show its size")

        limits = [level.memory_bytes for level in levels if level.memory_bytes]
        ours_bytes = min([total_bytes, *limits])
        power_w = ram_power_w(total_bytes) * ours_bytes / total_bytes
        opened_us = self._awake_clock_us()
        self._counters["ram"] = lambda awake_us: _microjoules(power_w, awake_us - opened_us)
        ours_gb, total_gb = (f"{size / _BYTES_PER_GB:.4g}" for size in (ours_bytes, total_bytes))
        return _device(
            "ram",
            f"{ours_gb} GB" if ours_bytes == total_bytes else f"{ours_gb} of {total_gb} GB",
            rating_w=power_w,
            rating_source="5 W a DIMM (CodeCarbon 3), 0.375 W/GB at most (CodeCarbon 2)",
            formula="share × min(0.375 × GB, 2.5 × √GB) W, at any load",
            formula_source="number of DIMMs √GB / 2: our assumption, as neither it nor their size is known",
            # Low: a virtual machine's slice of a host with DIMMs of 64 GB. High: boaviztapi's mean of readings on EC2
            # hosts (which had up to 768 GB, from memory).
            factors=(0.2, 3.2),
            range_source="5 W for 64 GB to 0.284 W/GB (boaviztapi 2.5.0) at 768 GB",
            attributes={"size_bytes": str(ours_bytes), "machine_size_bytes": str(total_bytes)},
        )


def _import_psutil() -> Psutil:
    import psutil

    return psutil


def _device(
    kind: DeviceKind,
    name: str,
    *,
    rating_w: float,
    rating_source: str,
    formula: str,
    formula_source: str,
    factors: tuple[float, float],
    range_source: str,
    attributes: Mapping[str, str],
) -> Device:
    low, high = factors
    bounds = f"a model, not measured: the truth is expected at {low:g} to {high:g} times"
    return Device(
        kind=kind,
        key=kind,
        name=name,
        sensor=HostModel.name,
        has_counter=True,
        has_power=False,
        counter_period_us=_SHORTEST_US,
        max_power_mw=math.ceil(rating_w * MILLIWATTS_PER_W),
        attributes={
            "rating_w": f"{rating_w:.4g}",
            "rating_source": rating_source,
            "formula": formula,
            "formula_source": formula_source,
            "range_low_factor": f"{low:g}",
            "range_high_factor": f"{high:g}",
            "range_source": range_source,
            **attributes,
        },
        notes=(f"{bounds}; {formula}, rating {rating_w:.3g} W: {rating_source}",),
    )


# The energy


def _microjoules(power_w: float, elapsed_us: int) -> int:
    return round(power_w * elapsed_us)  # W·µs


class _CpuCounter:
    """The model's energy since it was made.

    Args:
        power_w: at a load between 0 and 1.
        use: CPU time used and CPU time there was, in one unit, both growing; None where they cannot be read.
        awake_us: now, on the clock that read_uj is asked with.
    """

    def __init__(self, power_w: Callable[[float], float], use: _Use, awake_us: int) -> None:
        self._power_w = power_w
        self._use = use
        self._last = use()
        self._last_us = awake_us
        self._energy_uj = 0

    @property
    def is_counting(self) -> bool:
        return self._last is not None

    def read_uj(self, awake_us: int) -> int | None:
        """The counter; None while the load cannot be read, which the next reading makes good."""
        assert self._last is not None
        elapsed_us = awake_us - self._last_us
        if elapsed_us < _SHORTEST_US:  # what is certain so far; a counter cannot take anything back
            return self._energy_uj + _microjoules(self._power_w(0.0), elapsed_us)
        now = self._use()
        if now is None or now == self._last:
            return None
        used, available = now[0] - self._last[0], now[1] - self._last[1]
        self._last, self._last_us = now, awake_us
        if used < 0 or available <= 0:  # counted anew: how much was used meanwhile is not known
            self._energy_uj = 0
        else:
            self._energy_uj += _microjoules(self._power_w(used / available), elapsed_us)
        return self._energy_uj


# The load

_Use = Callable[[], tuple[float, float] | None]


def _machine_use(psutil: Psutil) -> _Use:
    """The CPU time of the whole machine, in seconds."""

    def use() -> tuple[float, float] | None:
        try:
            return _busy_and_total_s(psutil.cpu_times())
        except _PSUTIL_ERRORS:
            return None

    return use


def _busy_and_total_s(times: CpuTimes) -> tuple[float, float]:
    """Guest time is in user already, and what Windows adds in system. Stolen time is spent on others."""

    def seconds(name: str) -> float:
        return float(getattr(times, name, 0.0))

    busy_s = times.user + times.system + seconds("nice") + seconds("irq") + seconds("softirq")
    return busy_s, busy_s + times.idle + seconds("iowait") + seconds("steal")


def _cgroup_use(limit: CpuLimit, awake_clock_us: Callable[[], int]) -> _Use:
    """The CPU time of a control group, in µs."""

    def use() -> tuple[float, float] | None:
        used_us = limit.used_us()
        return None if used_us is None else (used_us, awake_clock_us() * limit.cpus)

    return use


# The rating


@dataclass(frozen=True, slots=True)
class Cpu:
    """What /proc/cpuinfo says of the first CPU.

    Attributes:
        name: without marks, frequency and number of cores; "" where it has none (ARM, not Linux).
        is_whole_core: simultaneous multithreading is off and this is no virtual machine, whose CPUs are threads of its
            host whatever it shows.
    """

    name: str = ""
    is_whole_core: bool = False


def cpu_model(cpu: Cpu) -> CpuModel:
    """The best model there is for a CPU."""
    rating = _ratings().get(cpu.name.casefold())
    linear = f"rating × ({_IDLE_SHARE:g} + {1 - _IDLE_SHARE:g} × load)"
    linear_source = f"idle share {_IDLE_SHARE:g}: that of boaviztapi's Xeon Platinum; CodeCarbon has 0.1"
    if rating is None:
        return CpuModel(
            rating_w=_UNKNOWN_RATING_W,
            rating_source=f"{_UNKNOWN_RATING_W:g} W a CPU, as the model is not in our table (CodeCarbon)",
            formula=linear,
            formula_source=linear_source,
            range_factors=(0.1, 2.7),
            range_source="that of a known CPU, with the lowest and the highest rating per thread in our table",
            share=_linear_share,
        )
    package_w, cores, threads, source = rating
    rating_w = package_w / (cores if cpu.is_whole_core else threads)
    rating_source = f"{package_w:g} W for {cores} cores ({source})"
    if _PLATINUM.fullmatch(cpu.name.casefold()):
        return CpuModel(
            rating_w=rating_w,
            rating_source=rating_source,
            formula="rating × profile(load) / profile(1)",
            formula_source="profile Xeon Platinum of boaviztapi 2.5.0, from RAPL readings of EC2 hosts",
            range_factors=(0.6, 1.4),
            range_source="our judgement: the profile is that of other chips of the family",
            share=_xeon_platinum_share,
        )
    return CpuModel(
        rating_w=rating_w,
        rating_source=rating_source,
        formula=linear,
        formula_source=linear_source,
        # RAPL and load of four machines (EPYC 8024P, Threadripper 1950X, 2 × E5-2620 v3, E3-1240 v2) at 10, 50 and
        # 100 % lie at 0.32 to 1.2 times the model; desktop chips draw twice their rating while cooling lasts.
        range_factors=(0.3, 1.8),
        range_source="CodeCarbon's load profiles against RAPL: 0.32 to 1.2 times; 1.8 for turbo",
        share=_linear_share,
    )


@cache
def _ratings() -> Mapping[str, tuple[float, int, int, str]]:
    """Package rating in W, cores, threads and source, by name in lower case."""
    with _RATINGS.open(newline="") as file:
        return {
            row["model"].casefold(): (float(row["rating_w"]), int(row["cores"]), int(row["threads"]), row["source"])
            for row in csv.DictReader(file)
        }


def _first_cpu(proc: Path) -> Cpu:
    try:
        first, _, _ = (proc / "cpuinfo").read_text(errors="replace").partition("\n\n")
    except OSError:
        return Cpu()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    is_virtual = "hypervisor" in facts.get("flags", "").split()
    siblings, cores = facts.get("siblings"), facts.get("cpu cores")
    return Cpu(_plain(facts.get("model name", "")), siblings is not None and siblings == cores and not is_virtual)


def _plain(name: str) -> str:
    """As our table has it: "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz" is "Intel Xeon E5-2680 v4"."""
    name = re.sub(r"\((R|TM)\)|\bCPU\b|@.*|\b\d+-Core Processor", " ", name, flags=re.IGNORECASE)
    return " ".join(name.split())
