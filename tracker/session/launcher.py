"""Which job a process is a rank of, as its launcher tells in the environment. Nothing here starts or opens anything."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tracker.machine import process_start, this_boot

_RUN_ID_LETTERS = 16


@dataclass(frozen=True, slots=True)
class Job:
    """A job of several processes.

    Attributes:
        key: the same in all of its processes that can be one run, and in no other job.
        launcher: who told.
        is_restarting: processes may come again under the same key, after a failure or a requeue.
        rank: of this process; None: not told.
        world_size: processes of the job; None: not told.
        launcher_pid: of the process on this node that all ranks here descend from; None: not known.
    """

    key: str
    launcher: str
    is_restarting: bool = False
    rank: int | None = None
    world_size: int | None = None
    launcher_pid: int | None = None

    def run_id(self, name: str | None, ordinal: int, attempt: int = 0) -> str:
        """The id of a run that every rank works out alike.

        Args:
            name: the run's.
            ordinal: how many runs of this name the process has begun before.
            attempt: how many such runs of this key have ended already.
        """
        text = "\0".join((self.key, name or "", str(ordinal), str(attempt)))
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:_RUN_ID_LETTERS]


def job_of(environ: Mapping[str, str], *, pid: int | None = None, proc: Path = Path("/proc")) -> Job | None:
    """The job of a process with this environment; None where no launcher has left its marks.

    Job and step of Slurm, run id of torchrun and name space of Open MPI tell a job from others, so far as they go: the
    first is unique within a cluster, the second is "none" by default or whatever was typed, the third is made of a
    process number. Where a job is on one node the launching process, with its start time, makes sure.

    Source of the variables: knowledge, ecosystem 1.
    """
    marks = _Marks(environ, os.getpid() if pid is None else pid, proc)
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _of_torch(marks)
    if "OMPI_COMM_WORLD_RANK" in environ:
        return _of_open_mpi(marks)
    # Not in a batch script: its programs, one after the other, have one job id and are runs of their own.
    if "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ:
        return _of_slurm(marks)
    if "PMI_RANK" in environ:
        return _of_mpich(marks)
    return None


@dataclass(frozen=True, slots=True)
class _Marks:
    """What a launcher has left: variables, and itself as an ancestor."""

    environ: Mapping[str, str]
    pid: int
    proc: Path

    def number(self, *names: str) -> int | None:
        return next((int(self.environ[name]) for name in names if self.environ.get(name, "").isdecimal()), None)

    def slurm_step(self) -> str:
        return ".".join(self.environ[name] for name in ("SLURM_JOB_ID", "SLURM_STEP_ID") if self.environ.get(name))

    def launching_process(self, rank_variable: str) -> int:
        """The nearest ancestor that is no rank itself: between it and a rank there may be shells that are."""
        wanted = f"{rank_variable}=".encode()
        ancestor = _parent_of(self.pid, self.proc)
        while ancestor > 1:
            try:
                variables = (self.proc / str(ancestor) / "environ").read_bytes().split(b"\0")
            except OSError:
                break
            if not any(variable.startswith(wanted) for variable in variables):
                break
            ancestor = _parent_of(ancestor, self.proc)
        return ancestor

    def identity(self, pid: int) -> str:
        """A process as text that no other process ever has."""
        boot_id, pid_namespace = this_boot(self.proc)
        return f"process {pid} of {process_start(pid, self.proc)}, boot {boot_id}, pids {pid_namespace}"


def _of_torch(marks: _Marks) -> Job | None:
    """torchrun, and what sets the same variables: accelerate, deepspeed, a shell's loop."""
    environ, number = marks.environ, marks.number
    nodes = number("GROUP_WORLD_SIZE")
    world_size, local_world_size = number("WORLD_SIZE"), number("LOCAL_WORLD_SIZE", "LOCAL_SIZE")
    run_id = environ.get("TORCHELASTIC_RUN_ID")
    step = marks.slurm_step()
    if run_id is None and not step and (world_size or 0) < 2:
        return None  # left in the environment of a program on its own
    launcher_pid = marks.launching_process("RANK")
    named = [f"slurm {step}"] if step else []
    if run_id not in (None, "none"):
        named.append(f"torchrun {run_id} {environ.get('MASTER_ADDR', '')}")
    if nodes == 1 or (nodes is None and world_size == local_world_size) or not named:
        named.append(marks.identity(launcher_pid))
    return Job(
        " ".join(named),
        "torchrun" if run_id is not None else "a launcher that sets RANK",
        is_restarting=run_id is not None or bool(step),
        rank=number("RANK"),
        world_size=world_size,
        launcher_pid=launcher_pid,
    )


def _of_open_mpi(marks: _Marks) -> Job:
    world_size, local_world_size = marks.number("OMPI_COMM_WORLD_SIZE"), marks.number("OMPI_COMM_WORLD_LOCAL_SIZE")
    launcher_pid = marks.launching_process("OMPI_COMM_WORLD_RANK")
    name = marks.environ.get("PMIX_NAMESPACE") or marks.environ.get("OMPI_MCA_ess_base_jobid")
    named = [f"openmpi {name}"] if name else []
    if world_size == local_world_size or not named:
        named.append(marks.identity(launcher_pid))
    rank = marks.number("OMPI_COMM_WORLD_RANK")
    return Job(" ".join(named), "Open MPI", rank=rank, world_size=world_size, launcher_pid=launcher_pid)


def _of_slurm(marks: _Marks) -> Job:
    return Job(
        f"slurm {marks.slurm_step()}",
        "Slurm",
        is_restarting=True,
        rank=marks.number("SLURM_PROCID"),
        world_size=marks.number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        launcher_pid=marks.launching_process("SLURM_PROCID"),
    )


def _of_mpich(marks: _Marks) -> Job:
    launcher_pid = marks.launching_process("PMI_RANK")
    return Job(
        f"mpich {marks.identity(launcher_pid)}",
        "MPICH",
        rank=marks.number("PMI_RANK"),
        world_size=marks.number("PMI_SIZE"),
        launcher_pid=launcher_pid,
    )


def _parent_of(pid: int, proc: Path) -> int:
    """proc(5), /proc/<pid>/stat field 4; without /proc only our own parent is known."""
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except OSError:
        return os.getppid() if pid == os.getpid() else 0
    return int(stat[stat.rindex(b")") + 2 :].split()[1])
