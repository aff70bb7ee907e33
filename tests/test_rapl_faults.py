"""What RAPL counters do in the field: no figure leaves what the readings allow."""

import time
from array import array
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standin.powercap import AMD_RANGE_UJ, INTEL_RANGE_UJ, PowercapTree, unprivileged

import tracker
from tracker.energy import integrate, rules_of
from tracker.records import Device
from tracker.sensors.rapl import RaplSensor, modulus_uj
from tracker.session.account import gap_us_of
from tracker.store.codec import append_reading, hot_bytes, hot_rows, samples_of_hot

S = 1_000_000
LENGTH_S = 40
PLAUSIBLE_W = 1_050  # what no package exceeds, with the margin of 5 %


class Package:
    """A counter that moves with its power, and what is done to it each second."""

    def __init__(self, tree: PowercapTree, zone: str, watts: int, range_uj: int, start_uj: int) -> None:
        self.tree, self.zone, self.watts, self.range_uj = tree, zone, watts, range_uj
        self.true_uj = start_uj % modulus_uj(range_uj)
        number = zone.rpartition(":")[2]
        tree.add(zone, f"package-{number}", self.true_uj, range_uj)

    def tick(self, fault: str | None) -> None:
        self.true_uj = (self.true_uj + self.watts * S) % modulus_uj(self.range_uj)
        shown: Any = self.true_uj
        if fault == "reset":
            self.true_uj = shown = 0
        elif fault == "garbage":
            shown = "nonsense"
        elif fault == "empty":
            shown = ""
        elif fault == "other counter":  # a guest that is moved between hosts
            shown = (self.true_uj + self.range_uj // 3) % modulus_uj(self.range_uj)
        if fault == "stuck":
            return
        energy = self.tree.folder(self.zone) / "energy_uj"
        if fault == "gone":
            energy.unlink(missing_ok=True)
        else:
            energy.write_text(f"{shown}\n")


def energy_of(device: Device, readings: list, to_s: int) -> tuple[float, float]:
    rows = array("q")
    for reading in readings:
        if reading.counter_uj is not None:
            append_reading(rows, 0, reading)
    samples = samples_of_hot(device, hot_rows(hot_bytes(rows)))
    energy = integrate(samples, [0, to_s * S], rules_of(device, gap_us_of(None)))
    return int(energy.twice_energy_nj[0]) / 2e9, int(energy.covered_us[0]) / S


FAULTS = st.dictionaries(
    st.integers(1, LENGTH_S),
    st.sampled_from(["reset", "garbage", "empty", "other counter", "stuck", "gone"]),
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    watts=st.lists(st.integers(5, 400), min_size=2, max_size=3),
    range_uj=st.sampled_from([INTEL_RANGE_UJ, AMD_RANGE_UJ]),
    starts=st.lists(st.integers(0, INTEL_RANGE_UJ), min_size=3, max_size=3),
    faults=st.lists(FAULTS, min_size=2, max_size=2),
)
def test_faults_in_any_combination_cost_their_own_package_time_and_the_healthy_one_nothing(
    tmp_path_factory, watts, range_uj, starts, faults
):
    tree = PowercapTree(tmp_path_factory.mktemp("tree"))
    packages = [
        Package(tree, f"intel-rapl:{n}", w, range_uj, start)
        for n, (w, start) in enumerate(zip(watts, starts, strict=False))
    ]
    now_us = 0
    sensor = RaplSensor(tree.sysfs, clock_us=lambda: now_us)
    devices = sensor.open().devices
    readings: list[list] = [[] for _ in devices]
    for second in range(LENGTH_S + 1):
        now_us = second * S
        if second:
            packages[0].tick(None)
            for package, of_package in zip(packages[1:], faults, strict=False):
                package.tick(of_package.get(second))
        for index, reading in enumerate(sensor.read(devices)):
            readings[index].append(reading)
    sensor.close()

    for device, of_device, package in zip(devices, readings, packages, strict=True):
        energy_j, covered_s = energy_of(device, of_device, LENGTH_S)
        if package is packages[0]:
            assert (energy_j, covered_s) == (float(package.watts * LENGTH_S), float(LENGTH_S))
        assert 0 <= energy_j <= PLAUSIBLE_W * covered_s + 1e-6
        assert covered_s <= LENGTH_S


@pytest.fixture
def tracked(powercap_tree, monkeypatch):
    """Runs a block on this tree; between the first and the last reading the counters are moved."""
    monkeypatch.setenv("TRACKER_SYSFS", str(powercap_tree.sysfs))
    monkeypatch.setenv("TRACKER_GPUS", "none")
    monkeypatch.setenv("TRACKER_ZONE", "FR")
    anybodys = powercap_tree.sysfs.parent / "runs"  # outside of tmp_path, which is closed to others
    anybodys.mkdir()
    anybodys.chmod(0o777)
    monkeypatch.setenv("TRACKER_DB", str(anybodys / "runs.db"))

    def tracked(**moved_to):
        with tracker.track("case") as live:
            time.sleep(0.1)
            for zone, energy_uj in moved_to.items():
                powercap_tree.set_energy(zone.replace("_", ":").replace("intel:", "intel-"), energy_uj)
        return tracker.get(live.id)

    return tracked


def joules(run, kind="cpu_package"):
    return [device.energy_j for device in run.devices if device.kind == kind]


def test_a_desktops_parts_and_platform_are_not_added_to_the_package(powercap_tree, tracked):
    # Case 101: 14.44 W for a package of 3.78 W.
    for zone, name in (("0", "package-0"), ("0:0", "core"), ("0:1", "uncore"), ("1", "psys")):
        powercap_tree.add(f"intel-rapl:{zone}", name, 1_000_000)
    run = tracked(intel_rapl_0=1_000_000 + 37_800_000, intel_rapl_0_0=9_400_000, intel_rapl_1=97_100_000)
    # Not to a few percent: the counter jumps in a tenth of a second, and its power then carries it to the run's edges.
    assert joules(run) == [pytest.approx(37.8, rel=0.1)] and run.energy_j == joules(run)[0]


def test_one_wrap_is_undone(powercap_tree, tracked):
    # Case 106: −262 kJ, or the interval lost.
    powercap_tree.add("intel-rapl:0", "package-0", INTEL_RANGE_UJ - 10_000_000)
    run = tracked(intel_rapl_0=5_000_000)
    assert joules(run) == [pytest.approx(15.000061, rel=0.1)]


def test_without_a_range_a_decrease_leaves_its_time_unknown(powercap_tree, tracked):
    # Case 108: −3500 J.
    powercap_tree.add("intel-rapl:0", "package-0", 4_000_000_000, max_range_uj=None)
    run = tracked(intel_rapl_0=500_000_000)
    (device,) = [d for d in run.devices if d.kind == "cpu_package"]
    assert device.energy_j is None and device.coverage == 0
    assert "restarted" in " ".join(part.reason for part in run.not_measured if part.key == device.key)


def test_denied_files_are_named_once_with_the_command_that_mends_it_and_never_zero(powercap_tree, tracked, caplog):
    # Case 109: a crash, 0 J, or a warning at each sample.
    powercap_tree.add("intel-rapl:0", "package-0", 1_000_000)
    (powercap_tree.folder("intel-rapl:0") / "energy_uj").chmod(0o400)
    with unprivileged():
        run = tracked()
    assert joules(run) == []
    (missing,) = [part for part in run.not_measured if part.kind == "cpu_package"]
    assert "permission denied" in missing.reason and "chmod" in missing.remedy
    assert len(caplog.messages) <= 1
    assert all(device.method == "model" for device in run.devices)


@pytest.mark.parametrize("shown_uj", [0, 123_456_789])
@pytest.mark.usefixtures("tracked")
def test_a_meter_that_never_moves_is_unknown_with_the_reason_and_the_model_stands_in(powercap_tree, shown_uj):
    # Virtual machines that show zones without a meter behind them.
    powercap_tree.add("intel-rapl:0", "package-0", shown_uj)
    with tracker.track("case") as live:
        time.sleep(1.2)
    run = tracker.get(live.id)
    assert joules(run) == [None] and run.energy_j is None
    assert "stands still" in " ".join(part.reason for part in run.not_measured)
    assert {device.kind for device in run.devices if device.method == "model"} == {"cpu", "ram"}
    assert joules(run, "cpu")[0] > 0 and run.energy_modelled_j == pytest.approx(
        joules(run, "cpu")[0] + joules(run, "ram")[0]
    )
    (ram,) = [device for device in run.devices if device.kind == "ram"]
    assert ram.coverage == pytest.approx(1, abs=0.02)  # from its start, though it was not known yet


@pytest.mark.usefixtures("tracked")
def test_a_meter_that_moves_leaves_its_part_without_a_model(powercap_tree):
    powercap_tree.add("intel-rapl:0", "package-0", 1_000)
    powercap_tree.add("intel-rapl:0:0", "dram", 1_000)
    with tracker.track("case") as live:
        time.sleep(0.1)
        powercap_tree.set_energy("intel-rapl:0", 30_000_000)
    run = live.run
    assert [device.kind for device in run.devices if device.method == "model"] == ["ram"]  # its meter stands still


def test_zones_that_come_later_are_told_once(powercap_tree):
    now_us = 0
    powercap_tree.add("intel-rapl:0", "package-0", 0)
    sensor = RaplSensor(powercap_tree.sysfs, clock_us=lambda: now_us)
    sensor.open()
    powercap_tree.add("intel-rapl:1", "package-1", 0)
    assert sensor.news() == []
    now_us = 61 * S
    assert ["intel-rapl:1" in news for news in sensor.news()] == [True]
    now_us = 200 * S
    assert sensor.news() == []
