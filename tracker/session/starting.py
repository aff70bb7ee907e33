"""Starting a run: settings, sensors, database, first readings; and never an exception into the user's code."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracker import settings as settings_module
from tracker.records import Run, RunStatus
from tracker.session.checks import check_replay, check_zone
from tracker.session.live import LiveRun
from tracker.session.process import ProcessState, process_state
from tracker.settings import Settings

if TYPE_CHECKING:
    from tracker.sensors.protocol import Sensor

logger = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 2.0  # what __enter__ waits at most for database and first readings (DESIGN.md, section 5)
DEFAULT_INTERVAL_S: Final = 1.0
RAPL_MIN_INTERVAL_S: Final = 1.0
RAPL_MAX_INTERVAL_S: Final = 30.0  # a 65 kJ counter wraps after 94 s at 700 W (knowledge, measurement 2.3)


class Unrecorded:
    """Stands in where nothing is recorded: tracking is disabled, or could not be started."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def open_span(self, name: str, parent_id: int | None, attributes: Mapping[str, Any]) -> int:
        return 0

    def close_span(self, span_id: int) -> None:
        pass

    def mark(self, values: Mapping[str, Any]) -> None:
        pass

    def snapshot(self) -> Run:
        return self._run

    def finish(self, status: RunStatus) -> Run:
        return self._run


def start_run(name: str | None, tags: Mapping[str, str], arguments: Mapping[str, Any]) -> LiveRun:
    """A run that has begun, with its first readings taken as the last act.

    Never raises: what goes wrong is logged and stands in the run's warnings.
    """
    if os.environ.get("TRACKER_DISABLED") == "1":  # the usual spelling: without reading any file
        return LiveRun(Unrecorded(_empty_run(name, tags, "disabled", ())))
    try:
        settings = settings_module.resolve(arguments, checks={"zone": check_zone, "replay": check_replay})
        if settings.disabled:
            return LiveRun(Unrecorded(_empty_run(name, tags, "disabled", ())))
        return _start(name, tags, settings)
    except Exception as exc:
        # The border to the user's code: tracking that cannot start must not stop the training.
        logger.exception("tracker: this run is not recorded")
        return LiveRun(Unrecorded(_empty_run(name, tags, "failed", (f"not recorded: {exc!r}",))))


def _empty_run(name: str | None, tags: Mapping[str, str], status: RunStatus, warnings: tuple[str, ...]) -> Run:
    return Run(
        id=secrets.token_hex(8),
        name=name,
        project=None,
        tags=tags,
        status=status,
        started_at=None,
        ended_at=None,
        duration_s=0.0,
        energy_j=None,
        energy_modelled_j=None,
        emissions_g=None,
        emissions_modelled_g=None,
        pue=1.0,
        coverage=None,
        warnings=warnings,
    )


def _start(name: str | None, tags: Mapping[str, str], settings: Settings) -> LiveRun:
    # Imported in the caller's thread: an import in ours would leave a child forked meanwhile hanging at it.
    from tracker.session.recorder import Recorder

    deadline_s = time.monotonic() + START_TIMEOUT_S
    state = process_state()
    for problem in settings.problems:
        state.warn_once(problem, problem)
    with state.lock:
        run_id = None if state.is_run_id_taken else settings.run_id
        state.is_run_id_taken = state.is_run_id_taken or run_id is not None
    recorder = Recorder(state, settings, run_id=run_id or secrets.token_hex(8), name=name, tags=tags)
    recorder.start(_sensors(state, settings), deadline_s)
    return LiveRun(recorder)


def _sensors(state: ProcessState, settings: Settings) -> list[tuple[Sensor, int]]:
    """The sensors of a run with their periods in µs; instances are shared by the runs of the process."""
    from tracker.sensors.host import HostModel
    from tracker.sensors.nvml import NvmlSensor
    from tracker.sensors.rapl import RaplSensor

    interval_s = settings.interval_s or DEFAULT_INTERVAL_S
    if settings.replay is not None:
        from tracker.sensors.replay import ReplaySensor

        return [(ReplaySensor(Path(settings.replay)), _us(interval_s))]
    rapl_s = min(max(interval_s, RAPL_MIN_INTERVAL_S), RAPL_MAX_INTERVAL_S)
    wanted: list[tuple[Sensor, int]] = [
        (_shared(state, ("rapl", settings.sysfs), lambda: RaplSensor(Path(settings.sysfs))), _us(rapl_s)),
        # After RAPL: what that measures is not modelled.
        (_shared(state, (HostModel.name,), HostModel), _us(rapl_s)),
    ]
    if settings.gpus != "none":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "(unset)")
        order = os.environ.get("CUDA_DEVICE_ORDER", "(unset)")
        key = ("nvml", repr(settings.gpus), visible, order)
        wanted.append((_shared(state, key, lambda: NvmlSensor(gpus=settings.gpus)), _us(interval_s)))
    return wanted


def _shared(state: ProcessState, key: tuple[str, ...], make: Any) -> Sensor:
    with state.lock:
        if key not in state.sensors:
            state.sensors[key] = make()
        return state.sensors[key]


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
