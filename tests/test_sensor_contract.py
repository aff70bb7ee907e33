"""What every sensor must keep to, whatever it reads. A new sensor is one more line in SENSORS."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from standin.nvml import Const, Fault, Gpu, StandinNvml
from standin.powercap import PowercapTree
from test_sensor_host import GB, Machine

from tracker.records import Device, DeviceKind, Reading
from tracker.sensors.host import HostModel
from tracker.sensors.nvml import NvmlSensor
from tracker.sensors.protocol import Inventory, Sensor
from tracker.sensors.rapl import RaplSensor
from tracker.sensors.replay import ReplaySensor

S = 1_000_000
START_US = 1_000 * S
SENSORS = ("nvml", "rapl", "replay", "model")


class Rig:
    """A sensor on hardware of two devices at 100 W, a clock, and ways to break the hardware."""

    def __init__(self, request: pytest.FixtureRequest, name: str, tmp_path: Path) -> None:
        self.t_us = START_US
        build: Callable[[pytest.FixtureRequest, Path], Sensor] = getattr(self, f"_{name}")
        self.sensor = build(request, tmp_path)

    def clock_us(self) -> int:
        return self.t_us

    def set_time_us(self, t_us: int) -> None:
        self.t_us = t_us
        self._follow()

    def break_first(self) -> None:
        """From now on the first device gives nothing."""
        self._break()

    def _nvml(self, request: pytest.FixtureRequest, _: Path) -> Sensor:
        standin: StandinNvml = request.getfixturevalue("standin_nvml")
        fault = Fault("*", 15, START_US + 60 * S)
        standin.plug(Gpu((Const(100_000),), faults=(fault,)), Gpu((Const(100_000),)))
        self._follow = lambda: standin.set_time_us(self.t_us)
        self._break = lambda: self.set_time_us(START_US + 60 * S)
        return NvmlSensor(clock_us=self.clock_us, pause_s=standin.pause_s)

    def _rapl(self, request: pytest.FixtureRequest, _: Path) -> Sensor:
        tree: PowercapTree = request.getfixturevalue("powercap_tree")
        zones = ["intel-rapl:0", "intel-rapl:1"]
        for zone in zones:
            tree.add(zone, f"package-{zone[-1]}", START_US // S * 100 * S)

        def follow() -> None:
            for zone in zones:
                tree.set_energy(zone, self.t_us * 100)

        def lose_first() -> None:
            tree.remove(zones.pop(0))

        self._follow = follow
        self._break = lose_first
        return RaplSensor(tree.sysfs, clock_us=self.clock_us)

    def _replay(self, _: pytest.FixtureRequest, tmp_path: Path) -> Sensor:
        path = tmp_path / "trace.csv"
        path.write_text(
            "t_s,kind,key,power_w,counter_j\n0,gpu,a,100,0\n60,gpu,a,100,6000\n0,gpu,b,100,0\n600,gpu,b,100,60000\n"
        )
        self._follow = lambda: None
        self._break = lambda: self.set_time_us(START_US + 61 * S)
        return ReplaySensor(path, clock_us=self.clock_us)

    def _model(self, _: pytest.FixtureRequest, tmp_path: Path) -> Sensor:
        machine = Machine(tmp_path, cpus=25, memory_bytes=1600 * GB)

        def follow() -> None:
            machine.run_until(self.t_us, load=1.0)

        def break_first() -> None:
            machine.hides_times = True
            self.set_time_us(START_US + 60 * S)

        follow()
        self._follow = follow
        self._break = break_first
        return HostModel(
            machine.proc,
            machine.cgroup,
            clock_us=self.clock_us,
            awake_clock_us=self.clock_us,
            import_psutil=lambda: machine,
        )


@pytest.fixture(params=SENSORS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    return Rig(request, request.param, tmp_path)


@pytest.fixture
def inventory(rig: Rig) -> Inventory:
    return rig.sensor.open()


def test_devices_describe_themselves_in_full(rig: Rig, inventory: Inventory) -> None:
    assert len(inventory.devices) == 2
    assert len({device.key for device in inventory.devices}) == 2
    for device in inventory.devices:
        assert device.kind in get_args(DeviceKind)
        assert device.key and device.name
        assert device.sensor == rig.sensor.name
        assert device.has_counter or device.has_power
        assert all(isinstance(text, str) for pair in device.attributes.items() for text in pair)


def test_a_reading_belongs_to_the_device_at_its_place(rig: Rig, inventory: Inventory) -> None:
    first, second = inventory.devices

    readings = rig.sensor.read([second, first, second])

    assert len(readings) == 3
    assert readings[0] == readings[2]


def test_readings_carry_the_sample_clock_and_what_the_device_promises(rig: Rig, inventory: Inventory) -> None:
    rig.set_time_us(START_US + 5 * S)

    for device, reading in zip(inventory.devices, rig.sensor.read(inventory.devices), strict=True):
        assert reading.t_us == START_US + 5 * S
        assert (reading.power_mw is not None) == device.has_power
        assert (reading.counter_uj is not None) == device.has_counter


def test_the_counter_counts_microjoules_and_power_is_in_milliwatts(rig: Rig, inventory: Inventory) -> None:
    rig.set_time_us(START_US + 1 * S)
    before = rig.sensor.read(inventory.devices)
    rig.set_time_us(START_US + 31 * S)
    after = rig.sensor.read(inventory.devices)

    for first, last in zip(before, after, strict=True):
        assert first.counter_uj is not None and last.counter_uj is not None
        assert last.counter_uj - first.counter_uj == 100 * 30 * S
        assert last.power_mw in (100_000, None)


def test_numbers_are_integers(rig: Rig, inventory: Inventory) -> None:
    for reading in rig.sensor.read(inventory.devices):
        assert type(reading.t_us) is int
        for value in (reading.power_mw, reading.counter_uj, reading.power_average_mw):
            assert value is None or type(value) is int


def test_a_device_that_fails_gives_nothing_and_the_others_go_on(rig: Rig, inventory: Inventory) -> None:
    rig.set_time_us(START_US + 1 * S)
    rig.sensor.read(inventory.devices)

    rig.break_first()
    failed, works = rig.sensor.read(inventory.devices)

    assert failed == Reading(failed.t_us)
    assert works.counter_uj is not None


def test_an_unknown_device_gives_nothing(rig: Rig, inventory: Inventory) -> None:
    stranger = Device(kind="gpu", key="no such", name="?", sensor="?", has_counter=True, has_power=True)

    assert rig.sensor.read([stranger]) == [Reading(START_US)]
    assert rig.sensor.read([]) == []


def test_before_open_and_after_close_there_is_nothing_to_read(rig: Rig) -> None:
    devices = rig.sensor.open().devices
    rig.sensor.close()

    assert rig.sensor.read(devices) == [Reading(START_US)] * 2


def test_close_may_come_twice_or_without_open(rig: Rig) -> None:
    rig.sensor.close()
    rig.sensor.open()
    rig.sensor.close()
    rig.sensor.close()


def test_open_may_come_again_with_or_without_a_close_between(rig: Rig, inventory: Inventory) -> None:
    assert rig.sensor.open() == inventory
    rig.sensor.close()
    assert rig.sensor.open() == inventory
    assert all(reading.counter_uj is not None for reading in rig.sensor.read(inventory.devices))


def test_it_has_the_protocol_s_methods(rig: Rig) -> None:
    for method in ("open", "read", "close"):
        expected = inspect.signature(getattr(Sensor, method)).parameters
        assert list(inspect.signature(getattr(rig.sensor, method)).parameters) == list(expected)[1:]
