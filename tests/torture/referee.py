"""Lets a fault happen to a training and to the same training untracked, beside each other, and finds what differs."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from standin.nvml import GPU_IS_LOST, UNKNOWN, Const, Delay, Fault, Gpu, StandinNvml
from standin.powercap import PowercapTree

import tracker
from torture.plans import SIGNALS_TO_COMMAND, Plan
from torture.program import AT_START, AT_STOP, BEAT
from tracker.errors import TrackerError
from tracker.machine import boottime_us
from tracker.records import Run
from tracker.store.opening import open_for_writing

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("program.py")
POLL_S = 0.02
PATIENCE_S = 60.0  # with a child, before it counts as hanging
LATEST_S = 1.0
LEFT_S = 5.0  # multiprocessing's own helper ends a moment after those it helps
WAITED_FOR_DRIVER_S = 2.0  # at the start at most, for first readings
LOST_AT_MOST_S = 1.0
MOST_LINES = 10
TAKEN_AWAY_S = 2.0  # from then until a commit notices it and has moved the run
_TAKEN_AWAY = ("removed", "replaced", "folder removed")
RAPL_MW = 50_000
US_PER_S = 1_000_000
NS_PER_S = 1_000_000_000


@dataclass(slots=True)
class Verdict:
    """What was seen of one fault."""

    plan: Plan
    is_started: bool = False
    is_on_record: bool = False
    lost_s: float = 0.0
    unmeasured_s: float = 0.0
    late_s: float = 0.0
    wrong_status: str = ""
    harms: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # anything else that must not be

    @property
    def is_late(self) -> bool:
        is_waited_for = self.plan.sensor in ("NVML hangs at start", "NVML slow at start")
        return self.late_s > LATEST_S + (WAITED_FOR_DRIVER_S if is_waited_for else 0.0)

    def troubles(self, *, has_times: bool = True) -> list[str]:
        """All that is wrong, in words; without what a busy machine makes of times, if so wished."""
        told = [*self.harms, *self.faults]
        if has_times and self.is_late:
            told.append(f"ended {self.late_s:.2f} s later than untracked")
        if self.wrong_status:
            told.append(self.wrong_status)
        if self.is_started and not self.is_on_record:
            told.append("not on record")
        if has_times and self.lost_s > LOST_AT_MOST_S:
            told.append(f"its last {self.lost_s:.2f} s are lost")
        return told


class Meter(threading.Thread):
    """Lets the packages of all trees count, and knows the longest time that it has left them alone."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._trees: dict[PowercapTree, int] = {}  # and when each was begun
        self._lock = threading.Lock()
        self._is_over = False
        self.longest_s = 0.0

    def run(self) -> None:
        last_s = time.monotonic()
        while not self._is_over:
            with self._lock:
                for tree, begun_us in self._trees.items():
                    energy_uj = RAPL_MW * (boottime_us() - begun_us) // 1000
                    # As the kernel has it, a reader never finds the file empty.
                    with contextlib.suppress(OSError), (tree.folder("intel-rapl:0") / "energy_uj").open("r+") as file:
                        file.write(f"{energy_uj:020d}\n")
            now_s = time.monotonic()
            self.longest_s = max(self.longest_s, now_s - last_s)
            last_s = now_s
            time.sleep(0.04)

    @contextlib.contextmanager
    def counting(self, tree: PowercapTree) -> Iterator[None]:
        tree.add("intel-rapl:0", "package-0", 0)
        with self._lock:
            self._trees[tree] = boottime_us()
        yield
        with self._lock:
            del self._trees[tree]

    def stop(self) -> None:
        self._is_over = True
        self.join()


@dataclass(slots=True)
class Round:
    """What the faults of one round share.

    Attributes:
        library: the stand-in for NVIDIA's.
        folder: for all that the round leaves.
        can_mount: this user may make small file systems.
        more: environment of the tracked trainings alone, to see that the referee sees.
    """

    library: Path
    folder: Path
    can_mount: bool
    meter: Meter
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """The user's state folder, for readers too."""
        return self.folder / "state"

    @property
    def shared_db(self) -> Path:
        return self.folder / "shared" / "runs.db"


class Child:
    """A training under way."""

    def __init__(self, plan: Plan, folder: Path, environ: Mapping[str, str], *, is_tracked: bool) -> None:
        self._folder = folder
        (folder / "plan").write_text(json.dumps(plan.as_json()))
        how = "tracked" if is_tracked else "untracked"
        command = [sys.executable, str(PROGRAM), str(folder / "plan"), str(folder), how]
        if is_tracked and plan.form == "command":
            name = f"torture {plan.number}"
            interval = f"{plan.interval_s}"
            command = [sys.executable, "-m", "tracker", "run", "--name", name, "--interval", interval, "--", *command]
        self.started_s = time.monotonic()
        self.ended_s = 0.0
        self.code: int | None = None
        self._queued_ns: dict[Path, int] = {}  # by thread
        self._queued_before_s = 0.0  # until the training was ready to begin
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environ,
                cwd=folder,
                start_new_session=True,
            )

    def has_ended(self) -> bool:
        if self.code is None:
            self.code = self.process.poll()
            self.ended_s = time.monotonic()
        return self.code is not None

    @property
    def queued_s(self) -> float:
        """How long its threads have waited for a processor so far: time that others have taken from it."""
        return sum(self._queued_ns.values()) / NS_PER_S

    @property
    def queued_since_begun_s(self) -> float:
        return self.queued_s - self._queued_before_s

    def look_at_queue(self) -> None:
        """Note how long that is; to be called now and then. Without the kernel's figures it stays 0."""
        todo = [self.process.pid]
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    with contextlib.suppress(OSError):
                        self._queued_ns[thread] = int((thread / "schedstat").read_text().split()[1])
                        todo += map(int, (thread / "children").read_text().split())
        if not self.beat_s()[0]:
            self._queued_before_s = self.queued_s

    def beat_s(self) -> tuple[float, float, float]:
        """When it has begun, entered its block and made its last step; 0: not yet."""
        try:
            begun_ns, entered_ns, last_ns = BEAT.unpack((self._folder / "beat").read_bytes())
        except (OSError, struct.error):
            return 0.0, 0.0, 0.0
        return begun_ns / NS_PER_S, entered_ns / NS_PER_S, last_ns / NS_PER_S

    def text(self, name: str) -> str:
        try:
            return (self._folder / name).read_text(errors="replace")
        except OSError:
            return ""

    def kill_all(self) -> None:
        for pid in members(self.process.pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                stat = (entry / "stat").read_text()
                fields = stat[stat.rindex(")") + 2 :].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    found.append(int(entry.name))
    return found


class Bout:
    """One fault, from the laying out of its folder to the verdict."""

    def __init__(self, shared: Round, plan: Plan) -> None:
        self._round = shared
        self._plan = plan
        self._folder = shared.folder / f"{plan.number}"
        self._verdict = Verdict(plan)
        self._place = self._folder / "place"
        self._db = self._place / "runs.db"
        self._undo = contextlib.ExitStack()
        self._acted_s = 0.0  # when it was done to the tracked one what is done from outside
        for name in ("tracked", "untracked", "place", "home", "run", "tmp", "nvml"):
            (self._folder / name).mkdir(parents=True)
        (self._folder / "run").chmod(0o700)

    def fought(self) -> Verdict:
        """The verdict."""
        tree = PowercapTree(self._folder)
        with self._undo, self._round.meter.counting(tree):
            self._tree = tree
            self._lay_out()
            tracked = Child(
                self._plan, self._folder / "tracked", {**self._environ(), **self._round.more}, is_tracked=True
            )
            twin = Child(self._plan, self._folder / "untracked", self._environ(), is_tracked=False)
            try:
                self._watch(tracked, twin)
                self._judge(tracked, twin)
            finally:
                tracked.kill_all()
                twin.kill_all()
        if not self._verdict.troubles():
            shutil.rmtree(self._folder, ignore_errors=True)
        return self._verdict

    # Before

    def _environ(self) -> dict[str, str]:
        folder = self._folder
        kept = {
            name: value
            for name, value in os.environ.items()
            # Without it, each training would compile the tracker anew.
            if not name.startswith(("PYTHONDONTWRITE", "TRACKER_", "STANDIN_", "CUDA_", "XDG_", "SLURM_", "PYTEST_"))
        }
        return kept | {
            "HOME": str(folder / "home"),
            "XDG_STATE_HOME": str(self._round.state),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "TMPDIR": str(folder / "tmp"),
            "TRACKER_DB": str(self._db),
            "TRACKER_SYSFS": str(self._tree.sysfs),
            "TRACKER_ZONE": "FR",
            "STANDIN_NVML": str(folder / "nvml" / "spec"),
            "LD_LIBRARY_PATH": str(self._round.library.parent),
            "PYTHONPATH": str(ROOT),
        }

    def _lay_out(self) -> None:
        self._plug()
        plan, place, db = self._plan, self._place, self._db
        if plan.place == "missing folder":
            self._db = place / "a" / "b" / "runs.db"
        elif plan.place == "shared":
            self._db = self._round.shared_db
        elif plan.place == "no database":
            db.write_bytes(b"the user's own file\n" * 100)
        elif plan.place == "a folder":
            db.mkdir()
        elif plan.place == "read-only":
            if self._round.can_mount:
                self._mount("ro")
            else:
                place.chmod(0o500)
                self._undo.callback(place.chmod, 0o700)
        elif plan.place == "link":
            (self._folder / "elsewhere").mkdir()
            db.symlink_to(self._folder / "elsewhere" / "real.db")
        elif plan.place == "full":
            if self._round.can_mount:
                self._mount("size=700k")
        elif plan.place == "locked at start":
            open_for_writing(db).close()
            self._lock(plan.trouble_s)

    def _plug(self) -> None:
        plan = self._plan
        at_us = round((plan.trouble_at_s + 0.4) * US_PER_S)
        until_us = at_us + round(plan.trouble_s * US_PER_S)
        healthy = Gpu((Const(plan.power_mw),))
        other = {
            "GPU call hangs": Gpu((Const(plan.power_mw),), delays=(Delay("nvmlDeviceGetFieldValues", from_us=at_us),)),
            "GPU errors": Gpu((Const(plan.power_mw),), faults=(Fault("*", UNKNOWN, at_us, until_us),)),
            "GPU lost": Gpu((Const(plan.power_mw),), faults=(Fault("*", GPU_IS_LOST, at_us),)),
            "NVML slow": Gpu((Const(plan.power_mw),), delays=(Delay("*", 30_000),)),
        }.get(plan.sensor, healthy)
        delays = {"NVML hangs at start": (Delay("nvmlInit"),), "NVML slow at start": (Delay("nvmlInit", 1_500_000),)}
        standin = StandinNvml(self._round.library, self._folder / "nvml")
        standin.plug(healthy, other, epoch_us=boottime_us(), delays=delays.get(plan.sensor, ()))

    def _mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self._place], check=True)
        self._undo.callback(subprocess.run, ["umount", "-l", self._place], check=True)

    def _lock(self, seconds: float) -> None:
        """Keep the database locked for a while, as another program does."""
        lock = sqlite3.connect(self._db, isolation_level=None, check_same_thread=False)
        lock.execute("BEGIN IMMEDIATE")

        def let_go() -> None:
            time.sleep(seconds)
            lock.close()

        thread = threading.Thread(target=let_go)
        thread.start()
        self._undo.callback(thread.join)

    # Meanwhile

    def _watch(self, tracked: Child, twin: Child) -> None:
        waiting = [(tracked, True), (twin, False)]
        until_s = time.monotonic() + PATIENCE_S
        while not (tracked.has_ended() & twin.has_ended()):
            now_s = time.time()
            tracked.look_at_queue()
            twin.look_at_queue()
            for child, is_tracked in list(waiting):
                entered_s = child.beat_s()[1]
                if entered_s and now_s >= entered_s + self._plan.trouble_at_s:
                    waiting.remove((child, is_tracked))
                    self._act(child, is_tracked=is_tracked)
            if time.monotonic() > until_s:
                who = "the training" if not tracked.has_ended() else "the untracked twin"
                self._verdict.harms.append(f"{who} did not end within {PATIENCE_S:g} s")
                tracked.kill_all()
                twin.kill_all()
            time.sleep(POLL_S)

    def _act(self, child: Child, *, is_tracked: bool) -> None:
        """What befalls it from outside."""
        plan = self._plan
        number = {"command_sigterm": signal.SIGTERM, "command_sigint": signal.SIGINT, "command_sighup": signal.SIGHUP}
        if plan.end in number:
            child.process.send_signal(number[plan.end])
        if not is_tracked:
            return
        if plan.end == "command_sigkill":
            child.process.kill()
        self._acted_s = time.time()
        with contextlib.suppress(OSError, sqlite3.Error):  # the tracker may not have got as far
            if plan.sensor == "RAPL vanishes":
                # Empty first: who has it open would go on reading the old number, which sysfs does not give.
                (self._tree.folder("intel-rapl:0") / "energy_uj").write_bytes(b"")
                self._tree.remove("intel-rapl:0")
            if plan.place == "locked":
                self._lock(plan.trouble_s)
            elif plan.place == "removed":
                self._db.unlink()
            elif plan.place == "replaced":
                other = self._folder / "other.db"
                with contextlib.closing(sqlite3.connect(other)) as connection:
                    connection.execute("CREATE TABLE of_another_program (x)")
                other.replace(self._db)
            elif plan.place == "folder removed":
                shutil.rmtree(self._place)
            elif plan.place == "full" and self._round.can_mount:
                with (self._place / "filler").open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(1024))

    # After

    def _judge(self, tracked: Child, twin: Child) -> None:
        verdict, plan = self._verdict, self._plan
        _, entered_s, last_s = tracked.beat_s()
        verdict.is_started = bool(entered_s)
        run = self._run_on_record()
        if run is None and plan.place in _TAKEN_AWAY:
            # The user has removed its record when it had been written for the last time.
            left_s = last_s - self._acted_s
            verdict.is_started = left_s > (TAKEN_AWAY_S if plan.is_abrupt else 0.0) and not plan.has_nowhere_to_go
        verdict.is_on_record = run is not None
        if plan.end == "command_sigkill":
            last_s = min(last_s, self._acted_s or last_s)
            self._await_orphan(tracked)
        self._compare(tracked, twin)
        self._look_for_leftovers(tracked)
        if verdict.harms and "did not end" in verdict.harms[0]:
            return
        twin_took_s = self._took_s(twin)
        if plan.end != "command_sigkill" and not plan.end.endswith("_stop"):
            verdict.late_s = self._took_s(tracked) - twin_took_s
        if run is None:
            return
        statuses = self._statuses(tracked, twin)
        if run.status not in statuses:
            verdict.wrong_status = f"status {run.status}, not {' or '.join(statuses)}"
        if entered_s:
            self._look_at_end(run, last_s)
        self._look_at_energy(run)

    def _took_s(self, child: Child) -> float:
        """From where the training was ready to begin until its process was gone, but for waits for a processor."""
        if self._plan.form == "command":
            return child.ended_s - child.started_s - child.queued_s
        begun_s = child.beat_s()[0]
        ended_s = time.time() - (time.monotonic() - child.ended_s)
        return ended_s - begun_s - child.queued_since_begun_s if begun_s else 0.0

    def _places(self) -> Iterator[Path]:
        yield from Path(f"{self._db}.d").glob("*.db")
        yield from (self._round.state / "tracker" / "runs").glob("*/*.db")
        yield from (self._folder / "tmp").glob("tracker-*/*.db")

    def _run_on_record(self) -> Run | None:
        """The run as readers find it: with the database and the files beside it, else in the place that was told."""
        name = f"torture {self._plan.number}"
        found: dict[Path, Run] = {}
        for place in (self._db, *self._places()):
            with contextlib.suppress(TrackerError):
                for run in tracker.runs(name=name, db=place, limit=None):
                    found[place] = run
        told = (self._folder / "tracked" / "stderr").read_text(errors="replace")
        by_readers: list[Run] = []
        with contextlib.suppress(TrackerError):
            by_readers = list(tracker.runs(name=name, db=self._db, limit=None))
        if len({run.id for run in found.values()}) > 1:
            self._verdict.faults.append(f"it is {len(found)} runs: {', '.join(map(str, found))}")
        if by_readers:
            if len(by_readers) > 1:
                self._verdict.faults.append("readers show it twice")
            return by_readers[0]
        for place, run in found.items():
            if str(place) not in told and self._folder not in place.parents:
                self._verdict.faults.append(f"nobody is told that it is in {place}")
            return run
        return None

    def _statuses(self, tracked: Child, twin: Child) -> tuple[str, ...]:
        plan = self._plan
        if plan.form != "command" or plan.end == "command_sigkill":
            return ("interrupted",) if plan.form == "command" else plan.statuses
        assert twin.code is not None
        if plan.end in SIGNALS_TO_COMMAND:
            return ("finished" if tracked.code == 0 else "interrupted",)
        return ("finished" if twin.code == 0 else "failed" if twin.code > 0 else "interrupted",)

    def _look_at_end(self, run: Run, last_s: float) -> None:
        assert run.started_at is not None
        if run.ended_at is None:
            self._verdict.faults.append("it has no end")
            return
        if self._plan.has_no_room:
            last_s = min(last_s, run.ended_at.timestamp())
        if self._plan.is_held_up:  # nobody can read or commit in that time, and the end may come right after it
            last_s -= self._plan.middle_s
        self._verdict.lost_s = max(0.0, last_s - run.ended_at.timestamp())
        newest_s = max(
            ((int(part.t_us[-1]) + part.unix_offset_us) / US_PER_S for part in run.samples() if len(part)),
            default=run.started_at.timestamp(),
        )
        self._verdict.unmeasured_s = max(0.0, last_s - newest_s)

    def _look_at_energy(self, run: Run) -> None:
        """Each meter's power is steady, so that its energy is that power times the time that is covered."""
        for device in run.devices:
            power_w = {"gpu": self._plan.power_mw / 1000, "cpu_package": RAPL_MW / 1000}.get(device.kind)
            if power_w is None or device.method not in ("counter", "power") or device.energy_j is None:
                continue
            covered_s = (device.coverage or 0.0) * run.duration_s
            step_s = (
                2 * self._round.meter.longest_s
                if device.kind == "cpu_package"
                else 0.15
                if self._plan.sensor == "NVML slow"
                else 0.03
            )
            off_j = abs(device.energy_j - power_w * covered_s)
            if off_j > power_w * (step_s + 0.02 * covered_s):
                self._verdict.faults.append(
                    f"{device.kind}: {device.energy_j:.1f} J in {covered_s:.2f} s at {power_w:.1f} W"
                )

    def _compare(self, tracked: Child, twin: Child) -> None:
        plan, harms = self._plan, self._verdict.harms
        is_timed = plan.end in AT_START or plan.end in AT_STOP or plan.end.startswith("command_sig")
        expected = twin.code
        assert expected is not None
        if plan.form == "command" and expected < 0:
            expected = 128 - expected
        may_come_late = plan.end in AT_STOP and tracked.code in (0, -AT_STOP[plan.end])
        if plan.end.startswith("command_sig") and 0 in (twin.code, tracked.code):
            return  # one of the two had ended before the signal came
        if tracked.code != expected and not may_come_late and plan.end != "command_sigkill":
            harms.append(f"exit code {tracked.code}, not {expected}")
        out, out_of_twin = tracked.text("stdout"), twin.text("stdout")
        is_same = out == out_of_twin
        if is_timed:
            out, out_of_twin = out.partition("the end")[0], out_of_twin.partition("the end")[0]
            is_same = out.startswith(out_of_twin) or out_of_twin.startswith(out)
        if not is_same:
            harms.append("other text on stdout")
        self._compare_stderr(tracked.text("stderr"), twin.text("stderr"), is_timed=is_timed)
        result, result_of_twin = tracked.text("result"), twin.text("result")
        if is_timed and result and result_of_twin and plan.end != "command_sigkill":
            kept = ("handlers", "blocked", "umask", "threads")
            result, result_of_twin = (
                json.dumps({key: json.loads(text)[key] for key in kept}) for text in (result, result_of_twin)
            )
        if result != result_of_twin.replace("/untracked", "/tracked") and plan.end not in AT_STOP:
            harms.append(f"another result: {result[:300]}, not {result_of_twin[:300]}")

    def _compare_stderr(self, stderr: str, stderr_of_twin: str, *, is_timed: bool) -> None:
        ours = [line for line in stderr.splitlines() if line.startswith("tracker: ")]
        if len(ours) > MOST_LINES:
            self._verdict.faults.append(f"{len(ours)} lines of ours on stderr")
        if any(line.startswith("tracker: ") and "exception" in line.lower() for line in ours):
            self._verdict.faults.append("an exception of ours on stderr")
        said, said_by_twin = self._said(stderr), self._said(stderr_of_twin)
        if self._plan.end in AT_STOP:  # it may come when the untracked one has ended already
            said, said_by_twin = (
                [line for line in lines if line != "KeyboardInterrupt"] for lines in (said, said_by_twin)
            )
        elif self._plan.end in SIGNALS_TO_COMMAND:
            return
        elif is_timed:
            said, said_by_twin = said[-1:], said_by_twin[-1:]
        if said != said_by_twin:
            self._verdict.harms.append(f"on stderr: {said[-3:]}, not {said_by_twin[-3:]}")

    def _said(self, stderr: str) -> list[str]:
        """What stderr holds beside lines of ours, without the ways through the code."""
        if self._plan.form == "command":  # a summary comes last
            stderr = re.sub(r"(?ms)^run +torture .*", "", stderr)
        lines = [line for line in stderr.splitlines() if not line.startswith(("tracker: ", " ", "Traceback"))]
        return [line for line in lines if line and "multi-threaded, use of fork" not in line]

    def _await_orphan(self, tracked: Child, at_most_s: float = PATIENCE_S) -> None:
        until_s = time.monotonic() + at_most_s
        while members(tracked.process.pid) and time.monotonic() < until_s:
            time.sleep(POLL_S)

    def _look_for_leftovers(self, tracked: Child) -> None:
        if "fork_lives_on" not in self._plan.middles:
            self._await_orphan(tracked, LEFT_S)
            left = members(tracked.process.pid)
            if left:
                self._verdict.faults.append(f"{len(left)} processes are left")
        if self._plan.place in ("", "missing folder", "removed", "link") and self._db.is_file():
            with contextlib.closing(sqlite3.connect(self._db, timeout=0.2, isolation_level=None)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
                except sqlite3.Error as exc:
                    self._verdict.faults.append(f"the database stays locked: {exc}")
