"""Starting a run: settings, sensors, database, first readings; and never an exception into the user's code."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracker import settings as settings_module
from tracker.errors import TrackerError
from tracker.records import Run
from tracker.session.checks import CHECKS
from tracker.session.election import Seat, private_folder
from tracker.session.launcher import Job, job_of
from tracker.session.live import LiveRun
from tracker.session.process import ProcessState, process_state
from tracker.session.unrecorded import Unrecorded, empty_run
from tracker.settings import Settings
from tracker.signals import is_raised_by_handler

if TYPE_CHECKING:
    from tracker.sensors.protocol import Sensor
    from tracker.session.judge import Judge

logger = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 2.0  # what __enter__ waits at most for database and first readings (DESIGN.md, section 5)
DEFAULT_INTERVAL_S: Final = 1.0
MIN_INTERVAL_S: Final = 0.05  # NVML below 50 ms disturbs the work it measures (knowledge: MangoHud PR 2104)
RAPL_MIN_INTERVAL_S: Final = 1.0
RAPL_MAX_INTERVAL_S: Final = 30.0  # a 65 kJ counter wraps after 94 s at 700 W (knowledge, measurement 2.3)


def start_run(
    name: str | None, tags: Mapping[str, str], arguments: Mapping[str, Any], judge: Judge | None = None
) -> LiveRun:
    """A run that has begun, with its first readings taken as the last act.

    Nothing of ours is raised: what goes wrong is logged and stands in the run's warnings.
    """
    try:
        settings = settings_module.resolve(arguments, checks=CHECKS)
        if settings.disabled:
            return LiveRun(Unrecorded(empty_run(name, tags, "disabled", ())))
        return _start(name, tags, settings, judge)
    except Exception as exc:
        if is_raised_by_handler(exc):
            raise
        # The border to the user's code: tracking that cannot start must not stop the training.
        logger.exception("tracker: this run is not recorded")
        return LiveRun(Unrecorded(empty_run(name, tags, "failed", (f"not recorded: {exc!r}",))))


def never_started(name: str | None, tags: Mapping[str, str]) -> Run:
    """For a stop() before any start(): said once, and nothing is recorded."""
    told = "stop() came before start(): nothing is recorded"
    process_state().warn_once(told, told)
    return empty_run(name, tags, "disabled", (told,))


def _start(name: str | None, tags: Mapping[str, str], settings: Settings, judge: Judge | None) -> LiveRun:
    # Imported in the caller's thread: an import in ours would leave a child forked meanwhile hanging at it.
    from tracker.sensors.cuda import shown_uuids
    from tracker.session.ranks import view_of
    from tracker.session.recorder import Recorder

    deadline_s = time.monotonic() + START_TIMEOUT_S
    state = process_state()
    for problem in settings.problems:
        state.warn_once(problem, problem)
    if settings.interval_s is not None and settings.interval_s < MIN_INTERVAL_S:
        told = (
            f"interval_s {settings.interval_s:g}: readings are {MIN_INTERVAL_S:g} s apart, faster ones disturb the GPU"
        )
        settings = replace(settings, problems=(*settings.problems, told))
        state.warn_once("interval", told)
    if settings.origins.get("db") == "default" and settings_module.user_folder("data") is None:
        state.warn_once("home", f"this user has no home folder: runs are kept in {settings.db} (or set TRACKER_DB)")
    job = job_of(os.environ)
    shared_id = _shared_run_id(state, settings, job, name)
    view = view_of(settings.gpus, shown=None if shared_id is None else shown_uuids())
    recorder = Recorder(
        state,
        settings,
        run_id=shared_id or secrets.token_hex(8),
        name=name,
        tags=tags,
        sensors_of=lambda views: _sensors(state, settings, views, job),
        seat=None if shared_id is None else _seat(state, shared_id, view),
        view=view,
        job=job,
    )
    recorder.start(deadline_s)
    return LiveRun(recorder, judge)


def _shared_run_id(state: ProcessState, settings: Settings, job: Job | None, name: str | None) -> str | None:
    """The id of a run that other processes may be in too: the one given, for the first run, else that of the job."""
    with state.lock:
        if settings.run_id is not None and not state.is_run_id_taken:
            state.is_run_id_taken = True
            return settings.run_id
        if job is None:
            return None
        ordinal = state.begun[name]
        state.begun[name] += 1
    attempt = 0
    while not job.is_restarting and _has_ended(settings.db, job.run_id(name, ordinal, attempt)):
        attempt += 1  # the shell that launched it has launched another one before
    return job.run_id(name, ordinal, attempt)


def _has_ended(db: str, run_id: str) -> bool:
    from tracker.session.past import get

    try:
        return get(run_id, db=db).status != "running"
    except TrackerError:  # no such run, or no database yet
        return False


def _seat(state: ProcessState, run_id: str, view: str) -> Seat | None:
    """The seat of the run's one sampler on this node; None where processes cannot agree on one."""
    try:
        seat = Seat(private_folder(), run_id)
        seat.announce(view)
        seat.take()
    except (OSError, ImportError) as exc:
        state.warn_once("seat", f"processes of one run on this node cannot agree on one that samples: {exc}")
        return None
    return seat


def _sensors(
    state: ProcessState, settings: Settings, views: Sequence[str], job: Job | None
) -> list[tuple[Sensor, int]]:
    """The sensors of a run with their periods in µs; instances are shared by the runs of the process.

    Args:
        views: what the run's processes on this node see of the GPUs.
    """
    from tracker.sensors.host import HostModel
    from tracker.sensors.rapl import RaplSensor
    from tracker.session.ranks import is_without_gpus, node_gpus

    interval_s = max(settings.interval_s or DEFAULT_INTERVAL_S, MIN_INTERVAL_S)
    if settings.replay is not None:
        from tracker.sensors.replay import ReplaySensor

        return [(ReplaySensor(Path(settings.replay)), _us(interval_s))]
    rapl_s = min(max(interval_s, RAPL_MIN_INTERVAL_S), RAPL_MAX_INTERVAL_S)
    wanted: list[tuple[Sensor, int]] = [
        (_shared(state, ("rapl", settings.sysfs), lambda: RaplSensor(Path(settings.sysfs))), _us(rapl_s)),
        # After RAPL: what that measures is not modelled.
        (_shared(state, (HostModel.name,), HostModel), _us(rapl_s)),
    ]
    charged = [view for view in views if not is_without_gpus(view)]
    if charged:
        launcher_pid = None if job is None else job.launcher_pid
        wanted.append((_shared(state, ("nvml", *charged), lambda: node_gpus(charged, launcher_pid)), _us(interval_s)))
    return wanted


def sensors_here(settings: Settings) -> list[tuple[Sensor, int]]:
    """The sensors that a run of this process would have, made anew, with their periods in µs."""
    from tracker.session.ranks import view_of

    return _sensors(ProcessState(), settings, [view_of(settings.gpus)], None)


def _shared(state: ProcessState, key: tuple[str, ...], make: Any) -> Sensor:
    with state.lock:
        if key not in state.sensors:
            state.sensors[key] = make()
        return state.sensors[key]


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
