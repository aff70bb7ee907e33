"""GPUs through the real pynvml on a stand-in library whose energy is known exactly."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standin.nvml import GPU_IS_LOST, NOT_SUPPORTED, UNKNOWN, Const, Fault, Gpu, Ramp, Square, StandinNvml

from tracker.machine import boottime_us
from tracker.records import Device, Reading
from tracker.sensors.meter import sensor_class
from tracker.sensors.nvml import NvmlSensor
from tracker.sensors.protocol import Inventory

S = 1_000_000
FIELD_CALL = "nvmlDeviceGetFieldValues"
HOPPER, AMPERE, PASCAL = 9, 7, 4


def opened(standin: StandinNvml, **arguments: Any) -> tuple[NvmlSensor, Inventory]:
    sensor = NvmlSensor(clock_us=standin.clock_us, pause_s=standin.pause_s, **arguments)
    return sensor, sensor.open()


def read_at(standin: StandinNvml, sensor: NvmlSensor, inventory: Inventory, t_us: int) -> list[Reading]:
    standin.set_time_us(t_us)
    return sensor.read(inventory.devices)


def the_device(inventory: Inventory) -> Device:
    (device,) = inventory.devices
    return device


TERMS = st.one_of(
    st.builds(Const, st.integers(1_000, 700_000)),
    st.builds(Square, st.integers(0, 300_000), st.integers(300_000, 700_000), st.integers(2, 20 * S)),
    st.builds(
        lambda p0, p1, t0, length: Ramp(p0, p1, t0, t0 + length),
        st.integers(0, 400_000),
        st.integers(0, 400_000),
        st.integers(0, 20 * S),
        st.integers(1, 20 * S),
    ),
)
TRACES = st.lists(TERMS, min_size=1, max_size=4).map(tuple)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(power=TRACES, period_us=st.sampled_from([0, 20_000, 100_000]), instants=st.lists(st.integers(2 * S, 60 * S)))
def test_the_counter_and_both_powers_are_those_of_the_trace(
    standin_nvml: StandinNvml, power: tuple[Any, ...], period_us: int, instants: list[int]
) -> None:
    gpu = Gpu(power, power_period_us=period_us, counter_period_us=period_us, counter_offset_mj=123, limit_mw=3_000_000)
    standin_nvml.plug(gpu)
    sensor, inventory = opened(standin_nvml)

    for t_us in sorted(instants):
        (reading,) = read_at(standin_nvml, sensor, inventory, t_us)

        assert reading == Reading(
            t_us=t_us,
            power_mw=gpu.mean_power_mw(t_us, 0) or None,  # no GPU that answers draws nothing
            counter_uj=gpu.counter_mj(t_us) * 1000,
            power_average_mw=gpu.mean_power_mw(t_us, 1 * S) or None,
        )
    sensor.close()


@pytest.mark.parametrize(("difference_mj", "energy_j"), [(952_494, 952.494), (16_522_288, 16_522.288)])
def test_nvml_counts_millijoules(standin_nvml: StandinNvml, difference_mj: int, energy_j: float) -> None:
    # Case 215. Over 1 s a power in mW is an energy in mJ.
    standin_nvml.plug(Gpu((Const(difference_mj),), limit_mw=9_000_000))
    sensor, inventory = opened(standin_nvml)

    (before,) = read_at(standin_nvml, sensor, inventory, 100 * S)
    (after,) = read_at(standin_nvml, sensor, inventory, 101 * S)

    assert before.counter_uj is not None and after.counter_uj is not None
    assert (after.counter_uj - before.counter_uj) / 1e6 == energy_j


class ScriptedNvml:
    """What an old or foreign binding looks like: plain functions, no field values, no C types."""

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            self.value = value

    def __init__(self, **answers: Any) -> None:
        self._answers = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": object(),
            **answers,
        }

    def __getattr__(self, name: str) -> Any:
        if name not in self._answers:
            raise AttributeError(name)
        answer = self._answers[name]

        def function(*arguments: Any) -> Any:
            value = answer() if callable(answer) else answer
            if isinstance(value, Exception):
                raise value
            return value

        return function


def test_counter_and_power_that_disagree_are_both_given_and_never_mixed(standin_nvml: StandinNvml) -> None:
    # Case 213, the sensor's half: an idle card whose counter says 37.45 W and whose power says 65.32 W.
    nvml = ScriptedNvml(
        nvmlDeviceGetPowerUsage=65_320,
        nvmlDeviceGetTotalEnergyConsumption=lambda: 123_456_789 + 37_450 * standin_nvml.clock_us() // S,
    )
    sensor, inventory = opened(standin_nvml, nvml=nvml)

    readings = [read_at(standin_nvml, sensor, inventory, t_us)[0] for t_us in range(2000 * S, 2006 * S, S)]

    counters = [reading.counter_uj for reading in readings if reading.counter_uj is not None]
    assert [reading.power_mw for reading in readings] == [65_320] * 6
    assert counters[-1] - counters[0] == 187_250_000


def test_one_call_per_gpu_and_tick_gives_all(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(*[Gpu()] * 8)
    sensor, inventory = opened(standin_nvml)
    before = standin_nvml.calls(FIELD_CALL)

    readings = sensor.read(inventory.devices)

    assert standin_nvml.calls(FIELD_CALL) - before == 8
    assert standin_nvml.calls("nvmlDeviceGetPowerUsage") == 0
    assert standin_nvml.calls("nvmlDeviceGetTotalEnergyConsumption") == 0
    assert all(r.power_mw and r.counter_uj and r.power_average_mw for r in readings)


NO_FIELDS = Fault(FIELD_CALL, NOT_SUPPORTED)
NO_INSTANT = Fault("field:186", NOT_SUPPORTED)
NO_AVERAGE = Fault("field:185", NOT_SUPPORTED)
NO_ENERGY_FIELD = Fault("field:83", NOT_SUPPORTED)
NO_ENERGY_CALL = Fault("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED)
NO_USAGE_CALL = Fault("nvmlDeviceGetPowerUsage", NOT_SUPPORTED)


@pytest.mark.parametrize(
    ("faults", "source", "has_counter"),
    [
        ((), "instant", True),
        ((NO_INSTANT,), "average", True),
        ((NO_AVERAGE,), "instant", True),
        ((NO_INSTANT, NO_AVERAGE), "usage", True),
        ((NO_FIELDS,), "usage", True),
        ((NO_ENERGY_FIELD,), "instant", True),
        ((NO_ENERGY_FIELD, NO_ENERGY_CALL), "instant", False),
        ((NO_FIELDS, NO_ENERGY_CALL), "usage", False),
        ((NO_FIELDS, NO_USAGE_CALL), "", True),
    ],
)
def test_what_a_driver_lacks_is_had_another_way_and_not_asked_for_again(
    standin_nvml: StandinNvml, faults: tuple[Fault, ...], source: str, has_counter: bool
) -> None:
    gpu = Gpu((Ramp(100_000, 500_000, 0, 4000 * S),), faults=faults, usage_window_us=2 * S)
    standin_nvml.plug(gpu)
    sensor, inventory = opened(standin_nvml)
    device = the_device(inventory)
    calls_before = standin_nvml.calls(FIELD_CALL)

    (reading,) = read_at(standin_nvml, sensor, inventory, 2000 * S)

    window_us = {"instant": 0, "average": 1 * S, "usage": 2 * S}
    assert reading.power_mw == (gpu.mean_power_mw(2000 * S, window_us[source]) if source else None)
    assert reading.counter_uj == (gpu.counter_mj(2000 * S) * 1000 if has_counter else None)
    assert (device.has_power, device.has_counter) == (bool(source), has_counter)
    assert device.attributes.get("power_source", "") == source
    assert device.counter_period_us == (0 if has_counter else None)
    if NO_FIELDS in faults:
        assert standin_nvml.calls(FIELD_CALL) == calls_before


@pytest.mark.parametrize("value_type", range(6))
def test_the_type_of_a_value_is_honoured(standin_nvml: StandinNvml, value_type: int) -> None:
    standin_nvml.plug(Gpu(power_type=value_type, energy_type=value_type))
    sensor, inventory = opened(standin_nvml)

    (reading,) = read_at(standin_nvml, sensor, inventory, 10 * S)

    assert reading == Reading(10 * S, power_mw=300_000, counter_uj=3_000_000_000, power_average_mw=300_000)


def test_a_value_of_unknown_type_is_missing(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu(power_type=7))
    sensor, inventory = opened(standin_nvml)

    (reading,) = read_at(standin_nvml, sensor, inventory, 10 * S)

    assert (reading.power_mw, reading.counter_uj) == (None, 3_000_000_000)


@pytest.mark.parametrize("code", [GPU_IS_LOST, UNKNOWN, NOT_SUPPORTED])
@pytest.mark.parametrize("name", [FIELD_CALL, "field:186", "field:185", "field:83"])
def test_a_failed_reading_is_missing_while_it_fails_and_never_zero(
    standin_nvml: StandinNvml, name: str, code: int
) -> None:
    failing = Gpu(faults=(Fault(name, code, 1010 * S, 1020 * S),))
    standin_nvml.plug(failing, Gpu())
    sensor, inventory = opened(standin_nvml)

    good, bad, good_again = (read_at(standin_nvml, sensor, inventory, t * S) for t in (1009, 1015, 1021))

    complete = Reading(0, 300_000, 0, 300_000)
    expected = {
        FIELD_CALL: Reading(0),
        "field:186": Reading(0, None, 0, 300_000),
        "field:185": Reading(0, 300_000, 0, None),
        "field:83": Reading(0, 300_000, None, 300_000),
    }[name]
    assert [shape(r) for r in good] == [shape(r) for r in good_again] == [shape(complete)] * 2
    assert [shape(r) for r in bad] == [shape(expected), shape(complete)]


def shape(reading: Reading) -> tuple[int | None, bool, int | None]:
    return reading.power_mw, reading.counter_uj is not None, reading.power_average_mw


@pytest.mark.parametrize("absurd_mw", [4_294_967_295, 593_000])
def test_an_absurd_power_is_kept_as_read_and_the_device_says_what_is_too_much(
    standin_nvml: StandinNvml, absurd_mw: int
) -> None:
    # Case 211: all-ones, or far over the limit, with status success.
    gpu = Gpu((Square(150_000, absurd_mw, 20 * S),), limit_mw=175_000, faults=(NO_AVERAGE,))
    standin_nvml.plug(gpu)
    sensor, inventory = opened(standin_nvml)

    (absurd,) = read_at(standin_nvml, sensor, inventory, 1001 * S)

    assert absurd.power_mw == absurd_mw
    assert the_device(inventory).max_power_mw == 350_000


def test_without_a_limit_only_what_no_board_draws_is_missing(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu((Square(150_000, 4_294_967_295, 20 * S),), limit_mw=0, faults=(NO_AVERAGE,)))
    sensor, inventory = opened(standin_nvml)

    (absurd,) = read_at(standin_nvml, sensor, inventory, 1001 * S)
    (sane,) = read_at(standin_nvml, sensor, inventory, 1011 * S)

    assert (absurd.power_mw, sane.power_mw) == (None, 150_000)
    assert the_device(inventory).max_power_mw is None


def test_a_spike_over_the_limit_is_real(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu((Const(700_000),), limit_mw=400_000))
    sensor, inventory = opened(standin_nvml)

    (reading,) = sensor.read(inventory.devices)

    assert reading.power_mw == 700_000


@pytest.mark.parametrize(
    ("trace", "counter_period_us", "arch", "expected_us"),
    [
        ((Const(60_000),), 0, HOPPER, 0),
        ((Const(5_000),), 0, HOPPER, 0),
        ((Const(700_000),), 100_000, HOPPER, 100_000),
        ((Const(700_000),), 20_000, 5, 20_000),
        ((Const(700_000),), 10_000, HOPPER, 100_000),
        ((Const(100),), 0, HOPPER, 100_000),  # too little power to tell
    ],
)
def test_whether_the_counter_moves_at_each_read_is_found_out(
    standin_nvml: StandinNvml, trace: tuple[Const], counter_period_us: int, arch: int, expected_us: int
) -> None:
    standin_nvml.plug(Gpu(trace, counter_period_us=counter_period_us, arch=arch), Gpu(trace, arch=arch))
    started_us = 1000 * S - 2_500  # a slow counter moves once within the probe
    standin_nvml.set_time_us(started_us)

    _, inventory = opened(standin_nvml)

    assert inventory.devices[0].counter_period_us == expected_us
    assert standin_nvml.clock_us() - started_us <= 5_000


def test_a_board_is_probed_once_in_a_sensor_s_life(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu())
    sensor, first = opened(standin_nvml)
    sensor.close()
    before_us = standin_nvml.clock_us()

    again = sensor.open()

    assert standin_nvml.clock_us() == before_us
    assert again == first


def test_calls_of_some_ms_do_not_hide_that_the_counter_moves_at_each_read(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu(), Gpu(counter_period_us=100_000, name="other"))

    def slow_clock_us() -> int:
        standin_nvml.pause_s(0.006)
        return standin_nvml.clock_us()

    inventory = NvmlSensor(clock_us=slow_clock_us, pause_s=standin_nvml.pause_s, gpus="all").open()

    assert [device.counter_period_us for device in inventory.devices] == [0, 100_000]


def test_slow_calls_end_the_probe(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(*[Gpu()] * 8)

    def slow_clock_us() -> int:
        standin_nvml.pause_s(0.03)
        return standin_nvml.clock_us()

    sensor = NvmlSensor(clock_us=slow_clock_us, pause_s=standin_nvml.pause_s)
    inventory = sensor.open()

    assert [device.counter_period_us for device in inventory.devices] == [100_000] * 8
    assert standin_nvml.calls(FIELD_CALL) <= 20 + 2 * 8


@pytest.mark.parametrize(("counter_period_us", "expected_us"), [(0, 0), (100_000, 100_000)])
def test_a_step_that_the_machine_draws_out_does_not_mislead_the_probe(
    standin_nvml: StandinNvml, counter_period_us: int, expected_us: int
) -> None:
    standin_nvml.plug(Gpu(counter_period_us=counter_period_us))
    pauses = iter([0.08, 0.001, 0.06, 0.001, 0.002, 0.001, 0.001])

    sensor = NvmlSensor(
        clock_us=standin_nvml.clock_us, pause_s=lambda _: standin_nvml.pause_s(next(pauses)), gpus="all"
    )
    (device,) = sensor.open().devices

    assert device.counter_period_us == expected_us


def test_the_device_says_what_its_readings_mean(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu(name="NVIDIA H100 80GB HBM3", uuid="GPU-1", bus="00000000:1B:00.0"), driver="570.86.15")

    _, inventory = opened(standin_nvml)

    device = the_device(inventory)
    assert (device.kind, device.key, device.name, device.sensor) == ("gpu", "GPU-1", "NVIDIA H100 80GB HBM3", "nvml")
    assert (device.power_window_us, device.counter_modulus_uj, device.max_power_mw) == (25_000, None, 1_400_000)
    assert device.attributes == {
        "index": "0",
        "uuid": "GPU-1",
        "pci_bus": "00000000:1B:00.0",
        "architecture": "Hopper",
        "driver": "570.86.15",
        "nvml": "13.570.00.00",
        "power_source": "instant",
        "power_period_us": "100000",
        "scope": "gpu",
        "power_limit_mw": "700000",
    }


@pytest.mark.parametrize(
    ("architecture", "name", "instant_us", "usage_us"),
    [
        (9, "NVIDIA H100 80GB HBM3", 25_000, S),
        (8, "NVIDIA L40S", 100_000, S),
        (7, "NVIDIA A100-SXM4-80GB", 25_000, 25_000),
        (7, "NVIDIA A30", 25_000, 25_000),
        (7, "NVIDIA RTX A3000", 100_000, S),
        (7, "NVIDIA A40", 100_000, S),
        (6, "Tesla T4", 100_000, 100_000),
        (5, "Tesla V100-SXM2-16GB", 10_000, 10_000),
        (4, "Tesla P100", 10_000, 10_000),
        (3, "Tesla M40", None, None),
        (10, "NVIDIA B200", None, S),
        (99, "of the future", None, None),
        (None, "that does not say", None, None),
    ],
)
def test_the_sensor_class_follows_the_architecture(
    architecture: int | None, name: str, instant_us: int | None, usage_us: int | None
) -> None:
    found = sensor_class(architecture, name)

    assert (found.instant_window_us, found.usage_window_us) == (instant_us, usage_us)


def test_a_superchip_is_read_and_named_as_a_module(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu(name="NVIDIA GH200 480GB", c2c=1))
    sensor, inventory = opened(standin_nvml)

    (reading,) = sensor.read(inventory.devices)

    assert reading.power_mw == 300_000
    assert the_device(inventory).attributes["scope"] == "module"
    assert the_device(inventory).attributes["power_source"] == "instant"
    assert the_device(inventory).notes == ("covers the whole module: GPU, CPU and their memory",)


QUERIES = [
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetPowerManagementLimitConstraints",
    "nvmlSystemGetDriverVersion",
    "nvmlSystemGetNVMLVersion",
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_that_fails_costs_no_more_than_its_own_answer(standin_nvml: StandinNvml, query: str) -> None:
    fault = Fault(query, UNKNOWN)
    is_of_a_gpu = "Device" in query
    standin_nvml.plug(Gpu(faults=(fault,) if is_of_a_gpu else ()), faults=() if is_of_a_gpu else (fault,))
    sensor, inventory = opened(standin_nvml)

    (reading,) = sensor.read(inventory.devices)

    assert (reading.power_mw, reading.counter_uj is not None) == (300_000, True)
    assert the_device(inventory).key and the_device(inventory).name


@pytest.mark.parametrize("as_bytes", [True, False])
def test_names_and_uuids_are_plain_text_whatever_the_binding_gives(standin_nvml: StandinNvml, as_bytes: bool) -> None:
    # Case 201.
    def given(text: str) -> str | bytes:
        return text.encode() if as_bytes else text

    nvml = ScriptedNvml(
        nvmlDeviceGetName=given("NVIDIA Test GPU 0"),
        nvmlDeviceGetUUID=given("GPU-00000000-aaaa"),
        nvmlDeviceGetPciInfo=SimpleNamespace(busId=given("00000000:01:00.0")),
        nvmlDeviceGetPowerUsage=100_000,
    )
    _, inventory = opened(standin_nvml, nvml=nvml, environ={"CUDA_VISIBLE_DEVICES": "GPU-0000"})

    device = the_device(inventory)
    assert (device.name, device.key) == ("NVIDIA Test GPU 0", "GPU-00000000-aaaa")
    assert device.attributes["pci_bus"] == "00000000:01:00.0"


def test_a_name_that_is_no_text_is_shown_as_far_as_it_goes(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu(name=b"NVIDIA \xff\xfe"))

    _, inventory = opened(standin_nvml)

    assert the_device(inventory).name == "NVIDIA \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"


def test_a_gpu_without_any_meter_is_named_and_leaves_the_others_alone(standin_nvml: StandinNvml) -> None:
    # Case 204.
    standin_nvml.plug(
        Gpu(name="NVIDIA GeForce 940MX", uuid="GPU-0", faults=(NO_FIELDS, NO_USAGE_CALL, NO_ENERGY_CALL)),
        Gpu(uuid="GPU-1"),
    )

    _, inventory = opened(standin_nvml)

    assert [device.key for device in inventory.devices] == ["GPU-1"]
    (missing,) = inventory.not_measured
    assert (missing.kind, missing.name, missing.key) == ("gpu", "GPU 0, NVIDIA GeForce 940MX", "GPU-0")
    assert "neither power nor energy" in missing.reason


def test_a_gpu_that_is_lost_from_the_start_is_named_and_leaves_the_others_alone(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu(uuid="GPU-0", faults=(Fault("*", GPU_IS_LOST),)), Gpu(uuid="GPU-1"))

    _, inventory = opened(standin_nvml)

    assert [device.key for device in inventory.devices] == ["GPU-1"]
    (missing,) = inventory.not_measured
    assert missing.name == "GPU 0" and "GPU is lost" in missing.reason and "xid" in missing.remedy
    assert inventory.warnings == (f"GPU 0: {missing.reason}",)


@pytest.mark.parametrize(
    ("code", "reason", "remedy", "warns"),
    [
        (12, "no NVIDIA driver here", "", False),
        (9, "not loaded", "modprobe", True),
        (18, "updated", "reboot", True),
        (4, "no permission", "/dev/nvidia", True),
        (999, "does not answer", "container", True),
        (27, "not ready", "", True),
        (12345, "NVML 12345", "", True),
    ],
)
def test_an_absent_driver_is_a_reason_and_a_broken_one_a_warning_too(
    standin_nvml: StandinNvml, code: int, reason: str, remedy: str, warns: bool
) -> None:
    standin_nvml.plug(Gpu(), faults=(Fault("nvmlInit", code),))

    sensor, inventory = opened(standin_nvml)

    (missing,) = inventory.not_measured
    assert inventory.devices == ()
    assert missing.kind == "gpu" and reason in missing.reason
    assert remedy in missing.remedy and bool(missing.remedy) == bool(remedy)
    assert bool(inventory.warnings) == warns
    sensor.close()


@pytest.mark.parametrize("device_file", ["nvidiactl", "dxg"])
def test_a_driver_whose_library_a_container_lacks_is_a_fault_that_can_be_mended(
    standin_nvml: StandinNvml, tmp_path: Path, device_file: str
) -> None:
    (tmp_path / device_file).touch()
    standin_nvml.plug(Gpu(), faults=(Fault("nvmlInit", 12),))

    _, inventory = opened(standin_nvml, dev=tmp_path)

    (missing,) = inventory.not_measured
    assert "its library libnvidia-ml.so.1 is not found" in missing.reason and inventory.warnings
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in missing.remedy


READ_ONCE = """
from tracker.sensors.nvml import NvmlSensor
sensor = NvmlSensor()
reading = sensor.read(sensor.open().devices)[0]
print(reading.t_us, reading.counter_uj)
"""


def test_a_program_in_the_stand_in_s_environment_reads_it_in_real_time(standin_nvml: StandinNvml) -> None:
    gpu = Gpu((Const(100_000),))
    start_us = boottime_us()
    standin_nvml.plug(gpu, epoch_us=start_us)

    command = [sys.executable, "-c", READ_ONCE]
    output = subprocess.run(command, env=standin_nvml.env, check=True, capture_output=True, text=True).stdout

    t_us, counter_uj = map(int, output.split())
    assert start_us < t_us < boottime_us()
    assert counter_uj == pytest.approx(100 * (t_us - start_us), abs=1_000_000)  # 10 ms of 100 W


def test_without_the_library_there_is_no_gpu_and_no_warning(
    standin_nvml: StandinNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_library() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", no_library)

    _, inventory = opened(standin_nvml)

    assert (inventory.devices, inventory.warnings) == ((), ())
    assert "libnvidia-ml.so.1 not found" in inventory.not_measured[0].reason


def test_a_driver_without_gpus_is_no_warning(standin_nvml: StandinNvml) -> None:
    _, inventory = opened(standin_nvml)

    assert (inventory.devices, inventory.warnings) == ((), ())
    assert inventory.not_measured[0].reason == "the NVIDIA driver finds no GPU"


def test_a_forked_child_gets_empty_readings(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu())
    sensor, inventory = opened(standin_nvml)
    now_us = standin_nvml.clock_us()

    pid = os.fork()
    if pid == 0:
        is_empty = sensor.read(inventory.devices) == [Reading(now_us)]
        sensor.close()
        os._exit(0 if is_empty else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sensor.read(inventory.devices)[0].power_mw == 300_000


def test_only_the_gpus_chosen_are_devices_and_in_cuda_s_order(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(*(Gpu(uuid=f"GPU-{i}") for i in range(4)))

    _, inventory = opened(standin_nvml, environ={"CUDA_VISIBLE_DEVICES": "2,1"})

    assert [device.key for device in inventory.devices] == ["GPU-2", "GPU-1"]


def test_a_choice_of_no_gpu_is_a_reason(standin_nvml: StandinNvml) -> None:
    standin_nvml.plug(Gpu())

    _, inventory = opened(standin_nvml, environ={"CUDA_VISIBLE_DEVICES": ""})

    assert inventory.devices == ()
    assert inventory.not_measured[0].reason == 'CUDA_VISIBLE_DEVICES="" shows none to this process'


def test_no_gpus_asked_for_means_that_nvml_is_left_alone(standin_nvml: StandinNvml) -> None:
    _, inventory = opened(standin_nvml, gpus="none")

    assert standin_nvml.functions.nvmlShutdown() != 0  # it was never initialised
    assert inventory.not_measured[0].reason == 'left out by gpus="none"'
