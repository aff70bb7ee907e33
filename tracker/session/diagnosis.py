"""What would be measured here, how, and why the rest would not: for `tracker doctor`. Nothing is written anywhere."""

from __future__ import annotations

import getpass
import importlib.metadata
import importlib.util
import os
import platform
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from tracker import settings as settings_module
from tracker.machine import has_boottime
from tracker.records import Device, IntensityValue, NotMeasured, ZoneChoice
from tracker.sensors.host import HostModel, without_measured
from tracker.sensors.protocol import Inventory, Sensor
from tracker.session.checks import check_replay, check_zone
from tracker.session.folding import run_files
from tracker.session.provenance import masked_url, tracker_version
from tracker.session.recorder import choice_of
from tracker.session.starting import sensors_here
from tracker.settings import Settings
from tracker.store.opening import Inspection, inspect

_T = TypeVar("_T")

SENSOR_TIMEOUT_S: Final = 20.0
READS: Final = 5
# What says where or who one is; whether it is set is all that helps.
_PRIVATE: Final = frozenset({"project", "run_id", "parent_id"})
_SQLITE_FLOOR: Final = (3, 26, 0)
# Between these a checkpoint beside a writer can lose pages (knowledge, ecosystem 6).
_WAL_RESET_FAULT: Final = ((3, 7, 0), (3, 51, 3))


@dataclass(frozen=True, slots=True)
class SensorReport:
    """One sensor: what it finds and what a reading of it costs."""

    name: str
    open_s: float | None  # None: it did not return in time
    read_s: float | None
    devices: tuple[Device, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettingReport:
    """A setting as it holds, and where it came from."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that doctor tells; made so that it can be shown to strangers."""

    versions: Mapping[str, str]
    system: Mapping[str, str]
    sensors: tuple[SensorReport, ...]
    zone: ZoneChoice | None
    intensity: IntensityValue | None
    settings: tuple[SettingReport, ...]
    database: Inspection
    run_files: int
    problems: tuple[str, ...]  # what must be mended
    warnings: tuple[str, ...] = field(default=())  # what should be known

    @property
    def is_well(self) -> bool:
        return not self.problems


def diagnose(db: str | None = None, *, cwd: Path | None = None) -> Diagnosis:
    """Look at everything that a run would use."""
    cwd = cwd or Path.cwd()
    given = {} if db is None else {"db": db}
    settings = settings_module.resolve(given, checks={"zone": check_zone, "replay": check_replay})
    hide = _Privacy()
    choice = choice_of(settings)
    database = inspect(settings.db)
    sensors = tuple(_sensors(settings, hide))
    problems = [hide.text(problem) for problem in settings.problems]
    if database.trouble:
        problems.append(f"database: {hide.trouble(database)}")
    problems += _clashes(cwd)
    sqlite_problem = _sqlite_problem()
    warnings = [*choice.warnings, *([sqlite_problem] if sqlite_problem else [])]
    if database.network:
        warnings.append(
            f"the database is on a network file system ({database.network}): several machines must not write it at"
            " once; a database server, or a file on each, is safe"
        )
    waiting = len(run_files(settings.db))
    if waiting:
        warnings.append(f"{waiting} run files wait to be folded in: tracker db merge")
    return Diagnosis(
        versions=_versions(sensors),
        system=_system(),
        sensors=sensors,
        zone=choice.zone,
        intensity=choice.value,
        settings=tuple(_settings(settings, hide)),
        database=hide.inspection(database),
        run_files=waiting,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


class _Privacy:
    """Takes out of a text what names the user or the machine."""

    def __init__(self) -> None:
        self._home = str(Path.home())
        try:
            self._user = getpass.getuser()
        except (OSError, KeyError):  # no name for this number, as in many containers
            self._user = ""

    def text(self, text: str) -> str:
        text = masked_url(text)
        if len(self._home) > 1:
            text = text.replace(self._home, "~")
        if len(self._user) > 1 and self._user != "root":
            text = text.replace(f"/{self._user}/", "/<user>/")
        return text

    def place(self, db: str) -> str:
        """A database as text: of a server no more than its kind, which may name hosts and people."""
        scheme, separator, _ = db.partition("://")
        return f"{scheme}://…" if separator else self.text(db)

    def inspection(self, found: Inspection) -> Inspection:
        return replace(found, label=self.place(found.label), path=None, trouble=self.trouble(found))

    def trouble(self, found: Inspection) -> str:
        """Why a database cannot be used; a server's own words name hosts and people."""
        if found.trouble and found.path is None and "://" in found.label:
            return "the server cannot be reached, or has no schema yet: `tracker db info` says why"
        return self.text(found.trouble)


def _sensors(settings: Settings, hide: _Privacy) -> list[SensorReport]:
    reports: list[SensorReport] = []
    inventories: list[Inventory] = []
    for sensor in sensors_here(settings):
        report = _looked_at(sensor)
        inventory = Inventory(report.devices, report.not_measured, report.warnings)
        if sensor.name == HostModel.name:
            inventory = without_measured(inventory, inventories)
        inventories.append(inventory)
        reports.append(
            SensorReport(
                name=report.name,
                open_s=report.open_s,
                read_s=report.read_s if inventory.devices else None,
                devices=inventory.devices,
                not_measured=tuple(
                    NotMeasured(part.kind, part.name, hide.text(part.reason), hide.text(part.remedy), part.key)
                    for part in inventory.not_measured
                ),
                warnings=tuple(hide.text(warning) for warning in inventory.warnings),
            )
        )
    return reports


def _looked_at(sensor: Sensor) -> SensorReport:
    inventory, open_s = _within(sensor.open)
    if inventory is None:
        return SensorReport(sensor.name, None, None, warnings=(f"{sensor.name}: does not answer",))
    took_s: list[float] = []
    if inventory.devices:
        for _ in range(READS):
            readings, read_s = _within(lambda: sensor.read(inventory.devices))
            if readings is None:
                break
            took_s.append(read_s)
        sensor.close()
    return SensorReport(
        sensor.name,
        open_s,
        statistics.median(took_s) if took_s else None,
        inventory.devices,
        inventory.not_measured,
        inventory.warnings,
    )


def _within(call: Callable[[], _T]) -> tuple[_T | None, float]:
    """What a call gives and how long it took; None where it does not return in time, or raises."""
    answers: list[_T] = []

    def work() -> None:
        try:
            answers.append(call())
        except Exception as exc:  # noqa: BLE001 (a sensor promises not to raise; doctor is there for those that break it)
            sys.stderr.write(f"tracker: {exc!r}\n")

    started_s = time.perf_counter()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SENSOR_TIMEOUT_S)
    return (answers[0] if answers else None), time.perf_counter() - started_s


def _settings(settings: Settings, hide: _Privacy) -> list[SettingReport]:
    reports = []
    for name in settings_module.VARIABLES:
        value: Any = getattr(settings, name)
        if value is not None and name in _PRIVATE:
            shown = "(set)"
        elif name == "db":
            shown = hide.place(value)
        elif value is None:
            shown = "-"
        else:
            shown = hide.text(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
        reports.append(SettingReport(name, shown, hide.text(settings.origins.get(name, "default"))))
    return reports


def _versions(sensors: Sequence[SensorReport]) -> dict[str, str]:
    found = {"tracker": tracker_version(), "python": platform.python_version()}
    for name in ("numpy", "sqlalchemy", "nvidia-ml-py", "psutil"):
        found[name] = _version_of(name) or "missing"
    found["sqlite"] = sqlite3.sqlite_version
    drivers = {device.attributes.get("driver", "") for sensor in sensors for device in sensor.devices}
    for driver in sorted(drivers - {""}):
        found["nvidia driver"] = driver
    return found


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _system(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> dict[str, str]:
    """What kind of place this is, from facts that name nobody."""
    kernel = platform.release()
    kinds = {
        "Google Colab": "COLAB_RELEASE_TAG" in environ or "COLAB_GPU" in environ,
        "Kaggle": "KAGGLE_KERNEL_RUN_TYPE" in environ,
        "WSL 2": "microsoft" in kernel.lower(),
        "Kubernetes": "KUBERNETES_SERVICE_HOST" in environ,
        "container": (root / ".dockerenv").exists() or (root / "run/.containerenv").exists(),
        "Slurm job": "SLURM_JOB_ID" in environ,
    }
    return {
        "system": f"{platform.system()} {kernel} {platform.machine()}",
        "place": ", ".join(name for name, is_so in kinds.items() if is_so) or "plain",
        "clock": "CLOCK_BOOTTIME" if has_boottime() else "monotonic: a suspend is told from the wall clock",
    }


def _sqlite_problem() -> str | None:
    version = sqlite3.sqlite_version_info
    if version < _SQLITE_FLOOR:
        return f"SQLite {sqlite3.sqlite_version} is older than 3.26: databases of several runs may not open"
    low, high = _WAL_RESET_FAULT
    if low <= version < high:
        return (
            f"SQLite {sqlite3.sqlite_version} has the WAL-reset fault (mended in 3.51.3): it needs two checkpoints at"
            " the same instant, which this tracker's writers avoid by checkpointing only large logs"
        )
    return None


def _clashes(cwd: Path) -> list[str]:
    """What hides this package or the binding that it needs."""
    found = []
    for path in (cwd / "tracker.py", cwd / "tracker"):
        is_ours = path.is_dir() and (path / "sensors" / "nvml.py").exists()
        if path.exists() and not is_ours and (path.is_file() or any(path.glob("*.py"))):
            found.append(
                f"{path.name} in this folder hides the package: `import tracker` finds it instead; rename it, or use"
                " `tracker run -- python script.py`"
            )
    if _version_of("pynvml") and importlib.util.find_spec("pynvml") is not None:
        found.append(
            "the distribution pynvml is installed beside nvidia-ml-py and may shadow it: pip uninstall pynvml, then"
            " pip install --force-reinstall nvidia-ml-py"
        )
    if _version_of("tracker"):
        found.append("another distribution called tracker is installed: pip uninstall tracker")
    return found
