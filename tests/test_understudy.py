"""The host model beside meters: whatever comes in whatever order, no part is measured and modelled at once."""

import itertools
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standin.nvml import Const, Gpu

import tracker
from tracker.machine import boottime_us
from tracker.records import Device, NotMeasured, Reading
from tracker.sensors.protocol import Inventory
from tracker.session.understudy import STILL_US, Understudy

CPU = Device("cpu", "cpu", "CPU", "model", has_counter=True, has_power=False)
RAM = Device("ram", "ram", "RAM", "model", has_counter=True, has_power=False)
PACKAGE = Device("cpu_package", "intel-rapl:0", "package-0", "rapl", has_counter=True, has_power=False)
DRAM = Device("dram", "intel-rapl:0:0", "dram", "rapl", has_counter=True, has_power=False)
BOARD = Device("gpu", "GPU-1", "GPU", "nvml", has_counter=True, has_power=True, attributes={"covers": "gpu"})
MODULE = Device("gpu", "GPU-1", "GH200", "nvml", has_counter=True, has_power=True, attributes={"covers": "gpu, host"})


def cast(understudy, **options):
    return [device.kind for inventory, _ in understudy.cast(**options) for device in inventory.devices]


def meter_readings(understudy, *counters_uj, t_us=0, step_us=STILL_US, device=PACKAGE):
    for count, counter_uj in enumerate(counters_uj):
        understudy.received("rapl", [device], [Reading(t_us + count * step_us, counter_uj=counter_uj)])


def test_without_a_meter_the_model_stands_in_once_all_sensors_have_told():
    understudy = Understudy()
    understudy.expect(["rapl", "model", "nvml"])
    understudy.found("rapl", Inventory())
    understudy.found("model", Inventory((CPU, RAM)))
    assert cast(understudy) == [] and not understudy.plays(CPU)

    understudy.found("nvml", Inventory((BOARD,)))

    assert cast(understudy) == ["cpu", "ram"] and understudy.plays(CPU) and cast(understudy) == []


def test_a_driver_that_gives_no_answer_keeps_no_model_back():
    understudy = Understudy()
    understudy.expect(["model", "nvml"])
    understudy.found("model", Inventory((CPU,), (NotMeasured("ram", "RAM", "unknown"),)))
    understudy.gave_up("nvml")
    ((devices, _), (missing, _)) = understudy.cast()
    assert devices.devices == (CPU,) and [part.kind for part in missing.not_measured] == ["ram"]


def test_the_first_and_the_latest_reading_are_kept_for_when_the_model_is_needed():
    understudy = Understudy()
    understudy.found("rapl", Inventory((PACKAGE,)))
    understudy.found("model", Inventory((CPU,)))
    understudy.received("model", [CPU], [Reading(5, counter_uj=0)])
    understudy.received("model", [CPU], [Reading(1_000_005, counter_uj=9)])
    understudy.received("model", [CPU], [Reading(2_000_005, counter_uj=20)])
    meter_readings(understudy, 7, 7)

    ((inventory, readings),) = understudy.cast()

    assert inventory.devices == (CPU,) and [reading.counter_uj for reading in readings] == [0, 20]


@pytest.mark.parametrize("counters_uj", [(7, 8), (7, None, 8), (None, 7, 8), (7, 7, 8)])
def test_a_meter_that_moves_or_comes_to_move_is_all_there_is_of_its_part(counters_uj):
    understudy = Understudy()
    understudy.found("rapl", Inventory((PACKAGE,)))
    understudy.found("model", Inventory((CPU, RAM)))
    for _ in itertools.repeat(None, 2):
        cast(understudy)
    meter_readings(understudy, *counters_uj)

    cast(understudy, is_last=True)

    assert not understudy.plays(CPU) and understudy.plays(RAM)


def test_a_module_that_holds_the_host_leaves_nothing_to_model_and_nothing_missing():
    understudy = Understudy()
    understudy.expect(["rapl", "model", "nvml"])
    understudy.found("rapl", Inventory((), (NotMeasured("cpu_package", "CPU", "no meter"),)))
    understudy.found("model", Inventory((CPU, RAM)))
    understudy.found("nvml", Inventory((MODULE,)))

    assert cast(understudy, is_last=True) == [] and not understudy.is_wanted()
    missing = [NotMeasured("cpu_package", "CPU", "no meter"), NotMeasured("gpu", "GPU 1", "lost")]
    assert [part.kind for part in understudy.without_covered(missing)] == ["gpu"]


EVENTS = st.lists(
    st.sampled_from(["rapl", "model", "nvml", "nvml module", "nvml gave up", "tick", "move", "deny", "cast"]),
    max_size=30,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS)
def test_in_any_order_a_part_that_is_seen_to_be_measured_is_modelled_no_more(events):
    understudy = Understudy()
    understudy.expect(["rapl", "model", "nvml"])
    t_us, counter_uj, seen, is_found, has_moved, is_module, has_told = 0, 5, None, False, False, False, set()
    for event in events:
        t_us += 200_000
        if event == "rapl":
            understudy.found("rapl", Inventory((PACKAGE,)))
            is_found = True
            has_told.add("rapl")
        elif event == "model":
            understudy.found("model", Inventory((CPU, RAM)))
        elif event.startswith("nvml"):
            if event.endswith("up"):
                understudy.gave_up("nvml")
            else:
                understudy.found("nvml", Inventory((MODULE if event.endswith("module") else BOARD,)))
                is_module |= event.endswith("module")
            has_told.add("nvml")
        elif event in ("tick", "move", "deny") and is_found:
            counter_uj += event == "move"
            shown = None if event == "deny" else counter_uj
            understudy.received("rapl", [PACKAGE], [Reading(t_us, counter_uj=shown)])
            watched = understudy.is_wanted()
            if watched and shown is not None:
                has_moved |= seen is not None and shown != seen
                seen = shown if seen is None else seen
        cast(understudy)

        assert not (understudy.plays(CPU) and (has_moved or is_module))
        assert not (understudy.plays(RAM) and is_module)
        if has_told != {"rapl", "nvml"}:
            assert not understudy.plays(CPU) and not understudy.plays(RAM)


@pytest.mark.parametrize("c2c", [1, 2], ids=["power of the module", "power of the GPU, counter of the module"])
def test_on_a_superchip_its_meter_is_all_there_is_of_cpu_and_memory(standin_nvml, tmp_path, monkeypatch, c2c):
    standin_nvml.plug(Gpu(name="NVIDIA GH200 480GB", c2c=c2c, power=(Const(600_000),)), epoch_us=boottime_us())
    monkeypatch.delenv("STANDIN_CLOCK")
    (tmp_path / "sys").mkdir()
    monkeypatch.setenv("TRACKER_SYSFS", str(tmp_path / "sys"))
    with tracker.track("x", zone="FR", db=tmp_path / "runs.db") as live:
        time.sleep(0.2)

    run = tracker.get(live.id, db=tmp_path / "runs.db")
    assert [device.kind for device in run.devices] == ["gpu"]
    assert run.energy_modelled_j is None and run.not_measured == ()
    assert any("module" in note for note in run.devices[0].notes)
