"""Builds the stand-in NVML library, tells it what to play, and computes the same numbers in Python."""

import ctypes
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml.c")
LIBRARY_NAME = "libnvidia-ml.so.1"
TWICE_NJ_PER_MJ = 2_000_000

NOT_SUPPORTED = 3
GPU_IS_LOST = 15
UNKNOWN = 999


def build(folder: Path, source: Path = SOURCE, name: str = LIBRARY_NAME) -> Path:
    """A library, built into folder. Without a compiler the test is skipped, or fails where nothing may be missing."""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        reason = f"no C compiler to build a stand-in library with (tests/standin/{source.name})"
        if os.environ.get("CI") or os.environ.get("TRACKER_TEST_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)
    library = folder / name
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    subprocess.run([compiler, *flags, f"-Wl,-soname,{name}", "-o", library, source], check=True)
    return library


@dataclass(frozen=True)
class Const:
    power_mw: int

    def spec(self) -> str:
        return f"const {self.power_mw}"

    def power_at_mw(self, t_us: int) -> int:
        return self.power_mw

    def twice_integral_nj(self, t_us: int) -> int:
        return 2 * self.power_mw * t_us


@dataclass(frozen=True)
class Square:
    """The first half of each period is high."""

    low_mw: int
    high_mw: int
    period_us: int

    def spec(self) -> str:
        return f"square {self.low_mw} {self.high_mw} {self.period_us}"

    def power_at_mw(self, t_us: int) -> int:
        return self.high_mw if t_us % self.period_us < self.period_us // 2 else self.low_mw

    def twice_integral_nj(self, t_us: int) -> int:
        periods, rest_us = divmod(t_us, self.period_us)
        half_us = self.period_us // 2
        high_us = periods * half_us + min(rest_us, half_us)
        return 2 * self.low_mw * t_us + 2 * (self.high_mw - self.low_mw) * high_us


@dataclass(frozen=True)
class Ramp:
    """From one power to another between two instants, level before and after."""

    from_mw: int
    to_mw: int
    start_us: int
    end_us: int

    def spec(self) -> str:
        return f"ramp {self.from_mw} {self.to_mw} {self.start_us} {self.end_us}"

    def power_at_mw(self, t_us: int) -> int:
        into_us = min(max(t_us, self.start_us), self.end_us) - self.start_us
        return self.from_mw + (self.to_mw - self.from_mw) * into_us // (self.end_us - self.start_us)

    def twice_integral_nj(self, t_us: int) -> int:
        into_us = min(max(t_us, self.start_us), self.end_us) - self.start_us
        rise_mw = self.to_mw - self.from_mw
        after_us = max(0, t_us - self.end_us)
        rise_nj = rise_mw * into_us * into_us // (self.end_us - self.start_us)
        return 2 * self.from_mw * t_us + rise_nj + 2 * rise_mw * after_us


@dataclass(frozen=True)
class Fault:
    """An NVML function, "field:186" (that value alone) or "*" answers this code from one instant until another."""

    name: str
    code: int
    from_us: int = 0
    until_us: int = 2**63 - 1

    def spec(self) -> str:
        return f"fault {self.name} {self.code} {self.from_us} {self.until_us}"


@dataclass(frozen=True)
class Lie:
    """Power or counter shows something else from one instant until another.

    how: "reads" a value (mW or mJ), "holds" what it showed at the first of them, or, for a counter, "restarts" there
    from 0. Of several the last one holds.
    """

    what: str
    how: str
    value: int = 0
    from_us: int = 0
    until_us: int = 2**63 - 1

    def spec(self) -> str:
        return f"lie {self.what} {self.how} {self.value} {self.from_us} {self.until_us}"


@dataclass(frozen=True)
class Delay:
    """An NVML function, or "*", takes so long, in real time; by default until StandinNvml.let_go."""

    name: str
    us: int = 2**63 - 1
    from_us: int = 0
    until_us: int = 2**63 - 1

    def spec(self) -> str:
        return f"delay {self.name} {self.us} {self.from_us} {self.until_us}"


@dataclass(frozen=True)
class Mig:
    """A MIG device of a board."""

    uuid: str
    profile: str
    gpu_instance: int
    compute_instance: int
    slices: int

    def spec(self) -> str:
        return f"mig {self.uuid} {self.profile} {self.gpu_instance} {self.compute_instance} {self.slices}"


@dataclass(frozen=True)
class Process:
    """A process in the list "compute", "mps" or "graphics" of a board, or of the board's MIG device of that place."""

    pid: int
    kind: str = "compute"
    mig: int = -1
    from_us: int = 0
    until_us: int = 2**63 - 1

    def spec(self) -> str:
        return f"process {self.kind} {self.mig} {self.pid} {self.from_us} {self.until_us}"


@dataclass(frozen=True)
class Gpu:
    """A board; what each value means is said in README.md. None: the library's default."""

    power: tuple[Const | Square | Ramp, ...] = (Const(300_000),)
    faults: tuple[Fault, ...] = ()
    lies: tuple[Lie, ...] = ()
    delays: tuple[Delay, ...] = ()
    name: str | bytes | None = None
    uuid: str | bytes | None = None
    bus: str | None = None
    arch: int | None = None
    c2c: int | None = None
    limit_mw: int | None = None
    power_type: int | None = None
    energy_type: int | None = None
    power_period_us: int = 0
    usage_window_us: int = 0
    counter_period_us: int = 0
    counter_offset_mj: int = 0
    power_offset_mw: int = 0
    mig_slices: int = 0
    migs: tuple[Mig, ...] = ()
    processes: tuple[Process, ...] = ()

    def spec(self) -> bytes:
        lines = ["gpu"]
        for key in (
            "bus",
            "arch",
            "c2c",
            "limit_mw",
            "power_type",
            "energy_type",
            "power_period_us",
            "usage_window_us",
            "counter_period_us",
            "counter_offset_mj",
            "power_offset_mw",
            "mig_slices",
        ):
            value = getattr(self, key)
            if value is not None:
                lines.append(f"{key} {value}")
        lines += [f"power {term.spec()}" for term in self.power]
        lines += [part.spec() for part in (*self.faults, *self.lies, *self.delays, *self.migs, *self.processes)]
        spec = "\n".join(lines).encode() + b"\n"
        for key, text in (("name", self.name), ("uuid", self.uuid)):
            if text is not None:
                spec += f"{key} ".encode() + (text if isinstance(text, bytes) else text.encode()) + b"\n"
        return spec

    def power_at_mw(self, t_us: int) -> int:
        return sum(term.power_at_mw(t_us) for term in self.power)

    def twice_energy_nj(self, start_us: int, end_us: int) -> int:
        """Twice the true energy between two instants of the trace, in nJ."""
        return self._twice_integral_nj(end_us) - self._twice_integral_nj(start_us)

    def mean_power_mw(self, t_us: int, window_us: int) -> int:
        """What a power reading with this window shows at an instant of the trace."""
        t_us = _stepped(t_us, self.power_period_us)
        start_us = max(0, t_us - window_us)
        if start_us == t_us:
            return self.power_at_mw(t_us)
        return self.twice_energy_nj(start_us, t_us) // (2 * (t_us - start_us))

    def counter_mj(self, t_us: int) -> int:
        """What the energy counter shows at an instant of the trace."""
        passed_us = _stepped(t_us, self.counter_period_us)
        return self.counter_offset_mj + self._twice_integral_nj(passed_us) // TWICE_NJ_PER_MJ

    def _twice_integral_nj(self, t_us: int) -> int:
        return sum(term.twice_integral_nj(t_us) for term in self.power)


def _stepped(t_us: int, period_us: int) -> int:
    return t_us - t_us % period_us if period_us else t_us


class StandinNvml:
    """The library and what it plays, in a folder of its own.

    The pynvml of this process talks to it, on a clock that stands until the test moves it; a program started with env
    talks to it too, in real time.

    Attributes:
        library: the shared library's file.
        functions: the same, loaded.
        gpus: what was plugged in last.
    """

    def __init__(self, library: Path, folder: Path) -> None:
        self.library = library
        self.gpus: tuple[Gpu, ...] = ()
        self.functions = ctypes.CDLL(str(library))
        self._spec = folder / "spec"
        self._clock = folder / "clock"
        self._t_us = 0
        self.settings = {"STANDIN_NVML": str(self._spec), "STANDIN_CLOCK": str(self._clock)}
        self.set_time_us(1_000_000_000)
        self.plug()

    @property
    def env(self) -> Mapping[str, str]:
        """The environment for a program that is to find the stand-in; in real time."""
        env = {name: value for name, value in os.environ.items() if name != "STANDIN_CLOCK"}
        return env | {"STANDIN_NVML": str(self._spec), "LD_LIBRARY_PATH": str(self.library.parent)}

    def plug(
        self,
        *gpus: Gpu,
        epoch_us: int = 0,
        driver: str = "570.00.00",
        faults: tuple[Fault, ...] = (),
        delays: tuple[Delay, ...] = (),
    ) -> None:
        """Put these boards in, seen by the next nvmlInit; their traces begin at epoch_us of the clock."""
        self.gpus = gpus
        head = [f"epoch_us {epoch_us}", f"driver {driver}", *(part.spec() for part in (*faults, *delays))]
        self._spec.write_bytes("\n".join(head).encode() + b"\n" + b"".join(gpu.spec() for gpu in gpus))

    def clock_us(self) -> int:
        return self._t_us

    def set_time_us(self, t_us: int) -> None:
        self._t_us = t_us
        with self._clock.open("r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("=q", t_us))

    def pause_s(self, seconds: float) -> None:
        """Sleeps, as far as the clock is concerned."""
        self.set_time_us(self._t_us + round(seconds * 1_000_000))

    def calls(self, function: str) -> int:
        """How often a function was called since the first nvmlInit."""
        count = self.functions.standin_calls
        count.restype = ctypes.c_ulong
        return int(count(function.encode()))

    def fail_once(self, function: str, code: int) -> None:
        """The next call of this function for a GPU answers the code."""
        self.functions.standin_fail_once(function.encode(), code)

    def let_go(self) -> None:
        """End the calls that are delayed, and delay none until the next nvmlInit that finds NVML shut down."""
        self.functions.standin_let_go()

    def shut_down(self) -> None:
        """Take back every nvmlInit that is still open."""
        while self.functions.nvmlShutdown() == 0:
            pass
