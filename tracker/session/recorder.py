"""One run's way from readings to the database: what the sampler brings is settled and committed by the writer."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tracker.errors import StoreError
from tracker.intensity.choice import IntensityChoice, choose
from tracker.machine import boottime_us, clock_pair, this_segment
from tracker.records import (
    ClockPair,
    Device,
    DeviceKind,
    IntensityUse,
    Mark,
    NotMeasured,
    Reading,
    Run,
    RunStatus,
    Slot,
    Span,
    datetime_of,
)
from tracker.sampler import MIN_SPACING_US, left_out
from tracker.sensors.host import HostModel
from tracker.sensors.protocol import Inventory, Sensor
from tracker.session import provenance
from tracker.session.account import DeviceAccount, RunFacts, build_run, gap_us_of
from tracker.session.election import Seat
from tracker.session.inbox import Inbox, Mail
from tracker.session.launcher import Job
from tracker.session.ledger import Ledger
from tracker.session.past import reader_of
from tracker.session.periods import period_for
from tracker.session.process import ProcessState
from tracker.session.target import StoredSource, Target
from tracker.session.understudy import Understudy
from tracker.session.use import GpuUse
from tracker.settings import Settings, has_grid
from tracker.signals import is_raised_by_handler
from tracker.store.codec import hot_bytes
from tracker.store.writing import Chunk, RunWriter
from tracker.units import MICROSECONDS_PER_S

if TYPE_CHECKING:
    from tracker.session.feed import Feed, Source
    from tracker.session.judge import Judge

logger = logging.getLogger(__name__)

SEAL_PERIOD_US: Final = 60 * MICROSECONDS_PER_S
READY_READINGS_S: Final = 0.2  # of the time to start, kept for the sensors that are ready
LAST_READING_TIMEOUT_S: Final = 0.8
LAST_COMMIT_TIMEOUT_S: Final = 10.0
SNAPSHOT_TIMEOUT_S: Final = 5.0
MOST_PATIENCE_S: Final = 3600.0  # where no place takes anything
NEXT_MOVE_S: Final = 5.0  # after a move that no place has taken
UNUSED_PERIOD_US: Final = 3600 * MICROSECONDS_PER_S  # of a sensor whose devices this run leaves out
PART_OF: Final[Mapping[str, tuple[DeviceKind, str]]] = {  # kind and name, by sensor
    "nvml": ("gpu", "GPU"),
    "rapl": ("cpu_package", "CPU"),
    HostModel.name: ("cpu", "CPU"),
}


# For what is seen of the GPUs (ranks.view_of): the sensors, with their periods in µs.
SensorsOf = Callable[[Sequence[str]], Sequence[tuple[Sensor, int]]]


class Recorder:
    """Records one run.

    The sampler's thread calls found and received, the writer's commit and what has a _ in front; the program's
    threads call the rest. What is said of a run is kept with it, and logged once.
    """

    def __init__(
        self,
        state: ProcessState,
        settings: Settings,
        *,
        run_id: str,
        name: str | None,
        tags: Mapping[str, str],
        sensors_of: SensorsOf,
        view: str,
        seat: Seat | None = None,
        job: Job | None = None,
    ) -> None:
        self._state = state
        self._seat = seat
        self._is_leading = seat is None or seat.is_ours
        self._job = job
        self._views: Sequence[str] = (view,)  # what is seen of the GPUs, here and by the run's others on this node
        self._sensors_of = sensors_of
        self._sensors: Sequence[tuple[Sensor, int]] = ()
        self._seeds: dict[tuple[str, str], Reading] = {}  # where the one before has left off, by kind and key
        self._settings = settings
        self._pid = os.getpid()
        self._segment = this_segment()
        self._clock = self._segment.started
        self._choice = choice_of(settings)
        self._facts = RunFacts(
            id=run_id,
            name=name,
            project=settings.project,
            tags=dict(tags),
            parent_id=settings.parent_id,
            is_replayed=settings.replay is not None,
            pue=settings.pue,
            started_at=datetime_of(self._clock.unix_us),
            price_per_kwh=None if settings.price_per_kwh is None else settings.price_per_kwh.price_per_kwh,
            currency=None if settings.price_per_kwh is None else settings.price_per_kwh.currency,
        )
        self._inbox = Inbox(unix_offset_us=self._clock.unix_offset_us, start_us=self._clock.boottime_us)
        self._ledger = Ledger(gap_us_of(settings.interval_s))
        self._use = GpuUse()
        self._understudy = Understudy()
        self._target = Target(settings.db, self._warn, is_shared=seat is not None)
        self._source, said = _source_of(settings, self._choice)
        self._feed: Feed | None = None
        self._periods_us: dict[str, int] = {}  # by name of the sensor
        self._opened: set[str] = set()  # names of the sensors opened so far
        self._model: Sensor | None = None  # of the host, once it is open
        self._cost_before = (state.sampler.cost(), state.writer.cpu_s)
        self._judge: Judge | None = None
        self._final: Run | None = None
        # Reentrant: a signal handler of the program's may stop the run that its main thread is just stopping.
        self._ending = threading.RLock()
        self._has_ended = False
        self._next_move_s = math.inf  # until it has begun
        self._move_period_s = NEXT_MOVE_S
        # The writer's: what has come in, and what of it the database has not taken yet.
        self._not_measured: list[NotMeasured] = []
        self._warnings: list[str] = list(settings.problems)
        self._devices: list[Device] = []
        self._rows = array("q")
        self._spans: list[Span] = []
        self._marks: list[Mark] = []
        self._chunks: list[Chunk] = []
        self._slots: list[Slot] = []
        self._sealed_us = self._clock.boottime_us
        if said:
            self._warn("grid", said)
        is_world = self._choice.zone is not None and self._choice.zone.origin == "world"
        if is_world and settings.parent_id is None:  # else the parent has said it
            self._warn("zone", self._choice.warnings[0])

    # The program's threads

    def start(self, deadline_s: float) -> None:
        """Open database and sensors, take the first readings; until the deadline at most."""
        self._state.begin(self)
        try:
            self._start(deadline_s)
        except BaseException:  # Ctrl-C, a signal handler or a fault of ours: nobody gets a handle to stop it
            self._ledger.begin(self._inbox.start_us)
            self._let_go(boottime_us(), "interrupted")
            raise

    def _start(self, deadline_s: float) -> None:
        if self._is_leading:
            self._sample()
        else:
            self._sensors_of(self._views)  # imports what taking over needs, in this thread
            self._inbox.expect(())
        self._state.writer.add(self)
        # A run that is killed at once is on record.
        self._state.writer.call(self._begin, _left_s(deadline_s))
        self._inbox.all_opened.wait(_left_s(deadline_s - READY_READINGS_S))
        self._state.sampler.read_now(max(READY_READINGS_S, _left_s(deadline_s)), edge="start")
        start_us = boottime_us()
        self._inbox.start_us = start_us
        self._ledger.begin(start_us)
        self._facts = replace(self._facts, started_at=datetime_of(start_us + self._clock.unix_offset_us))
        self._state.writer.post(lambda: self._write(lambda writer: writer.set_start(self._facts.started_at)))
        if self._is_leading:
            self._want_intensities()

    def open_span(self, name: str, parent_id: int | None, attributes: Mapping[str, Any]) -> int:
        return self._inbox.open_span(name, parent_id, attributes, boottime_us()) if self._is_ours() else 0

    def close_span(self, span_id: int) -> None:
        if self._is_ours():
            self._inbox.close_span(span_id, boottime_us())

    def mark(self, values: Mapping[str, Any]) -> None:
        if self._is_ours():
            self._inbox.mark(values, boottime_us())

    def judge_by(self, judge: Judge) -> None:
        """Have progress and budget judged from now on."""
        judge.is_one_of(None if self._job is None else self._job.world_size)
        self._judge = judge

    def snapshot(self) -> Run:
        """The run up to now: sensors are read for it, but for a reading made just before."""
        runs: list[Run] = []
        if self._is_ours() and self._final is None:
            self._state.sampler.read_now(SNAPSHOT_TIMEOUT_S, unless_within_us=MIN_SPACING_US)
            self._state.writer.call(lambda: runs.append(self._preview()), SNAPSHOT_TIMEOUT_S)
        return self._final or (runs[0] if runs else self._unaccounted("running"))

    def finish(self, status: RunStatus, warning: str | None = None) -> Run:
        """End the run: the last readings, the last commit, the final record; the same one each time.

        An exception that comes from outside meanwhile (Ctrl-C, the program's signal handlers) goes on its way at once,
        and the run is ended without it.

        Args:
            status: how it has ended.
            warning: to be kept with it.
        """
        stop_us = boottime_us()
        if not self._is_ours():
            return self._unaccounted("running")
        with self._ending:
            if self._final is None:
                if warning is not None:
                    self._warnings.append(warning)
                self._stop(stop_us, status)
            if self._final is None:
                self._final = self._unaccounted(status)
            return self._final

    def _stop(self, stop_us: int, status: RunStatus) -> None:
        state = self._state
        self._ledger.end(stop_us)
        if self._feed is not None:
            state.fetcher.remove(self._feed)
        try:
            state.sampler.read_now(LAST_READING_TIMEOUT_S, edge="end")
            state.sampler.detach(self)
            self._inbox.close_all_spans(stop_us)
            is_done = state.writer.call(lambda: self._finish(stop_us, status), LAST_COMMIT_TIMEOUT_S)
            if not is_done:
                self._warn("late", f"run {self._facts.id} is still being written after {LAST_COMMIT_TIMEOUT_S:g} s")
            elif self._final is None:
                self._warn("fault", f"run {self._facts.id}: its figures could not be worked out; its readings are kept")
            if self._seat is not None:
                self._seat.leave()
            is_folded = self._target.is_folded_at_end and state.writer.post(self._target.fold_own)
            state.writer.remove(self, 0.0 if is_folded else LAST_READING_TIMEOUT_S)
            state.end(self)
        except BaseException as exc:
            self._let_go(stop_us, status)
            if not isinstance(exc, Exception) or is_raised_by_handler(exc):
                raise
            logger.exception("tracker: run %s was not ended as it should", self._facts.id)  # the border to the program

    def _let_go(self, stop_us: int, status: RunStatus) -> None:
        """Have the run ended by the writer's thread, without waiting. The end of the process waits for it."""

        def end() -> None:
            self._finish(stop_us, status)
            self._state.end(self)
            self._target.fold_own()

        self._ledger.end(stop_us)
        if self._feed is not None:
            self._state.fetcher.remove(self._feed)
        self._state.sampler.detach(self, timeout_s=0.0)
        self._inbox.close_all_spans(stop_us)
        if self._seat is not None:
            self._seat.leave()
        if not self._state.writer.post(end):
            self._state.end(self)
        self._state.writer.remove(self, 0.0)

    def _is_ours(self) -> bool:
        """Whether this is the run's own process; a forked child must touch nothing of it, not even its locks."""
        return os.getpid() == self._pid

    def forget_after_fork(self) -> None:
        """In a forked child: let go of the parent's connection without closing it."""
        self._target.forget_after_fork()

    # The sampler's thread

    def found(self, sensor: Sensor, inventory: Inventory) -> None:
        """As Listener.found; sets how often the sensor must be read for these devices."""
        period_us = self._periods_us[sensor.name]
        self._opened.add(sensor.name)
        devices = inventory.devices
        period_us = period_for(devices, period_us, self._settings.interval_s)
        if period_us != self._periods_us[sensor.name]:
            self._state.sampler.set_period(self, sensor, period_us)
        for warning in inventory.warnings:
            self._warn(warning.partition(";")[0], warning)  # what comes after ";" differs as devices come and go
        self._understudy.found(sensor.name, inventory)
        if sensor.name == HostModel.name:
            self._model = sensor
            self._inbox.expect_no_more(sensor.name)
        else:
            self._take_in(sensor, inventory)
        self._cast()

    def _take_in(self, sensor: Sensor, inventory: Inventory) -> None:
        self._inbox.found(sensor, inventory)
        for device in inventory.devices:
            seed = self._seeds.pop((device.kind, device.key), None)
            if seed is not None:
                self._inbox.received(sensor, [device], [seed])

    def _cast(self, *, is_last: bool = False) -> None:
        """Let the host model stand in for what turns out to have no meter, from its first reading on."""
        model = self._model
        if model is None or not self._understudy.is_wanted():
            return
        for inventory, readings in self._understudy.cast(is_last=is_last):
            self._take_in(model, inventory)
            for reading in readings:
                self._inbox.received(model, inventory.devices, [reading])
        if not self._understudy.is_wanted():
            self._state.sampler.set_period(self, model, UNUSED_PERIOD_US)

    def gave_up(self, sensor: Sensor) -> None:
        self._inbox.expect_no_more(sensor.name)
        self._understudy.gave_up(sensor.name)
        self.told(left_out(sensor.name))
        self._cast()

    def received(self, sensor: Sensor, devices: Sequence[Device], readings: Sequence[Reading]) -> None:
        self._understudy.received(sensor.name, devices, readings)
        if sensor is self._model:
            playing = [pair for pair in zip(devices, readings, strict=True) if self._understudy.plays(pair[0])]
            devices, readings = [device for device, _ in playing], [reading for _, reading in playing]
        self._inbox.received(sensor, devices, readings)
        self._cast()

    def told(self, news: str) -> None:
        elapsed_s = (boottime_us() - self._inbox.start_us) / MICROSECONDS_PER_S
        self._warn(news, f"{news} ({elapsed_s:.1f} s after the start)")

    def looked(self, devices: Sequence[Device], in_use: Sequence[bool | None]) -> None:
        self._use.looked(devices, in_use)

    # The writer's thread

    def commit(self) -> None:
        """Commit what has come in; each minute seal it."""
        if self._has_ended:
            return
        self._state.sampler.rescue()
        now = clock_pair()
        self._absorb(self._inbox.empty())
        if not self._is_leading:
            self._attend(now)
            return
        self._look_at_progress()
        if self._seat is not None:
            self._sample()
        if now.boottime_us - self._sealed_us >= SEAL_PERIOD_US:
            self._settle(now)
            self._write(lambda writer: self._seal(writer, now))
            self._target.fold()
        else:
            self._write(lambda writer: self._commit(writer, now))

    def _look_at_progress(self) -> None:
        judge = self._judge
        if judge is None or not judge.is_due(time.monotonic()):
            return
        before_s = time.thread_time()
        try:
            run = self._preview()
            judge.judge(run, time.monotonic(), time.thread_time() - before_s, self._warn)
        except Exception:  # a fault of ours must not cost the commit that comes next
            self._judge = None
            logger.exception("tracker: progress and budget are not judged any more")

    def _attend(self, now: ClockPair) -> None:
        """Beside the process that samples: take its place if it has gone, else say only what there is to say."""
        if self._seat is not None and self._seat.take():
            self._lead()
        if self._spans or self._marks or now.boottime_us - self._sealed_us >= SEAL_PERIOD_US:
            self._sealed_us = now.boottime_us
            self._write(lambda writer: self._commit(writer, now))

    def _lead(self) -> None:
        """Sample from where the one before has left off, so that a counter carries the energy across the change."""
        self._is_leading = True
        if self._target.db is not None:
            attached_us = self._segment.started.boottime_us
            try:
                last = reader_of(self._target.db).last_readings(self._facts.id, self._segment)
            except StoreError as exc:
                self._warn("last readings", f"{exc}; energy between the readings of two processes is left out")
                last = {}
            self._seeds = {key: reading for key, reading in last.items() if reading.t_us >= attached_us}
        self._ledger.begin(min((reading.t_us for reading in self._seeds.values()), default=boottime_us()))
        self._sealed_us = boottime_us()
        self._sample()
        self._want_intensities()

    def _sample(self) -> None:
        """Have the sampler read what the run's processes on this node see, as far as it does not yet."""
        views = self._views if self._seat is None else self._seat.views() or self._views
        if self._sensors and views == self._views:
            return
        self._views = views
        wanted, before = self._sensors_of(views), self._sensors
        self._sensors = wanted
        self._periods_us = {sensor.name: period_us for sensor, period_us in wanted}
        kept = [sensor for sensor, _ in before if any(sensor is other for other, _ in wanted)]
        come = [(sensor, period_us) for sensor, period_us in wanted if not any(sensor is other for other in kept)]
        self._inbox.expect(sensor.name for sensor, _ in come)
        self._understudy.expect(sensor.name for sensor, _ in come)
        self._state.sampler.attach(self, come)
        gone = [sensor for sensor, _ in before if not any(sensor is other for other in kept)]
        if gone:
            self._state.sampler.detach(self, gone)

    def _want_intensities(self) -> None:
        """Have the source of intensities asked for the run's time, if there is one."""
        if self._source is not None and self._feed is None:
            from tracker.session.feed import Feed  # which _source_of has imported, in the caller's thread

            self._feed = Feed(self._source, self._facts.started_at, self._warn, lambda: self._target.writer)
            if not self._source.is_local:
                self._state.fetcher.add(self._feed)

    def _begin(self) -> None:
        run = replace(self._unaccounted("running"), provenance=self._provenance())
        origin = self._choice.zone.origin if self._choice.zone is not None else "setting"
        # On record from the first moment, so that a run killed at once can still be priced.
        use = IntensityUse(self._choice.value, origin, 0.0, 0.0, 0)
        self._target.begin(replace(run, intensity=(use,)), self._segment, self._argv())
        if self._target.db is not None:
            self._next_move_s, self._move_period_s = -math.inf, NEXT_MOVE_S
        else:
            self._next_move_s = time.monotonic() + self._move_period_s
            self._move_period_s *= 2

    def _finish(self, stop_us: int, status: RunStatus) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        now = clock_pair()
        self._cast(is_last=True)
        self._absorb(self._inbox.empty())
        settlement = self._ledger.finish(now.unix_offset_us, stop_us)
        self._keep(settlement)
        self._count_ranks()
        run = self._record(self._ledger.accounts(), status, stop_us)
        run = self._with_overlaps(run, now)
        unused = self._unused(run)
        if unused is not None and self._settings.parent_id is None:  # else the parent says it
            self._state.warn_once("unused GPUs", unused)
        self._final = run
        self._write(lambda writer: self._end(writer, run, now), is_last=True)
        self._target.close()

    def _with_overlaps(self, run: Run, now: ClockPair) -> Run:
        """The run, naming others that its GPUs were charged to at the same time."""
        try:
            self._target.check()
            others = self._target.overlapping_runs(run, now, self._segment.host)
        except StoreError:
            return run
        if not others:
            return run
        told = f"its GPUs were charged to other runs at the same time ({', '.join(others)}): a sum counts them again"
        return replace(run, warnings=(*run.warnings, told))

    def _count_ranks(self) -> None:
        """Say how many ranks of the job have not been in the run: what only they see is not in it either."""
        world_size = None if self._job is None else self._job.world_size
        seen = None if world_size is None else self._target.count_segments(self._facts.id)
        if world_size is not None and seen is not None and seen < world_size:
            self._warnings.append(
                f"{seen} of the {world_size} ranks of this job were seen: GPUs and nodes that only the others use are"
                " not measured (track in every rank)"
            )

    def _preview(self) -> Run:
        now = clock_pair()
        self._absorb(self._inbox.empty())
        writer = self._target.writer
        if self._target.db is not None and writer is not None and writer.has_joined:
            self._write(lambda writer: self._commit(writer, now))
            return reader_of(self._target.db).get(self._facts.id)
        return self._record(self._ledger.preview(now.unix_offset_us, now.boottime_us), "running", now.boottime_us)

    def _absorb(self, mail: Mail) -> None:
        for index, device in mail.devices:
            self._ledger.add_device(index, device)
            self._devices.append(device)
        self._not_measured += mail.not_measured
        self._ledger.take(hot_bytes(mail.rows), mail.spans)
        self._rows.extend(mail.rows)
        self._spans += [opened.span for opened in mail.spans]
        self._marks += mail.marks
        if self._judge is not None:
            self._judge.see(mail.marks, [opened.span for opened in mail.spans])

    def _settle(self, now: ClockPair) -> None:
        self._keep(self._ledger.settle(now.unix_offset_us))
        self._sealed_us = now.boottime_us

    def _keep(self, settlement: Any) -> None:
        self._chunks += [Chunk(part.device_index, part.samples, part.settled_us) for part in settlement.sealed]
        self._slots += settlement.slots
        self._spans += settlement.spans
        self._rows = array("q")

    def _write(self, work: Any, *, is_last: bool = False) -> None:
        """Have the database take what it has not taken yet.

        Where it takes nothing the whole run moves elsewhere at once: what waits in memory is lost with the process.
        Where no place takes it, what fails is tried again with the next commit.
        """
        if self._target.writer is None:
            self._begin_late(is_last=is_last)
        writer = self._target.writer
        if writer is None:
            return
        try:
            self._target.check()
            if self._devices:
                writer.add_devices(self._devices)
                self._devices = []
            work(writer)
        except StoreError as exc:
            place, now_s = self._target.db, time.monotonic()
            is_time = is_last or now_s >= self._next_move_s
            if is_time and self._target.move(self._facts.id, self._segment.host):
                self._warn(f"moved {place}", f"{exc}; the run is kept in {self._target.db}")
                self._write(work)
                return
            if is_time:
                self._next_move_s = now_s + self._move_period_s
                self._move_period_s *= 2
            what = "what was not written is lost" if is_last else "readings are kept in memory until it takes them"
            self._warn(f"commit {place}", f"{exc}; {what}")

    def _begin_late(self, *, is_last: bool) -> None:
        """Look again where no place took the run: a disk may have room by now, a program file descriptors left."""
        if self._move_period_s > MOST_PATIENCE_S:
            self._chunks, self._slots, self._spans, self._marks = [], [], [], []  # memory is not for ever
        elif is_last or time.monotonic() >= self._next_move_s:
            self._begin()
            if self._target.db is not None:
                self._warn("begun late", f"the run is kept in {self._target.db} after all")
        if is_last and self._target.db is None:
            self._warn("nowhere", f"nothing of run {self._facts.id} is kept after it")

    def _commit(self, writer: RunWriter, now: ClockPair) -> None:
        if self._chunks:  # a seal has failed: it comes first
            self._seal(writer, now)
            return
        writer.commit_second(self._rows, now, spans=self._spans, marks=self._marks)
        self._rows, self._spans, self._marks = array("q"), [], []

    def _seal(self, writer: RunWriter, now: ClockPair) -> None:
        run = self._record(self._ledger.accounts(), "running", now.boottime_us)
        writer.seal(run, self._chunks, self._slots, now, spans=self._spans, marks=self._marks)
        self._chunks, self._slots, self._spans, self._marks = [], [], [], []

    def _end(self, writer: RunWriter, run: Run, now: ClockPair) -> None:
        stored = writer.finish(run, self._chunks, self._slots, now, spans=self._spans, marks=self._marks)
        self._final = replace(stored, source=self._source_of_run())
        self._chunks, self._slots, self._spans, self._marks = [], [], [], []

    def _record(self, accounts: Sequence[DeviceAccount], status: RunStatus, until_us: int) -> Run:
        choice = self._choice
        if self._feed is not None:
            until = datetime_of(until_us + self._clock.unix_offset_us)
            choice = replace(choice, series=tuple(self._feed.values(until)), has_source=True)
        run = build_run(
            replace(self._facts, provenance=self._provenance()),
            accounts,
            choice,
            status=status,
            duration_us=max(0, until_us - self._inbox.start_us),
            is_ended=status != "running",
            not_measured=self._understudy.without_covered([*self._not_measured, *self._unopened()]),
            warnings=self._warnings,
            source=self._source_of_run(),
        )
        unused = self._unused(run)
        return run if unused is None else replace(run, warnings=(*run.warnings, unused))

    def _source_of_run(self) -> StoredSource | None:
        target = self._target
        return StoredSource(target.db, target.wanted if target.is_folded_at_end else target.db) if target.db else None

    def _unopened(self) -> list[NotMeasured]:
        """What is not measured because its driver has not told yet what there is."""
        return [
            NotMeasured(*PART_OF[sensor.name], "its driver has not answered")
            for sensor, _ in self._sensors
            if sensor.name not in self._opened and sensor.name in PART_OF
        ]

    def _unused(self, run: Run) -> str | None:
        """What is to be said of GPUs that were taken because CUDA shows them."""
        knows_all_processes = self._seat is None or self._job is not None
        return self._use.warning(run.devices) if self._settings.gpus == "visible" and knows_all_processes else None

    # Any thread

    def _unaccounted(self, status: RunStatus) -> Run:
        """The run without any energy: before there is any, or where it could not be had."""
        return build_run(
            self._facts,
            [],
            self._choice,
            status=status,
            duration_us=max(0, boottime_us() - self._inbox.start_us),
            is_ended=status != "running",
            not_measured=list(self._not_measured),
            warnings=list(self._warnings),
        )

    def _warn(self, cause: str, message: str) -> None:
        if message not in self._warnings:
            self._warnings.append(message)
        self._state.warn_once(cause, message)

    def _argv(self) -> list[str] | None:
        return provenance.masked_argv(sys.argv) if self._settings.store_argv else None

    def _provenance(self) -> Mapping[str, Any]:
        before, writer_before_s = self._cost_before
        cost = self._state.sampler.cost()
        job, source, network = self._job, self._source, self._target.file_system.network
        return {
            **({} if source is None else {"grid": {"provider": source.name, "zone": source.choice.zone}}),
            **({} if job is None else {"job": {"launcher": job.launcher, "world_size": job.world_size}}),
            **({} if not network else {"store": {"network_file_system": network, "journal": "rollback"}}),
            "versions": provenance.versions(),
            "hardware": dict(self._segment.hardware),
            "settings": provenance.settings_with_origin(self._settings),
            "own_cost": {
                "cpu_s": cost.cpu_s - before.cpu_s + self._state.writer.cpu_s - writer_before_s,
                "sensor_reads": cost.readings - before.readings,
                "sensor_latency_mean_s": cost.latency_mean_s,
                "sensor_latency_max_s": cost.latency_max_s,
            },
        }


def choice_of(settings: Settings) -> IntensityChoice:
    """The intensity that prices a run with these settings."""
    origin = settings.origins.get("zone", "")
    return choose(
        settings.intensity_g_per_kwh,
        settings.zone,
        environ=os.environ,
        intensity_origin=_named(settings.origins.get("intensity_g_per_kwh", ""), "intensity_g_per_kwh"),
        zone_origin=_named(origin, "zone"),
        offline=settings.offline,
    )


def _source_of(settings: Settings, choice: IntensityChoice) -> tuple[Source | None, str]:
    """As feed.source_of; where nothing is configured, as in most runs, without importing what asks."""
    if not has_grid(settings, os.environ):
        return None, ""
    from tracker.session.feed import source_of

    return source_of(settings, choice)


def _named(origin: str, name: str) -> str:
    return f"argument {name}" if origin == "argument" else origin


def _left_s(deadline_s: float) -> float:
    return max(0.0, deadline_s - time.monotonic())
