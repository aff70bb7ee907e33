"""CPU packages and DRAM through a powercap tree laid out as the kernel does."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standin.powercap import AMD_RANGE_UJ, INTEL_RANGE_UJ, PowercapTree, unprivileged

from tracker.machine import identity_of
from tracker.records import Device, Reading
from tracker.sensors.protocol import Inventory
from tracker.sensors.rapl import RaplSensor, modulus_uj

S = 1_000_000


def opened(tree: PowercapTree) -> tuple[RaplSensor, Inventory]:
    sensor = RaplSensor(tree.sysfs, clock_us=lambda: 7 * S)
    return sensor, sensor.open()


def test_files_of_a_program_that_has_closed_ours_are_neither_read_nor_closed(powercap_tree, tmp_path):
    powercap_tree.add("intel-rapl:0", "package-0", 5)
    sensor, inventory = opened(powercap_tree)
    before = {number for number in range(256) if identity_of(number) is not None}
    assert [reading.counter_uj for reading in sensor.read(inventory.devices)] == [5]
    (number,) = {number for number in range(256) if identity_of(number) is not None} - before
    os.close(number)
    (tmp_path / "own").write_text("777\n")
    with (tmp_path / "own").open() as own:
        assert own.fileno() == number
        for _ in range(3):  # a number that stands still makes the sensor open its file again
            assert [reading.counter_uj for reading in sensor.read(inventory.devices)] == [5]
        sensor.close()
        assert own.read() == "777\n"


def energy_uj(before: list[Reading], after: list[Reading], devices: tuple[Device, ...], kind: str) -> int:
    """What the devices of a kind counted, all together, wraps undone."""
    total_uj = 0
    for device, first, last in zip(devices, before, after, strict=True):
        if device.kind == kind:
            assert first.counter_uj is not None and last.counter_uj is not None and device.counter_modulus_uj
            total_uj += (last.counter_uj - first.counter_uj) % device.counter_modulus_uj
    return total_uj


# Each zone that stands around packages in the wild, and must never be added to them: its name, and where it hangs.
PARTS = ("core", "uncore")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    sockets=st.integers(1, 4),
    parts=st.sets(st.sampled_from(PARTS)),
    has_dram=st.booleans(),
    has_psys=st.booleans(),
    mirrors=st.sets(st.integers(0, 3)),
    power_w=st.integers(1, 400),
)
def test_zones_around_a_package_never_change_the_energy_of_the_cpu(
    tmp_path_factory: pytest.TempPathFactory,
    sockets: int,
    parts: set[str],
    has_dram: bool,
    has_psys: bool,
    mirrors: set[int],
    power_w: int,
) -> None:
    # Cases 101 and 103, in every combination.
    tree = PowercapTree(tmp_path_factory.mktemp("tree"))
    counters_uj = {}
    joules = {"package": power_w * 10, "core": power_w * 6, "uncore": power_w, "dram": 77, "psys": power_w * 30}

    def add(zone: str, name: str, kind: str, energy_uj: int) -> None:
        tree.add(zone, name, energy_uj)
        counters_uj[zone] = energy_uj + joules[kind] * S

    for socket in range(sockets):
        zone = f"intel-rapl:{socket}"
        add(zone, f"package-{socket}", "package", 10**9 * (socket + 1))
        children = [*sorted(parts), *(["dram"] if has_dram else [])]
        for number, name in enumerate(children):
            add(f"{zone}:{number}", name, name, 10**8 * (number + 1))
        if socket in mirrors:
            add(f"intel-rapl-mmio:{socket}", f"package-{socket}", "package", 10**9 * (socket + 1) + 4711)
    if has_psys:
        add(f"intel-rapl:{sockets}", "psys", "psys", 60 * 10**9)
    sensor, inventory = opened(tree)

    before = sensor.read(inventory.devices)
    for zone, counter_uj in counters_uj.items():
        tree.set_energy(zone, counter_uj)
    after = sensor.read(inventory.devices)

    assert energy_uj(before, after, inventory.devices, "cpu_package") == sockets * joules["package"] * S
    assert energy_uj(before, after, inventory.devices, "dram") == has_dram * sockets * joules["dram"] * S
    assert len(inventory.devices) == sockets * (1 + has_dram)
    sensor.close()


def test_a_desktop_s_core_uncore_and_psys_are_not_added(powercap_tree: PowercapTree) -> None:
    # Case 101, in its own numbers: 37.8 J in 10 s, and not 144.4.
    zones = {
        "intel-rapl:0": ("package-0", 17_515_587_911, 17_553_387_911),
        "intel-rapl:0:0": ("core", 9_000_000_000, 9_008_400_000),
        "intel-rapl:0:1": ("uncore", 1_200_000_000, 1_202_100_000),
        "intel-rapl:1": ("psys", 60_000_000_000, 60_096_100_000),
    }
    for zone, (name, start_uj, _) in zones.items():
        powercap_tree.add(zone, name, start_uj)
    sensor, inventory = opened(powercap_tree)

    before = sensor.read(inventory.devices)
    for zone, (_, _, end_uj) in zones.items():
        powercap_tree.set_energy(zone, end_uj)
    after = sensor.read(inventory.devices)

    assert [device.key for device in inventory.devices] == ["intel-rapl:0"]
    assert energy_uj(before, after, inventory.devices, "cpu_package") == 37_800_000
    assert [(part.kind, part.name) for part in inventory.not_measured] == [("dram", "DRAM of package-0")]


def test_a_package_shown_by_mmio_too_counts_once_and_says_so(powercap_tree: PowercapTree) -> None:
    # Case 103.
    powercap_tree.add("intel-rapl:0", "package-0", 1_000_000_000)
    powercap_tree.add("intel-rapl-mmio:0", "package-0", 1_000_061_000)

    _, inventory = opened(powercap_tree)

    (device,) = inventory.devices
    assert device.key == "intel-rapl:0"
    assert device.notes == ("intel-rapl-mmio:0 shows the same meter: not added",)


@pytest.mark.parametrize("msr", ["absent", "unreadable"])
def test_mmio_stands_in_where_the_other_interface_cannot_be_read(powercap_tree: PowercapTree, msr: str) -> None:
    powercap_tree.add("intel-rapl-mmio:0", "package-0", 5)
    if msr == "unreadable":
        powercap_tree.add("intel-rapl:0", "package-0", 5)
        powercap_tree.remove("intel-rapl:0")

    _, inventory = opened(powercap_tree)

    assert [device.key for device in inventory.devices] == ["intel-rapl-mmio:0"]


@pytest.mark.parametrize(("second_uj", "devices"), [(31_000_012_000, 1), (12_345_000_000, 2)])
def test_dies_that_mirror_one_counter_count_once_and_others_each(
    powercap_tree: PowercapTree, second_uj: int, devices: int
) -> None:
    # Case 104: decided by the counters, not by the names.
    powercap_tree.add("intel-rapl:0", "package-0-die-0", 31_000_000_000, AMD_RANGE_UJ)
    powercap_tree.add("intel-rapl:1", "package-0-die-1", second_uj, AMD_RANGE_UJ)

    _, inventory = opened(powercap_tree)

    assert len(inventory.devices) == devices


def test_mirrored_dies_are_told_across_the_wrap(powercap_tree: PowercapTree) -> None:
    powercap_tree.add("intel-rapl:0", "package-0-die-0", AMD_RANGE_UJ - 1_000, AMD_RANGE_UJ)
    powercap_tree.add("intel-rapl:1", "package-0-die-1", 2_000, AMD_RANGE_UJ)

    _, inventory = opened(powercap_tree)

    assert [device.key for device in inventory.devices] == ["intel-rapl:0"]


def test_zones_of_one_name_are_told_apart_by_their_path(powercap_tree: PowercapTree) -> None:
    for socket in range(2):
        powercap_tree.add(f"intel-rapl:{socket}", f"package-{socket}")
        powercap_tree.add(f"intel-rapl:{socket}:0", "dram")

    _, inventory = opened(powercap_tree)

    assert [(device.key, device.name) for device in inventory.devices] == [
        ("intel-rapl:0", "CPU package-0"),
        ("intel-rapl:0:0", "DRAM of package-0"),
        ("intel-rapl:1", "CPU package-1"),
        ("intel-rapl:1:0", "DRAM of package-1"),
    ]


def test_more_than_ten_zones_keep_their_order(powercap_tree: PowercapTree) -> None:
    for socket in range(12):
        powercap_tree.add(f"intel-rapl:{socket}", f"package-{socket}")

    _, inventory = opened(powercap_tree)

    assert [device.key for device in inventory.devices] == [f"intel-rapl:{socket}" for socket in range(12)]


@pytest.mark.parametrize(
    ("max_range_uj", "expected_uj"),
    [
        (262_143_328_850, 262_143_328_850 + 61),  # data/test_vectors.json, rapl_wrap
        (262_143_999_938, 262_143_999_938 + 61),
        (65_712_999_613, 65_712_999_613 + 15),
        (65_532_610_987, 65_532_610_987 + 15),
        (600_000_000, 600_000_001),
    ],
)
def test_a_counter_starts_over_one_unit_beyond_its_range(max_range_uj: int, expected_uj: int) -> None:
    assert modulus_uj(max_range_uj) == expected_uj


def test_a_wrap_is_read_as_it_is_and_can_be_undone(powercap_tree: PowercapTree) -> None:
    # Case 106: 650 J, and one unit either way does not matter.
    powercap_tree.add("intel-rapl:0", "package-0", 65_532_500_000, AMD_RANGE_UJ)
    sensor, inventory = opened(powercap_tree)

    before = sensor.read(inventory.devices)
    powercap_tree.set_energy("intel-rapl:0", 649_889_013)
    after = sensor.read(inventory.devices)

    assert (before[0].counter_uj, after[0].counter_uj) == (65_532_500_000, 649_889_013)
    assert energy_uj(before, after, inventory.devices, "cpu_package") == pytest.approx(650_000_000, abs=15)


def test_without_a_range_the_device_says_that_a_wrap_cannot_be_undone(powercap_tree: PowercapTree) -> None:
    # Case 108.
    powercap_tree.add("intel-rapl:0", "package-0", 4_000_000_000, max_range_uj=None)

    _, inventory = opened(powercap_tree)

    (device,) = inventory.devices
    assert device.counter_modulus_uj is None
    assert "max_energy_range_uj" in device.notes[0]


def test_the_device_says_what_its_readings_mean(powercap_tree: PowercapTree) -> None:
    powercap_tree.add("intel-rapl:0", "package-0")

    sensor, inventory = opened(powercap_tree)

    energy = powercap_tree.sysfs / "class/powercap/intel-rapl:0/energy_uj"
    assert inventory.devices == (
        Device(
            kind="cpu_package",
            key="intel-rapl:0",
            name="CPU package-0",
            sensor="rapl",
            has_counter=True,
            has_power=False,
            counter_modulus_uj=INTEL_RANGE_UJ + 61,
            counter_period_us=1_000,
            max_power_mw=1_000_000,
            attributes={"zone": "package-0", "path": str(energy)},
        ),
    )
    assert sensor.read(inventory.devices) == [Reading(7 * S, counter_uj=0)]


def test_unreadable_for_users_is_a_reason_with_the_command_that_mends_it(powercap_tree: PowercapTree) -> None:
    # Case 109.
    powercap_tree.add("intel-rapl:0", "package-0")
    powercap_tree.add("intel-rapl:0:0", "core")
    powercap_tree.deny("intel-rapl:0")

    with unprivileged():
        _, inventory = opened(powercap_tree)

    folder = powercap_tree.sysfs / "class/powercap"
    package, _ = inventory.not_measured
    assert inventory.devices == ()
    assert (package.kind, package.name, package.key) == ("cpu_package", "CPU package-0", "intel-rapl:0")
    assert package.reason == f'cannot read energy_uj below {folder} (permission denied; see README, "Permissions")'
    assert package.remedy == (
        f'sudo chgrp "$(id -gn)" {folder}/intel-rapl*:*/energy_uj && sudo chmod g+r {folder}/intel-rapl*:*/energy_uj'
    )


def test_one_package_denied_leaves_the_other_measured(powercap_tree: PowercapTree) -> None:
    powercap_tree.add("intel-rapl:0", "package-0")
    powercap_tree.add("intel-rapl:1", "package-1")
    powercap_tree.deny("intel-rapl:1")

    with unprivileged():
        _, inventory = opened(powercap_tree)

    assert [device.key for device in inventory.devices] == ["intel-rapl:0"]
    assert [part.key for part in inventory.not_measured if part.kind == "cpu_package"] == ["intel-rapl:1"]


@pytest.mark.parametrize("content", ["", "none\n", "-5\n", "1.5\n"])
def test_a_counter_that_is_no_number_is_not_measured(powercap_tree: PowercapTree, content: str) -> None:
    powercap_tree.add("intel-rapl:0", "package-0")
    (powercap_tree.folder("intel-rapl:0") / "energy_uj").write_text(content)

    _, inventory = opened(powercap_tree)

    assert inventory.devices == ()
    assert inventory.not_measured[0].reason.endswith("energy_uj (no number in it)")


def test_a_reading_that_fails_is_missing_until_it_works_again(powercap_tree: PowercapTree) -> None:
    powercap_tree.add("intel-rapl:0", "package-0", 1)
    powercap_tree.add("intel-rapl:1", "package-1", 1)
    sensor, inventory = opened(powercap_tree)
    sensor.read(inventory.devices)

    (powercap_tree.folder("intel-rapl:0") / "energy_uj").write_text("")
    failed = sensor.read(inventory.devices)
    powercap_tree.set_energy("intel-rapl:0", 3)
    works = sensor.read(inventory.devices)

    assert [reading.counter_uj for reading in failed] == [None, 1]
    assert [reading.counter_uj for reading in works] == [3, 1]


def test_a_zone_that_goes_away_and_comes_back_is_read_again(powercap_tree: PowercapTree) -> None:
    powercap_tree.add("intel-rapl:0", "package-0", 1)
    sensor, inventory = opened(powercap_tree)
    sensor.read(inventory.devices)

    powercap_tree.remove("intel-rapl:0")
    gone = sensor.read(inventory.devices)
    powercap_tree.set_energy("intel-rapl:0", 9)
    back = sensor.read(inventory.devices)

    assert (gone[0].counter_uj, back[0].counter_uj) == (None, 9)


def test_a_file_that_is_replaced_is_followed(powercap_tree: PowercapTree) -> None:
    powercap_tree.add("intel-rapl:0", "package-0", 0)
    sensor, inventory = opened(powercap_tree)

    counters_uj = []
    for counter_uj in range(1, 5):
        powercap_tree.replace_energy("intel-rapl:0", counter_uj)
        counters_uj.append(sensor.read(inventory.devices)[0].counter_uj)

    assert counters_uj == [1, 2, 3, 4]


def test_an_empty_tree_is_a_reason_for_cpu_and_dram(powercap_tree: PowercapTree) -> None:
    _, inventory = opened(powercap_tree)

    assert inventory.devices == ()
    assert [(part.kind, part.name) for part in inventory.not_measured] == [("cpu_package", "CPU"), ("dram", "DRAM")]
    assert "virtual machine" in inventory.not_measured[0].reason
    assert "modprobe intel_rapl_msr" in inventory.not_measured[0].remedy
    assert inventory.warnings == ()


def test_links_that_a_container_leaves_hanging_are_told_apart(powercap_tree: PowercapTree) -> None:
    (powercap_tree.sysfs / "class/powercap/intel-rapl:0").symlink_to("../../devices/virtual/powercap/intel-rapl:0")

    _, inventory = opened(powercap_tree)

    assert "container" in inventory.not_measured[0].reason
    assert "TRACKER_SYSFS=/host/sys" in inventory.not_measured[0].remedy


def test_no_sysfs_at_all_is_a_reason(tmp_path: Path) -> None:
    inventory = RaplSensor(tmp_path / "nowhere").open()

    assert inventory.devices == ()
    assert "not Linux" in inventory.not_measured[0].reason


def test_a_read_in_which_the_thread_was_held_up_is_made_once_more(tmp_path: Path) -> None:
    """The middle of 40 ms says little of when the counter was read."""
    tree = PowercapTree(tmp_path)
    tree.add("intel-rapl:0", "package-0", 5_000)
    ticks = iter([0, 0, 40_000, 40_000, 40_020, 41_000, 41_020])
    sensor = RaplSensor(tree.sysfs, clock_us=lambda: next(ticks))
    devices = sensor.open().devices

    readings = [sensor.read(devices)[0], sensor.read(devices)[0]]
    sensor.close()

    assert readings == [Reading(40_010, counter_uj=5_000), Reading(41_010, counter_uj=5_000)]
