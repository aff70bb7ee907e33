"""Which GPUs a run is charged with, and which of them its processes use: on the stand-in driver, up to the record."""

import os
import secrets
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from standin.nvml import NOT_SUPPORTED, Const, Fault, Gpu, Mig, Process, StandinNvml, build

import tracker
from tracker.machine import boottime_us
from tracker.records import Device, DeviceEnergy, Reading, Run
from tracker.sampler import FIRST_LOOK_US, LOOK_PERIOD_US, Sampler
from tracker.sensors.cuda import shown_uuids
from tracker.sensors.nvml import NvmlSensor
from tracker.sensors.processes import ProcessTree
from tracker.sensors.protocol import Inventory, SeesProcesses, Sensor
from tracker.session.process import process_state
from tracker.session.recorder import Recorder
from tracker.session.use import MIN_LOOKS_IF_NONE_SEEN, GpuUse
from tracker.settings import GpuChoice, checked_argument, resolve

S = 1_000_000
CUDA_SOURCE = Path(__file__).with_name("standin") / "cuda.c"
HOST = "pid:[4026531836]"
RUN, WORKER, THREAD, OTHER, MPS_SERVER = 100, 101, 102, 103, 104
MIGS = (
    Mig("MIG-aaaa1111-0000-4000-8000-000000000001", "3g.20gb", 1, 0, 3),
    Mig("MIG-bbbb2222-0000-4000-8000-000000000002", "1g.5gb", 7, 0, 1),
)
CUT = Gpu((Const(200_000),), name="NVIDIA A100-SXM4-40GB", mig_slices=7, migs=MIGS)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A procfs with the run's process and a thread of it, its worker, a stranger and an MPS server."""
    proc = tmp_path / "proc"
    (proc / "self/ns").mkdir(parents=True)
    (proc / "self/ns/pid").symlink_to(HOST)
    for pid, leader, parent, name in (
        (1, 1, 0, "init"),
        (RUN, RUN, 1, "python"),
        (WORKER, WORKER, RUN, "python"),
        (THREAD, RUN, 1, "pt_autograd"),
        (OTHER, OTHER, 1, "python"),
        (MPS_SERVER, MPS_SERVER, 1, "nvidia-cuda-mps"),
    ):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "status").write_text(f"Name:\t{name}\nTgid:\t{leader}\nPid:\t{pid}\nPPid:\t{parent}\n")
        (proc / str(pid) / "comm").write_text(f"{name}\n")
    return proc


def opened(standin: StandinNvml, proc: Path | None = None, **arguments: object) -> tuple[NvmlSensor, Inventory]:
    processes = None if proc is None else ProcessTree(RUN, proc)
    sensor = NvmlSensor(clock_us=standin.clock_us, pause_s=standin.pause_s, processes=processes, **arguments)
    return sensor, sensor.open()


# CUDA_VISIBLE_DEVICES, by the watts


@pytest.mark.parametrize(
    ("value", "power_w"),
    [
        ("2,1", 500),
        ("0,2,-1,1", 400),
        ("1,7,0", 200),
        ("GPU-57a4d140-0000-4000-8000-000000000003", 400),
        ("0,0", None),
        ("", None),
        ("NoDevFiles", None),
    ],
)
def test_power_is_that_of_the_gpus_cuda_shows_and_without_any_it_is_unknown(
    standin_nvml: StandinNvml, value: str, power_w: int | None
) -> None:
    """Case 208, at the meter."""
    standin_nvml.plug(*[Gpu((Const(watts * 1_000),)) for watts in (100, 200, 300, 400)])

    sensor, inventory = opened(standin_nvml, environ={"CUDA_VISIBLE_DEVICES": value})

    powers_mw = [reading.power_mw or 0 for reading in sensor.read(inventory.devices)]
    assert (sum(powers_mw) / 1_000 if powers_mw else None) == power_w
    assert [missing.kind for missing in inventory.not_measured] == ([] if power_w else ["gpu"])
    assert inventory.warnings == ()


# MIG


@pytest.mark.parametrize("value", ["MIG-bbbb", MIGS[1].uuid, "MIG-GPU-57a4d140-0000-4000-8000-000000000001/7/0"])
def test_a_mig_device_is_measured_through_its_board_and_its_share_is_labelled(
    standin_nvml: StandinNvml, value: str
) -> None:
    standin_nvml.plug(Gpu(), CUT)

    sensor, inventory = opened(standin_nvml, environ={"CUDA_VISIBLE_DEVICES": value})

    (device,) = inventory.devices
    assert (device.key, device.attributes["index"]) == ("GPU-57a4d140-0000-4000-8000-000000000001", "1")
    assert device.attributes["mig_uuid"] == MIGS[1].uuid
    assert device.attributes["mig_profile"] == "1g.5gb"
    assert device.attributes["mig_compute_slices"] == "1 of 7"
    assert device.notes == ("energy of the whole board; the run has MIG 1g.5gb of it, 1 of 7 compute slices",)
    assert sensor.read(inventory.devices)[0].power_mw == 200_000
    assert inventory.warnings == ()


def test_several_mig_devices_of_a_board_are_that_board_once(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(CUT)

    _, inventory = opened(standin_nvml, gpus=("MIG-aaaa", "MIG-bbbb"))

    (device,) = inventory.devices
    assert device.attributes["mig_compute_slices"] == "4 of 7"
    assert device.notes == ("energy of the whole board; the run has MIG 3g.20gb, 1g.5gb of it, 4 of 7 compute slices",)


def test_a_board_taken_as_a_whole_carries_no_share(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(CUT)

    _, inventory = opened(standin_nvml, gpus=(0,))

    (device,) = inventory.devices
    assert device.notes == ()
    assert not any(name.startswith("mig") for name in device.attributes)


def test_a_share_that_nvml_does_not_tell_is_not_guessed(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu(mig_slices=7, migs=MIGS, faults=(Fault("nvmlDeviceGetAttributes_v2", NOT_SUPPORTED),)))

    _, inventory = opened(standin_nvml)

    (device,) = inventory.devices
    assert "mig_compute_slices" not in device.attributes
    assert device.notes == ("energy of the whole board; the run has MIG 3g.20gb of it",)


# Superchips


@pytest.mark.parametrize(
    ("gpu", "power_source"),
    [
        (Gpu(c2c=2), "instant"),
        (Gpu(c2c=1, faults=(Fault("field:185", NOT_SUPPORTED), Fault("field:186", NOT_SUPPORTED))), "usage"),
    ],
)
def test_a_superchip_without_module_power_says_what_its_power_leaves_out(
    standin_nvml: StandinNvml, gpu: Gpu, power_source: str
) -> None:
    standin_nvml.plug(gpu)

    sensor, inventory = opened(standin_nvml)

    (device,) = inventory.devices
    assert (device.attributes["scope"], device.attributes["power_source"]) == ("gpu", power_source)
    assert device.notes == (
        "power is that of the GPU alone; the counter of such a module may cover CPU and memory too",
    )
    assert sensor.read(inventory.devices)[0].power_mw == 300_000


# What CUDA itself shows


def python(code: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("cuda"), CUDA_SOURCE, "libcuda.so.1")


def test_cuda_is_asked_once_it_is_initialised_and_never_loaded_or_initialised_here(cuda_library: Path) -> None:
    said = python(
        f"""
        import ctypes, os
        from tracker.sensors.cuda import shown_uuids

        print(shown_uuids(), "libcuda" in open("/proc/self/maps").read())
        cuda = ctypes.CDLL({str(cuda_library)!r})
        print(shown_uuids(), cuda.cuDeviceGetCount(ctypes.byref(ctypes.c_int())))
        assert cuda.cuInit(0) == 0
        print(shown_uuids())
        """,
        LD_LIBRARY_PATH=str(cuda_library.parent),
        STANDIN_CUDA="57a4d14000004000800000000000000a,57a4d140000040008000000000000002",
    )

    assert said.splitlines() == [
        "None False",
        "None 3",
        "('57a4d140-0000-4000-8000-00000000000a', '57a4d140-0000-4000-8000-000000000002')",
    ]


def test_a_library_that_is_no_cuda_is_not_asked() -> None:
    assert shown_uuids("libc.so.6") is None


@pytest.mark.parametrize(("initialises", "expected"), [(True, "['1']"), (False, "['0', '1']")])
def test_among_different_models_integers_are_known_once_a_framework_has_initialised_cuda(
    standin_nvml: StandinNvml, cuda_library: Path, tmp_path: Path, initialises: bool, expected: str
) -> None:
    standin_nvml.plug(Gpu(name="T4"), Gpu(name="H100"), epoch_us=boottime_us())

    said = python(
        f"""
        import ctypes, tracker
        if {initialises}:
            assert ctypes.CDLL({str(cuda_library)!r}).cuInit(0) == 0
        with tracker.track("x", db={str(tmp_path / "runs.db")!r}, zone="FR") as run:
            pass
        print([d.attributes["index"] for d in run.devices if d.kind == "gpu"])
        """,
        **{**standin_nvml.env, "CUDA_VISIBLE_DEVICES": "0", "STANDIN_CUDA": "57a4d140000040008000000000000001"},
    )

    assert said == expected


# Who uses a GPU


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ((), False),
        ((Process(RUN),), True),
        ((Process(WORKER),), True),
        ((Process(THREAD),), True),
        ((Process(OTHER), Process(WORKER, "mps")), True),
        ((Process(WORKER, "graphics"),), True),
        ((Process(OTHER), Process(1), Process(4_000_000)), False),
        ((Process(MPS_SERVER), Process(OTHER, "mps")), False),
    ],
)
def test_a_gpu_is_in_use_where_the_run_s_process_or_a_descendant_is_listed(
    standin_nvml: StandinNvml, proc: Path, processes: tuple[Process, ...], expected: bool
) -> None:
    standin_nvml.plug(Gpu(processes=processes))
    sensor, inventory = opened(standin_nvml, proc)

    assert isinstance(sensor, SeesProcesses)
    assert sensor.look(inventory.devices) == [expected]


def test_before_open_and_after_close_nothing_is_told(standin_nvml: StandinNvml, proc: Path) -> None:
    standin_nvml.plug(Gpu(processes=(Process(RUN),)))
    sensor, inventory = opened(standin_nvml, proc)
    sensor.close()

    assert sensor.look(inventory.devices) == [None]


@pytest.mark.parametrize("namespace", ["pid:[4026532999]", None])
def test_in_a_container_whose_numbers_are_not_the_driver_s_nothing_is_told(
    standin_nvml: StandinNvml, proc: Path, namespace: str | None
) -> None:
    (proc / "self/ns/pid").unlink()
    if namespace is not None:
        (proc / "self/ns/pid").symlink_to(namespace)
    standin_nvml.plug(Gpu(processes=(Process(RUN),)), Gpu())
    sensor, inventory = opened(standin_nvml, proc)

    assert sensor.look(inventory.devices) == [None, None]


@pytest.mark.parametrize(
    ("faults", "processes", "expected"),
    [
        ((Fault("nvmlDeviceGetComputeRunningProcesses_v3", 4),), (), None),
        ((Fault("nvmlDeviceGetComputeRunningProcesses_v3", 4),), (Process(RUN, "graphics"),), True),
        ((Fault("nvmlDeviceGetMPSComputeRunningProcesses_v3", 3),), (Process(OTHER),), False),
        ((Fault("nvmlDeviceGetMPSComputeRunningProcesses_v3", 3),), (Process(MPS_SERVER),), None),
        ((Fault("*", 15, 10 * S),), (), None),
    ],
)
def test_where_a_list_cannot_be_read_nothing_false_is_told(
    standin_nvml: StandinNvml,
    proc: Path,
    faults: tuple[Fault, ...],
    processes: tuple[Process, ...],
    expected: bool | None,
) -> None:
    standin_nvml.set_time_us(9 * S)
    standin_nvml.plug(Gpu(faults=faults, processes=processes))
    sensor, inventory = opened(standin_nvml, proc)
    standin_nvml.set_time_us(11 * S)

    assert sensor.look(inventory.devices) == [expected]


@pytest.mark.parametrize(("mig", "expected"), [(0, True), (1, False)])
def test_of_a_mig_device_its_own_list_counts(standin_nvml: StandinNvml, proc: Path, mig: int, expected: bool) -> None:
    standin_nvml.plug(Gpu(mig_slices=7, migs=MIGS, processes=(Process(RUN, mig=mig),)))
    sensor, inventory = opened(standin_nvml, proc)

    assert sensor.look(inventory.devices) == [expected]


def test_of_a_board_in_mig_mode_whose_devices_are_not_shown_nothing_is_told(
    standin_nvml: StandinNvml, proc: Path
) -> None:
    standin_nvml.plug(Gpu(mig_slices=7))
    sensor, inventory = opened(standin_nvml, proc)

    assert sensor.look(inventory.devices) == [None]


def test_a_process_once_seen_is_not_looked_for_again_while_it_lives(standin_nvml: StandinNvml, proc: Path) -> None:
    standin_nvml.plug(Gpu(processes=(Process(WORKER),)), Gpu())
    sensor, inventory = opened(standin_nvml, proc)
    calls = "nvmlDeviceGetComputeRunningProcesses_v3"
    sensor.look(inventory.devices)
    first = standin_nvml.calls(calls)

    assert sensor.look(inventory.devices) == [True, False]
    assert standin_nvml.calls(calls) == first + 1  # of the second GPU

    (proc / str(WORKER) / "status").unlink()
    assert sensor.look(inventory.devices) == [False, False]


class Watched:
    """A sensor that is asked who uses its device, keeps when, and breaks at one of these times."""

    name = "watched"
    devices = (Device("gpu", "a", "a", "watched", has_counter=True, has_power=False),)

    def __init__(self, clock_us: Callable[[], int] = boottime_us, good_looks: int = 1_000) -> None:
        self.clock_us = clock_us
        self.good_looks = good_looks
        self.looks_us: list[int] = []

    def open(self) -> Inventory:
        return Inventory(self.devices)

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        return [Reading(self.clock_us()) for _ in devices]

    def look(self, devices: Sequence[Device]) -> list[bool | None]:
        self.looks_us.append(self.clock_us())
        if len(self.looks_us) > self.good_looks:
            raise RuntimeError("broken")
        return [True for _ in devices]

    def close(self) -> None:
        pass


class Ear:
    def __init__(self) -> None:
        self.heard: list[tuple[Sequence[Device], Sequence[bool | None]]] = []

    def found(self, sensor: Sensor, inventory: Inventory) -> None:
        pass

    def received(self, sensor: Sensor, devices: Sequence[Device], readings: Sequence[Reading]) -> None:
        pass

    def looked(self, devices: Sequence[Device], in_use: Sequence[bool | None]) -> None:
        self.heard.append((devices, in_use))


def test_a_look_comes_with_the_last_reading_and_one_that_fails_ends_the_looking_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sampler, sensor, ear = Sampler(), Watched(good_looks=2), Ear()
    sampler.attach(ear, [(sensor, 60 * S)])

    assert sampler.read_now(5.0)
    assert sensor.looks_us == []
    assert all(sampler.read_now(5.0, edge="end") for _ in range(4))
    sampler.detach(ear)

    assert ear.heard == [(Watched.devices, [True])] * 2
    assert len(sensor.looks_us) == 3
    assert "looking for who uses the devices failed" in caplog.text


def test_a_process_of_the_last_half_of_a_run_or_of_a_minute_is_always_looked_for() -> None:
    now_us = 0
    sensor = Watched(lambda: now_us)
    sampler = Sampler(clock_us=lambda: now_us)
    sampler.attach(ear := Ear(), [(sensor, 1 * S)])
    assert sampler.read_now(5.0)

    for second in range(1, 400):
        now_us = second * S
        assert sampler.read_now(5.0)  # a reading that is asked for brings a look only where one is due
        assert sampler.read_now(5.0)  # that look has been made
    sampler.detach(ear)

    assert sensor.looks_us[0] <= FIRST_LOOK_US + 1 * S
    for before_us, after_us in pairwise(sensor.looks_us):
        assert after_us - before_us <= min(before_us, LOOK_PERIOD_US) + 1 * S
    assert len(sensor.looks_us) <= 6 + 400 // 60 + 1


# What the run says


def devices(*energies_j: float | None) -> list[DeviceEnergy]:
    return [
        DeviceEnergy("gpu", f"GPU-{i}", "H100", "counter", energy_j, None, None, 1.0, attributes={"index": str(i)})
        for i, energy_j in enumerate(energies_j)
    ]


def seen_in(*looks: list[bool | None]) -> GpuUse:
    use = GpuUse()
    for in_use in looks:
        gpus = [Device("gpu", f"GPU-{i}", "H100", "nvml", True, True) for i in range(len(in_use))]
        use.looked(gpus, in_use)
    return use


def test_gpus_that_the_run_was_never_seen_on_are_named_with_their_energy_and_the_way_out() -> None:
    warning = seen_in([False, False, False], [False, True, False]).warning(devices(100.0, 500.0, 120.5))

    assert warning == (
        'no process of this run was seen on GPU 0, 2, charged to it with 220 J in all; gpus="1" leaves them out'
    )
    assert checked_argument("gpus", "1") == (1,)


@pytest.mark.parametrize(
    ("use", "energies_j"),
    [
        (seen_in([True, True]), (1.0, 2.0)),
        (seen_in([True, False], [True, None]), (1.0, 2.0)),
        (seen_in([True, False], [None, True]), (1.0, 2.0)),
        (seen_in([True, False]), (1.0, None)),
        (seen_in(), (1.0, 2.0)),
        (seen_in(*[[False, False]] * (MIN_LOOKS_IF_NONE_SEEN - 1)), (1.0, 2.0)),
    ],
)
def test_nothing_is_said_of_gpus_in_use_or_that_cannot_be_told(use: GpuUse, energies_j: tuple[float | None]) -> None:
    assert use.warning(devices(*energies_j)) is None


def test_a_run_seen_nowhere_says_so_after_some_looks() -> None:
    use = seen_in(*[[False, False]] * MIN_LOOKS_IF_NONE_SEEN)

    assert use.warning(devices(1.0, 2.0)) == (
        'no process of this run was seen on GPU 0, 1, charged to it with 3.00 J in all; gpus="none" leaves them out'
    )


def test_the_way_out_names_mig_devices_by_their_uuid() -> None:
    first, second = devices(1.0, 2.0)
    first = replace(first, attributes={"index": "0", "mig_uuid": "MIG-a, MIG-b"})

    warning = seen_in([True, False]).warning([first, second])

    assert warning is not None and 'gpus="MIG-a, MIG-b" leaves it out' in warning
    assert checked_argument("gpus", "MIG-a, MIG-b") == ("MIG-a", "MIG-b")


@pytest.fixture
def session(standin_nvml: StandinNvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two GPUs in real time, the first of which this process uses."""
    standin_nvml.plug(Gpu((Const(100_000),), processes=(Process(RUN),)), Gpu((Const(50_000),)), epoch_us=boottime_us())
    monkeypatch.delenv("STANDIN_CLOCK")
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRACKER_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TRACKER_ZONE", "FR")


def recorded(proc: Path, **arguments: Any) -> Run:
    """A run of 0.3 s whose processes are those of this procfs."""
    settings = resolve(arguments)
    sensor = NvmlSensor(gpus=settings.gpus, processes=ProcessTree(RUN, proc))
    recorder = Recorder(
        process_state(),
        settings,
        run_id=secrets.token_hex(8),
        name="x",
        tags={},
        sensors_of=lambda views: [(sensor, 1 * S)],
        view="",
    )
    recorder.start(time.monotonic() + 2)
    time.sleep(0.3)
    return recorder.finish("finished")


@pytest.mark.usefixtures("session")
def test_a_gpu_that_the_run_does_not_use_is_charged_and_named_on_the_record(
    proc: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = recorded(proc)

    used, unused = run.devices
    assert used.energy_j is not None and unused.energy_j is not None
    assert unused.energy_j == pytest.approx(50 * run.duration_s, abs=3)
    assert run.energy_j == pytest.approx(used.energy_j + unused.energy_j)
    (warning,) = run.warnings
    assert "was seen on GPU 1, charged to it with" in warning and 'gpus="0" leaves it out' in warning
    assert tracker.get(run.id).warnings == run.warnings
    assert caplog.messages == [f"tracker: {warning}"]


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("gpus", ["all", (0, 1)])
def test_gpus_that_the_user_chose_are_not_questioned(proc: Path, gpus: GpuChoice) -> None:
    run = recorded(proc, gpus=gpus)

    assert len(run.devices) == 2
    assert run.warnings == ()


@pytest.mark.usefixtures("session")
def test_a_part_of_a_run_says_it_on_its_record_and_leaves_the_log_to_the_whole(
    proc: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = recorded(proc, parent_id="whole")

    assert len(run.warnings) == 1
    assert caplog.messages == []


@pytest.mark.usefixtures("session")
def test_a_gpu_that_is_not_here_is_named_with_those_that_are(caplog: pytest.LogCaptureFixture) -> None:
    with tracker.track("x", gpus=[1, 5]) as live:
        time.sleep(0.1)

    (device,) = (device for device in live.run.devices if device.kind == "gpu")
    assert device.attributes["index"] == "1"
    said = "gpus: no GPU is 5; here are 0 (GPU-57a4d140), 1 (GPU-57a4d140)"
    assert said in live.run.warnings
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ("", "must be an index"),
        ("0,,1", "must be an index"),
        ("first", "must be an index"),
        ([-1], "0 or more"),
        ([0, "0"], "twice"),
        ("GPU-1,GPU-1", "twice"),
    ],
)
def test_a_choice_that_no_machine_has_is_refused_at_once(gpus: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"gpus .*{message}"):
        tracker.track("x", gpus=gpus)  # type: ignore[call-overload]
