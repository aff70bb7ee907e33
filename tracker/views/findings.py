"""What doctor found: session.diagnosis fills these records, views.diagnosis shows them. Their names are JSON keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tracker.records import Device, IntensityValue, Method, NotMeasured, ZoneChoice


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the machine that a run would have figures of.

    Attributes:
        period_s: it is read this often.
        counter_step_j: the least that its counter tells apart; None: not known, or no counter.
        power_step_w: the same of its power.
    """

    device: Device
    method: Method
    period_s: float
    counter_step_j: float | None
    power_step_w: float | None


@dataclass(frozen=True, slots=True)
class SensorFound:
    """One sensor.

    Attributes:
        open_s: how long it took to find its parts.
        read_s: how long a reading of all of them takes, the median of some; None: there was none.
        trouble: why it could not be looked at in full; "": it could.
    """

    name: str
    open_s: float
    read_s: float | None
    parts: tuple[Part, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()
    warnings: tuple[str, ...] = ()
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class SettingFound:
    """A setting as it holds. value is None where there is none, and no more than "(set)" where it may name somebody."""

    name: str
    variable: str
    value: str | None
    origin: str


@dataclass(frozen=True, slots=True)
class DatabaseFound:
    """The database asked for.

    Attributes:
        place: the path; of a server no more than its kind.
        exists: None: not known.
        schema_version: None: there is none yet, or it cannot be told.
        network_file_system: its type; "": on none, as far as is known.
        run_files: how many wait to be folded in.
        trouble: why runs cannot be written there; "": they can.
    """

    place: str
    exists: bool | None
    schema_version: int | None
    schema_version_written: int
    size_bytes: int | None
    free_bytes: int | None
    network_file_system: str
    run_files: int
    trouble: str


@dataclass(frozen=True, slots=True)
class GridFound:
    """Who is asked for the hour's intensity.

    Attributes:
        title: for people.
        zone: what it is asked for.
        untested: which of its requests no answer of the live service or its documentation proves; "": none.
        is_offline: TRACKER_OFFLINE keeps it from being asked.
        closed_s: it is left alone for that long, after failures; 0.0: it may be asked.
        closed_reason: why.
    """

    name: str
    title: str
    zone: str
    licence: str
    is_tested: bool
    untested: str
    is_offline: bool
    closed_s: float = 0.0
    closed_reason: str = ""


@dataclass(frozen=True, slots=True)
class SystemFound:
    """What kind of place this is.

    Attributes:
        places: what it is recognised as: "container", "WSL 2", "Google Colab", …
        limit_cpus, limit_memory_bytes: what control groups leave this process; None: all.
        pid_namespace: whether process numbers are the machine's or this container's own.
        clock: what samples are stamped with.
    """

    system: str
    places: tuple[str, ...]
    cpu: str
    logical_cpus: int | None
    limit_cpus: float | None
    memory_bytes: int | None
    limit_memory_bytes: int | None
    pid_namespace: Literal["machine", "own", "unknown"]
    clock: Literal["CLOCK_BOOTTIME", "monotonic"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that doctor tells, fit to be shown to strangers.

    Attributes:
        problems: what must be mended before runs are recorded as asked for.
        warnings: what should be known.
        intensity: what holds where nothing better is known.
        grid: who is asked for something better; None: nobody.
        lock_folder: where processes of one run on this node agree on the one that samples; "": they cannot.
    """

    is_well: bool
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    sensors: tuple[SensorFound, ...]
    zone: ZoneChoice | None
    intensity: IntensityValue
    grid: GridFound | None
    settings: tuple[SettingFound, ...]
    database: DatabaseFound
    lock_folder: str
    system: SystemFound
    versions: Mapping[str, str]
