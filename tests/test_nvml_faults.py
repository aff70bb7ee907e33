"""What GPUs and their driver do in the field, played by the stand-in: no figure leaves what the readings allow."""

from array import array
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standin.nvml import GPU_IS_LOST, NOT_SUPPORTED, UNKNOWN, Const, Fault, Gpu, StandinNvml

from tracker.energy import integrate, rules_of
from tracker.records import Device, Reading
from tracker.sensors.nvml import NvmlSensor
from tracker.sensors.protocol import Inventory
from tracker.session.account import gap_us_of
from tracker.store.codec import append_reading, hot_bytes, hot_rows, samples_of_hot

S = 1_000_000
START_US = 2_000 * S
FIELD_CALL = "nvmlDeviceGetFieldValues"
UNINITIALIZED, RESET_REQUIRED, TIMEOUT, NOT_FOUND = 1, 16, 10, 28


class Run:
    """A sensor read each second on the stand-in's clock."""

    def __init__(self, standin: StandinNvml, *gpus: Gpu) -> None:
        self.standin = standin
        standin.plug(*gpus)
        standin.set_time_us(START_US)
        self.sensor = NvmlSensor(clock_us=standin.clock_us, pause_s=lambda _: None)
        self.inventory: Inventory = self.sensor.open()
        self.readings: dict[str, list[Reading]] = {device.key: [] for device in self.inventory.devices}
        self.news: list[str] = []

    def go_on(self, from_s: int, to_s: int, after_each: Any = None) -> None:
        for second in range(from_s, to_s + 1):
            self.standin.set_time_us(START_US + second * S)
            devices = self.inventory.devices
            for device, reading in zip(devices, self.sensor.read(devices), strict=True):
                self.readings[device.key].append(reading)
            self.news += self.sensor.news()
            if after_each:
                after_each(second)

    def energy(self, device: Device, to_s: int) -> tuple[float, float, Any]:
        """Joules and seconds covered from the start to then, and what was found in the trace."""
        rows = array("q")
        for reading in self.readings[device.key]:
            if reading.power_mw is not None or reading.counter_uj is not None:
                append_reading(rows, 0, reading)
        samples = samples_of_hot(device, hot_rows(hot_bytes(rows)))
        energy = integrate(samples, [START_US, START_US + to_s * S], rules_of(device, gap_us_of(None)))
        return int(energy.twice_energy_nj[0]) / 2e9, int(energy.covered_us[0]) / S, energy.findings


def lost(from_s: int, until_s: int = 10**6, code: int = GPU_IS_LOST) -> Fault:
    return Fault("*", code, START_US + from_s * S, START_US + until_s * S)


@pytest.mark.parametrize("code", [GPU_IS_LOST, RESET_REQUIRED, NOT_FOUND])
def test_a_lost_gpu_has_its_energy_up_to_its_last_reading_and_the_other_all(standin_nvml, code):
    run = Run(standin_nvml, Gpu((Const(100_000),)), Gpu((Const(200_000),), faults=(lost(11, code=code),)))
    run.go_on(0, 60)
    living, gone = run.inventory.devices
    assert run.energy(living, 60)[:2] == (6000.0, 60.0)
    assert run.energy(gone, 60)[:2] == (2000.0, 10.0)
    assert len(run.news) == 1 and run.news[0].startswith("GPU 1 ") and "does not answer" in run.news[0]


def test_a_gpu_that_comes_back_is_found_by_its_uuid_and_its_counter_carries_the_energy(standin_nvml):
    run = Run(standin_nvml, Gpu((Const(200_000),), faults=(lost(10, 20),)))
    run.go_on(0, 60)
    (device,) = run.inventory.devices
    assert run.energy(device, 60)[:2] == (12_000.0, 60.0)
    assert [news.rpartition(")")[2] or news.partition(") ")[2] for news in run.news][-1] == " answers again"
    assert len(run.news) == 2


def test_a_lost_gpu_is_not_asked_at_every_tick(standin_nvml):
    run = Run(standin_nvml, Gpu(faults=(lost(5),)))
    before = standin_nvml.calls(FIELD_CALL)
    run.go_on(0, 600)
    assert standin_nvml.calls(FIELD_CALL) - before < 5 + 25  # after 1, 2, 4 … s, then each minute


def test_nvml_shut_down_by_others_in_the_process_is_taken_up_again(standin_nvml):
    run = Run(standin_nvml, Gpu((Const(100_000),)), Gpu((Const(200_000),)))
    run.go_on(0, 60, lambda second: standin_nvml.shut_down() if second in (10, 11, 30) else None)
    for device, watts in zip(run.inventory.devices, (100, 200), strict=True):
        assert run.energy(device, 60)[:2] == (60.0 * watts, 60.0)
    assert run.news == []


def test_an_error_that_passes_is_a_gap_of_power_and_none_of_energy(standin_nvml):
    glitch = Fault("*", TIMEOUT, START_US + 10 * S, START_US + 12 * S)
    run = Run(standin_nvml, Gpu(faults=(glitch,)))
    run.go_on(0, 30)
    (device,) = run.inventory.devices
    missing = [n for n, reading in enumerate(run.readings[device.key]) if reading.counter_uj is None]
    assert missing == [10, 11] and run.news == []
    assert run.energy(device, 30)[:2] == (9000.0, 30.0)


def test_a_gpu_that_comes_and_goes_all_day_is_told_a_few_times(standin_nvml):
    run = Run(standin_nvml, Gpu(faults=tuple(lost(20 * n, 20 * n + 9) for n in range(1, 40))))
    run.go_on(0, 900)
    assert 2 <= len(run.news) <= 4


@pytest.mark.parametrize("code", [NOT_SUPPORTED, UNKNOWN])
def test_a_counter_that_ends_leaves_the_power(standin_nvml, code):
    run = Run(standin_nvml, Gpu(faults=(Fault("field:83", code, START_US + 10 * S),)))
    run.go_on(0, 30)
    (device,) = run.inventory.devices
    energy_j, covered_s, _ = run.energy(device, 30)
    assert (energy_j, covered_s) == (9000.0, 30.0)


FAULTS = st.builds(
    lambda name, code, from_s, length_s: Fault(name, code, START_US + from_s * S, START_US + (from_s + length_s) * S),
    st.sampled_from(["*", FIELD_CALL, "field:83", "field:186", "field:185", "nvmlDeviceGetHandleByUUID"]),
    st.sampled_from([1, 2, 3, 4, 6, 8, 10, 14, 15, 16, 17, 19, 20, 21, 27, 28, 999]),
    st.integers(1, 40),
    st.integers(1, 30),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=40
)
@given(
    watts=st.lists(st.integers(20, 700), min_size=2, max_size=4),
    faults=st.lists(st.lists(FAULTS, max_size=3), min_size=3, max_size=3),
    shut_down_at=st.sets(st.integers(1, 49), max_size=3),
)
def test_faults_in_any_combination_cost_their_own_gpu_time_and_nobody_energy_that_was_not_there(
    standin_nvml, watts, faults, shut_down_at
):
    standin_nvml.shut_down()
    healthy, *faulty = watts
    gpus = [Gpu((Const(healthy * 1000),))]
    gpus += [Gpu((Const(w * 1000),), faults=tuple(f)) for w, f in zip(faulty, faults, strict=False)]
    run = Run(standin_nvml, *gpus)
    run.go_on(0, 50, lambda second: standin_nvml.shut_down() if second in shut_down_at else None)
    for device, w in zip(run.inventory.devices, watts, strict=True):
        energy_j, covered_s, findings = run.energy(device, 50)
        assert energy_j == pytest.approx(w * covered_s)
        assert 0 <= covered_s <= 50
        assert not findings.resets and not findings.implausible
    assert run.energy(run.inventory.devices[0], 50)[:2] == (50.0 * healthy, 50.0)
    assert len(run.news) <= 4 * len(faulty)
