"""What a run would measure here, how, and why not the rest: for `tracker doctor`. Nothing is written anywhere."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import platform
import re
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from tracker import settings as settings_module
from tracker.intensity.choice import IntensityChoice
from tracker.records import Device, Method, NotMeasured
from tracker.sensors.host import HostModel, without_measured
from tracker.sensors.nvml import NvmlSensor
from tracker.sensors.protocol import Inventory, LeavesDevicesOut, Sensor
from tracker.sensors.rapl import RaplSensor
from tracker.session.checks import CHECKS, checked_arguments
from tracker.session.clashes import clashes
from tracker.session.election import PlaceError, private_folder
from tracker.session.feed import source_of
from tracker.session.folding import run_files
from tracker.session.periods import period_for
from tracker.session.privacy import Privacy
from tracker.session.provenance import tracker_version
from tracker.session.recorder import choice_of
from tracker.session.starting import sensors_here
from tracker.session.surroundings import surroundings
from tracker.settings import Settings
from tracker.store.inspection import Inspection, inspect
from tracker.store.tables import SCHEMA_VERSION
from tracker.units import MICROJOULES_PER_J, MICROSECONDS_PER_S, MILLIJOULES_PER_J, MILLIWATTS_PER_W
from tracker.views import amounts
from tracker.views.findings import DatabaseFound, Diagnosis, GridFound, Part, SensorFound, SettingFound

_T = TypeVar("_T")

OPEN_TIMEOUT_S: Final = 30.0  # a driver that is not kept loaded takes 1 to 3 s for each GPU
READ_TIMEOUT_S: Final = 5.0
DATABASE_TIMEOUT_S: Final = 15.0
_LOOKS_AT_COUNTERS: Final = 5
_BETWEEN_LOOKS_S: Final = 0.01  # a counter moves each ms
READS: Final = 5
LITTLE_SPACE_BYTES: Final = 200_000_000  # four days of eight GPUs read ten times a second (knowledge, ecosystem 6)
_HINTS: Final = {NvmlSensor.name: "; does nvidia-smi answer? If not: sudo dmesg | grep -i xid, then reboot"}
_RAPL_COUNTS: Final = 2**32  # of a register, to its modulus

# What says who one is or what one works on; whether it is set is all that helps.
_PRIVATE: Final = frozenset({"project", "run_id", "parent_id"})
_WRONG_VALUE: Final = re.compile(r", not (['\"]).*\1; ignored$", re.DOTALL)
_OF_PROVIDERS: Final = re.compile(r"TRACKER_[A-Z0-9_]+_(TOKEN|URL)")
_DISTRIBUTIONS: Final = ("numpy", "sqlalchemy", "nvidia-ml-py", "psutil")

_SQLITE_FLOOR: Final = (3, 26, 0)
_WAL_RESET_FAULT: Final = ((3, 7, 0), (3, 51, 3))  # knowledge, ecosystem 6


def diagnose(
    db: str | None = None,
    *,
    cwd: Path | None = None,
    open_timeout_s: float = OPEN_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
    database_timeout_s: float = DATABASE_TIMEOUT_S,
) -> Diagnosis:
    """Look at everything that a run in this folder would use.

    Args:
        db: a path or an SQLAlchemy URL; None: by the settings.
        cwd: the folder; default the current one.
        open_timeout_s, read_timeout_s: for a sensor to find its devices, and for a reading of all of them.
        database_timeout_s: for the database to be looked at.
    """
    cwd = cwd or Path.cwd()
    settings = settings_module.resolve(checked_arguments({"db": db}), cwd=cwd, checks=CHECKS)
    hide = Privacy([settings.project] if settings.project else [], home=_home(), cwd=cwd)
    choice = choice_of(settings)
    grid, grid_notice = _grid(settings, choice, hide)
    inspected = _within(lambda: inspect(settings.db), database_timeout_s)
    database = _database(settings, inspected, hide)
    sensors = tuple(_sensors(settings, hide, open_timeout_s, read_timeout_s))
    found_clashes = clashes(cwd)
    lock_folder, lock_trouble = _lock_folder()
    problems = [
        *([f"database: {database.trouble}"] if database.trouble else []),
        *_sqlite_problems(),
        *map(_without_private, settings.problems),
        *(clash.text for clash in found_clashes if clash.is_fatal),
    ]
    warnings = [
        *(["TRACKER_DISABLED is set: nothing is measured or recorded"] if settings.disabled else []),
        *choice.warnings,
        *grid_notice,
        *(clash.text for clash in found_clashes if not clash.is_fatal),
        *_unknown_variables(os.environ),
        *_of_database(database, is_folded=inspected.value is None or inspected.value.has_shared_locks),
        *lock_trouble,
        *_sqlite_warnings(),
    ]
    return Diagnosis(
        is_well=not problems,
        problems=tuple(map(hide.text, problems)),
        warnings=tuple(map(hide.text, warnings)),
        sensors=sensors,
        zone=choice.zone and replace(choice.zone, detail=hide.text(choice.zone.detail)),
        intensity=replace(choice.value, source=hide.text(choice.value.source)),
        grid=grid,
        settings=tuple(_settings(settings, hide)),
        database=database,
        lock_folder=hide.text(lock_folder),
        system=surroundings(),
        versions=_versions(sensors),
    )


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry for this user
        return None


# Sensors


def _sensors(settings: Settings, hide: Privacy, open_timeout_s: float, read_timeout_s: float) -> Iterator[SensorFound]:
    wanted = sensors_here(settings)
    found: dict[str, SensorFound] = {}
    inventories: list[Inventory] = []
    # The model comes last: it stands in for what nothing else measures.
    for sensor, period_us in sorted(wanted, key=lambda each: each[0].name == HostModel.name):
        opened = _within(sensor.open, open_timeout_s)
        if opened.value is None:
            trouble = f"finding devices {opened.trouble}{_HINTS.get(sensor.name, '')}"
            found[sensor.name] = SensorFound(sensor.name, opened.took_s, None, trouble=hide.text(trouble))
            continue
        inventory = opened.value
        if sensor.name == HostModel.name:
            inventory = without_measured(inventory, inventories)
        took_s, trouble = _read(sensor, inventory.devices, read_timeout_s)
        if sensor.name == RaplSensor.name and not trouble:
            inventory = _without_still(sensor, inventory, read_timeout_s)
        inventories.append(inventory)
        if not trouble:
            _within(sensor.close, read_timeout_s)
        period_s = period_for(inventory.devices, period_us, settings.interval_s) / MICROSECONDS_PER_S
        found[sensor.name] = SensorFound(
            name=sensor.name,
            open_s=opened.took_s,
            read_s=statistics.median(took_s) if took_s else None,
            parts=tuple(_part(hide.device(device), period_s) for device in inventory.devices),
            not_measured=tuple(map(hide.part, inventory.not_measured)),
            warnings=tuple(map(hide.text, inventory.warnings)),
            trouble=hide.text(trouble),
        )
    yield from (found[sensor.name] for sensor, _ in wanted)


def _without_still(sensor: Sensor, inventory: Inventory, timeout_s: float) -> Inventory:
    """Without the meters whose counters do not move: a virtual machine may show some that it has not."""
    still = {device.key: device for device in inventory.devices}
    first: dict[str, int | None] = {}
    for look in range(_LOOKS_AT_COUNTERS):
        if look:
            time.sleep(_BETWEEN_LOOKS_S)
        readings = _within(lambda: sensor.read(inventory.devices), timeout_s).value or ()
        for device, reading in zip(inventory.devices, readings, strict=False):
            if reading.counter_uj != first.setdefault(device.key, reading.counter_uj):
                still.pop(device.key, None)
        if not still:
            return inventory
    gone = tuple(
        NotMeasured(device.kind, device.name, "the counter stands still: a virtual machine may show such", "", key)
        for key, device in still.items()
    )
    moving = tuple(device for device in inventory.devices if device.key not in still)
    return replace(inventory, devices=moving, not_measured=(*inventory.not_measured, *gone))


def _read(sensor: Sensor, devices: Sequence[Device], timeout_s: float) -> tuple[list[float], str]:
    """How long some readings took, and what went wrong."""
    took_s: list[float] = []
    for _ in range(READS if devices else 0):
        read = _within(lambda: sensor.read(devices), timeout_s)
        if read.value is None:
            stuck = sensor.leave_out() if isinstance(sensor, LeavesDevicesOut) else None
            return took_s, f"reading {f'{stuck} ' if stuck else ''}{read.trouble}{_HINTS.get(sensor.name, '')}"
        took_s.append(read.took_s)
    return took_s, ""


def _part(device: Device, period_s: float) -> Part:
    method: Method = "model" if device.sensor == HostModel.name else "counter" if device.has_counter else "power"
    counter_step_j = None
    if device.sensor == NvmlSensor.name and device.has_counter:
        counter_step_j = 1 / MILLIJOULES_PER_J
    elif device.sensor == RaplSensor.name and device.counter_modulus_uj is not None:
        counter_step_j = device.counter_modulus_uj / _RAPL_COUNTS / MICROJOULES_PER_J
    power_step_w = 1 / MILLIWATTS_PER_W if device.sensor == NvmlSensor.name and device.has_power else None
    return Part(device, method, period_s, counter_step_j, power_step_w)


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[_T]):
    """Of a call that may hang: value is None where it does, or raises, and trouble says which."""

    value: _T | None
    took_s: float
    trouble: str


def _within(call: Callable[[], _T], timeout_s: float) -> _Outcome[_T]:
    """Call in a thread that is left behind when it takes longer: drivers and dead file systems never return."""
    answers: list[_T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            answers.append(call())
        except Exception as exc:  # noqa: BLE001 (a sensor does not raise, but doctor is for what is not as it should be)
            errors.append(exc)

    started_s = time.perf_counter()
    thread = threading.Thread(target=work, daemon=True, name="tracker-doctor")
    thread.start()
    thread.join(timeout_s)
    took_s = time.perf_counter() - started_s
    if answers:
        return _Outcome(answers[0], took_s, "")
    trouble = f"failed: {errors[0]!r}" if errors else f"took longer than {amounts.duration(timeout_s)}: given up"
    return _Outcome(None, took_s, trouble)


# Database and locks


def _database(settings: Settings, inspected: _Outcome[Inspection], hide: Privacy) -> DatabaseFound:
    found = inspected.value
    if found is None:
        # Nothing more is asked of the place.
        return DatabaseFound(
            hide.place(settings.db), None, None, SCHEMA_VERSION, None, None, "", 0, hide.text(inspected.trouble)
        )
    return DatabaseFound(
        place=hide.place(found.label),
        exists=found.exists,
        schema_version=found.version,
        schema_version_written=SCHEMA_VERSION,
        size_bytes=found.size_bytes,
        free_bytes=found.free_bytes,
        network_file_system=found.network,
        run_files=len(run_files(settings.db)),
        trouble=hide.text(found.trouble),
    )


def _of_database(database: DatabaseFound, *, is_folded: bool) -> Iterator[str]:
    if database.network_file_system:
        # A lock that other machines do not see keeps nobody from writing the database at the same time.
        when = "at its end" if is_folded else "by `tracker db merge`, on one machine at a time"
        yield (
            f"the database is on a network file system ({database.network_file_system}): each run is written to a file"
            f" of its own beside it and folded in {when}"
        )
    if database.free_bytes is not None and database.free_bytes < LITTLE_SPACE_BYTES:
        yield f"{amounts.size(database.free_bytes)} are free where the database is"


def _lock_folder() -> tuple[str, list[str]]:
    try:
        return str(private_folder(is_made=False)), []
    except PlaceError as exc:
        return "", [f"processes of one run on this node cannot agree on one that samples: {exc.strerror}"]


def _sqlite_problems(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> Iterator[str]:
    if version < _SQLITE_FLOOR:
        yield f"SQLite {_dotted(version)} is older than 3.26, which the database needs: use a newer Python"


def _sqlite_warnings(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> Iterator[str]:
    if _WAL_RESET_FAULT[0] <= version < _WAL_RESET_FAULT[1]:
        yield (
            f"SQLite {_dotted(version)} can damage a database by two checkpoints at one instant (mended in 3.51.3). "
            "The tracker's own processes avoid that; do not write to its file with other programs while runs go on"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# Settings


def _settings(settings: Settings, hide: Privacy) -> Iterator[SettingFound]:
    for name, variable in settings_module.VARIABLES.items():
        value: Any = getattr(settings, name)
        if value is None:
            shown = None
        elif name in _PRIVATE:
            shown = "(set)"
        elif name == "db":
            shown = hide.place(value)
        elif isinstance(value, bool):
            shown = str(int(value))
        else:
            shown = hide.text(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
        yield SettingFound(name, variable, shown, hide.text(settings.origins.get(name, "default")))
    for variable in sorted(os.environ):
        if variable not in settings_module.VARIABLES.values() and _OF_PROVIDERS.fullmatch(variable):
            yield SettingFound(variable.removeprefix("TRACKER_").lower(), variable, "(set)", variable)


def _without_private(problem: str) -> str:
    """A wrong setting, without the value where that may name somebody."""
    is_private = any(
        problem.startswith(f"{settings_module.VARIABLES[name]} ") or f": {name} " in problem for name in _PRIVATE
    )
    return _WRONG_VALUE.sub("; ignored", problem) if is_private else problem


def _grid(settings: Settings, choice: IntensityChoice, hide: Privacy) -> tuple[GridFound | None, list[str]]:
    """Who would be asked for intensities, and what must be said of it. Nobody is."""
    source, notice = source_of(settings, choice)
    said = [notice] if notice else []
    if source is None:
        return None, said
    profile = source.choice.provider.profile
    closed_s, reason = source.gate.look(datetime.now(UTC).timestamp())
    found = GridFound(
        name=profile.name,
        title=profile.title,
        zone=source.choice.zone,
        licence=profile.licence,
        is_tested=profile.is_tested,
        untested=profile.untested,
        is_offline=source.is_offline and not source.is_local,
        closed_s=closed_s,
        closed_reason=hide.text(reason),
    )
    return found, said


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = tuple(settings_module.VARIABLES.values())
    for variable in sorted(environ):
        if variable.startswith("TRACKER_") and variable not in known and not _OF_PROVIDERS.fullmatch(variable):
            near = difflib.get_close_matches(variable, known, n=1)
            yield f"no setting is called {variable}" + (f"; did you mean {near[0]}?" if near else "")


# Versions


def _versions(sensors: Sequence[SensorFound]) -> dict[str, str]:
    found = {"tracker": tracker_version(), "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        found[name] = _version_of(name)
    found["sqlite"] = sqlite3.sqlite_version
    found["nvidia_driver"] = _attribute_of_gpus(sensors, "driver")
    found["nvml"] = _attribute_of_gpus(sensors, "nvml")
    return found


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _attribute_of_gpus(sensors: Sequence[SensorFound], name: str) -> str:
    values = (part.device.attributes.get(name) for sensor in sensors for part in sensor.parts)
    return next(filter(None, values), "")
