"""Drivers that are slow or never answer: who starts, stops and measures all the same."""

import os
import threading
import time

import pytest
from standin.nvml import GPU_IS_LOST, NOT_SUPPORTED, UNKNOWN, Const, Delay, Fault, Gpu, Lie

import tracker
from tracker.machine import boottime_us

FIELD_CALL = "nvmlDeviceGetFieldValues"
S = 1_000_000
ENERGY_AT_FIRST_UJ = 10**9
NO_COUNTER = (Fault("field:83", NOT_SUPPORTED), Fault("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED))


@pytest.fixture
def machine(standin_nvml, powercap_tree, tmp_path, monkeypatch):
    """GPUs in real time and a CPU whose package draws 50 W."""
    monkeypatch.delenv("STANDIN_CLOCK")
    powercap_tree.add("intel-rapl:0", "package-0", ENERGY_AT_FIRST_UJ)
    monkeypatch.setenv("TRACKER_SYSFS", str(powercap_tree.sysfs))
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TRACKER_ZONE", "FR")
    monkeypatch.chdir(tmp_path)
    origin_us = boottime_us()
    is_over = threading.Event()

    def turn() -> None:
        # In one write, and always as many digits: whoever reads meanwhile reads all of a number.
        with (powercap_tree.folder("intel-rapl:0") / "energy_uj").open("r+b", buffering=0) as file:
            while not is_over.wait(0.005):
                os.pwrite(file.fileno(), b"%d" % (ENERGY_AT_FIRST_UJ + 50 * (boottime_us() - origin_us)), 0)

    thread = threading.Thread(target=turn)
    thread.start()

    def plug(*gpus, **arguments):
        standin_nvml.plug(*gpus, epoch_us=boottime_us(), **arguments)

    yield plug
    standin_nvml.let_go()
    # A call that returns only now would hand this driver's GPUs to the next test.
    wait_for(lambda: not any(thread.name == "tracker-sampler" for thread in threading.enumerate()))
    is_over.set()
    thread.join()


def timed(call):
    started_s = time.monotonic()
    return call(), time.monotonic() - started_s


def cpu_of(run):
    (device,) = [device for device in run.devices if device.kind == "cpu_package"]
    return device


def gpus_of(run):
    return [device for device in run.devices if device.kind == "gpu"]


def wait_for(holds, at_most_s=30):
    until_s = time.monotonic() + at_most_s
    while not holds() and time.monotonic() < until_s:
        time.sleep(0.1)


def test_a_driver_that_takes_seconds_to_begin_joins_when_it_is_ready_and_costs_the_cpu_nothing(machine):
    machine(Gpu((Const(100_000),)), delays=(Delay("nvmlInit", 4 * S),))
    live, took_s = timed(lambda: tracker.track("slow").start())
    wait_for(lambda: any(gpu.energy_j for gpu in gpus_of(live.snapshot())))
    run = live.stop()

    (gpu,) = gpus_of(run)
    assert took_s < 3  # with what is imported at first
    assert 0 < gpu.coverage < 0.9
    assert gpu.energy_j == pytest.approx(100 * gpu.coverage * run.duration_s, rel=0.02)
    assert cpu_of(run).coverage == 1 and cpu_of(run).energy_j == pytest.approx(50 * run.duration_s, rel=0.05)
    assert len([line for line in run.warnings if "has not returned" in line]) == 1


def test_a_driver_that_never_answers_holds_nobody_up_and_is_named(machine, caplog):
    machine(Gpu(), delays=(Delay("nvmlInit"),))
    live, start_s = timed(lambda: tracker.track("hung").start())
    time.sleep(1)
    run, stop_s = timed(live.stop)
    second, second_start_s = timed(lambda: tracker.track("again").start())
    _, second_stop_s = timed(second.stop)

    assert start_s < 3 and stop_s < 0.5 and second_start_s < 0.5 and second_stop_s < 0.5
    assert cpu_of(run).coverage == 1 and cpu_of(run).energy_j == pytest.approx(50 * run.duration_s, rel=0.05)
    assert [(part.kind, part.reason) for part in run.not_measured if part.kind == "gpu"] == [
        ("gpu", "its driver has not answered")
    ]
    assert len([line for line in run.warnings if "has not returned" in line]) == 1
    assert len(caplog.messages) <= 1


def test_a_reading_that_never_returns_costs_its_own_gpu_alone(machine, caplog):
    hung = Delay(FIELD_CALL, from_us=4 * S)
    machine(Gpu((Const(100_000),)), Gpu((Const(200_000),), delays=(hung,)), Gpu((Const(300_000),)))
    live = tracker.track("hung", interval_s=0.1).start()
    time.sleep(5.5)
    run, stop_s = timed(live.stop)

    first, second, third = gpus_of(run)
    assert stop_s < 1.5
    assert first.coverage == third.coverage == 1
    assert first.energy_j == pytest.approx(100 * run.duration_s, rel=0.02)
    assert third.energy_j == pytest.approx(300 * run.duration_s, rel=0.02)
    assert second.energy_j == pytest.approx(200 * second.coverage * run.duration_s, rel=0.02)
    assert 0.1 < second.coverage < 0.8
    assert cpu_of(run).coverage == 1
    assert [line for line in caplog.messages if "GPU 1" in line and "has not returned" in line]


def test_whatever_fails_the_training_s_output_has_a_few_lines(machine, powercap_tree, caplog):
    codes = (2, 4, 8, 10, 14, GPU_IS_LOST, 16, 17, UNKNOWN)
    gpus = [Gpu(faults=(Fault("*", code, from_us=3 * S),), name=f"GPU type {code}") for code in codes]
    gpus.append(Gpu(lies=(Lie("power", "reads", 0),), faults=NO_COUNTER))
    gpus.append(Gpu(faults=(Fault("field:83", UNKNOWN, from_us=3 * S),)))
    machine(*gpus)
    with tracker.track("worst", interval_s=0.1):
        time.sleep(4)
        powercap_tree.remove("intel-rapl:0")
        time.sleep(1)

    assert 5 <= len(caplog.messages) <= 10
    assert all("\n" not in line for line in caplog.messages)
    run = tracker.runs(limit=1)[0]
    told = " ".join(tracker.get(run.id).warnings)
    assert all(f"NVML {code})" in told for code in codes)
