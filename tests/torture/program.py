"""The training that faults happen to: `python program.py PLAN.json FOLDER tracked|untracked`.

It does the same work, prints the same lines and leaves the same result whether it is tracked or not, and tells in the
file `beat` how far it has come, however it ends.
"""

import contextlib
import ctypes
import faulthandler
import json
import mmap
import multiprocessing
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

STEP_S = 0.02
BEAT = struct.Struct("qqq")  # ns since 1970: begun, in its block, last step
EXEC_S = 0.7
BIG_BYTES = 64 * 2**20


class BoomError(RuntimeError):
    pass


class Beat:
    """Three instants in a mapped file: they outlive any end of the process."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(BEAT.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), BEAT.size)
        self._begun_ns = self._entered_ns = 0
        self._pid = os.getpid()

    def begin(self) -> None:
        self._begun_ns = time.time_ns()
        self._note(0)

    def step(self) -> None:
        if os.getpid() != self._pid:  # a forked child of the training
            return
        now_ns = time.time_ns()
        self._entered_ns = self._entered_ns or now_ns
        self._note(now_ns)

    def _note(self, now_ns: int) -> None:
        BEAT.pack_into(self._map, 0, self._begun_ns, self._entered_ns, now_ns)


def handlers() -> list[str]:
    return [
        f"{number} {getattr(handler, '__name__', handler)}"
        for number in sorted(signal.valid_signals())
        if (handler := signal.getsignal(number)) != signal.SIG_DFL
    ]


def after(delay_s: float, number: int) -> None:
    """Have a signal sent to this process in a moment."""

    def send() -> None:
        time.sleep(delay_s)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


def work_of(n: int) -> int:
    return sum(i * i % 7 for i in range(n % 100))


class Training:
    def __init__(self, plan: dict, folder: Path, is_tracked: bool) -> None:
        self.plan = plan
        self.folder = folder
        self.is_tracked = is_tracked
        self.beat = Beat(folder / "beat")
        self.is_asked_to_end = False
        self.total = 0
        self.told: list[str] = []  # of what the faults have shown to the program
        self.kept: list[object] = []

    # How it is tracked

    def run(self) -> None:
        form = self.plan["form"] if self.is_tracked else "with"
        at_start = self.plan["end"] in AT_START
        if self.is_tracked and form != "command":
            import numpy  # noqa: F401, ICN001 (as trainings do; what is left is the tracker's own)
            import sqlalchemy  # noqa: F401
        self.beat.begin()
        if at_start:
            after(self.plan["moment_s"], AT_START[self.plan["end"]])
        if not self.is_tracked or form == "command":
            with contextlib.nullcontext():
                self.train()
            return
        import tracker

        track = tracker.track(f"torture {self.plan['number']}", interval_s=self.plan["interval_s"])
        if form == "decorator":
            track(self.train)()
        elif form == "handle":
            live = track.start()
            self.train()
            if not self.plan["end"].startswith("left_on"):
                live.stop()
        elif form == "spans":
            with track as live:
                self.live = live
                self.train()
        else:
            with track:
                self.train()

    def train(self) -> None:
        plan = self.plan
        steps = round(plan["seconds"] / STEP_S)
        for step in range(steps):
            self.beat.step()
            if step == plan["middle_step"]:
                for middle in plan["middles"]:
                    getattr(self, middle)()
            if step == plan["end_step"]:
                self.end()
            if self.is_asked_to_end:
                break
            self.total += work_of(step)
            if step % 10 == 0:
                print(f"step {step} {self.total}", flush=True)
            live = getattr(self, "live", None)
            with contextlib.nullcontext() if live is None else live.span("step", index=step):
                time.sleep(STEP_S)
            if live is not None:
                live.mark(step=step, loss=1.0 / (step + 1))
        self.beat.step()
        if plan["end"] in AT_STOP:
            after(plan["moment_s"], AT_STOP[plan["end"]])

    def leave_result(self) -> None:
        """What a program's user would look at afterwards: the result, and the state that the process is in."""
        result = {
            "total": self.total,
            "told": sorted(self.told),
            "handlers": handlers(),
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "threads": sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith("Thread-")),
            "children": len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
            "umask": os.umask(0o022),
        }
        hangs = ("GPU call hangs", "NVML hangs at start", "NVML slow at start")
        is_on = self.plan["form"] == "handle" and self.plan["end"] != "return"  # its run ends later, with the program
        if is_on or self.plan["sensor"] in hangs:  # nobody can end a thread that a driver does not let go
            del result["threads"]
        (self.folder / "result").write_text(json.dumps(result))

    # Ends

    def end(self) -> None:
        sys.stdout.flush()
        getattr(self, f"end_{self.plan['end']}", lambda: None)()

    def end_exception(self) -> None:
        raise BoomError("the user's own")

    def end_exit_n(self) -> None:
        sys.exit(3)

    def end_exit_none(self) -> None:
        sys.exit()

    def end_exit_text(self) -> None:
        sys.exit("a last word")

    def end_memory(self) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + BIG_BYTES, limits[1]))
        try:
            while True:
                self.kept.append(bytearray(2**20))
        except MemoryError:
            time.sleep(self.plan["moment_s"])  # the tracker, too, has no memory for a while
            self.kept.clear()
            raise

    def end_sigint(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def end_sigterm(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    end_sigterm_exit = end_sigterm_flag = end_sigterm

    def end_sighup(self) -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    def end_sigkill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def end_sigsegv(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def end_os_exit(self) -> None:
        os._exit(4)

    def end_exec(self) -> None:
        """Another program takes the process over: it must find nothing of ours open, and no signal blocked."""
        code = (
            "import json, os, signal, sys, time; from pathlib import Path; time.sleep(float(sys.argv[1]));"
            "names = {os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
            " if os.path.lexists(f'/proc/self/fd/{n}')};"
            "Path(sys.argv[2]).write_text(json.dumps([sorted(n for n in names if '.db' in n or 'tracker' in n),"
            " sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))]))"
        )
        os.execv(sys.executable, [sys.executable, "-S", "-c", code, str(EXEC_S), str(self.folder / "result")])

    def end_left_on_exception(self) -> None:
        raise BoomError("with the tracker on")

    def end_left_on_sigint(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def end_left_on_exit_n(self) -> None:
        sys.exit(5)

    def end_daemon_thread(self) -> None:
        def go_on() -> None:
            n = 0
            while True:
                n += work_of(n)
                time.sleep(0.001)

        threading.Thread(target=go_on, daemon=True).start()

    # Middles

    def _fork(self, in_child: str) -> int | None:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            faulthandler.dump_traceback_later(20, exit=True)
            if in_child == "exit":
                os._exit(5)
            if in_child == "raise":
                raise BoomError("in the child")
            if in_child == "return":
                self.plan = {**self.plan, "end": "return", "middles": [], "seconds": 0.0, "end_step": -1}
                return None
            if in_child == "track":
                import tracker

                with tracker.track(f"torture {self.plan['number']} child"):
                    time.sleep(0.2)
                os._exit(6)
            if in_child == "live on":
                os.close(1)
                os.close(2)
                time.sleep(self.plan["seconds"] + 1.5)
                os._exit(0)
        return pid

    def _forked(self, in_child: str) -> None:
        pid = self._fork(in_child)
        if pid is not None:
            self.told.append(f"{in_child} {os.waitpid(pid, 0)[1]}")

    def fork_exit(self) -> None:
        self._forked("exit")

    def fork_raise(self) -> None:
        self._forked("raise")

    def fork_return(self) -> None:
        pid = self._fork("return")
        if pid is None:
            raise _EndOfChildError
        self.told.append(f"return {os.waitpid(pid, 0)[1]}")

    def fork_tracks(self) -> None:
        if self.is_tracked:
            self._forked("track")
        else:
            self.told.append(f"track {6 << 8}")

    def fork_lives_on(self) -> None:
        self._fork("live on")

    def forks_many(self) -> None:
        ended = []
        for _ in range(25):
            pid = self._fork("exit")
            assert pid is not None
            ended.append(os.waitpid(pid, 0)[1])
            time.sleep(0.003)
        self.told.append(f"forks {ended}")

    def mp_fork(self) -> None:
        self._multiprocessing("fork")

    def mp_spawn(self) -> None:
        self._multiprocessing("spawn")

    def _multiprocessing(self, how: str) -> None:
        sys.stdout.flush()
        process = multiprocessing.get_context(how).Process(target=work_of, args=(50,))
        process.start()
        process.join()
        self.told.append(f"{how} {process.exitcode}")

    def pool(self) -> None:
        sys.stdout.flush()
        with multiprocessing.get_context("fork").Pool(2) as workers:
            self.told.append(f"pool {sum(workers.map(work_of, range(40)))}")

    def subprocess(self) -> None:
        done = subprocess.run(["/bin/sh", "-c", "echo child; exit 2"], capture_output=True, check=False)
        self.told.append(f"{done.returncode} {done.stdout!r}")

    def gil_held(self) -> None:
        ctypes.PyDLL(None).usleep(round(self.plan["middle_s"] * 1e6))

    def stopped(self) -> None:
        code = f"sleep {self.plan['middle_s']:.2f}; kill -CONT {os.getpid()}"
        waker = subprocess.Popen(["/bin/sh", "-c", code])
        os.kill(os.getpid(), signal.SIGSTOP)
        self.told.append(f"woken {waker.wait()}")

    def close_fds(self) -> None:
        """As daemons do; then files of the program's own take the numbers."""
        os.closerange(3, 256)
        self.kept += [(self.folder / f"own-{n}").open("w+b", buffering=0) for n in range(12)]
        for n, file in enumerate(self.kept):
            file.write(f"file {n} of the program\n".encode() * 40)  # type: ignore[attr-defined]

    def exhaust_fds(self) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        time.sleep(self.plan["middle_s"])
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    def file_limit(self) -> None:
        """No file may grow much further: what a quota does."""
        place = Path(os.environ.get("TRACKER_DB", "/nowhere"))
        sizes = [file.stat().st_size for file in place.parent.glob(f"{place.name}*") if file.is_file()]
        if not sizes:  # there would be no room for any database
            return
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max([2**16, *sizes]) + 2**12, limits[1]))

    def user_handlers(self) -> None:
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        time.sleep(0.2)

    def _on_alarm(self, _number: int, _frame: object) -> None:
        self.told.append("alarm")


class _EndOfChildError(Exception):
    """Leaves the forked child's copy of the training."""


AT_START = {"sigkill_start": signal.SIGKILL, "sigint_start": signal.SIGINT, "sigterm_start": signal.SIGTERM}
AT_STOP = {"sigkill_stop": signal.SIGKILL, "sigint_stop": signal.SIGINT, "sigterm_stop": signal.SIGTERM}


def main() -> None:
    plan_path, folder, how = sys.argv[1:]
    plan = json.loads(Path(plan_path).read_text())
    training = Training(plan, Path(folder), how == "tracked")
    own_pid = os.getpid()

    def exit_at_once(_number: int, _frame: object) -> None:
        sys.exit(7)

    def ask_to_end(_number: int, _frame: object) -> None:
        training.is_asked_to_end = True

    if plan["end"] == "sigterm_exit":
        signal.signal(signal.SIGTERM, exit_at_once)
    elif plan["end"] == "sigterm_flag":
        signal.signal(signal.SIGTERM, ask_to_end)
    try:
        training.run()
    except _EndOfChildError:
        sys.exit(0)
    finally:
        is_whole = plan["end"] not in AT_START and plan["end"] not in AT_STOP
        if is_whole and os.getpid() == own_pid:
            training.leave_result()
    for n, file in enumerate(training.kept):
        if hasattr(file, "seek"):
            file.seek(0)
            is_whole = file.read() == f"file {n} of the program\n".encode() * 40
            print(f"own file {n} whole: {is_whole}")
    print("the end", training.total, flush=True)


if __name__ == "__main__":
    main()
